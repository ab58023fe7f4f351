"""Reads one partition of a topic into Redis, from the position kept in Redis.

The position is moved by the same script as a record's effect, and only from where it was expected: several enforcers
may follow at once (one of them applies a record, the others notice), a crash repeats nothing, and a Redis that went
back to an older state is brought forward again because its position went back with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable, OffsetLost
from bursar_enforcer import redis_names
from bursar_enforcer.calls import state_call
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.redis_checks import UnsafeRedis
from bursar_enforcer.redis_connection import RedisUnavailable

log = structlog.get_logger()

READ_WAIT_S = 1.0
"""Longest wait for a record before the position is read again: how soon a flushed Redis is noticed here."""
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 2.0
"""Pause before trying again where Redis or the log is down, doubling."""
MAX_RECORDS = 500
"""Records applied in one round trip."""

Apply = Callable[[Sequence[LogRecord], str], Awaitable[None]]
"""Applies records, the first of them expecting the position given as text (empty: none kept yet)."""


async def follow(
    ledger: Ledger,
    event_log: EventLog,
    topic: str,
    partition: int,
    field: str,
    apply: Apply,
    *,
    linger_s: float = 0.0,
) -> None:
    """Never returns. ``field`` names the position in Redis; ``linger_s`` is waited after records that were not a full
    batch, so that the next batch is larger, where nobody waits for them."""
    pause_s = RETRY_FIRST_S
    while True:
        try:
            applied = await step(ledger, event_log, topic, partition, field, apply, wait_s=READ_WAIT_S)
            pause_s = RETRY_FIRST_S
            if linger_s and 0 < applied < MAX_RECORDS:
                await asyncio.sleep(linger_s)
            continue
        except (LogUnavailable, RedisUnavailable, UnsafeRedis) as error:
            log.info("follower_waits", topic=topic, partition=partition, why=str(error)[:200])
        except Exception:
            log.exception("follower_failed", topic=topic, partition=partition)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_MOST_S)


async def step(
    ledger: Ledger,
    event_log: EventLog,
    topic: str,
    partition: int,
    field: str,
    apply: Apply,
    *,
    wait_s: float = 0.0,
) -> int:
    """Read and apply what is there; returns how many records were read. Raises LogUnavailable, RedisUnavailable."""
    position = await position_of(ledger, field)
    offset = int(position) if position else await event_log.begin_offset(topic, partition)
    try:
        records = await event_log.read(topic, partition, offset, max_records=MAX_RECORDS, wait_s=wait_s)
    except OffsetLost as error:
        await _skip_lost(ledger, event_log, topic, partition, field, position, str(error))
        return 1
    if records:
        await apply(records, position)
    return len(records)


async def position_of(ledger: Ledger, field: str) -> str:
    """The position as it stands in Redis, as text; empty: none."""
    reply = (await ledger.commands([("HGET", redis_names.POSITIONS, field)]))[0]
    return reply.decode() if reply is not None else ""


async def ends_of(event_log: EventLog, topic: str) -> dict[int, int]:
    """The offset after the last record, by partition. Raises LogUnavailable."""
    return {p: await event_log.end_offset(topic, p) for p in range(await event_log.partitions(topic))}


async def reached(
    ledger: Ledger, event_log: EventLog, topic: str, ends: dict[int, int], name: Callable[[int], str]
) -> bool:
    """Whether Redis holds the effect of every record below ``ends``; ``name`` gives a partition's field."""
    replies = (await ledger.commands([("HMGET", redis_names.POSITIONS, *(name(p) for p in ends))]))[0] if ends else []
    for (partition, end), reply in zip(ends.items(), replies, strict=True):
        if reply is None:
            if end > await event_log.begin_offset(topic, partition):
                return False
        elif int(reply) < end:
            return False
    return True


async def _skip_lost(
    ledger: Ledger, event_log: EventLog, topic: str, partition: int, field: str, position: str, why: str
) -> None:
    """The log no longer has what comes next (retention), or never had it (another log): go on with what it has. What
    is missing in between only `bursar rebuild ledger` on a whole log could tell."""
    begin, end = await event_log.begin_offset(topic, partition), await event_log.end_offset(topic, partition)
    offset = begin if int(position or 0) < begin else end
    log.error("records_lost", topic=topic, partition=partition, position=position, continuing_at=offset, why=why[:200])
    await ledger.run([state_call("skip", field, position, str(offset))])
