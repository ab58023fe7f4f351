"""The one thread of a process that writes the SQLite log: group commit.

Everything queued while the last fsync ran becomes the next transaction, so thirty callers share one fsync. A crash
before COMMIT returns leaves nothing of the group; after it, all of it, whether or not the callers heard of it.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bursar_common.eventlog.port import LogPosition, LogUnavailable, NewRecord
from bursar_common.eventlog.sqlite_file import MAX_OFFSET, OFFSET_BITS, is_busy, open_file

GROUP_MAX_RECORDS = 1_024
"""Records in one transaction: keeps the write lock short for other processes (about 5 ms of inserting)."""
GROUP_MAX_BYTES = 8 << 20
"""Bytes in one transaction (a single larger append is a transaction of its own): bounds the WAL between checkpoints."""
LOCK_WAIT_S = 5.0
"""How long a group waits for other processes' transactions. Theirs take one fsync each, so this is only met when a
process was stopped inside one."""
LOCK_RETRY_S = 0.0005
"""Pause between two tries for the lock; below the time of an fsync, so that a waiting process gets its turn."""
INSERT_ROWS = 32
"""Rows of one INSERT. Each statement gives up the interpreter lock once, and taking it back from a busy event loop
costs up to 5 ms: one statement a row would make a group wait for the loop once a record."""
DELETE_ROWS = 1_000
"""Rows one transaction of ``delete_before`` removes, so that appends wait for milliseconds at most."""

_encode_headers = msgspec.msgpack.Encoder().encode


class Work:
    """Something the writer does inside its transaction, and the future that learns of it."""

    __slots__ = ("error", "future", "records", "result", "size_bytes", "statements")

    def __init__(
        self,
        future: asyncio.Future[Any],
        records: Sequence[NewRecord] = (),
        size_bytes: int = 0,
        statements: Callable[[sqlite3.Connection], Any] | None = None,
    ) -> None:
        self.future = future
        self.records = records
        self.size_bytes = size_bytes
        self.statements = statements
        self.result: Any = None
        self.error: Exception | None = None


class Writer:
    """Owns the writing connection and its thread. ``on_done`` is called in the event loop, once a group. Transactions
    begin at least ``pace_s`` apart: one after a pause begins at once, in a rush what comes meanwhile shares one."""

    def __init__(
        self, path: Path, now_ms: Callable[[], int], on_done: Callable[[list[Work]], None], *, pace_s: float = 0.0
    ) -> None:
        self._path = path
        self._pace_s = pace_s
        self._now_ms = now_ms
        self._on_done = on_done
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._topics: dict[str, int] = {}
        self._connection = open_file(path, writer=True)
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name=f"log-writer {self._path.name}", daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        self._queue.put(work)

    def stop(self) -> None:
        """Write what is queued, then close. Blocks for as long as that takes."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    # ---- in the thread

    def _run(self) -> None:
        stopping = False
        next_s = 0.0
        while not stopping:
            first = self._queue.get()
            if first is None:
                break
            if self._pace_s:
                now_s = time.monotonic()
                if now_s < next_s:
                    time.sleep(next_s - now_s)
                    now_s = next_s
                next_s = now_s + self._pace_s
            group = [first]
            records, size_bytes = len(first.records), first.size_bytes
            while records < GROUP_MAX_RECORDS and size_bytes < GROUP_MAX_BYTES:
                try:
                    work = self._queue.get_nowait()
                except queue.Empty:
                    break
                if work is None:
                    stopping = True
                    break
                group.append(work)
                records += len(work.records)
                size_bytes += work.size_bytes
            self._write(group)
            try:
                self._loop.call_soon_threadsafe(self._on_done, group)
            except RuntimeError:  # the loop was closed without close(): nobody waits any more
                break
        self._connection.close()

    def _write(self, group: list[Work]) -> None:
        try:
            self._begin()
            try:
                self._insert(group)
                for work in group:
                    if work.statements is not None:
                        work.result = work.statements(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except Exception as error:
            self._topics.clear()  # a topic made in this transaction is gone with it
            for work in group:
                work.error = LogUnavailable(f"the log {self._path} did not take a write: {error}")
                work.error.__cause__ = error

    def _begin(self) -> None:
        deadline = 0.0
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                deadline = deadline or now + LOCK_WAIT_S
                if not is_busy(error) or now > deadline:
                    raise
            time.sleep(LOCK_RETRY_S)

    def _insert(self, group: list[Work]) -> None:
        now_ms = self._now_ms()
        next_offsets: dict[str, int] = {}
        bases: dict[str, int] = {}
        values: list[Any] = []
        for work in group:
            if not work.records:
                continue
            positions: list[LogPosition] = []
            for record in work.records:
                topic = record.topic
                offset = next_offsets.get(topic, -1)
                if offset < 0:
                    bases[topic], offset = self._end_of(topic)
                next_offsets[topic] = offset + 1
                headers = _encode_headers(record.headers) if record.headers else None
                values += (bases[topic] | offset, now_ms, record.key, record.value, headers)
                positions.append(LogPosition(topic, 0, offset))
            work.result = positions
        row, rows = 0, len(values) // 5
        while row < rows:
            count = INSERT_ROWS
            while count > rows - row:
                count //= 2  # halves, so that a handful of statements, kept prepared, serves every group
            self._connection.execute(_insert_sql(count), values[row * 5 : (row + count) * 5])
            row += count

    def _end_of(self, topic: str) -> tuple[int, int]:
        """(row id of the topic's offset 0, next offset), read under the write lock: other processes append too."""
        topic_id = self._topics.get(topic)
        if topic_id is None:
            self._connection.execute("INSERT OR IGNORE INTO topics (name) VALUES (?)", (topic,))
            topic_id = self._connection.execute("SELECT id FROM topics WHERE name = ?", (topic,)).fetchone()[0]
            self._topics[topic] = topic_id
        base = topic_id << OFFSET_BITS
        return base, self._connection.execute(END_SQL, (base, base | MAX_OFFSET, base, topic_id)).fetchone()[0]


END_SQL = (
    "SELECT coalesce((SELECT id FROM records WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1) - ? + 1,"
    " (SELECT begin_offset FROM topics WHERE id = ?))"
)
"""Next offset of a topic: one behind its last record; where all were deleted, where it begins."""


@functools.cache
def _insert_sql(rows: int) -> str:
    columns = "id, appended_at_ms, key, value, headers"
    return f"INSERT INTO records ({columns}) VALUES " + ",".join(["(?,?,?,?,?)"] * rows)  # noqa: S608 - constants


def remember_position(group: str, topic: str, offset: int) -> Callable[[sqlite3.Connection], None]:
    """Statements that store where a group continues."""

    def statements(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (group, topic, offset))

    return statements


def begin_at(topic_id: int, offset: int) -> Callable[[sqlite3.Connection], None]:
    """Statements after which the topic begins at ``offset`` (never moved back)."""

    def statements(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE topics SET begin_offset = max(begin_offset, ?) WHERE id = ?", (offset, topic_id))

    return statements


def delete_some(topic_id: int, offset: int) -> Callable[[sqlite3.Connection], int]:
    """Statements that remove up to DELETE_ROWS records below ``offset``; they return how many."""
    base = topic_id << OFFSET_BITS

    def statements(connection: sqlite3.Connection) -> int:
        return connection.execute(
            "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)",
            (base, base + offset, DELETE_ROWS),
        ).rowcount

    return statements
