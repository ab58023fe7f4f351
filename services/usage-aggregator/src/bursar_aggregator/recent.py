"""``bursar.usage_recent``: requests of the last days once more, by hour (see ``schema/018_recent.sql``)."""

from __future__ import annotations

from typing import Final

from bursar_aggregator.rows import TABLE
from bursar_common.analytics import Analytics
from bursar_common.usage_sums import RECENT_COLUMNS

RECENT: Final = "usage_recent"
EMPTYING: Final = f"TRUNCATE TABLE bursar.{RECENT}"


WHOLE_ROWS: Final = 300_000
"""Requests of all time up to which a day is copied by one statement: a second or two."""
COPYING: Final = f"INSERT INTO bursar.{RECENT} "


def filling() -> list[str]:
    """Statements that copy what ``usage_events`` has of these days; what is there already merges with its twin. A day
    each, as the schema has them, the newest first: so nothing is left out if midnight passes. They are run by
    :func:`run`."""
    columns = ", ".join(RECENT_COLUMNS)
    today = "toDate(now('UTC'))"
    return [
        f"INSERT INTO bursar.{RECENT} ({columns}) SELECT {columns} FROM bursar.{TABLE} WHERE toDate(started_at) {day}"  # noqa: S608 - ours
        for day in (f">= {today}", f"= {today} - 1", f"= {today} - 2")
    ]


async def run(analytics: Analytics, statement: str) -> None:
    """Run a statement that copies a day, where it is large an hour at a time, which bounds the time and memory of each.
    An hour is a tenth of a day's work, not a twenty-fourth: it is looked for in the whole day.

    Raises AnalyticsUnavailable, AnalyticsRefused."""
    (there,) = await analytics.query(f"SELECT count() AS rows FROM bursar.{TABLE}")  # noqa: S608 - ours
    pieces = [""]
    if there["rows"] > WHOLE_ROWS:
        pieces = [f" AND toHour(started_at) = {hour}" for hour in reversed(range(24))]
    for piece in pieces:
        await analytics.command(statement + piece)
