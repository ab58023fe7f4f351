"""Requests leave ClickHouse: a month at a time, each step noted before the next (``bursar.usage_left``).

leaving: from now on what comes for the month is set aside (:mod:`bursar_aggregator.left`); after SETTLED_S nothing is
on its way into it any more. archived: written, read back, compared. left: its partition is dropped. A crash between
any two begins again at the last step that was noted; the only step that loses rows is the last, and it is looked at
again what it rests on right before it. stays: the month may not leave after all, and takes requests again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import date
from typing import Final

import structlog

from bursar_aggregator.archive import Archive, ArchiveError, check_archive, open_archive
from bursar_aggregator.books import BOOKS_GROUP
from bursar_aggregator.content_job import forget_before
from bursar_aggregator.enforcer_position import EnforcerPosition
from bursar_aggregator.hours import SETTLED_S
from bursar_aggregator.leaving import DAY_MS, REBUILDING, MonthState, clock_ahead, is_due, rows_days, why_not
from bursar_aggregator.log_worker import GROUP
from bursar_aggregator.names import NAMES
from bursar_aggregator.rows import TABLE
from bursar_aggregator.writer import LONGEST_RETRY_S
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import CORRECTIONS_TOPIC, USAGE_TOPIC
from bursar_common.settings import Settings
from bursar_common.usage_sums import FORM

log = structlog.get_logger()

LOOK_EVERY_S: Final = 300.0
"""Seconds between looks; a month leaves in two of them at least."""
FORGET_AT_ONCE: Final = 500
"""Records of the log looked at, and deleted, in one step: some 500 kB."""
NONE: Final = "1970-01"
_READERS: Final = ((GROUP, USAGE_TOPIC), (BOOKS_GROUP, CORRECTIONS_TOPIC))
"""Whose positions say that what was on its way has arrived."""


class RowsRetention:
    """A task beside the usage job, which never depends on it."""

    def __init__(
        self, analytics: Analytics, event_log: EventLog, settings: Settings, now_ms: Callable[[], int]
    ) -> None:
        """Raises SettingsError."""
        self._analytics = analytics
        self._event_log = event_log
        self._days = rows_days(settings)
        self._log_days = settings.usage_retention_days
        self._enforcer = EnforcerPosition(settings)
        self._archive: Archive | None = open_archive(settings.usage_archive, analytics)
        self._now_ms = now_ms
        self._task: asyncio.Task[None] | None = None
        self.why = ""
        """Why a month that is due has not left; empty: none is, or it is about to."""
        self._ends: dict[str, dict[tuple[str, str, int], int]] = {}
        """Where topics ended when nothing was to come for a month any more, by month and moment of its ``leaving``."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="rows-retention")

    async def close(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        said = ""
        while True:
            try:
                forgets_not = await self.forget_log()
                while await self.look() == "left":
                    pass
                self.why = self.why or forgets_not
            except (AnalyticsUnavailable, AnalyticsRefused, LogUnavailable, ArchiveError) as error:
                self.why = str(error)[:300]
            except Exception as error:
                self.why = type(error).__name__
                await asyncio.sleep(LONGEST_RETRY_S)
            if self.why and self.why != said:
                log.warning("requests that may be due to leave stay", why=self.why)
            said = self.why
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, settled_s: int = SETTLED_S) -> str:
        """Take the oldest month a step further; the step it has reached now (empty: nothing is due, or it must stay).

        Raises AnalyticsUnavailable, AnalyticsRefused, ArchiveError: nothing was dropped."""
        self.why = ""
        if not self._days:
            await self._stay("")
            return ""
        await self._finish()
        self.why = await self._held()
        if self.why:
            return ""
        month, newest_ms = await self._oldest()
        due = month != NONE and is_due(month, self._now_ms(), self._days)
        self.why = why_not(await self._state(month)) if due else ""
        if due:
            self.why = self.why or clock_ahead(self._now_ms(), newest_ms)
        await self._stay(month if due and not self.why else "")
        if not due:
            return ""
        if self.why:
            self.why = f"{month}: {self.why}"
            return ""
        noted = {row["step"]: row for row in await self._analytics.query(_steps(month, settled_s))}
        if "leaving" not in noted:
            await self._analytics.command(
                "INSERT INTO bursar.usage_left (month, step)"
                f" SELECT toDate('{month}-01'), 'leaving' WHERE NOT {REBUILDING}"
            )
            return "leaving"
        if not noted["leaving"]["settled"]:
            return "leaving"
        self.why = await self._unread(f"{month} {noted['leaving']['since']}")
        if self.why:
            self.why = f"{month}: {self.why}"
            return "leaving"
        if self._archive is not None and "archived" not in noted:
            rows = await self._archive.write(month)
            await self._note(month, "archived", rows, self._archive.place(month))
            log.info("requests are archived", month=month, rows=rows, archive=self._archive.place(month))
        elif self._archive is not None and not await asyncio.to_thread(self._archive.has, month):
            self.why = f"{month}: the archive no longer has what was written to it"
            return "archived"
        # Whatever came before "leaving" was noted is in by now, and nothing else can have come: once more, for sure.
        self.why = await self._held() or why_not(await self._state(month))
        if self.why:
            return ""
        await self._analytics.command(
            f"ALTER TABLE bursar.{TABLE} DROP PARTITION {month.replace('-', '')}"
            " SETTINGS max_partition_size_to_drop = 0"
        )
        await self._note(month, "left")
        await self._forget_names()
        log.info("requests have left", month=month)
        return "left"

    async def _forget_names(self) -> None:
        """Drop what helped to find requests that have left, also those that an aggregator without names let go."""
        rows = await self._analytics.query(
            f"SELECT DISTINCT toYYYYMM(day) AS month FROM bursar.{NAMES}"
            " WHERE day < (SELECT kept_from FROM bursar.usage_kept)"
        )
        for row in rows:
            await self._analytics.command(
                f"ALTER TABLE bursar.{NAMES} DROP PARTITION {row['month']} SETTINGS max_partition_size_to_drop = 0"
            )

    async def _finish(self) -> None:
        """Note months whose rows were dropped right before a crash."""
        rows = await self._analytics.query(
            "SELECT formatDateTime(month, '%Y-%m') AS month FROM bursar.usage_left GROUP BY month"
            " HAVING countIf(step = 'left') = 0 AND maxIf(at, step = 'leaving') > maxIf(at, step = 'stays')"
        )
        for row in rows:
            month = row["month"]
            (found,) = await self._analytics.query(
                f"SELECT count() AS rows FROM bursar.{TABLE} WHERE toYYYYMM(started_at) = {month.replace('-', '')}"
            )
            if not found["rows"]:
                await self._note(month, "left")
        await self._forget_names()

    async def _held(self) -> str:
        """Why no month may leave, whatever it is like."""
        (row,) = await self._analytics.query(f"SELECT {REBUILDING} AS rebuilding")
        if row["rebuilding"]:
            return "analytics are being rebuilt, or that was broken off: `bursar rebuild analytics` ends it"
        return ""

    async def _stay(self, month: str) -> None:
        """Take back that a month leaves, but for this one."""
        rows = await self._analytics.query(
            "SELECT formatDateTime(month, '%Y-%m') AS month FROM bursar.usage_left GROUP BY month"
            " HAVING countIf(step = 'left') = 0 AND maxIf(at, step = 'leaving') > maxIf(at, step = 'stays')"
        )
        for row in rows:
            if row["month"] != month:
                await self._note(row["month"], "stays")
                log.info("requests stay after all", month=row["month"], why=self.why)

    async def _unread(self, leaving: str) -> str:
        """Who has not yet read what was in the log when nothing could come for the month any more; empty: all have."""
        ends = self._ends.get(leaving)
        if ends is None:
            ends = {
                (group, topic, partition): await self._event_log.end_offset(topic, partition)
                for group, topic in _READERS
                for partition in range(await self._event_log.partitions(topic))
            }
            self._ends = {leaving: ends}
        for (group, topic, partition), end in ends.items():
            position = await self._event_log.committed(group, topic, partition)
            if position is None or position < end:
                position = max(position or 0, await self._event_log.begin_offset(topic, partition))
            if position < end:
                return f"of {topic}, partition {partition}, {end - position} records are not in yet"
        return ""

    async def _oldest(self) -> tuple[str, int]:
        """The oldest month that has requests, and when the newest request began (Unix ms)."""
        (row,) = await self._analytics.query(
            f"SELECT if(count() = 0, '{NONE}', formatDateTime(min(started_at), '%Y-%m', 'UTC')) AS month,"
            f" toUnixTimestamp64Milli(max(started_at)) AS newest_ms FROM bursar.{TABLE}"
        )
        return str(row["month"]), int(row["newest_ms"])

    async def _state(self, month: str) -> MonthState:
        first = f"toDate('{month}-01')"
        (row,) = await self._analytics.query(f"""SELECT
    (SELECT count() FROM bursar.stored_closes
        WHERE stored AND covers_from <= {first} AND month >= {first}) AS stored,
    (SELECT count() FROM bursar.open_charges WHERE belongs_to_month = {first}) AS open_charges,
    (SELECT countIf(NOT complete) FROM bursar.usage_days_state
        WHERE day >= {first} AND day < addMonths({first}, 1)) AS days_open,
    (SELECT count() FROM bursar.usage_days_state WHERE day >= {first} AND day < addMonths({first}, 1)) AS days,
    (SELECT countIf(form < {FORM}) FROM bursar.usage_hours_state
        WHERE toDate(hour) >= {first} AND toDate(hour) < addMonths({first}, 1)
            AND hour != toDateTime(0, 'UTC')) AS hours_old""")
        return MonthState(
            month, bool(row["stored"]), row["open_charges"], row["days_open"], row["days"], row["hours_old"]
        )

    async def _note(self, month: str, step: str, rows: int = 0, archive: str = "") -> None:
        await self._analytics.insert_columns(
            "usage_left",
            ("month", "step", "rows", "archive"),
            ("Date", "LowCardinality(String)", "UInt64", "String"),
            ([_first_day(month)], [step], [rows], [archive]),
        )

    async def forget_log(self) -> str:
        """On one machine: delete usage events that the log has kept for long enough, as Kafka does by itself; never one
        that is not in ClickHouse, or that the enforcer has not consumed. Why it deletes none, or not all: the clock may
        be wrong, the enforcer does not say how far it is, or is behind. Raises LogUnavailable."""
        if not isinstance(self._event_log, SqliteEventLog):
            return ""
        written = await self._event_log.committed(GROUP, USAGE_TOPIC, 0)
        if written is None:
            return ""
        begin = await self._event_log.begin_offset(USAGE_TOPIC, 0)
        end = await self._event_log.end_offset(USAGE_TOPIC, 0)
        last = await self._event_log.read(USAGE_TOPIC, 0, max(begin, end - 1), max_records=1)
        if not last:
            return ""
        before_ms = self._now_ms() - self._log_days * DAY_MS
        first = await self._event_log.read(USAGE_TOPIC, 0, begin, max_records=1)
        if not first or first[0].appended_at_ms >= before_ms:
            return ""
        why = clock_ahead(self._now_ms(), last[0].appended_at_ms)
        if why:
            return f"log: {why}"
        consumed = await self._enforcer.usage(0)
        if consumed is None:
            return "log: the budget-enforcer does not say what it has consumed of it, so nothing is deleted"
        below = min(written, consumed)
        await forget_before(self._event_log, USAGE_TOPIC, before_ms, below=below, at_once=FORGET_AT_ONCE)
        first = await self._event_log.read(USAGE_TOPIC, 0, below, max_records=1)
        if consumed < written and first and first[0].appended_at_ms < before_ms:
            return f"log: the budget-enforcer has not consumed it beyond offset {consumed}"
        return ""


def check_retention(settings: Settings) -> None:
    """Raises SettingsError for settings that do not go together."""
    rows_days(settings)
    check_archive(settings.usage_archive)


def _first_day(month: str) -> date:
    return date(int(month[:4]), int(month[5:]), 1)


def _steps(month: str, settled_s: int) -> str:
    """Steps since the last that took back others; an archive is of the leaving it was written for."""
    return f"""SELECT step, max(at) + INTERVAL {settled_s} SECOND < now64(3) AS settled, toString(max(at)) AS since
FROM bursar.usage_left
WHERE month = toDate('{month}-01')
    AND at > (SELECT maxIf(at, step = 'stays') FROM bursar.usage_left WHERE month = toDate('{month}-01'))
GROUP BY step"""


def keep_rows(
    analytics: Analytics, event_log: EventLog, settings: Settings, now_ms: Callable[[], int], stack: AsyncExitStack
) -> RowsRetention:
    """See to it until ``stack`` is left. The schema is applied. Raises SettingsError."""
    retention = RowsRetention(analytics, event_log, settings, now_ms)
    stack.push_async_callback(retention.close)
    retention.start()
    return retention
