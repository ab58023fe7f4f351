"""What is taken out of prompts and answers, and what is left in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_edge.content_parts import StreamParts, as_text
from bursar_edge.redaction import BUILT_IN, MAX_PATTERNS, MAX_SPARED, BadPattern, Redactor
from bursar_edge.redaction_rules import ASSIGNED, CODE_WORDS, is_code

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


secret = st.sampled_from(sorted(SECRETS.values()))
words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)

ASSIGNED_SECRETS = [
    # environment files, YAML, properties, INI, connection strings, command lines
    ("password: correcthorse", "correcthorse"), ("password = correcthorse", "correcthorse"),
    ("  password: correcthorsebattery\n  host: db", "correcthorsebattery"), ("secret: swordfish", "swordfish"),
    ("db.password=correcthorse", "correcthorse"), ("spring.datasource.password=correcthorse", "correcthorse"),
    ("spring.datasource.password: correcthorse", "correcthorse"), ("db_password=correcthorse", "correcthorse"),
    ("mysql_root_password: correcthorse", "correcthorse"), ("MYSQL_ROOT_PASSWORD: correcthorse", "correcthorse"),
    ("      POSTGRES_PASSWORD: swordfish\n", "swordfish"), ("      - POSTGRES_PASSWORD=swordfish\n", "swordfish"),
    ("JWT_SECRET=supersecretvalue", "supersecretvalue"), ("SECRET_KEY=thisisnotasecret", "thisisnotasecret"),
    ("token=abcdefghijklmnop", "abcdefghijklmnop"), ("api_key=abcdefghijklmnopqrst", "abcdefghijklmnopqrst"),
    ("api_key: AbCdEfGhIjKlMnOpQrSt", "AbCdEfGhIjKlMnOpQrSt"), ("apikey = QwErTyUiOpAsDfGh", "QwErTyUiOpAsDfGh"),
    ("client_secret: qwertyuiopasdfghjk", "qwertyuiopasdfghjk"), ("db.password=my_secret_pw\nx=1", "my_secret_pw"),
    ("password=hunter_pass", "hunter_pass"),
    ("+  password: correcthorse", "correcthorse"), ("a: 1\\npassword: correcthorse\\nb: 2", "correcthorse"),
    ("password: correct-horse-battery-staple", "correct-horse-battery-staple"),
    ("TOKEN_URL=https://a:hunter2@b/c", "hunter2"),
    ("TOKEN_URL=https://h/AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"), ("password=Password=letmein7", "letmein7"),
    ("password=p@ssw.rd!", "p@ssw.rd!"), ("password: P@ssword!", "P@ssword!"),
    ("password: Tr0ub4dor&3", "Tr0ub4dor"), ("DATABASE_PASSWORD=hunter\n", "hunter"),
    ("APP_SECRET=changeit\r\nX=1", "changeit"), ("secret=letmein", "letmein"), ("pwd: letmein", "letmein"),
    ("Password: letmein!", "letmein!"), ("user=app password=letmein host=db", "letmein"),
    ("Server=db;User Id=sa;Password=letmein;", "letmein"), ("mysql --password=letmein -u root", "letmein"),
    ("auth_token: abcdefghijklmnopqrstuvwx", "abcdefghijklmnopqrstuvwx"), ('"password" : "letmein"', "letmein"),
    ("'api_key': 'letmeinplease'", "letmeinplease"), ("NPM_TOKEN=abcdefgh\n", "abcdefgh"),
    ("GITHUB_TOKEN: abcdefghijklmnop", "abcdefghijklmnop"), ("A_TOKEN=" + "a" * 5000, "a" * 20),
]  # fmt: skip

ASSIGNED_CODE = [
    # types, calls, members, schemas, names of other things, placeholders, prose
    "password: str", "password: UserPassword", "password=self.password,", "    password=password,",
    "    token=auth_token,", "password: NonEmptyString", "token: Lexeme", "token = current", "token = match",
    "    token: authenticationHeader", "api_key = get_secret", "password: user?.password",
    "this.password = newPassword", "$password = $config->password", 'password: "[redacted: password]"',
    "password: str = Field(...)", "password: Optional[str] = None", "password: string;", "password?: string",
    "password: string | null", "password: SecretStr", "password: bytes", "password: &str,", "password: String,",
    "private password: string", "token = next(tokens)", "token = next(iter(tokens), None)",
    "token = self.next_token()", "token = tokens[0]", "token = None", "token = null;", "token: None",
    "token = request.token", "token = await fetch_token(url)", "token = os.environ['TOKEN']",
    "token = process.env.TOKEN", "const token = getToken();", "let token = parser.next();",
    "Token token = lexer.nextToken();", "token: Token", "token = Token.IDENT", "token: TokenType.STRING",
    "secret_name = 'database-credentials'", "secret_name: database-credentials", "secretName: my-app-secret",
    "secretKeyRef:\n  name: my-secret", "secret_id = 'arn'", "password_field = 'password'",
    "password_hash = hash_password(password)", "password_confirmation: required",
    "password_reset_url: https://example.com", "password = input('Password: ')", "password = getpass.getpass()",
    "password = config.password", "password = self._password", "password=self.password", "password=args.password",
    "password=password", "password = password", "login(user=user, password=the_password)",
    "connect(password=settings.db_password)", "password: user.password", "password: this.password,",
    "{ password: form.password }", "password: passwordSchema,", "password: z.string().min(8)",
    "password: Joi.string()", "password: required", "password: true", "password: false", "secret: true",
    "password=True", "password=None", "password=null", 'password: ""', "api_key: str", "api_key = None",
    "api_key=api_key", "api_key=self.api_key", "apiKey: process.env.API_KEY", "apiKey: string",
    "api_key: Optional[str]", "API_KEY = os.environ.get('API_KEY')", "API_KEY=os.environ['API_KEY']",
    "api_key = settings.API_KEY", "access_key: accessKey", 'API_KEY=""', "PASSWORD=<your-password>",
    "PASSWORD=${PASSWORD}", "PASSWORD=$(cat file)", "SECRET_KEY = env('SECRET_KEY')", "TOKEN_TTL=3600",
    "TOKEN_EXPIRY_SECONDS=86400", "PASSWORD_MIN_LENGTH=12", "PASSWORD_HASHERS=django.contrib",
    "TOKEN_URL=https://example.com", "SECRET_NAME=database-credentials", "PASSWORD_FILE=/run/secrets/db",
    "SECRET_MANAGER=vault", "MAX_TOKENS=64000", "the secret: sharing is caring", "token: whichever comes first",
    "Password: at least eight characters", "password: must be set", "credentials: include", "credentials: 'include'",
    "credentials: 'same-origin'", "credentials: same-origin", "credential: Credential", "token_type: bearer",
    "token: identifier expected", "secret = derive(key)", "tokens = text.split()",
    "token: ${{ secrets.GITHUB_TOKEN }}", "token: {{ .Values.token }}", "password: !vault |", "password: <password>",
    "password: [redacted: password]", "password: ********", "password: xxxxxxxx", "password=***",
    "password: {{ db_password }}", "password: $DB_PASSWORD", "password: %s", "password=%s", "password={}",
    "password: {password}", "password = %r", '"password": "string"', '"password": "password"', "'token': token,",
    '"token": "string"', '"secret": "object"', '{"type": "password"}', '<input type="password" name="password">',
    'placeholder="Password"',
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("around", ["{}", "before {} after", '"{}"', "x={},", "\\n{}\\n", "({})", "\t{}\n", "{}."])
def test_a_secret_is_taken_out_wherever_it_stands(name: str, around: str) -> None:
    text, count = REDACTOR.redact(around.format(SECRETS[name]))
    assert count >= 1
    assert SECRETS[name] not in text
    assert SECRETS[name][8:24] not in text
    assert "[redacted: " in text


@pytest.mark.parametrize(("text", "secret"), ASSIGNED_SECRETS)
def test_what_is_assigned_to_a_name_of_a_secret(text: str, secret: str) -> None:
    for around in ("{}", "a: 1\n{}\nb: 2", "a: 1\\n{}\\nb: 2", "    3\u2192{}\n    4\u2192"):
        clean, count = REDACTOR.redact(around.replace("{}", text))
        assert count >= 1
        assert secret not in clean


@pytest.mark.parametrize("text", ASSIGNED_CODE)
def test_code_and_prose_that_assign_no_secret(text: str) -> None:
    for around in ("{}", "a = 1\n{}\nb = 2\n", "    {}\n"):
        whole = around.replace("{}", text)
        assert REDACTOR.redact(whole) == (whole, 0)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["password", "db_password", "PASSWORD", "secret", "Passphrase", "app.pwd"]),
    st.sampled_from([": ", "=", " = ", ":"]),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=12, max_size=100).filter(lambda text: text not in CODE_WORDS),
)
def test_letters_alone_are_taken_out_on_a_line_of_their_own(name: str, sign: str, value: str) -> None:
    clean, _ = REDACTOR.redact(f"a: 1\n  {name}{sign}{value}\nb: 2")
    assert value not in clean
    assert (clean.startswith("a: 1\n  "), clean.endswith("\nb: 2")) == (True, True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(ASSIGNED_CODE), max_size=5), secret, st.sampled_from(["\n", " ", "; ", ", "]))
def test_what_is_code_hides_no_secret_behind_it(code: list[str], value: str, between: str) -> None:
    clean, count = REDACTOR.redact(between.join([*code, value]))
    assert count >= 1
    assert value not in clean


@pytest.mark.parametrize("value", sorted(SECRETS.values()))
@pytest.mark.parametrize("name", ["TOKEN_URL=https://x/", "password=self.", "API_KEY_FILE=", "token: "])
def test_a_value_that_is_code_may_hold_a_secret(name: str, value: str) -> None:
    assert value not in REDACTOR.redact(name + value)[0]


@pytest.mark.parametrize("piece", ["TOKEN_URL=", "password: string\n", "password=self.abcdef ", "TOKEN_URL=abcdef "])
def test_no_more_finds_are_looked_at_than_that(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counted(*asked: Any) -> bool:
        nonlocal looked
        looked += 1
        return is_code(*asked)

    monkeypatch.setattr("bursar_edge.redaction.is_code", counted)
    clean, count = REDACTOR.redact(piece * (2 * MAX_SPARED) + "AKIAIOSFODNN7EXAMPLE")
    assert MAX_SPARED <= looked <= 3 * MAX_SPARED
    assert count >= 1
    assert "AKIAIOSFODNN" not in clean


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
    assert REDACTOR._built_in.groups == len(BUILT_IN) + len(ASSIGNED)


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
