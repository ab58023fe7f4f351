"""The books of closed months, made once from their requests, compared with the close, and read from then on.

A month is stored some UTC days at a time under a number of its own (its generation), and counts from the moment
``bursar.booked_months`` names that generation: a crash before leaves rows that nobody reads. It is named only when the
stored rows come to the checksum that the month was closed with, so whatever is missing, or still on its way (a database
that is being filled again), is never taken for the month. Each month is stored by itself: one that does not come to its
checksum is noted in ``bursar.booked_differences``, and keeps no other from being stored. While analytics are rebuilt
nothing is compared. Several replicas may do it at once: the last one counts. Once one has named a month, the others
find no charges of it any more, which is no difference.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from enum import Enum, auto
from itertools import pairwise
from typing import Any, Final

import msgspec
import structlog

from bursar_aggregator.leaving import REBUILDING
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.finance import PeriodClose, month_bounds_ms, next_month

log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0
"""Seconds between looks whether a month was closed."""
TRY_AGAIN_S: Final = 600.0
"""Seconds until a month is tried again whose rows did not come to its checksum; twice as many each time after."""
LONGEST_TRY_AGAIN_S: Final = 21_600.0
"""Seconds at most: each try reads all requests of the month."""
REST_S: Final = 0.05
"""Seconds between two days: over chDB they take turns with inserts."""
ROWS_AT_ONCE: Final = 1_000_000
"""Requests of one statement: some seconds, and some 500 MB where hardly two are alike."""
STALE_S: Final = 86_400
"""Seconds that rows of a making that does not count are kept: somebody else may be about to name it."""
DAY_MS: Final = 86_400_000

_ALIKE: Final = (
    "booked_month", "belongs_to_month", "charge_kind", "customer_id", "customer", "team_id", "team", "user_id",
    "virtual_key_id", "virtual_key", "project", "repository", "environment", "cost_center", "provider",
    "provider_credential", "model", "speed", "service_tier", "inference_geo", "outcome", "estimated", "billing",
    "price_book_id",
)  # fmt: skip
_TOKENS: Final = (
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "web_searches",
)  # fmt: skip
_PROMPT: Final = " + ".join(f"ifNull({name}, 0)" for name in _TOKENS[:4])
_LINE: Final = (
    "arrayStringConcat([toString(belongs_to_month), toString(customer_id), toString(team_id), toString(project),"
    " toString(cost_center), toString(provider), toString(billing), toString(model), toString(charge_kind),"
    " toString(allocation_id), toString(requests), "
    + ", ".join(f"toString({name})" for name in _TOKENS)
    + ", toString(list_nusd), toString(billed_nusd)], '\\t')"
)
"""As in ``bursar.booked_lines``."""
_GROUP: Final = "belongs_to_month, customer_id, team_id, project, cost_center, provider, billing, model, charge_kind"

Statement = tuple[str, dict[str, Any]]


def stretches(month: str, rows_of_days: Mapping[int, int]) -> list[tuple[int, int]]:
    """What a month is stored in, as ``[from, to)`` in Unix ms: everything before it (what came late) up to its end, cut
    at UTC days so that a stretch has ROWS_AT_ONCE requests, or one day. ``rows_of_days``: requests by a day's first
    ms."""
    from_ms, to_ms = month_bounds_ms(month)
    cuts, rows = [0], 0
    for day in range(from_ms, to_ms, DAY_MS):
        more = rows_of_days.get(day, 0)
        if rows and rows + more > ROWS_AT_ONCE:
            cuts.append(day)
            rows = 0
        rows += more
    return list(pairwise([*cuts, to_ms]))


def to_store(closes: Mapping[str, PeriodClose], stored: Sequence[str]) -> list[tuple[PeriodClose, str]]:
    """The closes that are not stored, earliest first, and the first month that each has fixed: what follows the close
    before, whether that one is stored or not. Empty: everything before, there is none."""
    found, first = [], ""
    for month in sorted({*closes, *stored}):
        if month in closes and month not in stored:
            found.append((closes[month], first))
        first = next_month(month)
    return found


def storing(month: str, first: str, generation: int, tiers: Sequence[int], from_ms: int, to_ms: int) -> str:
    """The statement that stores what is booked from ``first`` (empty: from the beginning) up to the month, of requests
    admitted in ``[from_ms, to_ms)``.

    Requests of different price tiers are apart, as are those whose counts nobody knows, and corrections of different
    requests."""
    over = ", ".join(str(int(each)) for each in tiers)
    tier = f"arrayCount(over -> ({_PROMPT}) > over, CAST([{over}] AS Array(Int64)))"
    sums = ", ".join(f"sum(c.{name}) AS s_{name}" for name in _TOKENS)
    columns = ", ".join(
        ("closed_month", "generation", *_ALIKE, "day", "request_id", "prompt_tokens", "charges", "requests", *_TOKENS,
         "cost_nusd", "list_cost_nusd", "first_at", "last_at", "last_request_id")
    )  # fmt: skip
    return f"""INSERT INTO bursar.booked_rows ({columns})
