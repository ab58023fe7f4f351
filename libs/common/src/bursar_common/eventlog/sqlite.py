"""The event log in one SQLite file: the log of one machine, and the edge's outbox in a cluster.

Several processes append and read at once (WAL). Each topic has one partition, number 0. Appends are grouped by a
writer thread (:mod:`bursar_common.eventlog.sqlite_writer`); an acknowledged record has been fsynced and survives
``kill -9`` and power loss. Reads run in the event loop: a read of what is new costs about 20 us, less than handing it
to a thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bursar_common.clock import Clock, SystemClock
from bursar_common.eventlog.port import (
    MAX_RECORD_BYTES,
    LogPosition,
    LogRecord,
    LogUnavailable,
    NewRecord,
    OffsetLost,
    RecordTooLarge,
    record_bytes,
)
from bursar_common.eventlog.sqlite_file import MAX_OFFSET, OFFSET_BITS, open_file
from bursar_common.eventlog.sqlite_writer import (
    DELETE_ROWS,
    END_SQL,
    Work,
    Writer,
    begin_at,
    delete_some,
    remember_position,
)

MAX_QUEUED_RECORDS = 20_000
"""Records waiting for the writer. Ten times what a second of the busiest edge produces; more means the disk stands
still, and callers are told instead of filling the memory."""
MAX_QUEUED_BYTES = 128 << 20
"""Bytes waiting for the writer, for the same reason. A single append may be larger if nothing waits."""
POLL_S = 0.010
POLL_IDLE_S = 0.025
"""How often waiting reads look for other processes' commits (one look a log object, 3 us): the first while one of them
found something within the last POLL_IDLE_AFTER_S, the second when what is committed is of other topics, or nothing.
This process's own appends wake them at once."""
POLL_IDLE_AFTER_S = 1.0

_decode_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode


