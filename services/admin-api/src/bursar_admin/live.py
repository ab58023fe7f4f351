"""New requests as they come: the usage topic, followed from its end while somebody watches, handed to whoever's filters
match. A reader that is too slow loses records, never anybody's time: its queue is bounded, and it is told what it lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from bursar_admin.errors import unavailable
from bursar_admin.queries.criteria import Criteria
from bursar_admin.usage_json import event_row, log_entry
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable, OffsetLost
from bursar_common.events import USAGE_TOPIC, Usage, decode_envelope, decode_usage

log = structlog.get_logger()

MAX_WATCHERS: Final = 100
"""Connections that watch at once; each costs a match per request and up to MAX_WAITING records of memory."""
MAX_WAITING: Final = 1_000
"""Records that wait for one watcher: about a megabyte, some seconds of a large company's traffic."""
MAX_DROPPED: Final = 10_000
"""Records lost in a row after which a watcher is sent away: it does not keep up, and will not."""
READ_WAIT_S: Final = 1.0
"""One waiting read of the log; also how soon the last watcher's leaving is noticed."""
READ_RECORDS: Final = 500
RETRY_S: Final = 1.0
"""Pause before a log that is away is read again."""


class Watcher:
    """One reader: its filters, and what waits for it."""

    def __init__(self, criteria: Criteria) -> None:
        self.criteria = criteria
        self.waiting: deque[bytes] = deque()
        self.dropped = 0
        """Records lost since the reader was last told."""
        self.lost_in_a_row = 0
        self.over = ""
        """Why it is to be sent away; empty: it is not."""
        self.hurry: Callable[[], None] | None = None
        """Called when it is over, by whoever hands messages on just then."""
        self._news = asyncio.Event()

    def offer(self, message: bytes) -> bool:
        """Whether there was room for it."""
        if len(self.waiting) >= MAX_WAITING:
            self.dropped += 1
            self.lost_in_a_row += 1
            if self.lost_in_a_row >= MAX_DROPPED:
                self.end("You read too slowly for what happens here. Narrow the filters and connect again.")
            return False
        self.waiting.append(message)
        self._news.set()
        return True

    def end(self, why: str) -> None:
        self.over = self.over or why
        self._news.set()
        if self.hurry is not None:
            self.hurry()

    async def next(self, timeout_s: float) -> list[bytes]:
        """What waits, and last how much was lost behind it; empty after the time. Once it is over: what was left."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        messages = list(self.waiting)
        self.waiting.clear()
        if self.dropped:
            # Lost were the newest: the reader hears of it where they would have come.
            messages.append(msgspec.json.encode({"type": "dropped", "count": self.dropped}))
            self.dropped = 0
        return messages

    def taken(self) -> None:
        """What was handed out has reached the connection."""
        if not self.waiting:
            self.lost_in_a_row = 0


class LiveFeed:
    """Follows the topic's partitions while there are watchers."""

    def __init__(self, event_log: EventLog, user_name: Callable[[str], str]) -> None:
        self._log = event_log
        self._user_name = user_name
        self._watchers: set[Watcher] = set()
        self.dropped = 0
        """Records that some watcher had no room for, since start."""
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._starting = asyncio.Lock()

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    async def join(self, criteria: Criteria) -> Watcher:
        """A watcher of everything appended from now on. Raises Refusal (503): too many, or the log is away."""
        if self._closed:
            raise unavailable("admin-api is being stopped.")
        if len(self._watchers) >= MAX_WATCHERS:
            raise unavailable(f"{MAX_WATCHERS} live connections are open already, which is the most. Try again later.")
        watcher = Watcher(criteria)
        self._watchers.add(watcher)
        try:
            async with self._starting:
                if not self._tasks:
                    await self._start()
        except BaseException:
            self._watchers.discard(watcher)
            raise
        return watcher

    async def _start(self) -> None:
        try:
            places = [
                (partition, await self._log.end_offset(USAGE_TOPIC, partition))
                for partition in range(await self._log.partitions(USAGE_TOPIC))
            ]
        except LogUnavailable:
            raise unavailable("The event log cannot be reached, so nothing new can be shown; try again.") from None
        self._tasks = [
            asyncio.create_task(self._follow(partition, offset), name=f"live-{partition}")
            for partition, offset in places
        ]

    def leave(self, watcher: Watcher) -> None:
        """Idempotent; the last one out stops the reading."""
        self._watchers.discard(watcher)
        if not self._watchers:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        """Send everybody away. Idempotent."""
        self._closed = True
        tasks, self._tasks = self._tasks, []
        for watcher in self._watchers:
            watcher.end("admin-api is being stopped.")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, partition: int, offset: int) -> None:
        while self._watchers and not self._closed:
            try:
                records = await self._log.read(
                    USAGE_TOPIC, partition, offset, max_records=READ_RECORDS, wait_s=READ_WAIT_S
                )
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            except OffsetLost:
                # Retention overtook us, or the topic was made anew: go on at its end.
                try:
                    offset = await self._log.end_offset(USAGE_TOPIC, partition)
                except LogUnavailable:
                    pass
                await asyncio.sleep(RETRY_S)
                continue
            for record in records:
                self._take(record)
            if records:
                offset = records[-1].offset + 1
                await asyncio.sleep(0)  # SQLite reads without waiting: others must get their turn

    def _take(self, record: LogRecord) -> None:
        try:
            usage = decode_usage(decode_envelope(record.value))
        except msgspec.MsgspecError:
            return  # poison: the aggregator sets it aside
        message: bytes | None = None
        for watcher in list(self._watchers):
            if watcher.over or not watcher.criteria.matches(usage):
                continue
            if message is None:
                message = msgspec.json.encode({"type": "log", "log": self._entry(usage)})
            if not watcher.offer(message):
                self.dropped += 1

    def _entry(self, usage: Usage) -> dict[str, Any]:
        return log_entry(event_row(usage), self._user_name(usage.user_id) if usage.user_id else "")
