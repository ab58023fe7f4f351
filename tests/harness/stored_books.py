"""A database to which events are written as the aggregator writes them, each at the next offset, and months closed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bursar_aggregator.arrivals import FirstArrivals
from bursar_aggregator.batch import batch_of
from bursar_aggregator.books import CLOSED, closed_row
from bursar_aggregator.writer import UsageWriter
from bursar_common.analytics import Analytics
from bursar_common.eventlog.port import LogRecord
from bursar_common.events import CORRECTIONS_TOPIC, Usage
from bursar_common.finance import LogBound, PeriodClose
from tests.harness.usage_events import STARTED_AT_MS, usage_record

DAY_MS = 86_400_000
CORRECTED = (
    ("correction_id", "String"), ("request_id", "String"), ("corrected_at", "DateTime64(3, 'UTC')"),
    ("reason", "String"), ("cost_nusd", "Int64"), ("list_cost_nusd", "Int64"), ("log_offset", "UInt64"),
)  # fmt: skip


class BooksWorld:
    def __init__(self, analytics: Analytics) -> None:
        self.analytics = analytics
        keep = FirstArrivals(analytics, lambda: (STARTED_AT_MS + 70 * DAY_MS) / 1000).keep
        self.writer = UsageWriter(analytics, None, keep=keep)  # type: ignore[arg-type]
        self.offset = 0
        self.closes: dict[str, PeriodClose] = {}

    async def write(self, *events: Usage) -> None:
        records = []
        for event in events:
            record = usage_record(event)
            records.append(LogRecord(record.topic, 0, self.offset, record.key, record.value))
            self.offset += 1
        assert not batch_of(records).set_aside
        await self.writer.write(records)

    async def close(
        self, month: str, corrections: int, tiers: Sequence[int] = (), also: Sequence[LogBound] = ()
    ) -> None:
        """Close it with the checksum that its requests come to. ``also``: bounds in further partitions."""
        rows = await self.analytics.query(
            f"SELECT checksum FROM bursar.month_checksums WHERE booked_month = '{month}-01'"
        )
        bounds = (LogBound("bursar.usage.v1", 0, self.offset), *also, LogBound(CORRECTIONS_TOPIC, 0, corrections))
        close = PeriodClose(
            id=f"close:{month}", name=month, created_at_s=1_796_000_000, closed_by="test", bounds=bounds,
            price_books=(), checksum=rows[0]["checksum"] if rows else "", rows=0, requests=0, billed_nusd=0,
            list_nusd=0, expired_nusd=0, corrections_nusd=0, allocated_nusd=0, tiers=tuple(tiers),
        )  # fmt: skip
        self.closes[month] = close
        await self.insert("closed_months", CLOSED, closed_row(close, 1))

    async def correct(self, request_id: str, offset: int, cost: int) -> None:
        at = datetime(2026, 12, 5, tzinfo=UTC)
        await self.insert("corrections", CORRECTED, (f"c{offset}", request_id, at, "price", cost, cost, offset))

    async def insert(self, table: str, columns: Any, *rows: Any) -> None:
        await self.analytics.insert_columns(
            table,
            [name for name, _ in columns],
            [type_ for _, type_ in columns],
            [list(column) for column in zip(*rows, strict=True)],
        )
