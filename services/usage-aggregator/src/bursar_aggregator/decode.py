"""From the bytes of a log record to a usage event, or to poison with its reason. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from bursar_common.events import (
    USAGE_DENIED,
    USAGE_EXPIRED,
    USAGE_RECORDED,
    Usage,
    decode_envelope,
    decode_usage,
)

RANK: Final = {USAGE_DENIED: 0, USAGE_EXPIRED: 1, USAGE_RECORDED: 2}
"""Which event of one request wins in ClickHouse: the truth over the guess of an expiry."""
_ID_PREFIX: Final = {USAGE_DENIED: "denied:", USAGE_EXPIRED: "expired:", USAGE_RECORDED: "usage:"}
MAX_REASON_CHARS = 300
"""Characters of a reason; it goes into a record's header."""


class UsageEvent(msgspec.Struct, frozen=True):
    """A usage event that could be read and is consistent."""

    event_id: str
    rank: int
    usage: Usage


class Poison(msgspec.Struct, frozen=True):
    """A record that no retry will make readable. ``reason`` never repeats the record's content."""

    reason: str


def decode(value: bytes) -> UsageEvent | Poison:
    """Never raises: whatever is in ``value``, the answer is an event or poison."""
    try:
        envelope = decode_envelope(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Poison(_reason("not a CloudEvents envelope", error))
    rank = RANK.get(envelope.type)
    if rank is None:
        return Poison("not a type of usage event that this release knows")
    if envelope.specversion != "1.0":
        return Poison("not CloudEvents 1.0")
    try:
        usage = decode_usage(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Poison(_reason("data of the event", error))
    if not usage.request_id or not usage.virtual_key_id:
        return Poison("request_id or virtual_key_id is empty")
    if envelope.id != _ID_PREFIX[envelope.type] + usage.request_id:
        return Poison("the event's id is not made of its type and request_id")
    if (usage.outcome == "refused") != (rank == 0) or (usage.outcome == "expired") != (rank == 1):
        return Poison(f"outcome {usage.outcome} does not belong to the event's type")
    return UsageEvent(envelope.id, rank, usage)


def _reason(what: str, error: Exception) -> str:
    # msgspec names the path and the expected type, never the value.
    return f"{what}: {error}"[:MAX_REASON_CHARS]
