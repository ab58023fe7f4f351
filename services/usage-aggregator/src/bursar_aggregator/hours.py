"""Sums by hour: which hours get rows is noted before they are written, and hours gone quiet are summed up.

The promise to readers: an hour whose sums were begun to be read (``built_at``) more than SETTLED_S after it was last
touched is complete in them. It holds because every insert of rows ends, or is given up and noted anew, within
TOUCH_AGAIN_S and one time-out of the note before it. Whoever reads takes any other hour from its requests, so sums that
are late, or missing, cost time and never change a figure.

Sums of an hour are replaced whole, never added to: an event that replaces another one, or comes twice, is counted as
the table of requests counts it. Several replicas may do the same work at once; the latest building counts.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import structlog

from bursar_aggregator.days import build_day, cuts_of_hours, days_due
from bursar_aggregator.rows import COLUMNS
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S
from bursar_common.analytics import QUERY_TIMEOUT_S, Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.usage_sums import (
    COSTS,
    COUNTS,
    DIMENSIONS,
    FEW_TOOL_USES,
    FORM,
    LATENCY_DIMENSIONS,
    MEASURES,
    PARTS,
    SHORT,
    SHORT_ANSWER_TOKENS,
    TOPS,
    UNKNOWN_TOOLS,
)

log = structlog.get_logger()

TOUCH_AGAIN_S: Final = 60.0
"""Seconds one note of an hour serves for: an hour that gets rows all the time is noted once a minute."""
SETTLED_S: Final = 180
"""Seconds without a touch after which everything on its way into an hour is in."""
LOOK_EVERY_S: Final = 20.0
"""Seconds between looks for hours to sum up."""
HOURS_AT_ONCE: Final = 6
"""Hours of one statement: some seconds and some 100 MB where an hour has 150,000 requests."""
HOURS_A_LOOK: Final = 240
"""Hours summed up before looking again."""
REST_S: Final = 0.05
"""Seconds between two statements: over chDB they take turns with inserts."""
STALE_S: Final = 86_400
"""Seconds that sums of a former building are kept for readers who have just asked which one counts."""
SWEEP_EVERY_S: Final = 21_600.0
NOTED_MOST: Final = 10_000
"""Hours whose notes are remembered; forgetting one costs a note."""

assert TOUCH_AGAIN_S + QUERY_TIMEOUT_S < SETTLED_S

_STARTED_AT: Final = COLUMNS.index("started_at")


class HourNotes:
    """Notes the hours of rows about to be written."""

    def __init__(self, analytics: Analytics, now_s: Callable[[], float] | None = None) -> None:
        """``now_s``: a clock that does not go back, in seconds; the event loop's by default."""
        self._analytics = analytics
        self._now_s = now_s
        self._noted: dict[int, float] = {}

    async def touch(self, rows: Iterable[Sequence[object]]) -> None:
        """Note the hours of the rows, where the last note is not fresh.

        Raises AnalyticsUnavailable, AnalyticsRefused."""
        now = self._now_s() if self._now_s is not None else asyncio.get_running_loop().time()
        hours = {hour_s(row[_STARTED_AT]) for row in rows}
        stale = sorted(hour for hour in hours if now - self._noted.get(hour, -1e9) >= TOUCH_AGAIN_S)
        if not stale:
            return
        await self._analytics.insert_columns("usage_hours_touched", ("hour",), ("DateTime('UTC')",), [stale])
        if len(self._noted) + len(stale) > NOTED_MOST:
            self._noted.clear()
        self._noted.update((hour, now) for hour in stale)


def hour_s(started_at_ms: object) -> int:
    """The hour (Unix s) of a row's ``started_at``."""
    assert isinstance(started_at_ms, int)
    return started_at_ms // 3_600_000 * 3600


