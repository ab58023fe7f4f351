"""Sums by day: closed UTC days once more, from the sums of their hours, by fewer dimensions (``bursar.usage_days``);
and the hours themselves by those few, which is what days are made of.

The promise to readers: a day's sums count while they name, by digest, the very buildings of its hours that count now,
and every one of those hours is complete. An event that comes late, or a correction, touches its hour: from then on the
day is read by hours, until hour and day are built again. So a day is never wrong, only late.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Final

from bursar_common.analytics import Analytics
from bursar_common.usage_sums import (
    CUTS,
    FORM,
    HOUR_CUTS,
    HOURLY,
    HOURS_OF,
    LATENCY_CUTS,
    LATENCY_HOUR_CUTS,
    LATENCY_HOURS_OF,
    MEASURES,
    PARTS,
    TOPS,
)

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


def cuts_of_hours(hours: Sequence[int], generation: int) -> Iterator[str]:
    """Statements that sum up hours, which were just summed up with all dimensions, by fewer of them."""
    listed = ", ".join(f"toDateTime({hour}, 'UTC')" for hour in hours)
    made_of = f"hour IN ({listed}) AND generation = {generation}"
    lead = "toDate(hour) AS of_day, hour AS of_at, sipHash64(hour, generation) AS of_generation"
    for cut, like in HOUR_CUTS.items():
        names = CUTS[like]
        yield f"""INSERT INTO bursar.usage_days ({_columns(names)})
SELECT '{cut}', {lead}, {", ".join(names)}, {_ADDED}
FROM bursar.usage_hours WHERE {made_of} GROUP BY hour, generation, {", ".join(names)}"""
    for cut, like in LATENCY_HOUR_CUTS.items():
        names = LATENCY_CUTS[like]
        yield f"""INSERT INTO bursar.usage_latency_days ({_latency_columns(names)})
SELECT {", ".join((f"'{cut}'", lead, *names, _MERGED))}
FROM bursar.usage_latencies WHERE {made_of} GROUP BY {", ".join(("hour", "generation", *names))}"""


async def build_day(analytics: Analytics, day: str) -> None:
    """Sum up one day. Its hours may be built again meanwhile: what was made then does not count.

    Raises AnalyticsUnavailable, AnalyticsRefused."""
    # By hour and building: several hours may have been built as one.
    (row,) = await analytics.query(
        f"SELECT min(complete AND form >= {FORM}) AS closed, groupArray(sipHash64(hour, generation)) AS buildings,"
        " sipHash64(arraySort(groupArray((toUnixTimestamp(hour), generation)))) AS source,"
        " toUnixTimestamp64Milli(now64(3)) AS now_ms"
        f" FROM bursar.usage_hours_state WHERE hour != toDateTime(0, 'UTC') AND toDate(hour) = '{day}'"
    )
    if not row["closed"]:
        return
    now_ms = int(row["now_ms"])
    generation = now_ms << 20 | secrets.randbits(20)
    made_of = f"day = '{day}' AND generation IN ({', '.join(str(int(each)) for each in row['buildings'])})"
    for cut, names in CUTS.items():
        await analytics.command(f"""INSERT INTO bursar.usage_days ({_columns(names)})
SELECT {", ".join((f"'{cut}'", f"'{day}'", f"{_moment(cut, day)} AS of_at", str(generation), *names, _ADDED))}
FROM bursar.usage_days WHERE cut = '{HOURS_OF[cut]}' AND {made_of} GROUP BY {", ".join(("of_at", *names))}""")
    for cut, names in LATENCY_CUTS.items():
        await analytics.command(f"""INSERT INTO bursar.usage_latency_days ({_latency_columns(names)})
SELECT {", ".join((f"'{cut}'", f"'{day}'", f"{_moment(cut, day)} AS of_at", str(generation), *names, _MERGED))}
FROM bursar.usage_latency_days WHERE cut = '{LATENCY_HOURS_OF[cut]}' AND {made_of} GROUP BY
    {", ".join(("of_at", *names))}""")
    await analytics.command(
        "INSERT INTO bursar.usage_days_built (day, generation, source, built_at)"
        f" VALUES ('{day}', {generation}, {row['source']}, fromUnixTimestamp64Milli({now_ms}, 'UTC'))"
    )


_STATES: Final = ("latency_states", "time_to_first_token_states")
_ADDED: Final = ", ".join(
    (
        *(f"sum({name}) AS sum_{name}" for name in (*MEASURES, *PARTS)),
        *(f"max({name}) AS max_{name}" for name in TOPS),
        "min(first_at) AS of_first",
        "max(last_at) AS of_last",
    )
)
_MERGED: Final = ", ".join(f"quantilesTDigestMergeState(0.5, 0.95)({name})" for name in _STATES)


def _columns(names: tuple[str, ...]) -> str:
    return ", ".join(("cut", "day", "at", "generation", *names, *MEASURES, *PARTS, *TOPS, "first_at", "last_at"))


def _latency_columns(names: tuple[str, ...]) -> str:
    return ", ".join(("cut", "day", "at", "generation", *names, *_STATES))


def _moment(cut: str, day: str) -> str:
    return "at" if cut == HOURLY else f"toDateTime('{day} 00:00:00', 'UTC')"
