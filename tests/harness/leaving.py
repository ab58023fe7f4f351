"""Two months closed, their books stored and their sums made, of which the first is due to leave ClickHouse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bursar_aggregator.hours import HourNotes, HourSums
from bursar_aggregator.left import LeftMonths
from bursar_aggregator.log_worker import GROUP
from bursar_aggregator.rows_retention import RowsRetention
from bursar_aggregator.stored_books import StoredBooks
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import Usage
from bursar_common.settings import Settings
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.stored_books import BooksWorld
from tests.harness.usage_events import usage, usage_record

NOW_MS = int(datetime(2026, 12, 12, tzinfo=UTC).timestamp() * 1000)


def at(month: int, day: int = 10) -> int:
    return int(datetime(2026, month, day, 9, tzinfo=UTC).timestamp() * 1000)


class Installation(BooksWorld):
    """October is due to leave; the log, the archive's folder and the engine are below one folder."""

    front: ClickHouseFront

    def __init__(self, analytics: Any, log: SqliteEventLog, folder: Path) -> None:
        super().__init__(analytics)
        self.log = log
        self.archive = folder / "archive"
        self.writer._event_log = log
        self.writer._touch = HourNotes(analytics).touch
        self.writer._part = LeftMonths(analytics, lambda: NOW_MS / 1000).part

    async def write(self, *events: Usage) -> None:
        await self.log.append([usage_record(event) for event in events])
        records = await self.log.read("bursar.usage.v1", 0, self.offset)
        self.offset += len(records)
        await self.writer.write(records)
        await self.log.commit(GROUP, "bursar.usage.v1", 0, self.offset)

    def retention(self, *, archive: bool = True) -> RowsRetention:
        settings = Settings(usage_rows_days=40, usage_archive=str(self.archive) if archive else "")
        return RowsRetention(self.analytics, self.log, settings, lambda: NOW_MS)

    async def one(self, sql: str) -> Any:
        (row,) = await self.analytics.query(sql)
        return row

    async def sum_up(self) -> None:
        await self.analytics.command(
            "INSERT INTO bursar.usage_hours_touched (hour, touched_at)"
            " SELECT DISTINCT toStartOfHour(toDateTime(started_at, 'UTC')), now64(3) - INTERVAL 1 HOUR"
            " FROM bursar.usage_events UNION ALL SELECT toDateTime(0, 'UTC'), now64(3) - INTERVAL 1 HOUR"
        )
        await self.analytics.command(
            "ALTER TABLE bursar.usage_hours_touched DELETE WHERE touched_at > now64(3) - INTERVAL 30 MINUTE"
            " SETTINGS mutations_sync = 2"
        )
        await HourSums(self.analytics).look(0)

    async def shown(self) -> Any:
        """Books, and the sums of days that count."""
        lines = await self.analytics.query("SELECT * FROM bursar.booked_lines ORDER BY booked_month, line")
        sums = await self.analytics.query(
            "SELECT day, sum(requests) AS r, sum(cost_nusd) AS n FROM bursar.usage_days AS d"
            " INNER JOIN (SELECT day, generation FROM bursar.usage_days_state WHERE complete) AS s"
            " ON s.day = d.day AND s.generation = d.generation WHERE cut = 'team' GROUP BY day ORDER BY day"
        )
        assert sums
        return lines, sums

    async def rows(self) -> int:
        return int((await self.one("SELECT count() AS n FROM bursar.usage_events FINAL"))["n"])


@asynccontextmanager
async def october_is_due(folder: Path) -> AsyncIterator[Installation]:
    with ClickHouseFront(folder / "clickhouse") as front:
        await front.prepare()
        analytics = front.inner()
        log = SqliteEventLog(folder / "log.db")
        await log.start()
        world = Installation(analytics, log, folder)
        world.front = front
        october = [usage(n, started_at_ms=at(10, 1 + n % 2), cost_nusd=n, tags={"a": "b"}) for n in range(1, 6)]
        await world.write(*october, usage(20, started_at_ms=at(11), cost_nusd=100))
        await world.close("2026-10", 0)
        await world.close("2026-11", 0)
        await world.write(usage(30, started_at_ms=at(12), cost_nusd=1_000))
        assert await StoredBooks(analytics, lambda: world.closes).look() == ["2026-10", "2026-11"]
        await world.sum_up()
        yield world
        await log.close()
        await analytics.close()
