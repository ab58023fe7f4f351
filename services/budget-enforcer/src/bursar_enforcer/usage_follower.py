"""Usage topic to Redis: closes holds whose settlement was lost, books expiries, teaches expectations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
import msgspec
import structlog

from bursar_common.clock import Clock
from bursar_common.eventlog.port import EventLog, LogRecord
from bursar_common.events import OUTBOX_HEADER, RETRY_HEADER, USAGE_DENIED, USAGE_EXPIRED, USAGE_RECORDED, USAGE_TOPIC
from bursar_common.scopes import parse_counter_id
from bursar_enforcer import redis_names
from bursar_enforcer.calls import (
    CONSUMED_TTL_S,
    DAY_S,
    RANK_EXPIRED,
    RANK_RECORDED,
    UNCONSUMED_TTL_S,
    Consumed,
    Settled,
    check_amounts,
    check_counters,
    consume_call,
    state_call,
)
from bursar_enforcer.decisions import AnyCall, close_call
from bursar_enforcer.following import RETRY_MOST_S, follow, step
from bursar_enforcer.learning import Learning
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.redis_connection import RedisUnavailable
from bursar_enforcer.usage_facts import UsageFacts, UsageMark, decode_mark, decode_usage_event

log = structlog.get_logger()

KEPT_AFTER_S = {"n": 40 * DAY_S, "t": 8 * DAY_S, "T": 8 * DAY_S, "r": 8 * DAY_S}
"""How long a counter outlives its window (as in the scripts' prelude)."""
KEPT_LEAST_MS = min(KEPT_AFTER_S.values()) * 1000
"""An event of a request begun more lately charges counters that are kept: their windows ended after it began."""

LINGER_S = 0.25
"""Nearly every record was settled already when it is read here: larger batches cost less, and only a lost settlement
waits for them."""


MAX_STOPS = 3
"""Records of one batch that are closed one at a time, with the rest passed over again; after these all are closed."""


class Read(msgspec.Struct, gc=False, frozen=True):
    """A record as far as it was read: whose it is."""

    record: Settled
    value: bytes
    """The event; empty: nothing that has an effect or teaches."""


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
        """Passes over what is settled already; what is not is closed, and the rest passed over again. Each script
        expects the position the one before it leaves."""
        field = redis_names.usage_field(records[0].partition)
        reads = [self._read(record) for record in records]
        at = stops = taken = 0
        while at < len(reads):
            # A batch full of records to be closed is a replay, or a flood of lost settlements.
            each = stops > MAX_STOPS or (stops > 1 and taken == 0)
            end = len(reads) if each else min(at + 1, len(reads)) if stops else at
            closings = [(read, self._facts(read)) for read in reads[at:end]]
            rest = reads[end:]
            calls: list[AnyCall] = []
            for read, usage in closings:
                calls.append(_call(field, position, read.record, usage))
                position = str(read.record.following)
            if rest:
                calls.append(consume_call(field, position, [read.record for read in rest]))
            replies = await self._ledger.run(calls)
            for (read, usage), reply in zip(closings, replies, strict=False):
                if not self._applied(reply, read.record.request_id):
                    return
                if usage is not None:
                    self._learning.from_event(usage)
            taken = 0
            if rest:
                reply = replies[-1]
                taken = reply[1] if isinstance(reply, list) and reply[0] == b"consumed" else 0
                if not self._applied(reply):
                    return
                self._learn(rest[:taken])
                if taken:
                    position = str(rest[taken - 1].record.following)
            at = end + taken
            stops += 1

    def _applied(self, reply: Any, request_id: str = "") -> bool:
        """False: another enforcer was quicker, look again. Raises RedisUnavailable."""
        if isinstance(reply, hiredis.ReplyError):
            raise RedisUnavailable(f"Redis answered: {reply}")
        kind = reply[0]
        if kind == b"closed":
            raise RedisUnavailable("the ledger is being rebuilt")
        if kind == b"moved":
            return False
        if kind == b"overflow":
            log.error("counter_full", counter=reply[1].decode(), request_id=request_id)
        return True

    def _learn(self, reads: Sequence[Read]) -> None:
        """From what is closed: mostly a settlement taught the same, and the event is not even decoded."""
        for read in reads:
            if read.value and not self._learning.knows(read.record.request_id):
                usage = self._facts(read)
                if usage is not None:
                    self._learning.from_event(usage)

    def _read(self, record: LogRecord) -> Read:
        following = record.offset + 1
        if record.headers and any(name == RETRY_HEADER for name, _ in record.headers):
            # Set aside by the aggregator, not by us: the first copy was applied, or its request settled or expired.
            return Read(Settled(following), b"")
        try:
            event = decode_mark(record.value)
        except ValueError as error:  # msgspec's errors are ValueErrors
            log.error("usage_event_unreadable", offset=record.offset, error=str(error)[:200])
            return Read(Settled(following), b"")
        if event.type == USAGE_DENIED:
            return Read(Settled(following), b"")
        if event.type not in (USAGE_RECORDED, USAGE_EXPIRED) or self._forgotten(event.data, record.value):
            return Read(Settled(following), record.value)
        rank = RANK_RECORDED if event.type == USAGE_RECORDED else RANK_EXPIRED
        return Read(Settled(following, event.data.request_id, rank, *_outbox(record)), record.value)

    def _facts(self, read: Read) -> UsageFacts | None:
        """All that is needed of the event to close or to learn; None: nothing, or it cannot be read."""
        if not read.value:
            return None
        try:
            usage = decode_usage_event(read.value).data
            check_amounts(usage.amounts)
            check_counters(usage.charged_to)
        except ValueError as error:
            log.error("usage_event_unreadable", offset=read.record.following - 1, error=str(error)[:200])
            return None
        return usage

    def _forgotten(self, mark: UsageMark, value: bytes) -> bool:
        """A replay of old days: every counter it charged is past its keeping, so there is nothing to add to."""
        now_ms = self._clock.now_ms()
        if now_ms - mark.started_at_ms < KEPT_LEAST_MS:
            return False
        try:
            charged_to = decode_usage_event(value).data.charged_to
            counters = [parse_counter_id(counter) for counter in charged_to]
        except ValueError:
            return False  # whoever closes it will say so
        now_s = now_ms // 1000
        return bool(counters) and all(counter.window_end_s + KEPT_AFTER_S[counter.unit] < now_s for counter in counters)


def _call(field: str, position: str, record: Settled, usage: UsageFacts | None) -> AnyCall:
    """The record's own script: its closing, or moving past it."""
    if not record.request_id or usage is None:
        return state_call("skip", field, position, str(record.following))
    return close_call(
        record.request_id,
        record.rank,
        usage.amounts,
        usage.charged_to,
        # An expiry may still be replaced by the truth out of an edge's outbox.
        ttl_s=CONSUMED_TTL_S if record.rank == RANK_RECORDED else UNCONSUMED_TTL_S,
        consumed=Consumed(field, position, record.following, record.outbox_field, record.outbox_sequence),
    )


def _outbox(record: LogRecord) -> tuple[str, int | str]:
    """Field and sequence of the relay's header; empty where the record came without."""
    for name, value in record.headers:
        if name == OUTBOX_HEADER:
            outbox_id, _, sequence = value.decode("utf-8", "replace").rpartition(":")
            if outbox_id and sequence.isdigit():
                return f"{outbox_id}:{record.partition}", int(sequence)
    return "", ""
