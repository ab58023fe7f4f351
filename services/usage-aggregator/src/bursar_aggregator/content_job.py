"""Content from its topic into ``bursar.content``, and out of it again: the job beside the usage job.

Whatever fails here is tried again, nothing is acknowledged before it is in, and the usage job never waits for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import structlog

from bursar_aggregator.batch import MAX_BATCH_BYTES, MAX_BATCH_RECORDS
from bursar_aggregator.content_deletions import DeletionFollower
from bursar_aggregator.content_rows import COLUMN_TYPES, COLUMNS, TABLE, content_batch
from bursar_aggregator.dead_letters import bury, dead_letter_topic
from bursar_aggregator.log_worker import GROUP, LogWorker
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.clock import Clock, SystemClock
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable, OffsetLost
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import CONTENT_TOPIC
from bursar_common.settings import Settings

log = structlog.get_logger()

LOOK_EVERY_S: Final = 1.0
"""Seconds between looks for deletions: what somebody asked to be deleted is gone a few seconds later."""
COMPARE_EVERY_S: Final = 600.0
"""Seconds after which all deletions are carried out again (what was restored or came late stays no longer), and the
topic's old records are looked for."""
DAY_MS: Final = 86_400_000
SLACK_DAYS: Final = 8
"""Days beyond the retention that a row may still be there: rows are dropped when parts are merged."""
PRUNE_AT_ONCE: Final = 20
"""Records looked at for their age in one read."""
_TTL: Final = re.compile(r"TTL toDateTime\(started_at\) \+ toIntervalDay\((\d+)\)")


class ContentWriter:
    """Writes batches of the content topic, those rows that no deletion covers. ``why_waiting`` as of usage's writer."""

    def __init__(
        self, analytics: Analytics, event_log: EventLog, follower: DeletionFollower, *, bury_poison: bool = True
    ) -> None:
        self._analytics = analytics
        self._event_log = event_log
        self._follower = follower
        self._bury_poison = bury_poison
        self.why_waiting = ""
        self.rows = 0
        """Rows inserted since start."""

    async def write(self, records: Sequence[LogRecord]) -> int:
        """Insert the rows, bury the poison; the number of rows. Waits and retries without end, whatever it is: the
        caller acknowledges nothing meanwhile."""
        batch = content_batch(records)
        wait_s = FIRST_RETRY_S
        while True:
            try:
                count = await self._insert(batch.rows)
                if batch.set_aside and self._bury_poison:
                    await bury(self._event_log, batch.set_aside)
            except (AnalyticsUnavailable, LogUnavailable) as error:
                why = str(error)
            except (AnalyticsRefused, OffsetLost) as error:
                why = type(error).__name__  # the server's words may quote what it was given
            else:
                self.why_waiting = ""
                self.rows += count
                return count
            if not self.why_waiting:
                log.warning("content: waiting, nothing is acknowledged meanwhile", why=why)
            self.why_waiting = why
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_RETRY_S)

    async def _insert(self, rows: Sequence[tuple[object, ...]]) -> int:
        if not rows:
            return 0
        async with self._follower.at_work:
            await self._follower.read_on()
            kept = self._follower.deletions.kept(rows)
            if kept:
                columns = list(zip(*kept, strict=True))
                await self._analytics.insert_columns(TABLE, COLUMNS, COLUMN_TYPES, columns)
        return len(kept)