class HourSums:
    """Sums up hours that have gone quiet. A task beside the usage job, which never depends on it."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics
        self._task: asyncio.Task[None] | None = None
        self._corrections: int | None = None
        self._sweep_at = 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="hour-sums")

    async def close(self) -> None:
        """Idempotent. A statement under way is finished by the engine, and has no effect without its last step."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        pause_s = FIRST_RETRY_S
        waiting = False
        while True:
            try:
                await self.look()
            except (AnalyticsUnavailable, AnalyticsRefused) as error:
                if not waiting:
                    log.warning("sums by hour: waiting", why=str(error)[:300])
                waiting = True
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_RETRY_S)
            else:
                pause_s, waiting = FIRST_RETRY_S, False
                await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, settled_s: int = SETTLED_S) -> int:
        """Sum up what is due; the number of hours. Raises AnalyticsUnavailable, AnalyticsRefused."""
        await self._note_all()
        await self._note_corrected()
        due = [row["hour"] for row in await self._analytics.query(_due(settled_s))]
        for first in range(0, len(due), HOURS_AT_ONCE):
            await self._build(due[first : first + HOURS_AT_ONCE])
            await asyncio.sleep(REST_S)
        for day in await days_due(self._analytics):
            await build_day(self._analytics, day)
            await asyncio.sleep(REST_S)
        now = asyncio.get_running_loop().time()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_S
            await self._sweep()
        if due:
            log.debug("hours summed up", hours=len(due))
        return len(due)

    async def _note_all(self) -> None:
        """Once per database: hours written by releases that noted nothing. Hour 0 says that it was done."""
        (row,) = await self._analytics.query(
            "SELECT count() AS noted FROM bursar.usage_hours_touched WHERE hour = toDateTime(0, 'UTC')"
        )
        if row["noted"]:
            return
        await self._analytics.command(
            "INSERT INTO bursar.usage_hours_touched (hour)"
            " SELECT DISTINCT toStartOfHour(toDateTime(started_at, 'UTC')) FROM bursar.usage_events"
        )
        await self._analytics.command("INSERT INTO bursar.usage_hours_touched (hour) VALUES (toDateTime(0, 'UTC'))")

    async def _note_corrected(self) -> None:
        """Hours whose requests were corrected: those of corrections that came before their requests did, or in another
        way than by the log. Corrections are few."""
        (row,) = await self._analytics.query("SELECT uniqExact(correction_id) AS corrections FROM bursar.corrections")
        if row["corrections"] == (self._corrections or 0):
            self._corrections = row["corrections"]
            return
        await self._analytics.command(
            "INSERT INTO bursar.usage_hours_touched (hour)"
            " SELECT DISTINCT toStartOfHour(toDateTime(started_at, 'UTC')) FROM bursar.usage_events"
            " WHERE request_id IN (SELECT request_id FROM bursar.corrections)"
        )
        self._corrections = row["corrections"]

    async def _build(self, hours: Sequence[int]) -> None:
        (row,) = await self._analytics.query("SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms")
        generation = row["now_ms"] << 20 | secrets.randbits(20)
        await self._analytics.command(_sums(hours, generation))
        await self._analytics.command(_latencies(hours, generation))
        for statement in cuts_of_hours(hours, generation):
            await self._analytics.command(statement)
        await self._analytics.command(_noting(hours, generation, int(row["now_ms"])))

    async def _sweep(self) -> None:
        """Delete sums of former buildings, and of buildings that never ended."""
        # By hour and building: one building may be of several hours, of which some were built again.
        old = f"generation < bitShiftLeft(toUInt64(toUnixTimestamp(now()) - {STALE_S}) * 1000, 20)"
        hours, days = (
            f"({unit}, generation) NOT IN"
            f" (SELECT {unit}, argMax(generation, built_at) FROM bursar.{built} GROUP BY {unit}) AND {old}"
            for unit, built in (("hour", "usage_hours_built"), ("day", "usage_days_built"))
        )
        # Cuts of hours bear no time of their own: those of the last hours and days may be about to count.
        cuts = (
            "generation NOT IN (SELECT sipHash64(hour, argMax(generation, built_at)) FROM bursar.usage_hours_built"
            " GROUP BY hour)"
            " AND at NOT IN (SELECT hour FROM bursar.usage_hours_built GROUP BY hour"
            f" HAVING max(built_at) > now64(3) - INTERVAL {STALE_S} SECOND)"
            f" AND at < now('UTC') - INTERVAL {STALE_S} SECOND"
        )
        by_cut = f"if(startsWith(cut, 'hours_'), {cuts}, {days})"
        for table, stale in (
            ("usage_hours", hours),
            ("usage_latencies", hours),
            ("usage_days", by_cut),
            ("usage_latency_days", by_cut),
        ):
            (row,) = await self._analytics.query(f"SELECT count() AS rows FROM bursar.{table} WHERE {stale}")
            if row["rows"]:
                await self._analytics.command(f"ALTER TABLE bursar.{table} DELETE WHERE {stale}")


def _due(settled_s: int) -> str:
    """Hours that were touched since they were built, and have been left alone for long enough; newest first."""
    return f"""SELECT toUnixTimestamp(t.hour) AS hour
FROM (SELECT hour, max(touched_at) AS touched_at FROM bursar.usage_hours_touched GROUP BY hour) AS t
LEFT JOIN
(
    SELECT x.hour AS hour, max(x.built_at) AS built_at, argMax(x.form, x.built_at) AS form
    FROM bursar.usage_hours_built AS x GROUP BY x.hour
) AS b ON b.hour = t.hour
WHERE t.hour != toDateTime(0, 'UTC')
  AND t.hour >= (SELECT toDateTime(taken_from, 'UTC') FROM bursar.usage_kept)
  AND t.touched_at + INTERVAL {settled_s} SECOND < now64(3)
  AND (b.hour != t.hour OR b.built_at <= t.touched_at + INTERVAL {settled_s} SECOND OR b.form < {FORM})
ORDER BY t.hour DESC LIMIT {HOURS_A_LOOK}"""


