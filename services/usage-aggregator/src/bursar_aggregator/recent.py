"""``bursar.usage_recent``: requests of the last days once more, by hour (see ``schema/018_recent.sql``). Pure."""

from __future__ import annotations

from typing import Final

from bursar_aggregator.rows import TABLE
from bursar_common.usage_sums import RECENT_COLUMNS

RECENT: Final = "usage_recent"
EMPTYING: Final = f"TRUNCATE TABLE bursar.{RECENT}"


def filling() -> list[str]:
    """Statements that copy what ``usage_events`` has of these days; what is there already merges with its twin. A day
    at a time, which bounds memory and time of one, and the newest first: so nothing is left out if midnight passes."""
    columns = ", ".join(RECENT_COLUMNS)
    today = "toDate(now('UTC'))"
    return [
        f"INSERT INTO bursar.{RECENT} ({columns}) SELECT {columns} FROM bursar.{TABLE} WHERE toDate(started_at) {day}"  # noqa: S608 - ours
        for day in (f">= {today}", f"= {today} - 1", f"= {today} - 2")
    ]
