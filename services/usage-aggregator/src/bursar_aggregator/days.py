"""Sums by day: closed UTC days once more, from the sums of their hours, by fewer dimensions (``bursar.usage_days``).

The promise to readers: a day's sums count while they name, by digest, the very buildings of its hours that count now,
and every one of those hours is complete. An event that comes late, or a correction, touches its hour: from then on the
day is read by hours, until hour and day are built again. So a day is never wrong, only late.
"""

from __future__ import annotations

import secrets
from typing import Final

from bursar_common.analytics import Analytics
from bursar_common.usage_sums import CUTS, HOURLY, LATENCY_CUTS, MEASURES, SHORT, TOPS

DAYS_A_LOOK: Final = 31
"""Days summed up before looking for hours again, newest first: a second or two each where a day has 1,000,000
requests."""


async def days_due(analytics: Analytics) -> list[str]:
    """Days (``2026-11-30``) that are over, whose hours are complete and whose own sums are not; newest first.

    Raises AnalyticsUnavailable, AnalyticsRefused."""
    rows = await analytics.query(
        "SELECT toString(day) AS due FROM bursar.usage_days_state"
        f" WHERE closed AND NOT complete AND day < toDate(now('UTC')) ORDER BY day DESC LIMIT {DAYS_A_LOOK}"
    )
    return [row["due"] for row in rows]


async def build_day(analytics: Analytics, day: str) -> None:
    """Sum up one day. Its hours may be built again meanwhile: what was made then does not count.

    Raises AnalyticsUnavailable, AnalyticsRefused."""
    (row,) = await analytics.query(
        "SELECT min(complete AND form >= 1) AS closed, groupArray((toUnixTimestamp(hour), generation)) AS hours,"
        " sipHash64(arraySort(hours)) AS source, toUnixTimestamp64Milli(now64(3)) AS now_ms"
        f" FROM bursar.usage_hours_state WHERE hour != toDateTime(0, 'UTC') AND toDate(hour) = '{day}'"
    )
    if not row["closed"]:
        return
    now_ms = int(row["now_ms"])
    generation = now_ms << 20 | secrets.randbits(20)
    # By hour and building: several hours may have been built as one.
    listed = ", ".join(f"({int(hour)}, {int(built)})" for hour, built in row["hours"])
    first = f"toDateTime('{day} 00:00:00', 'UTC')"
    made_of = (
        f"hour >= {first} AND hour < {first} + INTERVAL 1 DAY AND (toUnixTimestamp(hour), generation) IN ({listed})"
    )
    for cut, dimensions in CUTS.items():
        await analytics.command(_day(cut, dimensions, day, generation, made_of))
    for cut, dimensions in LATENCY_CUTS.items():
        await analytics.command(_latency_day(cut, dimensions, day, generation, made_of))
    await analytics.command(
        "INSERT INTO bursar.usage_days_built (day, generation, source, built_at)"
        f" VALUES ('{day}', {generation}, {row['source']}, fromUnixTimestamp64Milli({now_ms}, 'UTC'))"
    )


def _moment(cut: str, day: str) -> str:
    return "hour" if cut == HOURLY else f"toDateTime('{day} 00:00:00', 'UTC')"


def _day(cut: str, dimensions: tuple[str, ...], day: str, generation: int, made_of: str) -> str:
    names = ", ".join(dimensions)
    sums = ", ".join(f"sum({name}) AS sum_{name}" for name in (*MEASURES, *SHORT))
    tops = ", ".join(f"max({name})" for name in TOPS)
    columns = ", ".join(
        ("cut", "day", "at", "generation", *dimensions, *MEASURES, *SHORT, *TOPS, "first_at", "last_at")
    )
    return f"""INSERT INTO bursar.usage_days ({columns})
SELECT '{cut}', '{day}', {_moment(cut, day)} AS of_at, {generation}, {names}, {sums}, {tops},
    min(first_at), max(last_at)
FROM bursar.usage_hours WHERE {made_of} GROUP BY of_at, {names}"""


def _latency_day(cut: str, dimensions: tuple[str, ...], day: str, generation: int, made_of: str) -> str:
    states = ", ".join(
        f"quantilesTDigestMergeState(0.5, 0.95)({name})" for name in ("latency_states", "time_to_first_token_states")
    )
    columns = ", ".join(("cut", "day", "at", "generation", *dimensions, "latency_states", "time_to_first_token_states"))
    return f"""INSERT INTO bursar.usage_latency_days ({columns})
SELECT '{cut}', '{day}', {", ".join((_moment(cut, day) + " AS of_at", str(generation), *dimensions))}, {states}
FROM bursar.usage_latencies WHERE {made_of} GROUP BY {", ".join(("of_at", *dimensions))}"""
