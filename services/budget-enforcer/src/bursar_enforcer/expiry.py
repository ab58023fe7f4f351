"""Holds nobody renews: first the log is told what they are charged, then the ledger follows the log.

A sweep judges nothing it cannot know: not before one full time to live after Redis was (re)gained, and only with
everything applied that the usage topic held when the sweep began. It appends and waits for the follower; a hold that
was settled in between is left alone by rank. Several enforcers may append the same expiry: the second changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from bursar_common.charging import largest_held
from bursar_common.clock import Clock, rfc3339
from bursar_common.eventlog.port import EventLog, LogPosition, LogUnavailable, NewRecord
from bursar_common.events import USAGE_EXPIRED, USAGE_TOPIC, Usage, encode_event
from bursar_common.wire import HoldEntry
from bursar_enforcer import redis_names
from bursar_enforcer.calls import forget_call
from bursar_enforcer.continuity import Continuity
from bursar_enforcer.following import ends_of, reached
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.redis_checks import UnsafeRedis
from bursar_enforcer.redis_connection import RedisUnavailable
from bursar_enforcer.stored import open_hold

log = structlog.get_logger()

SWEEPS_PER_TTL = 12
"""A hold is found at most this part of its time to live after its end."""
MAX_EXPIRED = 200
"""Holds of one sweep; more are the next one's."""
MAX_FORGOTTEN = 1_000
"""Counters deleted after one sweep: about a millisecond for Redis. Their time to go is days after anybody asks."""
APPLY_WAIT_S = 30.0
"""Longest wait for the follower after an append; the next sweep begins only with the topic applied, anyway."""

_decode_usage = msgspec.json.Decoder(Usage).decode


class Expiry:
    def __init__(
        self, ledger: Ledger, event_log: EventLog, continuity: Continuity, clock: Clock, *, hold_ttl_s: int
    ) -> None:
        self._ledger = ledger
        self._log = event_log
        self._continuity = continuity
        self._clock = clock
        self._ttl_s = hold_ttl_s
        self.on_expired: Callable[[int], None] = lambda count: None

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(self._ttl_s / SWEEPS_PER_TTL)
            try:
                await self.forget()
                await self.sweep()
            except (RedisUnavailable, UnsafeRedis, LogUnavailable) as error:
                log.info("expiry_waits", why=str(error)[:200])
            except Exception:
                log.exception("sweep_failed")

    async def forget(self) -> int:
        """Delete counters that are past their keeping, a bounded number at once. Raises RedisUnavailable."""
        reply = (await self._ledger.run([forget_call(MAX_FORGOTTEN)]))[0]
        return int(reply[1]) if isinstance(reply, list) else 0

    async def sweep(self) -> int:
        """Append an expiry for every hold past its time; returns how many. Raises RedisUnavailable, LogUnavailable."""
        since_s = self._continuity.regained_at_s
        if not self._continuity.open or since_s is None or self._clock.monotonic_s() - since_s < self._ttl_s:
            return 0
        if not await self._topic_applied():
            return 0
        time, count = await self._ledger.commands([("TIME",), ("ZCARD", redis_names.OPEN_HOLDS)])
        if not count:
            return 0
        deadline_ms = int(time[0]) * 1000 + int(time[1]) // 1000 - self._ttl_s * 1000
        ids = (
            await self._ledger.commands(
                [("ZRANGEBYSCORE", redis_names.OPEN_HOLDS, "-inf", deadline_ms, "LIMIT", 0, MAX_EXPIRED)]
            )
        )[0]
        if not ids:
            return 0
        values = await self._ledger.commands([("GET", redis_names.HOLD + id_.decode()) for id_ in ids])
        records = [
            record
            for id_, value in zip(ids, values, strict=True)
            # One closed since it was listed is left alone.
            if (hold := open_hold(value)) and (record := self._record(id_.decode(), *hold)) is not None
        ]
        positions = await self._log.append(records)
        log.warning("holds_expired", count=len(records))
        self.on_expired(len(records))
        await self._applied(positions)
        return len(records)

    async def _topic_applied(self) -> bool:
        ends = await ends_of(self._log, USAGE_TOPIC)
        return await reached(self._ledger, self._log, USAGE_TOPIC, ends, redis_names.usage_field)

    def _record(self, request_id: str, hold: tuple[HoldEntry, ...], event: bytes) -> NewRecord | None:
        try:
            usage = expired_usage(event, hold, request_id, self._clock.now_ms())
        except ValueError as error:
            log.error("hold_unreadable", request_id=request_id, error=str(error)[:200])
            return None
        value = encode_event(
            id=f"expired:{request_id}",
            source="bursar/enforcer",
            type=USAGE_EXPIRED,
            time=rfc3339(self._clock.now_ms()),
            subject=request_id,
            data=usage,
        )
        return NewRecord(USAGE_TOPIC, usage.virtual_key_id, value)

    async def _applied(self, positions: list[LogPosition]) -> None:
        ends: dict[int, int] = {}
        for position in positions:
            ends[position.partition] = max(ends.get(position.partition, 0), position.offset + 1)
        until_s = self._clock.monotonic_s() + APPLY_WAIT_S
        while not await reached(self._ledger, self._log, USAGE_TOPIC, ends, redis_names.usage_field):
            if self._clock.monotonic_s() > until_s:
                return
            await asyncio.sleep(0.02)


def expired_usage(event: bytes, hold: tuple[HoldEntry, ...], request_id: str, now_ms: int) -> Usage:
    """The event of a hold nobody renewed: all that is known of the request, charged the most it last held.

    Raises ValueError where the event is missing or unreadable."""
    if not event:
        raise ValueError("the hold has no event")
    known: Any = _decode_usage(event)
    amounts = largest_held(hold, unheld_nusd=known.held_nusd if known.billing == "metered" else 0)
    usage: Usage = msgspec.structs.replace(
        known,
        request_id=request_id,
        outcome="expired",
        estimated=True,
        ended_at_ms=now_ms,
        cost_nusd=amounts.n,
        list_cost_nusd=max(amounts.n, known.list_cost_nusd),
        amounts=amounts,
        charged_to=tuple(entry.counter for entry in hold),
    )
    return usage