class SqliteEventLog:
    """EventLog on the file ``path``. To be used from one event loop, the one that called ``start``. Commits are at
    least ``pace_s`` apart."""

    def __init__(self, path: Path, *, clock: Clock | None = None, pace_s: float = 0.0) -> None:
        self.path = path
        self._pace_s = pace_s
        self._clock = clock or SystemClock()
        self._writer: Writer | None = None
        self._reader: sqlite3.Connection | None = None
        self._queued_records = 0
        self._queued_bytes = 0
        self._topic_ids: dict[str, int] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._poll_handle: asyncio.TimerHandle | None = None
        self._seen_version = -1
        self._found_at_s = 0.0
        """When a waiting read found something last, monotonic."""

    async def start(self) -> None:
        """Open the file, creating it if absent. Raises LogUnavailable, LogIncompatible. Idempotent."""
        if self._writer is not None:
            return
        self._loop = asyncio.get_running_loop()

        def open_both() -> tuple[Writer, sqlite3.Connection]:
            writer = Writer(self.path, self._clock.now_ms, self._on_done, pace_s=self._pace_s)
            return writer, open_file(self.path, writer=False)

        writer, self._reader = await asyncio.to_thread(open_both)
        writer.start(self._loop)
        self._writer = writer

    async def append(self, records: Sequence[NewRecord]) -> list[LogPosition]:
        return await self.submit(records) if records else []

    def submit(self, records: Sequence[NewRecord]) -> asyncio.Future[list[LogPosition]]:
        """Queue an append of at least one record for the writer; the future is its outcome. Raises RecordTooLarge,
        LogUnavailable."""
        size_bytes = 0
        for record in records:
            size = record_bytes(record)
            if size > MAX_RECORD_BYTES:
                raise RecordTooLarge(f"a record of {size} bytes; the log takes up to {MAX_RECORD_BYTES}")
            size_bytes += size
        if self._queued_records and (
            self._queued_records + len(records) > MAX_QUEUED_RECORDS
            or self._queued_bytes + size_bytes > MAX_QUEUED_BYTES
        ):
            raise LogUnavailable(f"the log {self.path} is not keeping up: {self._queued_records} records are waiting")
        work = Work(self._loop_future(), records, size_bytes)
        self._put(work)
        return work.future

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_records: int = 500,
        max_bytes: int = 4 << 20,
        wait_s: float = 0.0,
    ) -> list[LogRecord]:
        self._check_partition(topic, partition)
        deadline = time.monotonic() + wait_s
        waited = False
        while True:
            version = self._version() if wait_s > 0 else 0  # before looking, so that no commit falls between
            records = self._select(topic, offset, max_records, max_bytes, waited)
            now_s = time.monotonic()
            if waited and records:
                self._found_at_s = now_s
            if records or now_s >= deadline:
                return records
            await self._changed(version, deadline - now_s)
            waited = True

    async def partitions(self, topic: str) -> int:
        return 1

    async def end_offset(self, topic: str, partition: int) -> int:
        self._check_partition(topic, partition)
        return self._bounds(topic)[1]

    async def begin_offset(self, topic: str, partition: int) -> int:
        self._check_partition(topic, partition)
        return self._bounds(topic)[0]

    async def committed(self, group: str, topic: str, partition: int) -> int | None:
        self._check_partition(topic, partition)
        row = self._query("SELECT next_offset FROM positions WHERE reader = ? AND topic = ?", (group, topic))
        return None if row is None else int(row[0])

    async def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        self._check_partition(topic, partition)
        await self._on_writer(Work(self._loop_future(), statements=remember_position(group, topic, offset)))

    async def delete_before(self, topic: str, offset: int) -> int:
        """Forget the records of ``topic`` below ``offset``; returns how many there were. Reading them is OffsetLost
        from the first step on; a crash in between leaves rows that nobody can read and the next call removes."""
        topic_id = self._topic_id(topic)
        if topic_id is None:
            return 0
        offset = min(offset, self._bounds(topic)[1])
        await self._on_writer(Work(self._loop_future(), statements=begin_at(topic_id, offset)))
        deleted = 0
        while True:
            count: int = await self._on_writer(Work(self._loop_future(), statements=delete_some(topic_id, offset)))
            deleted += count
            if count < DELETE_ROWS:
                return deleted

    async def size_bytes(self) -> int:
        """Bytes of the file in use: records and their overhead, without free pages (which are used again) and without
        the write-ahead log (which stays near 4 MiB)."""
        row = self._query(
            "SELECT (page_count - freelist_count) * page_size"
            " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
        )
        return int(row[0]) if row is not None else 0

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        await asyncio.to_thread(writer.stop)
        await asyncio.sleep(0)  # the last group's callback
        if self._poll_handle is not None:
            self._poll_handle.cancel()
        reader, self._reader = self._reader, None
        self._wake()
        if reader is not None:
            reader.close()

    # ---- writing

    def _loop_future(self) -> asyncio.Future[Any]:
        if self._writer is None:
            raise LogUnavailable(f"the log {self.path} is closed")
        return self._loop.create_future()

    def _put(self, work: Work) -> None:
        assert self._writer is not None
        self._queued_records += len(work.records)
        self._queued_bytes += work.size_bytes
        self._writer.put(work)

    async def _on_writer(self, work: Work) -> Any:
        self._put(work)
        return await work.future

    def _on_done(self, group: list[Work]) -> None:
        for work in group:
            self._queued_records -= len(work.records)
            self._queued_bytes -= work.size_bytes
            if work.future.done():  # the caller was cancelled
                continue
            if work.error is None:
                work.future.set_result(work.result)
            else:
                work.future.set_exception(work.error)
        if self._waiters:
            self._wake()

    # ---- reading

    def _connection(self) -> sqlite3.Connection:
        if self._reader is None:
            raise LogUnavailable(f"the log {self.path} is closed")
        return self._reader

    def _query(self, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._connection().execute(sql, parameters).fetchone()
            return row
        except sqlite3.Error as error:
            raise LogUnavailable(f"cannot read the log {self.path}: {error}") from error

    def _topic_id(self, topic: str) -> int | None:
        topic_id = self._topic_ids.get(topic)
        if topic_id is None:
            row = self._query("SELECT id FROM topics WHERE name = ?", (topic,))
            if row is None:
                return None
            topic_id = self._topic_ids[topic] = int(row[0])
        return topic_id

    def _bounds(self, topic: str) -> tuple[int, int]:
        topic_id = self._topic_id(topic)
        if topic_id is None:
            return 0, 0
        base = topic_id << OFFSET_BITS
        row = self._query(
            f"SELECT begin_offset, ({END_SQL}) FROM topics WHERE id = ?",  # noqa: S608 - a constant
            (base, base | MAX_OFFSET, base, topic_id, topic_id),
        )
        assert row is not None
        return int(row[0]), int(row[1])

    def _select(
        self, topic: str, offset: int, max_records: int, max_bytes: int, at_end: bool = False
    ) -> list[LogRecord]:
        """``at_end``: nothing was there at a look before, so ``offset`` is the log's end as long as nothing is."""
        records: list[LogRecord] = []
        topic_id = self._topic_id(topic)
        if topic_id is not None:
            base = topic_id << OFFSET_BITS
            try:
                cursor = self._connection().execute(
                    "SELECT id, appended_at_ms, key, value, headers FROM records"
                    " WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
                    (base + max(offset, 0), base | MAX_OFFSET, max_records),
                )
                size_bytes = 0
                for row_id, appended_at_ms, key, value, encoded in cursor:
                    headers = _decode_headers(encoded) if encoded else ()
                    record = LogRecord(topic, 0, row_id - base, key, value, headers, appended_at_ms)
                    size_bytes += record_bytes(record)
                    if size_bytes > max_bytes and records:
                        break
                    records.append(record)
                cursor.close()  # ends the read transaction, which would hold up checkpoints
            except sqlite3.Error as error:
                raise LogUnavailable(f"cannot read the log {self.path}: {error}") from error
        if records[0].offset != offset if records else not at_end:
            begin, end = self._bounds(topic)
            # The end may have moved since the select; then the caller's next look finds the record.
            if offset < begin or offset > end:
                raise OffsetLost(f"{topic} has offsets from {begin} up to {end}, and {offset} was asked for")
        return records

    def _version(self) -> int:
        """A number that changes with each commit of another connection, of this process or of another one."""
        row = self._query("PRAGMA data_version")
        assert row is not None
        return int(row[0])

    async def _changed(self, version: int, timeout_s: float) -> None:
        """Return when somebody committed after ``version`` was read, or after ``timeout_s``."""
        if self._seen_version != version:
            self._wake()  # who waits since before that commit
            self._seen_version = version
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(future)
        if self._poll_handle is None:
            self._poll_handle = self._loop.call_later(self._pause_s(time.monotonic()), self._poll)
        timeout = self._loop.call_later(timeout_s, _finish, future)
        try:
            await future
        finally:
            timeout.cancel()
            self._waiters.discard(future)

    def _poll(self) -> None:
        self._poll_handle = None
        if not self._waiters:
            return
        try:
            changed = self._version() != self._seen_version
        except LogUnavailable:
            changed = True  # the waiting reads will meet the error themselves
        if changed:
            self._wake()
            return
        self._poll_handle = self._loop.call_later(self._pause_s(time.monotonic()), self._poll)

    def _pause_s(self, now_s: float) -> float:
        return POLL_S if now_s - self._found_at_s < POLL_IDLE_AFTER_S else POLL_IDLE_S

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for future in waiters:
            _finish(future)

    def _check_partition(self, topic: str, partition: int) -> None:
        if partition != 0:
            raise OffsetLost(f"{topic} has one partition, and number {partition} was asked for")


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
