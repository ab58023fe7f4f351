"""``bursar.usage_names``: of each key's day every name once, for the search for text (see ``schema/020_names.sql``)."""

from __future__ import annotations

import math
from calendar import monthrange
from collections.abc import AsyncIterator
from typing import Final

from bursar_aggregator.rows import TABLE
from bursar_common.analytics import Analytics

NAMES: Final = "usage_names"
COPYING: Final = f"INSERT INTO bursar.{NAMES} "
WHOLE_ROWS: Final = 1_000_000
"""Requests whose names are noted by one statement: some five seconds, where a call may take 60."""


async def run(analytics: Analytics, statement: str) -> None:
    """Run the schema's statement that notes the names of what is there, in pieces that bound the time of each.

    Raises AnalyticsUnavailable, AnalyticsRefused."""
    async for piece in _pieces(analytics):
        await analytics.command(statement + piece)


async def _pieces(analytics: Analytics) -> AsyncIterator[str]:
    """Further conditions that together cover all requests: a month; where that is large a day, or a part of one; and
    the last two days once more, for inserts that were under way when there was no view yet to feed."""
    months = await analytics.query(
        f"SELECT toYYYYMM(started_at) AS month, count() AS rows FROM bursar.{TABLE} GROUP BY month ORDER BY month"  # noqa: S608 - ours
    )
    for row in months:
        if row["rows"] <= WHOLE_ROWS:
            yield f" AND toYYYYMM(started_at) = {row['month']}"
            continue
        year, month = divmod(row["month"], 100)
        for number in range(1, monthrange(year, month)[1] + 1):
            async for piece in _parts(analytics, f"toDate(started_at) = toDate('{year:04d}-{month:02d}-{number:02d}')"):
                yield piece
    async for piece in _parts(analytics, "toDate(started_at) >= toDate(now('UTC')) - 1"):
        yield piece


async def _parts(analytics: Analytics, days: str) -> AsyncIterator[str]:
    (found,) = await analytics.query(f"SELECT count() AS rows FROM bursar.{TABLE} WHERE {days}")  # noqa: S608 - ours
    parts = math.ceil(found["rows"] / WHOLE_ROWS)
    for part in range(parts):
        yield f" AND {days}" + (f" AND cityHash64(request_id) % {parts} = {part}" if parts > 1 else "")
