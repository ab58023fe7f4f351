"""Operations as the enforcer decodes them: those of :mod:`bursar_common.wire`, but the hold of a settlement stays JSON
until somebody needs it. Who admitted the request knows its counters. Pure.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from bursar_common.wire import (
    Admit,
    Amounts,
    Authorize,
    Balances,
    GovernancePosition,
    HoldEntry,
    Release,
    Renew,
    UsageCounts,
)


class Settle(msgspec.Struct, gc=False, frozen=True, tag_field="op", tag="settle"):
    """Fields as in :class:`bursar_common.wire.Settle`."""

    request_id: str
    hold: msgspec.Raw
    amounts: Amounts
    outcome: str
    virtual_key_id: str = ""
    model: str = ""
    session: str = ""
    agent: str = ""
    text_bytes: int = 0
    usage: UsageCounts | None = None
    quiet: bool = False


Operation: TypeAlias = Admit | Authorize | Renew | Settle | Release | Balances | GovernancePosition

decode_operations = msgspec.json.Decoder(list[Operation]).decode
_decode_hold = msgspec.json.Decoder(tuple[HoldEntry, ...]).decode


def held_counters(hold: msgspec.Raw | tuple[HoldEntry, ...]) -> tuple[str, ...]:
    """The counters of a hold, in order. Raises msgspec.ValidationError, a ValueError, for what is no hold."""
    entries = _decode_hold(hold) if isinstance(hold, msgspec.Raw) else hold
    return tuple([entry.counter for entry in entries])