SELECT toDate('{month}-01'), {generation}, {", ".join(_ALIKE)}, toDate(c.started_at) AS of_day,
    if(charge_kind = 'correction', c.request_id, '') AS of_request,
    toUInt64(greatest(0, max({_PROMPT}))), count(), sum(toInt64(c.requests)), {sums},
    sum(c.cost_nusd), sum(c.list_cost_nusd), min(c.started_at), max(c.started_at),
    argMax(c.request_id, (c.started_at, c.request_id))
FROM bursar.open_charges AS c
WHERE booked_month >= toDate('{first or "1970-01"}-01') AND booked_month < toDate('{next_month(month)}-01')
    AND started_at >= fromUnixTimestamp64Milli({from_ms}, 'UTC')
    AND started_at < fromUnixTimestamp64Milli({to_ms}, 'UTC')
GROUP BY {", ".join(_ALIKE)}, of_day, of_request, if(charge_kind = 'correction', c.requests, 1),
    input_tokens IS NULL AND output_tokens IS NULL, {tier}
SETTINGS max_bytes_before_external_group_by = 400000000"""


def what_is_stored(month: str, generation: int) -> Statement:
    """What a making comes to: its rows, the charges they are of, and the month's checksum. What is allocated beside
    requests is not stored, and is a part of the checksum."""
    staged = ", ".join(f"toInt64(ifNull(sum(s.{name}), 0)) AS {name}" for name in _TOKENS)
    nothing = ", ".join(f"toInt64(0) AS {name}" for name in _TOKENS)
    sql = f"""SELECT
    (SELECT count() FROM bursar.booked_rows
        WHERE closed_month = toDate({{month:String}}) AND generation = {{generation:UInt64}}) AS rows,
    (SELECT sum(charges) FROM bursar.booked_rows
        WHERE closed_month = toDate({{month:String}}) AND generation = {{generation:UInt64}}) AS charges,
    (
        SELECT if(count() = 0, '', lower(hex(SHA256(
            arrayStringConcat(arrayMap(each -> concat(each, '\\n'), arraySort(groupArray(line))))))))
        FROM
        (
            SELECT {_LINE} AS line FROM
            (
                SELECT {_GROUP}, '' AS allocation_id, sum(s.requests) AS requests, {staged},
                    sum(s.list_cost_nusd) AS list_nusd, sum(s.cost_nusd) AS billed_nusd
                FROM bursar.booked_rows AS s
                WHERE closed_month = toDate({{month:String}}) AND generation = {{generation:UInt64}}
                    AND booked_month = toDate({{month:String}})
                GROUP BY {_GROUP}
            )
            UNION ALL
            SELECT {_LINE} AS line FROM
            (
                SELECT {_GROUP}, allocation_id, toInt64(0) AS requests, {nothing},
                    sum(a.list_cost_nusd) AS list_nusd, sum(a.cost_nusd) AS billed_nusd
                FROM bursar.allocated_charges AS a
                WHERE booked_month = toDate({{month:String}})
                GROUP BY {_GROUP}, allocation_id
            )
        )
    ) AS checksum"""
    return sql, {"month": f"{month}-01", "generation": generation}


class Differs(msgspec.Struct):
    """A closed month that did not come to its checksum."""

    pause_s: float = TRY_AGAIN_S
    """Until the next try."""
    again_s: float = 0.0
    """When (loop's time) to try again."""

    def failed(self, now_s: float) -> Differs:
        return Differs(min(self.pause_s * 2, LONGEST_TRY_AGAIN_S), now_s + self.pause_s)


class Made(Enum):
    """What came of a making."""

    STORED = auto()
    DIFFERS = auto()
    """It did not come to the checksum of the close."""
    NOT_NEEDED = auto()
    """Another replica has stored the month meanwhile."""
    REBUILDING = auto()
    """Analytics are being rebuilt: nothing it comes to would mean anything."""


class StoredBooks:
    """A task beside the usage job, which never depends on it. ``closes``: the closed months by name, as governance has
    them now."""

    def __init__(self, analytics: Analytics, closes: Callable[[], Mapping[str, PeriodClose]]) -> None:
        self._analytics = analytics
        self._closes = closes
        self._task: asyncio.Task[None] | None = None
        self._differs: dict[str, Differs] = {}
        """By month."""
        self._rebuilding = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="stored-books")

    async def close(self) -> None:
        """Idempotent. What was begun has no effect, and is done again at the next start."""
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
                    log.warning("books of closed months: waiting", why=str(error)[:300])
                waiting = True
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_RETRY_S)
            else:
                pause_s, waiting = FIRST_RETRY_S, False
                await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> list[str]:
        """Store what is closed and not stored; the months that were. Raises AnalyticsUnavailable, AnalyticsRefused."""
        done: list[str] = []
        closes = self._closes()
        if not closes:
            return done
        if await self._held():
            return done
        rows = await self._analytics.query("SELECT toString(month) AS month FROM bursar.booked_months FINAL")
        missing = to_store(closes, [row["month"][:7] for row in rows])
        names = {close.name for close, _ in missing}
        self._differs = {month: differs for month, differs in self._differs.items() if month in names}
        for close, first in missing:
            differs = self._differs.get(close.name, Differs())
            if asyncio.get_running_loop().time() < differs.again_s:
                continue
            known = await self._analytics.query(
                "SELECT month FROM bursar.closed_months FINAL WHERE month = toDate({month:String})",
                {"month": f"{close.name}-01"},
            )
            if not known:
                break  # the follower is about to insert it: until then later months begin before it
            made = await self.store(close, first)
            if made is Made.REBUILDING:
                break
            if made is Made.DIFFERS:
                self._differs[close.name] = differs.failed(asyncio.get_running_loop().time())
                continue
            self._differs.pop(close.name, None)
            if made is Made.STORED:
                done.append(close.name)
        return done

    async def _held(self) -> bool:
        """Whether analytics are being rebuilt; once they are, months that differed are tried again at once."""
        (row,) = await self._analytics.query(f"SELECT {REBUILDING} AS rebuilding")
        rebuilding = bool(row["rebuilding"])
        if rebuilding and not self._rebuilding:
            log.info("books of closed months: not stored while analytics are being rebuilt")
        if self._rebuilding and not rebuilding:
            self._differs = dict.fromkeys(self._differs, Differs())
        self._rebuilding = rebuilding
        return rebuilding

    async def _meanwhile(self, month: str) -> Made | None:
        """What has made it pointless to store the month, if anything has."""
        (row,) = await self._analytics.query(
            f"SELECT {REBUILDING} AS rebuilding,"
            " (SELECT count() FROM bursar.booked_months WHERE month = toDate({month:String})) AS named",
            {"month": f"{month}-01"},
        )
        if row["rebuilding"]:
            return Made.REBUILDING
        return Made.NOT_NEEDED if row["named"] else None

    @property
    def differing(self) -> int:
        """Closed months that did not come to their checksum when they were last tried."""
        return len(self._differs)

    async def store(self, close: PeriodClose, first: str = "") -> Made:
        """Store one month, and what else its close fixed from ``first`` on, unless it is stored meanwhile.

        Raises AnalyticsUnavailable, AnalyticsRefused."""
        month = close.name
        if meanwhile := await self._meanwhile(month):
            return meanwhile
        (row,) = await self._analytics.query("SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms")
        now_ms = int(row["now_ms"])
        generation = now_ms << 20 | secrets.randbits(20)
        days = await self._analytics.query(
            "SELECT toUnixTimestamp(toDateTime(toDate(started_at), 'UTC')) AS day_s, count() AS rows"
            " FROM bursar.usage_events WHERE started_at >= toDateTime64({from:String}, 3, 'UTC')"
            " AND started_at < toDateTime64({to:String}, 3, 'UTC') GROUP BY day_s",
            {"from": f"{month}-01 00:00:00", "to": f"{next_month(month)}-01 00:00:00"},
        )
        for from_ms, to_ms in stretches(month, {int(day["day_s"]) * 1000: int(day["rows"]) for day in days}):
            await self._analytics.command(storing(month, first, generation, close.tiers, from_ms, to_ms))
            await asyncio.sleep(REST_S)
        (made,) = await self._analytics.query(*what_is_stored(month, generation))
        # Once another replica has named the month, no charge of it is left to be stored: that is no difference.
        if meanwhile := await self._meanwhile(month):
            await self._clear(month, generation, now_ms)
            return meanwhile
        if made["checksum"] != close.checksum:
            log.error(
                "the month is read from its requests: they do not come to the checksum it was closed with",
                month=month, charges=made["charges"], checksum=made["checksum"], closed_with=close.checksum,
            )  # fmt: skip
            await self._analytics.insert_columns(
                "booked_differences",
                ("month", "checksum", "closed_with", "charges", "tried_at"),
                ("Date", "String", "String", "UInt64", "DateTime64(3, 'UTC')"),
                (
                    [date(int(month[:4]), int(month[5:]), 1)], [made["checksum"]], [close.checksum],
                    [int(made["charges"])], [datetime.fromtimestamp(now_ms / 1000, UTC)],
                ),
            )  # fmt: skip
            await self._clear(month, generation, now_ms)
            return Made.DIFFERS
        await self._analytics.command(
            "INSERT INTO bursar.booked_months (month, generation, rows, charges, checksum, stored_at) VALUES"
            f" (toDate('{month}-01'), {generation}, {int(made['rows'])}, {int(made['charges'])},"
            f" '{made['checksum']}', fromUnixTimestamp64Milli({now_ms}, 'UTC'))"
        )
        log.info("the month's books are stored", month=month, rows=made["rows"], charges=made["charges"])
        await self._clear(month, generation, now_ms)
        return Made.STORED

    async def _clear(self, month: str, own: int, now_ms: int) -> None:
        """Delete rows that do not count, of this making and of those begun long ago: others may yet count."""
        stale_ms = now_ms - STALE_S * 1000
        stale = (
            f"closed_month = toDate('{month}-01')"
            f" AND (generation = {own} OR generation < bitShiftLeft(toUInt64({stale_ms}), 20))"
            " AND (closed_month, generation) NOT IN"
            " (SELECT month, argMax(generation, stored_at) FROM bursar.booked_months GROUP BY month)"
        )
        (row,) = await self._analytics.query(f"SELECT count() AS rows FROM bursar.booked_rows WHERE {stale}")
        if row["rows"]:
            await self._analytics.command(f"ALTER TABLE bursar.booked_rows DELETE WHERE {stale}")


def store_books(
    analytics: Analytics, closes: Callable[[], Mapping[str, PeriodClose]], stack: AsyncExitStack
) -> StoredBooks:
    """Store until ``stack`` is left. The schema is applied; /readyz does not depend on it."""
    stored = StoredBooks(analytics, closes)
    stack.push_async_callback(stored.close)
    stored.start()
    return stored
