"""The sentences, and the document made from them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bursar_common.wire import EdgeReason, RefusalReason, Refused
from bursar_edge.refusals import REFUSALS, document, error_event, say, sentence

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "refusals.md"
TYPES = {
    400: {"invalid_request_error"},
    401: {"authentication_error"},
    402: {"billing_error"},
    403: {"permission_error"},
    404: {"not_found_error"},
    408: {"invalid_request_error"},
    413: {"request_too_large"},
    415: {"invalid_request_error"},
    429: {"rate_limit_error"},
    500: {"api_error"},
    502: {"api_error"},
    503: {"api_error", "overloaded_error"},
    504: {"timeout_error"},
}


def test_document_is_what_the_table_says():
    """Anew: python -c 'from bursar_edge.refusals import document; print(document(), end="")' > docs/refusals.md"""
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_every_reason_of_the_contract_has_a_sentence():
    assert {*get_args(RefusalReason), *get_args(EdgeReason)} == set(REFUSALS)


@pytest.mark.parametrize("reason", sorted(REFUSALS))
def test_every_answer_follows_the_protocol(reason):
    refusal = REFUSALS[reason]
    refused = Refused(reason, owner_kind="team", owner="t", subject="s", allowed=("a",), retry_after_s=3)
    said = say(refused, "request-1", detail="some detail")
    answer = msgspec.json.decode(said.body)
    assert answer["type"] == "error"
    assert answer["request_id"] == "request-1"
    message = answer["error"]["message"]
    assert message.endswith("(request request-1)")
    assert "\n" not in message
    assert "{" not in message
    if refusal.status != 200:
        assert said.type in TYPES[said.status]
    headers = dict(said.headers)
    if said.status in (400, 401, 402, 403, 413) or said.type == "api_error":
        waits = reason == "upstream_unreachable"
        assert (headers.get(b"x-should-retry") == b"false") is not waits
    if refusal.retry:
        assert int(headers[b"retry-after"]) > 0


@pytest.mark.parametrize("reason", [name for name, refusal in REFUSALS.items() if refusal.status == 403])
def test_a_403_leads_with_the_fix(reason):
    refusal = REFUSALS[reason]
    for text in filter(None, (refusal.text, refusal.other_text)):
        assert text.split()[0] in {"Ask", "Choose", "Leave"}


@pytest.mark.parametrize(("seconds", "final"), [(1, False), (60, False), (61, True), (0, True)])
def test_rate_limits_are_waited_out_up_to_a_minute(seconds, final):
    headers = dict(say(Refused("requests_limited", unit="r", retry_after_s=seconds), "r").headers)
    assert (headers.get(b"x-should-retry") == b"false") is final
    assert headers.get(b"retry-after") == (str(seconds).encode() if seconds else None)


def test_what_a_spent_budget_says():
    refused = Refused(
        "budget_spent",
        owner_kind="team",
        owner="platform-engineering",
        spent=500_123_456_789,
        limit=500_000_000_000,
        resets_at_s=1_800_000_000,
    )
    assert sentence(refused) == (
        'Budget of team "platform-engineering" is used up: $500.12 of $500.00 spent, resets 2027-01-15 08:00 UTC. Ask'
        " whoever runs the gateway to raise it."
    )


def test_what_too_large_says():
    refused = Refused(
        "budget_too_large", owner_kind="virtual_key", owner="alice", spent=600_000_000, limit=1_000_000_000
    )
    refused = msgspec.structs.replace(refused, needed=730_000_000)
    assert "is expected to cost $0.73, $0.40 of $1.00 is left" in sentence(refused)
    assert "could cost up to $0.73" in sentence(msgspec.structs.replace(refused, strict=True))


def test_a_forbidden_model_lists_what_is_allowed_up_to_a_dozen():
    refused = Refused("model_not_allowed", subject="claude-x", allowed=tuple(f"m-{n}" for n in range(14)))
    assert "may not use claude-x" in sentence(refused)
    assert "m-11 and 2 more" in sentence(refused)


def test_money_is_told_in_cents_and_below_a_cent_in_two_digits():
    refused = Refused("budget_spent", owner_kind="team", owner="t", spent=5_350_125, limit=12_345_678_900_000)
    assert "$0.0054 of $12,345.68 spent" in sentence(refused)


@pytest.mark.parametrize(
    ("owner_kind", "owner", "said"),
    [
        ("virtual_key", "alice", 'virtual key "alice"'),
        ("team", "a team", 'team "a team"'),
        ("customer", "acme", 'customer "acme"'),
        ("provider_config", "alice/ci/anthropic", 'provider "anthropic" of virtual key "alice/ci"'),
        ("", "", "this key"),
    ],
)
def test_an_owner_is_quoted(owner_kind, owner, said):
    assert sentence(Refused("budget_spent", owner_kind=owner_kind, owner=owner)).startswith(f"Budget of {said} is")


@pytest.mark.parametrize(
    ("limit", "window", "said"),
    [
        (1, "60s", "1 request per 60 seconds,"),
        (1000, "1h", "1,000 requests per hour,"),
        (2, "", "2 requests per window,"),
    ],
)
def test_a_rate_limit_says_how_many_per_what(limit, window, said):
    refused = Refused("requests_limited", owner_kind="team", owner="t", unit="r", limit=limit, window=window)
    assert f"reached: {said} resets" in sentence(refused)


@pytest.mark.parametrize(
    ("window", "resets_at_s", "said"),
    [
        ("1M", 1_800_000_000, "2027-01-15 08:00 UTC"),
        ("1M", 1_800_000_001, "2027-01-15 08:01 UTC"),
        ("2h", 1_800_003_599, "2027-01-15 09:00 UTC"),
        ("61m", 1_800_003_599, "2027-01-15 09:00 UTC"),
        ("1h", 1_800_003_599, "2027-01-15 08:59:59 UTC"),
        ("60m", 1_800_000_001, "2027-01-15 08:00:01 UTC"),
        ("90s", 1_800_000_061, "2027-01-15 08:01:01 UTC"),
        ("1h", 0, "at the end of the window"),
    ],
)
def test_the_moment_told_is_never_before_the_windows_end(window, resets_at_s, said):
    refused = Refused("budget_spent", owner_kind="team", owner="t", window=window, resets_at_s=resets_at_s)
    assert f"resets {said}." in sentence(refused)


def test_tokens_that_are_used_up_and_tokens_that_do_not_fit():
    refused = Refused(
        "tokens_limited", owner_kind="virtual_key", owner="alice", unit="t", spent=500_123, limit=500_000, window="1d"
    )
    assert sentence(refused).startswith(
        'Token limit of virtual key "alice" reached: 500,123 of 500,000 tokens per day, resets'
    )
    large = msgspec.structs.replace(
        refused, reason="tokens_too_large", spent=499_990, needed=1234, resets_at_s=1_800_000_000, retry_after_s=3000
    )
    assert sentence(large) == (
        'Token limit of virtual key "alice" has too little left: this request is expected to take 1,234 tokens, 10 are'
        " left of 500,000 tokens per day, resets 2027-01-15 08:00 UTC. Use /compact, or ask whoever runs the gateway to"
        " raise it."
    )
    assert "1 is left of" in sentence(msgspec.structs.replace(large, spent=499_999))
    said = say(large, "r")
    assert (said.status, said.type) == (429, "rate_limit_error")
    assert dict(said.headers) == {b"retry-after": b"3000", b"x-should-retry": b"false"}


@pytest.mark.parametrize(
    ("feature", "bounded_by_max_uses"),
    [
        ("web_search_20250305", True),
        ("web_fetch_20250910", True),
        ("mcp_servers", False),
        ("compact_20260112", False),
        ("advisor_20260301", False),
        ("more than 64 server tools", False),
    ],
)
def test_max_uses_is_advised_only_where_it_helps(feature, bounded_by_max_uses):
    text = sentence(Refused("no_bound", owner_kind="team", owner="t", subject=feature))
    assert text.startswith(f"Leave out {feature}")
    assert ("max_uses" in text) is bounded_by_max_uses


def test_a_key_without_providers_is_not_told_to_choose_a_model():
    assert sentence(Refused("provider_not_allowed")) == (
        "Ask whoever runs the gateway: this key may use no provider that is set up here."
    )
    assert "/model" in sentence(Refused("provider_not_allowed", subject="groq", allowed=("anthropic",)))


def test_reasons_of_a_newer_enforcer_are_final():
    said = say(Refused("made_up"), "r")
    assert (said.status, dict(said.headers)[b"x-should-retry"]) == (403, b"false")


def test_error_event_is_one_event():
    event = error_event("upstream_cut", "r")
    assert event.startswith(b"event: error\ndata: {")
    assert event.count(b"\n\n") == 1
    assert event.endswith(b"\n\n")
