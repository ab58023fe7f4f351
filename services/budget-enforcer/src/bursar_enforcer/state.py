"""How far the ledger is, for those who look after it."""

from __future__ import annotations

from typing import Any

from bursar_enforcer import redis_names
from bursar_enforcer.ledger import Ledger


async def state_of(ledger: Ledger) -> dict[str, Any]:
    """Open holds, and by topic and partition the offset of the first record not yet applied.

    Raises RedisUnavailable, UnsafeRedis."""
    open_holds, positions = await ledger.commands(
        [("ZCARD", redis_names.OPEN_HOLDS), ("HGETALL", redis_names.POSITIONS)]
    )
    named = {field.decode(): int(offset) for field, offset in zip(positions[::2], positions[1::2], strict=True)}
    return {"open_holds": int(open_holds), "positions": named}
