"""What is taken out of prompts and answers, and what is left in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_edge.content_parts import StreamParts, as_text
from bursar_edge.redaction import BUILT_IN, MAX_PATTERNS, BadPattern, Redactor

REDACTOR = Redactor()
HEX = "0123456789abcdef" * 4
ALNUM = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC2dE3fG4hI5jK6lM7nO8pQ9"

SECRETS = {
    "virtual key": f"sk-bf-{HEX}",
    "anthropic": f"sk-ant-api03-{ALNUM}-AA",
    "anthropic oauth": f"sk-ant-oat01-{ALNUM}",
    "openai": f"sk-{ALNUM[:48]}",
    "openai project": f"sk-proj-{ALNUM}_{ALNUM}",
    "openrouter": f"sk-or-v1-{HEX}",
    "stripe": "sk_live_" + ALNUM[:24],
    "aws id": "AKIAIOSFODNN7EXAMPLE",
    "aws temporary id": "ASIAY34FZKBOKMUTVV7A",
    "google": "AIza" + ALNUM[:35],
    "google oauth": "ya29." + ALNUM,
    "github": "ghp_" + ALNUM[:36],
    "github actions": "ghs_" + ALNUM[:36],
    "github fine grained": "github_pat_" + ALNUM,
    "gitlab": "glpat-" + ALNUM[:20],
    "slack": "xoxb-123456789012-1234567890123-" + ALNUM[:24],
    "slack hook": "hooks.slack.com/services/T00000000/B00000000/" + ALNUM[:24],
    "npm": "npm_" + ALNUM[:36],
    "pypi": "pypi-AgEIcHlwaS5vcmc" + ALNUM,
    "hugging face": "hf_" + ALNUM[:34],
    "groq": "gsk_" + ALNUM[:52],
    "vault": "hvs." + ALNUM,
    "databricks": "dapi" + HEX[:32],
    "digitalocean": "dop_v1_" + HEX,
    "sendgrid": "SG." + ALNUM[:22] + "." + ALNUM[:43],
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "age": "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" + "QPZRY9X8GF2TVDW0S3JN54KHCE",
}
"""What is a secret wherever it stands."""

PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEpAIBAAKCAQEA7\nb+c/d==\n"
    "-----END RSA PRIVATE KEY-----"
)

IN_CONTEXT = [
    ("Authorization: Bearer abcdef0123456789.xyz", "abcdef0123456789.xyz"),
    ('"authorization": "Bearer abcdef0123456789"', "abcdef0123456789"),
    ('curl -H \\"Authorization: Basic dXNlcjpwYXNzd29yZA==\\"', "dXNlcjpwYXNzd29yZA=="),
    ("x-api-key: 0123456789abcdef", "0123456789abcdef"),
    ("Cookie: session=0123456789abcdef", "0123456789abcdef"),
    ("postgres://app:hunter2@db.internal:5432/app", "hunter2"),
    ("redis://:hunter2@cache:6379/0", "hunter2"),
    ("https:\\/\\/me:hunter2@example.com", "hunter2"),
    ("git clone https://x-access-token:hunter2@github.com/a/b", "hunter2"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ('"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"', "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("AWS_SESSION_TOKEN=" + ALNUM * 2, ALNUM * 2),
    ("AccountKey=" + ALNUM + "abcdefghij==;EndpointSuffix=x", ALNUM + "abcdefghij=="),
    ("https://a.blob.core.windows.net/c?sv=2022&sig=" + ALNUM[:40] + "%3D", ALNUM[:40]),
    ("DB_PASSWORD=correcthorse\nNEXT=1", "correcthorse"),
    ("export MY_API_KEY='abcdefgh'", "abcdefgh"),
    ('{"password": "correcthorse"}', "correcthorse"),
    ('{\\"client_secret\\": \\"correcthorse\\"}', "correcthorse"),
    ("password=hunter2secret", "hunter2secret"),
    ("password: hunter2secret", "hunter2secret"),
    ("db_password = 'hunter2secret'", "hunter2secret"),
    ("db_password = 'correcthorse'", "correcthorse"),
    ('my_secret := "correcthorse"', "correcthorse"),
    ("jdbc:x://h/d?user=a&password=correcthorse&ssl=1", "correcthorse"),
    ("token=abcdef1234567890abcdef", "abcdef1234567890abcdef"),
    ("token=1234567890abcdef,", "1234567890abcdef"),
    ("api_key: 9f8e7d6c5b4a39281706f5e4", "9f8e7d6c5b4a39281706f5e4"),
    ("  apiKey: 9f8e7d6c5b4a39281706f5e4\\n", "9f8e7d6c5b4a39281706f5e4"),
    ("client_secret_prod = h1unter\n", "h1unter"),
    ("access_token=" + ALNUM * 20, ALNUM),
    ("curl -u admin:hunter2secret https://example.com", "hunter2secret"),
    ("curl -sS --user 'admin:hunter2secret' https://example.com", "hunter2secret"),
    (PEM, "MIIEpAIBAAKCAQEA7"),
    (json.dumps(PEM), "MIIEpAIBAAKCAQEA7"),
    (json.dumps(json.dumps(PEM)), "MIIEpAIBAAKCAQEA7"),
    ("    12\u2192-----BEGIN PRIVATE KEY-----\n    13\u2192MIIEpAIBAAKCAQEA7\n", "MIIEpAIBAAKCAQEA7"),
    ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQOYBF\n-----END PGP PRIVATE KEY BLOCK-----", "lQOYBF"),
]

HARMLESS = [
    "a task-management-with-long-hyphenated-words and a risk-averse-strategy-for-everybody",
    'token = request.headers.get("x-token")',
    "if password: raise ValueError('no')",
    "see https://example.com:8080/path?mail=someone@example.com",
    "git@github.com:owner/name.git and user@example.com",
    "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "id 0192a3b4-c5d6-7e8f-9a0b-1c2d3e4f5a6b, req_011CQxEXAMPLE, msg_01ABCDEF",
    "max_tokens=64000 and TOKENS = 5",
    "API_KEY=$ANTHROPIC_API_KEY",
    "Bearer of bad news",
    "the secret: to live",
    "the token: it is what you were given; the password: something only you know",
    "max_tokens: 4096, tokens=1234567, token_count = 1234567, token: 1234567",
    "tokenizer: gpt2-medium and secretary: agent007",
    "token_url = 'https://example.com/oauth2' with secretName: database1",
    "token = base64.b64encode(raw) and secret = sha256_of(value)",
    "def f(password: str, token: Optional[str]) -> g(password=password, secret=the_secret)",
    "password=${DB_PASSWORD_1} password=$DB_PASSWORD_1 pwd=/home/user1/project",
    "if token == expected_1: docker run -u 1000:1000 image",
    'curl -u "$USER:$PASSWORD" https://example.com',
    "",
]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("around", ["{}", "before {} after", '"{}"', "x={},", "\\n{}\\n", "({})", "\t{}\n", "{}."])
def test_a_secret_is_taken_out_wherever_it_stands(name: str, around: str) -> None:
    text, count = REDACTOR.redact(around.format(SECRETS[name]))
    assert count >= 1
    assert SECRETS[name] not in text
    assert SECRETS[name][8:24] not in text
    assert "[redacted: " in text


@pytest.mark.parametrize(("text", "secret"), IN_CONTEXT)
def test_a_secret_that_only_its_surroundings_betray(text: str, secret: str) -> None:
    clean, count = REDACTOR.redact(text)
    assert count == 1
    assert secret not in clean


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert REDACTOR.redact(text) == (text, 0)


def test_what_stands_around_secrets_stays() -> None:
    text = "a sk-ant-api03-abcdefgh12345 b postgres://u:pw@h/d c"
    assert REDACTOR.redact(text)[0] == ("a [redacted: anthropic key] b postgres://u:[redacted: password in url]@h/d c")
    assert (
        REDACTOR.redact("gr\u00fc\u00dfe \U0001f511 ghp_" + ALNUM[:36])[0]
        == "gr\u00fc\u00dfe \U0001f511 [redacted: github token]"
    )


def test_this_requests_own_credentials_whatever_they_look_like() -> None:
    text, count = REDACTOR.redact("my key is hunter-two-two and abc", ("hunter-two-two", "abc"))
    assert (text, count) == ("my key is [redacted: credential] and abc", 1)


secret = st.sampled_from(sorted(SECRETS.values()))
words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(words, secret), max_size=8), st.sampled_from([" ", "\n", '"', ", ", ": "]))
def test_nothing_is_left_to_find(pieces: list[str], between: str) -> None:
    text = between + between.join(pieces) + between
    clean, _ = REDACTOR.redact(text)
    for each in SECRETS.values():
        assert each not in clean
    assert REDACTOR.redact(clean) == (clean, 0)


@settings(max_examples=100, deadline=None)
@given(secret, words, words, st.lists(st.integers(0, 400), max_size=12))
def test_no_secret_survives_being_streamed_in_pieces(value: str, before: str, after: str, cuts: list[int]) -> None:
    text = f"{before} {value} {after}"
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    events = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text[start:end]}}
        for start, end in zip(places, places[1:], strict=False)
    ]
    begin = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    data = b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in [begin, *events])
    stream = StreamParts(data)
    for _ in stream.steps():
        pass
    (part,) = stream.parts()
    assert part.value == text
    clean, count = REDACTOR.redact(as_text(part.value))
    assert count >= 1
    assert value not in clean


def test_every_built_in_expression_names_one_secret() -> None:
    assert REDACTOR._built_in.groups == len(BUILT_IN)


@pytest.mark.parametrize(
    "piece",
    ["token=a1AKIAIOSFODNN7EXAMPLE", "curl AKIAIOSFODNN7EXAMPLE ", "token=aAKIAIOSFODNNNEXAMPLE", "password='a1"],
)
def test_a_long_run_of_beginnings_is_left_without_a_secret(piece: str) -> None:
    text = piece * 20_000 + "("
    clean, _ = REDACTOR.redact(text)
    assert "AKIAIOSFODNN" not in clean


# ---- an operator's expressions


def test_an_operators_expressions() -> None:
    redactor = Redactor("ACME-[0-9]{6}\n\n  employee (\\w+) \n")
    text, count = redactor.redact("ACME-123456 is employee alice, sk-bf-" + HEX)
    mark = "[redacted: by a pattern of this installation]"
    assert (text, count) == (f"{mark} is employee {mark}, [redacted: virtual key]", 3)


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        ("ok\n(", "Pattern 2 is not a regular expression"),
        ("(?=x)", "Pattern 1 is not a regular expression"),
        ("a*", "matches the empty text"),
        ("x" * 501, "has 501 characters"),
        ("\n".join(["x"] * (MAX_PATTERNS + 1)), "33 patterns are given"),
        ("((a{1,1000}){1,1000}){1,1000}", "is not a regular expression"),
    ],
)
def test_an_expression_that_cannot_be_used_is_named(patterns: str, why: str) -> None:
    with pytest.raises(BadPattern, match=r"^" + why.replace("(", r"\(") if why.startswith("33") else why):
        Redactor(patterns)


def test_an_expression_that_would_never_end_elsewhere() -> None:
    """Backtracking engines take 2 to the power of 50,000 steps for this."""
    assert Redactor("(a+)+c").redact("a" * 50_000 + "b") == ("a" * 50_000 + "b", 0)
