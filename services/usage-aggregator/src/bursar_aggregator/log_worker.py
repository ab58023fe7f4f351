"""The job of one machine: reads the usage topic off the SQLite log, writes batches, then commits its position."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from bursar_aggregator.batch import MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_BATCH_WAIT_S
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable
from bursar_common.events import USAGE_TOPIC

log = structlog.get_logger()

GROUP = "bursar-usage-aggregator"
"""Consumer group under which positions are kept, in both forms of the log."""
READ_WAIT_S = 1.0
"""Seconds a read waits for the first record before it looks whether the process is to stop."""


async def rewind(event_log: EventLog, *, topic: str = USAGE_TOPIC) -> None:
    """Have the group begin at the oldest events again: ClickHouse is empty, so nothing of what was read is there.

    Raises LogUnavailable (Kafka: also while workers of the group are running)."""
    for partition in range(await event_log.partitions(topic)):
        begin = await event_log.begin_offset(topic, partition)
        committed = await event_log.committed(GROUP, topic, partition)
        if committed is not None and committed > begin:
            await event_log.commit(GROUP, topic, partition, begin)
            log.warning("ClickHouse is empty: replaying", topic=topic, partition=partition, from_offset=begin)


class Writes(Protocol):
    """What takes batches where they belong."""

    why_waiting: str

    async def write(self, records: Sequence[LogRecord]) -> object: ...


class LogWorker:
    """One loop over one partition. Its steps: read, insert, bury, commit; a crash repeats what was not committed."""

    def __init__(self, event_log: EventLog, writer: Writes, *, topic: str = USAGE_TOPIC, partition: int = 0) -> None:
        self._event_log = event_log
        self._writer = writer
        self._topic = topic
        self._partition = partition
        self.why_unready = "not started"

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; a batch that was read is finished first, unless it waits for ClickHouse.

        Raises InsertRefused, OffsetLost (the log no longer has what comes next: rebuild analytics)."""
        offset = await self._start_offset(stop)
        self.why_unready = ""
        while not stop.is_set():
            try:
                records = await self._read(offset)
            except LogUnavailable as error:
                self.why_unready = str(error)
                await _wait(stop, LONGEST_RETRY_S)
                continue
            self.why_unready = ""
            if records and await self._write(records, stop):
                offset = records[-1].offset + 1
                await self._commit(offset, stop)

    async def _start_offset(self, stop: asyncio.Event) -> int:
        while not stop.is_set():
            try:
                committed = await self._event_log.committed(GROUP, self._topic, self._partition)
                if committed is not None:
                    return committed
                return await self._event_log.begin_offset(self._topic, self._partition)
            except LogUnavailable as error:
                self.why_unready = str(error)
                await _wait(stop, FIRST_RETRY_S)
        return 0

    async def _read(self, offset: int) -> list[LogRecord]:
        """A batch: what is there, and what comes within the batch's wait if that is little."""
        records = await self._event_log.read(
            self._topic,
            self._partition,
            offset,
            max_records=MAX_BATCH_RECORDS,
            max_bytes=MAX_BATCH_BYTES,
            wait_s=READ_WAIT_S,
        )
        if not records or len(records) >= MAX_BATCH_RECORDS // 10:
            return records
        await asyncio.sleep(MAX_BATCH_WAIT_S)
        return await self._event_log.read(
            self._topic, self._partition, offset, max_records=MAX_BATCH_RECORDS, max_bytes=MAX_BATCH_BYTES
        )

    async def _write(self, records: list[LogRecord], stop: asyncio.Event) -> bool:
        """Whether the batch is in. Stopping while ClickHouse is away gives the batch up: it is read again."""
        writing = asyncio.ensure_future(self._writer.write(records))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({writing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            while not writing.done() and not self._writer.why_waiting:
                await asyncio.wait({writing}, timeout=FIRST_RETRY_S)
            if not writing.done():
                writing.cancel()
                await asyncio.wait({writing})
                return False
            writing.result()
            return True
        finally:
            stopping.cancel()

    async def _commit(self, offset: int, stop: asyncio.Event) -> None:
        while True:
            try:
                await self._event_log.commit(GROUP, self._topic, self._partition, offset)
                return
            except LogUnavailable as error:
                self.why_unready = str(error)
                if stop.is_set():
                    return
                await _wait(stop, LONGEST_RETRY_S)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        pass
