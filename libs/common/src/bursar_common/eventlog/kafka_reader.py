"""Reading one Kafka topic from offsets of the reader's choosing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from bursar_common.eventlog.kafka_connection import CALL_TIMEOUT_S, kafka_errors
from bursar_common.eventlog.port import LogRecord, LogUnavailable, OffsetLost, record_bytes

FETCH_BYTES = 4 << 20
"""What one fetch takes from a partition (a larger single record still comes). Also bounds what is kept ahead of a
reader: one fetch a partition, so 48 MiB for the twelve of the usage topic at the worst."""
FETCH_WAIT_MS = 200
"""How long the broker holds a fetch that finds nothing: five idle requests a second, and no delay once there is data.
A partition that joins the fetched ones (first read, or a read from elsewhere) waits for the one under way."""


class TopicReader:
    """One consumer for all partitions of a topic, without a group: each partition is read by whoever asks, from the
    offset asked for. Reads of different partitions run side by side; of one partition, one after the other."""

    def __init__(self, topic: str, options: dict[str, Any], asker: AIOKafkaConsumer) -> None:
        """``asker`` is a started consumer that fetches nothing: a broker answers one connection's requests in order,
        so a question behind a waiting fetch would wait with it. ``consumer`` is the owner's to stop."""
        self._topic = topic
        self._asker = asker
        self.partitions = 0
        self.consumer = AIOKafkaConsumer(
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            **options,
        )
        self._next: dict[TopicPartition, int] = {}  # what continues without a seek
        self._left_over: dict[TopicPartition, list[LogRecord]] = {}
        self._locks: dict[TopicPartition, asyncio.Lock] = {}

    async def start(self, partitions: int) -> None:
        """Connect. Raises what the client raises."""
        self.partitions = partitions
        await self.consumer.start()
        assigned = [TopicPartition(self._topic, number) for number in range(partitions)]
        self.consumer.assign(assigned)
        for partition in assigned:
            # A position, so that none is asked for; paused, so that nothing nobody reads is fetched.
            self.consumer.seek(partition, 0)
            self.consumer.pause(partition)

    async def end_offset(self, partition: int) -> int:
        tp = TopicPartition(self._topic, partition)
        with kafka_errors(f"asking for the end of {self._topic}"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return int((await self._asker.end_offsets([tp]))[tp])

    async def begin_offset(self, partition: int) -> int:
        tp = TopicPartition(self._topic, partition)
        with kafka_errors(f"asking for the beginning of {self._topic}"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return int((await self._asker.beginning_offsets([tp]))[tp])

    async def read(
        self, partition: int, offset: int, max_records: int, max_bytes: int, wait_s: float
    ) -> list[LogRecord]:
        tp = TopicPartition(self._topic, partition)
        async with self._locks.setdefault(tp, asyncio.Lock()):
            left_over = self._left_over.pop(tp, [])
            if self._next.get(tp) != offset:
                left_over = []
                self.consumer.seek(tp, offset)
                self.consumer.resume(tp)
            records = left_over or await self._fetch(tp, offset, max_records, wait_s)
            count, size_bytes = 0, 0
            for record in records[:max_records]:
                size_bytes += record_bytes(record)
                if size_bytes > max_bytes and count:
                    break
                count += 1
            if count < len(records):
                self._left_over[tp] = records[count:]
            self._next[tp] = records[count - 1].offset + 1 if records else offset
            return records[:count]

    async def _fetch(self, tp: TopicPartition, offset: int, max_records: int, wait_s: float) -> list[LogRecord]:
        """Records from the consumer's position on; an empty answer means that the broker said there are none."""
        self._next.pop(tp, None)  # an error or a cancellation leaves the position unknown: seek at the next read
        asked_at_ms = int(time.time() * 1000)
        deadline = time.monotonic() + wait_s
        give_up = deadline + CALL_TIMEOUT_S
        wait_now_s = wait_s
        while True:
            try:
                with kafka_errors(f"reading {self._topic}"):
                    fetched = await self.consumer.getmany(
                        tp, timeout_ms=int(wait_now_s * 1000), max_records=max_records
                    )
            except LogUnavailable as error:
                cause = error.__cause__
                if not isinstance(cause, OffsetOutOfRangeError):
                    raise
                if cause.args and cause.args[0].get(tp, offset) != offset:
                    continue  # the answer to a fetch from before the seek
                raise OffsetLost(f"{self._topic} partition {tp.partition} does not keep offset {offset}") from cause
            if fetched.get(tp):
                return [_record(tp, record) for record in fetched[tp]]
            now = time.monotonic()
            if now < deadline:
                wait_now_s = deadline - now
                continue
            # Nothing came. Is there nothing, or does the broker not answer?
            position = await self._position(tp)
            polled_at_ms = self.consumer.last_poll_timestamp(tp) or 0
            highwater = self.consumer.highwater(tp)
            if polled_at_ms >= asked_at_ms and highwater is not None and position >= highwater:
                return []
            if position >= await self.end_offset(tp.partition) and position == offset:
                await self._check_begin(tp, offset)
                return []
            if now > give_up:
                raise LogUnavailable(f"reading {self._topic}: the broker sent nothing for {CALL_TIMEOUT_S:g} s")
            wait_now_s = 1.0

    async def _position(self, tp: TopicPartition) -> int:
        with kafka_errors(f"reading {self._topic}"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return int(await self.consumer.position(tp))

    async def _check_begin(self, tp: TopicPartition, offset: int) -> None:
        """``offset`` is at or behind the end: right at the end there is nothing yet, behind it something is lost."""
        end = await self.end_offset(tp.partition)
        if offset > end:
            raise OffsetLost(f"{self._topic} partition {tp.partition} ends at {end}, and {offset} was asked for")


def _record(tp: TopicPartition, record: ConsumerRecord) -> LogRecord:
    return LogRecord(
        tp.topic,
        tp.partition,
        record.offset,
        record.key.decode(errors="replace") if record.key else "",
        record.value or b"",
        tuple(record.headers),
        record.timestamp,
    )
