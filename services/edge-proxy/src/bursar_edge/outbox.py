"""Usage events made durable before anything is settled, and shipped to the log.

On one machine the SQLite log in ``BURSAR_HOME`` *is* the log: nothing is shipped. In a cluster the outbox is an SQLite
file of its own on the pod's volume; a relay ships it to Kafka in order and deletes what Kafka has acknowledged. A crash
between the acknowledgement and the deletion ships again, with the same ``bursar-outbox`` sequence numbers, which
consumers skip. The outbox's id lives inside its file, so that a new file never repeats an old one's numbers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from bursar_common.eventlog.port import EventLog, LogUnavailable, NewRecord, RecordTooLarge
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import CONTENT_TOPIC, OUTBOX_HEADER, USAGE_TOPIC
from bursar_common.ids import uuid7

log = structlog.get_logger()

OUTBOX_FILE = "outbox.db"
IDENTITY_TOPIC = "bursar.outbox-identity"
"""Topic of one record inside the outbox file: its id. Never shipped."""
EVENT_MAX_BYTES = 32 * 1024
"""Space reserved for a request's event before it is forwarded: attribution is bounded, so events stay below."""
DISK_RESERVE_BYTES = 64 << 20
"""Free space below which nothing is forwarded: what runs must still be recorded."""
COMMIT_PACE_S = 0.010
"""Shortest time between the beginnings of two commits. The first event after a pause is durable within one fsync;
requests that follow one another faster share a commit, and the settlements after it a round trip: each would otherwise
take its own from the next request's time. An event waits this much longer at most for being durable."""
CONTENT_DISK_RESERVE_BYTES = 512 << 20
"""Free space below which no content is taken, long before requests are refused."""
CONTENT_SHARE = 2
"""Part of the outbox (one in this many) beyond which no more content waits in it: its space is for usage events."""
CHECK_S = 1.0
"""How often free space and the outbox's size are looked at."""
RETRY_S = 0.25
"""Pause after a failed append."""
SHIP_RECORDS = 500
"""Records shipped at once."""
SHIP_IDLE_S = 1.0
"""Longest wait for the next record (appends wake the relay at once)."""
SHIP_RETRY_S = 1.0
"""Pause while the log cannot be reached."""


