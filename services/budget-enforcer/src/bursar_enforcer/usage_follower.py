"""Usage topic to Redis: closes holds whose settlement was lost, books expiries, teaches expectations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import hiredis
import structlog

from bursar_common.clock import Clock
from bursar_common.eventlog.port import EventLog, LogRecord
from bursar_common.events import (
    OUTBOX_HEADER,
    USAGE_DENIED,
    USAGE_EXPIRED,
    USAGE_RECORDED,
    USAGE_TOPIC,
    Usage,
    decode_envelope,
    decode_usage,
)
from bursar_common.scopes import parse_counter_id
from bursar_enforcer import redis_names
from bursar_enforcer.calls import (
    CONSUMED_TTL_S,
    DAY_S,
    RANK_EXPIRED,
    RANK_RECORDED,
    UNCONSUMED_TTL_S,
    Call,
    Consumed,
    check_amounts,
    check_counters,
    close_call,
    state_call,
)
from bursar_enforcer.following import RETRY_MOST_S, follow, step
from bursar_enforcer.learning import Learning
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.redis_connection import RedisUnavailable

log = structlog.get_logger()

KEPT_AFTER_S = {"n": 40 * DAY_S, "t": 8 * DAY_S, "T": 8 * DAY_S, "r": 8 * DAY_S}
"""How long a counter outlives its window (as in the scripts' prelude)."""

LINGER_S = 0.1
"""Nearly every record was settled already when it is read here: larger batches cost less, and only a lost settlement
waits for them."""


class UsageFollower:
    def __init__(self, ledger: Ledger, event_log: EventLog, learning: Learning, clock: Clock) -> None:
        self._ledger = ledger
        self._log = event_log
        self._learning = learning
        self._clock = clock

    async def run(self) -> None:
        """Never returns: follows every partition."""
        while True:
            try:
                count = await self._log.partitions(USAGE_TOPIC)
                break
            except Exception as error:
                log.info("follower_waits", topic=USAGE_TOPIC, why=str(error)[:200])
                await asyncio.sleep(RETRY_MOST_S)
        async with asyncio.TaskGroup() as tasks:
            for partition in range(count):
                field = redis_names.usage_field(partition)
                tasks.create_task(
                    follow(self._ledger, self._log, USAGE_TOPIC, partition, field, self.apply, linger_s=LINGER_S)
                )

    async def step(self, partition: int, wait_s: float = 0.0) -> int:
        """Apply what is there of one partition; returns how many records were read."""
        field = redis_names.usage_field(partition)
        return await step(self._ledger, self._log, USAGE_TOPIC, partition, field, self.apply, wait_s=wait_s)

    async def apply(self, records: Sequence[LogRecord], position: str) -> None:
        """All in one round trip; each record's script expects the position the one before it leaves."""
        calls = []
        usages: list[Usage | None] = []
        for record in records:
            call, usage = self._call(record, position)
            calls.append(call)
            usages.append(usage)
            position = str(record.offset + 1)
        for usage, reply in zip(usages, await self._ledger.run(calls), strict=True):
            if isinstance(reply, hiredis.ReplyError):
                raise RedisUnavailable(f"Redis answered: {reply}")
            kind = reply[0]
            if kind == b"closed":
                raise RedisUnavailable("the ledger is being rebuilt")
            if kind == b"moved":
                return  # another enforcer was quicker: look again
            if kind == b"overflow":
                log.error("counter_full", counter=reply[1].decode(), request_id=usage.request_id if usage else "")
            if usage is not None:
                self._learning.from_event(usage)

    def _call(self, record: LogRecord, position: str) -> tuple[Call, Usage | None]:
        field = redis_names.usage_field(record.partition)
        skip = state_call("skip", field, position, str(record.offset + 1))
        try:
            envelope = decode_envelope(record.value)
            if envelope.type == USAGE_DENIED:
                return skip, None
            usage = decode_usage(envelope)
            check_amounts(usage.amounts)
            check_counters(usage.charged_to)
        except ValueError as error:  # msgspec's errors are ValueErrors
            log.error("usage_event_unreadable", offset=record.offset, error=str(error)[:200])
            return skip, None
        if envelope.type not in (USAGE_RECORDED, USAGE_EXPIRED) or self._forgotten(usage):
            return skip, usage
        rank = RANK_RECORDED if envelope.type == USAGE_RECORDED else RANK_EXPIRED
        outbox_field, sequence = _outbox(record)
        call = close_call(
            usage.request_id,
            rank,
            usage.amounts,
            usage.charged_to,
            # An expiry may still be replaced by the truth out of an edge's outbox.
            ttl_s=CONSUMED_TTL_S if rank == RANK_RECORDED else UNCONSUMED_TTL_S,
            consumed=Consumed(field, position, record.offset + 1, outbox_field, sequence),
        )
        return call, usage

    def _forgotten(self, usage: Usage) -> bool:
        """A replay of old days: every counter it charged is past its keeping, so there is nothing to add to."""
        if not usage.charged_to:
            return False
        now_s = self._clock.now_ms() // 1000
        return all(
            counter.window_end_s + KEPT_AFTER_S[counter.unit] < now_s
            for counter in map(parse_counter_id, usage.charged_to)
        )


def _outbox(record: LogRecord) -> tuple[str, int | str]:
    """Field and sequence of the relay's header; empty where the record came without."""
    for name, value in record.headers:
        if name == OUTBOX_HEADER:
            outbox_id, _, sequence = value.decode("utf-8", "replace").rpartition(":")
            if outbox_id and sequence.isdigit():
                return f"{outbox_id}:{record.partition}", int(sequence)
    return "", ""