class ContentJob:
    """Everything about content but reading its topic in a cluster, which is Faust's."""

    def __init__(
        self, analytics: Analytics, event_log: EventLog, settings: Settings, clock: Clock | None = None
    ) -> None:
        self._analytics = analytics
        self._event_log = event_log
        self._settings = settings
        self._clock = clock or SystemClock()
        self.follower = DeletionFollower(analytics, event_log)
        self.writer = ContentWriter(analytics, event_log, self.follower)
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    def start(self, stack: AsyncExitStack, *, read_topic: bool) -> None:
        """Work until ``stack`` is left; ``read_topic``: the topic too. The schema is applied and the log connected."""
        stack.push_async_callback(self.close)
        self._tasks.append(asyncio.create_task(self._look_after(), name="content-deletions"))
        if read_topic:
            self._tasks.append(asyncio.create_task(self._read_topic(), name="content"))

    async def close(self) -> None:
        """Idempotent. A batch under way is read again at the next start."""
        self._stop.set()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- the topic, on one machine

    async def _read_topic(self) -> None:
        while not self._stop.is_set():
            try:
                await LogWorker(self._event_log, self.writer, topic=CONTENT_TOPIC).run(self._stop)
            except OffsetLost:
                # Older than the topic keeps it: go on with what there is.
                log.warning("content: records were forgotten before they were written")
                await self._retry(self._begin_anew)
            except Exception as error:
                log.error("content: going on after a fault", error=type(error).__name__)
                await asyncio.sleep(LONGEST_RETRY_S)

    async def _begin_anew(self) -> None:
        begin = await self._event_log.begin_offset(CONTENT_TOPIC, 0)
        await self._event_log.commit(GROUP, CONTENT_TOPIC, 0, begin)

    async def _retry(self, step: Callable[[], object]) -> None:
        try:
            await step()  # type: ignore[misc]
        except LogUnavailable:
            await asyncio.sleep(LONGEST_RETRY_S)

    # ---- deletions, retention

    async def _look_after(self) -> None:
        compare_at = 0.0
        owed = waiting = False
        while True:
            try:
                now = asyncio.get_running_loop().time()
                owed = await self.follower.read_on() or owed or now >= compare_at
                if owed:
                    await self.tidy()
                    owed, compare_at = False, now + COMPARE_EVERY_S
            except Exception as error:
                if not waiting:
                    log.warning("content: deletions wait", why=type(error).__name__)
                waiting, owed = True, True
                await asyncio.sleep(LONGEST_RETRY_S)
            else:
                waiting = False
                await asyncio.sleep(LOOK_EVERY_S)

    async def tidy(self) -> None:
        """Carry out deletions, see that the table and the topic keep content for as long as they may.

        Raises AnalyticsUnavailable, AnalyticsRefused, LogUnavailable."""
        days = self._settings.content_retention_days
        await set_retention(self._analytics, days)
        deleted = await self.follower.carry_out(self._clock.now_ms() - (days + SLACK_DAYS) * DAY_MS)
        if deleted:
            log.info("content deleted", rows=deleted)
        if isinstance(self._event_log, SqliteEventLog):
            before_ms = self._clock.now_ms() - self._settings.content_topic_days * DAY_MS
            for topic in (CONTENT_TOPIC, dead_letter_topic(CONTENT_TOPIC)):
                await forget_before(self._event_log, topic, before_ms)


async def set_retention(analytics: Analytics, days: int) -> None:
    """Have the table keep rows for ``days``. Raises AnalyticsUnavailable, AnalyticsRefused."""
    rows = await analytics.query("SELECT engine_full FROM system.tables WHERE database = 'bursar' AND name = 'content'")
    found = _TTL.search(rows[0]["engine_full"]) if rows else None
    if rows and (found is None or int(found[1]) != days):
        await analytics.command(f"ALTER TABLE bursar.content MODIFY TTL toDateTime(started_at) + toIntervalDay({days})")
        log.info("content is kept", days=days)


async def forget_before(
    event_log: SqliteEventLog, topic: str, before_ms: int, *, below: int | None = None, at_once: int = PRUNE_AT_ONCE
) -> None:
    """Delete the topic's oldest records, up to the first that was not appended before a moment (``below``: or is not
    below that offset), ``at_once`` in a step; Kafka does it by itself. Raises LogUnavailable."""
    while True:
        begin = await event_log.begin_offset(topic, 0)
        records = await event_log.read(topic, 0, begin, max_records=at_once)
        old: int | None = None
        for record in records:
            if record.appended_at_ms >= before_ms or (below is not None and record.offset >= below):
                break
            old = record.offset
        if old is None:
            return
        await event_log.delete_before(topic, old + 1)
        await asyncio.sleep(0)


async def replay_content(analytics: Analytics, event_log: EventLog) -> int:
    """Write the topic's records again, but for what was deleted; the number of rows. Rows that are there stay: what the
    topic no longer keeps cannot be replayed. Raises as reading and inserting do."""
    follower = DeletionFollower(analytics, event_log)
    writer = ContentWriter(analytics, event_log, follower, bury_poison=False)
    await follower.read_on()
    count = 0
    for partition in range(await event_log.partitions(CONTENT_TOPIC)):
        offset = await event_log.begin_offset(CONTENT_TOPIC, partition)
        end = await event_log.end_offset(CONTENT_TOPIC, partition)
        while offset < end:
            records = await event_log.read(
                CONTENT_TOPIC, partition, offset, max_records=MAX_BATCH_RECORDS, max_bytes=MAX_BATCH_BYTES, wait_s=5.0
            )
            if not records:
                break  # nothing but gaps up to the end
            count += await writer.write(records)
            offset = records[-1].offset + 1
    await follower.carry_out(0)
    return count