class Outbox:
    """``shipped_to`` None: the local log is the log itself."""

    def __init__(self, local: SqliteEventLog, shipped_to: EventLog | None, *, max_bytes: int) -> None:
        self._local = local
        self._remote = shipped_to
        self._max_bytes = max_bytes
        self._open = 0
        self._failing = 0
        self._room = True
        self._id = ""
        self._starting = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.waiting = 0
        """Events in the outbox that are not in the log yet, as of the last look."""

    async def start(self) -> None:
        """Open it. Raises LogUnavailable, OSError."""
        self._local.path.parent.mkdir(parents=True, exist_ok=True)
        await self._local.start()
        await self._look()
        self._tasks.append(asyncio.create_task(self._watch()))
        if self._remote is not None:
            await self._identify()
            for topic in (USAGE_TOPIC, CONTENT_TOPIC):
                self._tasks.append(asyncio.create_task(self._relay(self._remote, topic)))

    async def _identify(self) -> None:
        known = await self._local.read(IDENTITY_TOPIC, 0, 0, max_records=1)
        if known:
            self._id = known[0].value.decode()
        else:
            self._id = uuid7()
            await self._local.append([NewRecord(IDENTITY_TOPIC, "id", self._id.encode())])

    # ---- space

    def reserve(self) -> bool:
        """Take room for one event; False: forward nothing. Given back by ``free``."""
        if not self._room or self._failing:
            return False
        self._open += 1
        return True

    def free(self) -> None:
        self._open -= 1

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await self._look()

    async def _look(self) -> None:
        reserved = self._open * EVENT_MAX_BYTES
        try:
            status = os.statvfs(self._local.path.parent)
            room = status.f_bavail * status.f_frsize > DISK_RESERVE_BYTES + reserved
            if self._remote is not None:
                room = room and await self._local.size_bytes() + reserved < self._max_bytes
        except (OSError, LogUnavailable):
            room = False
        if room != self._room:
            log.warning("outbox_has_room" if room else "outbox_full", path=str(self._local.path))
        self._room = room

    # ---- writing

    def submit(self, records: Sequence[NewRecord]) -> asyncio.Future[Any]:
        """Events in one append; the future is done when they are durable. Tried once: raises LogUnavailable,
        RecordTooLarge, at once or through the future."""
        return self._local.submit(records)

    async def append(self, key: str, value: bytes) -> None:
        """Make an event durable. Tries until it is: what was sent must be recorded, and nothing new is forwarded
        meanwhile."""
        record = NewRecord(USAGE_TOPIC, key, value)
        failed = False
        try:
            while True:
                try:
                    await self._local.append([record])
                    return
                except LogUnavailable as error:
                    if not failed:
                        failed = True
                        self._failing += 1
                        log.error("outbox_not_writable", why=str(error))
                await asyncio.sleep(RETRY_S)
        finally:
            if failed:
                self._failing -= 1

    async def offer_content(self, key: str, value: bytes) -> bool:
        """Make a record of content durable, if there is room beside usage events. Tried once; False: it is lost."""
        if not self.writable:
            return False
        try:
            status = os.statvfs(self._local.path.parent)
            if status.f_bavail * status.f_frsize < CONTENT_DISK_RESERVE_BYTES:
                return False
            if self._remote is not None:
                used = await self._local.size_bytes() + len(value)
                if used > self._max_bytes // CONTENT_SHARE:
                    return False
            await self._local.append([NewRecord(CONTENT_TOPIC, key, value)])
        except (LogUnavailable, RecordTooLarge, OSError):
            return False
        return True

    # ---- shipping

    async def _relay(self, remote: EventLog, topic: str) -> None:
        started = False
        while True:
            try:
                if not started:
                    async with self._starting:  # a log's start is not made for two at once
                        await remote.start()
                    started = True
                offset = await self._local.begin_offset(topic, 0)
                records = await self._local.read(topic, 0, offset, max_records=SHIP_RECORDS, wait_s=SHIP_IDLE_S)
                if not records:
                    continue
                await remote.append(
                    [
                        NewRecord(each.topic, each.key, each.value, (*each.headers, self._mark(each.offset)))
                        for each in records
                    ]
                )
                await self._local.delete_before(topic, records[-1].offset + 1)
            except LogUnavailable as error:
                log.warning("log_unavailable", why=str(error))
                await asyncio.sleep(SHIP_RETRY_S)
            except Exception:  # whatever it is, what is here must be shipped one day
                log.exception("shipping_failed")
                await asyncio.sleep(SHIP_RETRY_S)

    def _mark(self, offset: int) -> tuple[str, bytes]:
        return OUTBOX_HEADER, f"{self._id}:{offset}".encode()

    async def unshipped(self) -> int:
        """Events that are only here."""
        if self._remote is None:
            return 0
        count = 0
        for topic in (USAGE_TOPIC, CONTENT_TOPIC):
            begin = await self._local.begin_offset(topic, 0)
            count += await self._local.end_offset(topic, 0) - begin
        return count

    async def oldest_ms(self) -> int | None:
        """When the oldest of them was appended (Unix ms); None: there is none. Raises LogUnavailable, OffsetLost."""
        begin = await self._local.begin_offset(USAGE_TOPIC, 0)
        oldest = await self._local.read(USAGE_TOPIC, 0, begin, max_records=1)
        return oldest[0].appended_at_ms if oldest else None

    async def ship_all(self, within_s: float) -> int:
        """Wait until everything is shipped; how many events are left when the time is over."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        while True:
            left = await self.unshipped()
            if not left or loop.time() >= end_s:
                return left
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._remote is not None:
            await self._remote.close()
        await self._local.close()

    @property
    def writable(self) -> bool:
        return self._room and not self._failing

    @property
    def path(self) -> Path:
        return self._local.path
