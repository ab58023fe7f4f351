"""The sentences, and the document made from them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bursar_common.wire import RefusalReason, Refused
from bursar_edge.refusals import REFUSALS, document, dollars, error_event, say, sentence

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
    assert set(get_args(RefusalReason)) <= set(REFUSALS)


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
    assert REFUSALS[reason].text.split()[0] in {"Ask", "Choose", "Leave"}


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
        "Budget of team platform-engineering is used up: $500.12 of $500.00 spent, resets 2027-01-15 08:00 UTC. Ask"
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


@pytest.mark.parametrize(
    ("nusd", "text"),
    [(0, "$0.00"), (400_000_000, "$0.40"), (1, "$0.000000001"), (8_000_000_000_000_000_000, "$8,000,000,000.00")],
)
def test_dollars(nusd, text):
    assert dollars(nusd) == text


def test_reasons_of_a_newer_enforcer_are_final():
    said = say(Refused("made_up"), "r")
    assert (said.status, dict(said.headers)[b"x-should-retry"]) == (403, b"false")


def test_error_event_is_one_event():
    event = error_event("upstream_cut", "r")
    assert event.startswith(b"event: error\ndata: {")
    assert event.count(b"\n\n") == 1
    assert event.endswith(b"\n\n")
