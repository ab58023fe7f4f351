"""Requests leave ClickHouse: a month at a time, each step noted before the next (``bursar.usage_left``).

leaving: from now on what comes for the month is set aside (:mod:`bursar_aggregator.left`); after SETTLED_S nothing is
on its way into it any more. archived: written, read back, compared. left: its partition is dropped. A crash between
any two begins again at the last step that was noted; the only step that loses rows is the last, and it is looked at
again what it rests on right before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import date
from typing import Final

import structlog

from bursar_aggregator.archive import Archive, ArchiveError, check_archive, open_archive
from bursar_aggregator.content_job import forget_before
from bursar_aggregator.hours import SETTLED_S
from bursar_aggregator.leaving import DAY_MS, MonthState, is_due, rows_days, why_not
from bursar_aggregator.log_worker import GROUP
from bursar_aggregator.rows import TABLE
from bursar_aggregator.writer import LONGEST_RETRY_S
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import USAGE_TOPIC
from bursar_common.settings import Settings

log = structlog.get_logger()

LOOK_EVERY_S: Final = 300.0
"""Seconds between looks; a month leaves in two of them at least."""
FORGET_AT_ONCE: Final = 500
"""Records of the log looked at, and deleted, in one step: some 500 kB."""
NONE: Final = "1970-01"


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
        self._archive: Archive | None = open_archive(settings.usage_archive, analytics)
        self._now_ms = now_ms
        self._task: asyncio.Task[None] | None = None
        self.why = ""
        """Why a month that is due has not left; empty: none is, or it is about to."""

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
                await self.forget_log()
                while await self.look() == "left":
                    pass
            except (AnalyticsUnavailable, AnalyticsRefused, LogUnavailable, ArchiveError) as error:
                self.why = str(error)[:300]
            except Exception as error:
                self.why = type(error).__name__
                await asyncio.sleep(LONGEST_RETRY_S)
            if self.why and self.why != said:
                log.warning("requests that are due to leave stay", why=self.why)
            said = self.why
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, settled_s: int = SETTLED_S) -> str:
        """Take the oldest month a step further; the step it has reached now (empty: nothing is due, or it must stay).

        Raises AnalyticsUnavailable, AnalyticsRefused, ArchiveError: nothing was dropped."""
        self.why = ""
        await self._finish()
        month = await self._oldest()
        if month == NONE or not is_due(month, self._now_ms(), self._days):
            return ""
        self.why = why_not(await self._state(month))
        if self.why:
            self.why = f"{month}: {self.why}"
            return ""
        noted = {row["step"]: row for row in await self._analytics.query(_steps(month, settled_s))}
        if "leaving" not in noted:
            await self._note(month, "leaving")
            return "leaving"
        if not noted["leaving"]["settled"]:
            return "leaving"
        if self._archive is not None and "archived" not in noted:
            rows = await self._archive.write(month)
            await self._note(month, "archived", rows, self._archive.place(month))
            log.info("requests are archived", month=month, rows=rows, archive=self._archive.place(month))
        elif self._archive is not None and not await asyncio.to_thread(self._archive.has, month):
            self.why = f"{month}: the archive no longer has what was written to it"
            return "archived"
        # Whatever came before "leaving" was noted is in by now, and nothing else can have come: once more, for sure.
        self.why = why_not(await self._state(month))
        if self.why:
            return ""
        await self._analytics.command(
            f"ALTER TABLE bursar.{TABLE} DROP PARTITION {month.replace('-', '')}"
            " SETTINGS max_partition_size_to_drop = 0"
        )
        await self._note(month, "left")
        log.info("requests have left", month=month)
        return "left"

    async def _finish(self) -> None:
        """Note months whose rows were dropped right before a crash."""
        rows = await self._analytics.query(
            "SELECT formatDateTime(month, '%Y-%m') AS month FROM bursar.usage_left GROUP BY month"
            " HAVING countIf(step = 'left') = 0"
        )
        for row in rows:
            month = row["month"]
            (found,) = await self._analytics.query(
                f"SELECT count() AS rows FROM bursar.{TABLE} WHERE toYYYYMM(started_at) = {month.replace('-', '')}"
            )
            if not found["rows"]:
                await self._note(month, "left")

    async def _oldest(self) -> str:
        (row,) = await self._analytics.query(
            f"SELECT if(count() = 0, '{NONE}', formatDateTime(min(started_at), '%Y-%m', 'UTC')) AS month"
            f" FROM bursar.{TABLE}"
        )
        return str(row["month"])

    async def _state(self, month: str) -> MonthState:
        first = f"toDate('{month}-01')"
        (row,) = await self._analytics.query(f"""SELECT
    (SELECT stored_to FROM bursar.booked_horizons) > {first} AS stored,
    (SELECT count() FROM bursar.open_charges WHERE belongs_to_month = {first}) AS open_charges,
    (SELECT countIf(NOT complete) FROM bursar.usage_days_state
        WHERE day >= {first} AND day < addMonths({first}, 1)) AS days_open,
    (SELECT count() FROM bursar.usage_days_state WHERE day >= {first} AND day < addMonths({first}, 1)) AS days""")
        return MonthState(month, bool(row["stored"]), row["open_charges"], row["days_open"], row["days"])

    async def _note(self, month: str, step: str, rows: int = 0, archive: str = "") -> None:
        await self._analytics.insert_columns(
            "usage_left",
            ("month", "step", "rows", "archive"),
            ("Date", "LowCardinality(String)", "UInt64", "String"),
            ([_first_day(month)], [step], [rows], [archive]),
        )

    async def forget_log(self) -> None:
        """On one machine: delete usage events that the log has kept for long enough, as Kafka does by itself; never one
        that is not in ClickHouse. Raises LogUnavailable."""
        if not isinstance(self._event_log, SqliteEventLog):
            return
        written = await self._event_log.committed(GROUP, USAGE_TOPIC, 0)
        if written is not None:
            before_ms = self._now_ms() - self._log_days * DAY_MS
            await forget_before(self._event_log, USAGE_TOPIC, before_ms, below=written, at_once=FORGET_AT_ONCE)


def check_retention(settings: Settings) -> None:
    """Raises SettingsError for settings that do not go together."""
    rows_days(settings)
    check_archive(settings.usage_archive)


def _first_day(month: str) -> date:
    return date(int(month[:4]), int(month[5:]), 1)


def _steps(month: str, settled_s: int) -> str:
    return f"""SELECT step, max(at) + INTERVAL {settled_s} SECOND < now64(3) AS settled
FROM bursar.usage_left WHERE month = toDate('{month}-01') GROUP BY step"""


def keep_rows(
    analytics: Analytics, event_log: EventLog, settings: Settings, now_ms: Callable[[], int], stack: AsyncExitStack
) -> RowsRetention:
    """See to it until ``stack`` is left. The schema is applied. Raises SettingsError."""
    retention = RowsRetention(analytics, event_log, settings, now_ms)
    stack.push_async_callback(retention.close)
    retention.start()
    return retention
