"""Usage events for tests of whoever reads the usage topic."""

from __future__ import annotations

from typing import Any

from bursar_common.clock import rfc3339
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import USAGE_DENIED, USAGE_EXPIRED, USAGE_RECORDED, USAGE_TOPIC, Usage, encode_event
from bursar_common.ids import uuid7_from
from bursar_common.wire import Amounts

STARTED_AT_MS = 1_795_252_211_123
"""2026-11-21T09:10:11.123Z"""

_TYPES = {"refused": (USAGE_DENIED, "denied"), "expired": (USAGE_EXPIRED, "expired")}


def request_id(number: int) -> str:
    """The same id for the same number, in order."""
    return uuid7_from(STARTED_AT_MS + number, number.to_bytes(10, "big"))


def usage(number: int = 0, **fields: Any) -> Usage:
    """A completed request that cost 1,000,000,001 + number nano-dollars, unless told otherwise."""
    cost = fields.get("cost_nusd", 1_000_000_001 + number)
    defaults: dict[str, Any] = {
        "request_id": request_id(number),
        "started_at_ms": STARTED_AT_MS + number,
        "virtual_key_id": "key-1",
        "virtual_key": "alice-claude-code",
        "team_id": "team-1",
        "team": "platform-engineering",
        "outcome": "completed",
        "provider": "anthropic",
        "model": "claude-sonnet-4-6",
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_nusd": cost,
        "list_cost_nusd": cost,
        "amounts": Amounts(n=cost, t=30, T=30, r=1),
        "charged_to": ("n:budget-1:1795219200:1795305600",),
        "tags": {"ticket": "ABC-1"},
        "status": 200,
    }
    return Usage(**(defaults | fields))


def usage_record(event: Usage) -> NewRecord:
    """The event as it is appended to the log."""
    type_, prefix = _TYPES.get(event.outcome, (USAGE_RECORDED, "usage"))
    value = encode_event(
        id=f"{prefix}:{event.request_id}",
        source="bursar/enforcer" if type_ == USAGE_EXPIRED else "bursar/edge",
        type=type_,
        time=rfc3339(event.started_at_ms + 1_000),
        subject=event.request_id,
        data=event,
    )
    return NewRecord(USAGE_TOPIC, event.virtual_key_id, value)


def usage_records(count: int, *, first: int = 0, **fields: Any) -> list[NewRecord]:
    return [usage_record(usage(number, **fields)) for number in range(first, first + count)]