def _noting(hours: Sequence[int], generation: int, now_ms: int) -> str:
    """The statement from which on a building counts; not where its requests have begun to leave meanwhile: they may
    have been gone when it was made."""
    listed = ", ".join(f"toDateTime({int(hour)}, 'UTC')" for hour in hours)
    return f"""INSERT INTO bursar.usage_hours_built (hour, generation, built_at, form)
SELECT of_hour, {generation}, fromUnixTimestamp64Milli({now_ms}, 'UTC'), {FORM}
FROM (SELECT arrayJoin([{listed}]) AS of_hour)
WHERE of_hour >= (SELECT toDateTime(taken_from, 'UTC') FROM bursar.usage_kept)"""


def _within(hours: Sequence[int]) -> str:
    """Requests of the hours; by day as well, which is what the table is ordered by."""
    moments = [
        f"(started_at >= toDateTime64({hour}, 3, 'UTC') AND started_at < toDateTime64({hour + 3600}, 3, 'UTC'))"
        for hour in hours
    ]
    days = sorted({f"toDate(toDateTime({hour}, 'UTC'))" for hour in hours})
    return f"toDate(started_at) IN ({', '.join(days)}) AND ({' OR '.join(moments)})"


def _sums(hours: Sequence[int], generation: int) -> str:
    dimensions = ", ".join(f"e.{name} AS {name}" for name in DIMENSIONS)
    short = f"e.outcome = 'completed' AND e.output_tokens < {SHORT_ANSWER_TOKENS} AND ifNull(e.web_searches, 0) = 0"
    counted = {name: f"ifNull(e.{name} + c.{name}, 0)" for name in COUNTS}
    counted |= {name: f"toInt128(e.{name}) + c.{name}" for name in COSTS}
    sums = ", ".join(f"sum({counted[name]}) AS sum_{name}" for name in (*COUNTS, *COSTS))
    # Not sumIf: it is NULL of a condition that is NULL, which an unknown number of tokens makes.
    parts = ", ".join(
        f"sum(if(ifNull({short}{_tools(name)}, 0), {counted.get(whole, 'toUInt64(1)')}, 0)) AS sum_{name}"
        for name, whole in PARTS.items()
    )
    added = ", ".join(f"sum({name}) AS {name}" for name in (*COUNTS, *COSTS))
    tops = ", ".join(f"max(e.{name})" for name in TOPS)
    columns = ", ".join((*DIMENSIONS, *MEASURES, *PARTS, *TOPS, "first_at", "last_at"))
    return f"""INSERT INTO bursar.usage_hours (hour, generation, {columns})
SELECT toStartOfHour(toDateTime(e.started_at, 'UTC')) AS of_hour, {generation}, {dimensions},
    countIf(e.outcome != 'refused'), countIf(e.outcome = 'refused'), countIf(e.outcome = 'upstream_error'),
    countIf(e.estimated),
    countIf(e.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND e.output_tokens IS NULL),
    {sums}, {parts}, {tops}, min(e.started_at), max(e.started_at)
FROM
(
    SELECT *, {", ".join(f"{value} AS {name}" for name, value in TOPS.items())}
    FROM bursar.usage_events FINAL PREWHERE {_within(hours)}
) AS e
LEFT JOIN (SELECT request_id, {added} FROM bursar.corrections FINAL GROUP BY request_id) AS c
    ON c.request_id = e.request_id
GROUP BY of_hour, {", ".join(f"e.{name}" for name in DIMENSIONS)}"""


def _tools(part: str) -> str:
    """What a part asks of an answer's tool calls, of those that short answers are."""
    if part in SHORT:
        return ""
    return " AND e.tool_uses IS NULL" if part in UNKNOWN_TOOLS else f" AND e.tool_uses <= {FEW_TOOL_USES}"


def _latencies(hours: Sequence[int], generation: int) -> str:
    names = ", ".join(LATENCY_DIMENSIONS)
    return f"""INSERT INTO bursar.usage_latencies
(hour, generation, {names}, latency_states, time_to_first_token_states)
SELECT toStartOfHour(toDateTime(started_at, 'UTC')) AS of_hour, {generation}, {names},
    quantilesTDigestState(0.5, 0.95)(latency_ms), quantilesTDigestState(0.5, 0.95)(time_to_first_token_ms)
FROM bursar.usage_events FINAL PREWHERE {_within(hours)}
WHERE latency_ms IS NOT NULL OR time_to_first_token_ms IS NOT NULL
GROUP BY of_hour, {names}"""


def sum_up_hours(analytics: Analytics, stack: AsyncExitStack) -> None:
    """Sum up until ``stack`` is left. The schema is applied; /readyz does not depend on it."""
    sums = HourSums(analytics)
    stack.push_async_callback(sums.close)
    sums.start()
