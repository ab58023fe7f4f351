"""What the enforcer needs of a usage event; most of its sixty fields are others' and are not decoded. Pure."""

from __future__ import annotations

import msgspec

from bursar_common.events import Outcome, Usage
from bursar_common.wire import Amounts


class UsageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Fields as in :class:`bursar_common.events.Usage`."""

    request_id: str
    started_at_ms: int
    virtual_key_id: str
    outcome: Outcome
    ended_at_ms: int | None = None
    session_id: str = ""
    agent_id: str = ""
    model: str = ""
    requested_model: str = ""
    estimated: bool = False
    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    output_tokens: int | None = None
    thinking_tokens: int | None = None
    web_searches: int | None = None
    amounts: Amounts = Amounts()
    charged_to: tuple[str, ...] = ()
    text_bytes: int = 0


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope with its data, decoded in one pass."""

    type: str
    data: UsageFacts


class UsageMark(msgspec.Struct, gc=False, frozen=True):
    """Which request it was, and when: all that is needed where its settlement came before the event."""

    request_id: str
    started_at_ms: int


class MarkedEvent(msgspec.Struct, gc=False, frozen=True):
    type: str
    data: UsageMark


AnyUsage = Usage | UsageFacts

_decode = msgspec.json.Decoder(UsageEvent).decode
_decode_mark = msgspec.json.Decoder(MarkedEvent).decode


def decode_usage_event(value: bytes) -> UsageEvent:
    """Raises msgspec.DecodeError / ValidationError: poison."""
    return _decode(value)


def decode_mark(value: bytes) -> MarkedEvent:
    """The same event, less of it. Raises as well."""
    return _decode_mark(value)
