"""What was used, asked of ClickHouse: pages of requests, sums, rankings. Builders make the SQL, this the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from bursar_admin import session_sums
from bursar_admin.adding import Asked, add_up
from bursar_admin.analytics import Analytics
from bursar_admin.errors import Refusal
from bursar_admin.freshness import accepted_s
from bursar_admin.kept import Kept
from bursar_admin.log_pages import Haunts, LogPages, Place
from bursar_admin.opened import Opened
from bursar_admin.projection import Projection
from bursar_admin.queries import content, logs, sessions, sums
from bursar_admin.queries.criteria import Criteria, criteria
from bursar_admin.queries.dimensions import Dimension, dimension
from bursar_admin.queries.filters import Filters
from bursar_admin.queries.ranges import HOURS_QUERY, Hours, Plan, Span, hours_of, plan_of, whole_hours
from bursar_admin.queries.standing import STANDING_QUERY, Standing, standing_of
from bursar_admin.queries.sums import Question
from bursar_admin.rows_kept import RowsKept
from bursar_common.clock import Clock, SystemClock
from bursar_common.usage_sums import CUTS, LATENCY_CUTS, cut_for

Row = dict[str, Any]


STANDING_AGAIN_S: Final = 60.0
"""Seconds until parts of tables are asked for again where the server does not show them: a user may lack the right to
``system.parts``. Nothing is kept then but what is summed up."""


LEFT_SPAN_MS: Final = 3_660 * 86_400_000
"""How long before the first request that is kept a session is looked for: ten years, the longest range there is."""


class SumsKnown:
    """Which sums are complete, asked once by all who want to know at the same time: a page asks fifteen questions. What
    was found is kept while the tables it was read from have the same parts, which is quicker to ask."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics
        self._asking: asyncio.Task[Hours] | None = None
        self._begun = False
        self._reading: tuple[str, asyncio.Task[Hours]] | None = None
        """What was found last, or is on its way, and the name of what it was read from."""
        self._latest: tuple[float, Hours] | None = None
        self._not_before = 0.0

    async def now(self) -> Hours:
        """As of now, or as long ago as is accepted (:mod:`bursar_admin.freshness`). Raises Refusal (503)."""
        latest, accepted = self._latest, accepted_s.get()
        if latest is not None and asyncio.get_running_loop().time() - latest[0] < accepted:
            return latest[1]
        # What was asked before may have been read before what the caller has just written.
        if self._asking is None or self._asking.done() or (self._begun and not accepted):
            self._begun = False
            self._asking = asyncio.create_task(self._ask(), name="sums-known")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> Hours:
        self._begun = True
        began_s = asyncio.get_running_loop().time()
        standing = await self._standing()
        if standing is None:
            hours = await self._hours()
        else:
            hours = replace(await self._hours_of(standing.sums), now_s=standing.now_s, standing=standing)
        if self._latest is None or self._latest[0] <= began_s:
            self._latest = began_s, hours
        return hours

    async def _hours(self) -> Hours:
        return hours_of(await self._analytics.rows(HOURS_QUERY))

    async def _hours_of(self, name: str) -> Hours:
        reading = self._reading
        failed = reading is not None and reading[1].done() and (reading[1].cancelled() or reading[1].exception())
        if reading is None or reading[0] != name or failed:
            reading = self._reading = name, asyncio.create_task(self._hours(), name="hours-known")
        return await asyncio.shield(reading[1])

    async def _standing(self) -> Standing | None:
        now_s = asyncio.get_running_loop().time()
        if now_s < self._not_before:
            return None
        try:
            return standing_of(await self._analytics.rows(STANDING_QUERY))
        except Refusal:
            self._not_before = now_s + STANDING_AGAIN_S
            return None


class UsageStore:
    """Questions about usage. Every method raises Refusal (503) while ClickHouse does not answer."""

    def __init__(self, analytics: Analytics, projection: Projection, clock: Clock | None = None) -> None:
        self.analytics = analytics
        self._projection = projection
        self.rows_kept = RowsKept(analytics, clock or SystemClock())
        self.log_pages = LogPages(analytics, self, self.rows_kept)
        self.kept = Kept(analytics)
        self._opened = Opened(analytics)
        self._sums_known = SumsKnown(analytics)

    def criteria(self, filters: Filters) -> Criteria:
        return criteria(
            filters,
            {user.id: user.name for user in self._projection.users.values()},
            {key.id: key.name for key in self._projection.virtual_keys.values()} if filters.key else None,
        )

    # -- requests ------------------------------------------------------------------------------------------------

    async def page(
        self, wanted: Criteria, span: Span, sort_by: str, *, descending: bool, after: Place | None, count: int
    ) -> list[Row]:
        """Up to ``count`` requests behind a place, in order; each has its ``sort_value``."""
        page = await self.log_pages.page(wanted, span, sort_by, descending=descending, after=after, count=count)
        return page.rows

    async def haunts(
        self, wanted: Criteria, span: Span, sort_by: str, after: Place | None, count: int
    ) -> Haunts | None:
        """Where the requests of the highest values behind a place are. None: anywhere, since no sums know, or too many
        days are to be looked through."""
        if sort_by not in logs.TOP_OF or not wanted.summed_by_hour:
            return None
        question = await self.question(wanted, span, columns=["virtual_key_id"], short=True)
        plan = question.plan
        if plan.days is None and not plan.hours:
            return None
        closed = Question(wanted, replace(plan, raw=()))
        stretches = session_sums.summed_up(plan)
        if plan.buildings == () or not stretches:
            return Haunts([], plan.raw, logs.NO_TOP, closed, span)  # nothing of the range is summed up
        found = logs.nearest(await self.ask(closed, *logs.haunts(closed, sort_by)), after, count)
        whole = Span(stretches[0].from_ms, stretches[-1].to_ms)
        return None if found is None else Haunts(found[0], plan.raw, found[1], closed, whole)

    async def one(self, request_id: str) -> Row | None:
        rows = await self.analytics.rows(*logs.row_of(request_id))
        return rows[0] if rows else None

    async def content(self, request_id: str) -> Row | None:
        """What is stored of the request's prompt and answer."""
        rows = await self.analytics.rows(*content.content_of(request_id))
        return rows[0] if rows else None

    # -- sums ----------------------------------------------------------------------------------------------------

    async def question(
        self,
        wanted: Criteria,
        span: Span,
        *by: Dimension,
        columns: Iterable[str] = (),
        timezone: str = "",
        hourly: bool = False,
        latency: bool = False,
        short: bool = False,
    ) -> Question:
        """How the sums of a range are to be read: from the sums by day or hour wherever these can answer. ``by`` and
        ``columns`` are what is asked for, ``hourly`` by hours of the range, or by days that are not UTC's."""
        hours = await self._sums_known.now()
        summed = (
            wanted.summed_by_hour
            and all(each.summed for each in by)
            and (not timezone or whole_hours(timezone, span))
            and (not latency or sums.latency_summed(wanted))
        )
        if not summed:
            return Question(wanted, Plan((span,), hours.corrected))
        needed = wanted.columns | set(columns) | {name for each in by for name in (each.column, each.label) if name}
        cut = cut_for(needed, hourly=hourly, cuts=LATENCY_CUTS if latency else CUTS)
        return Question(wanted, plan_of(span, hours, cut, short=short))

    async def ask(self, question: Question, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """The answer to a statement about the question's sums: kept by what it was read from, where that has a name."""
        name = question.plan.named
        if name is not None:
            return await self.kept.named(sql, parameters, name)
        return await self.kept.shared(sql, parameters)

    async def ask_requests(self, question: Question, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Likewise of a statement that reads requests of the whole range: what changes among those that are summed up
        changes a building, but for months that leave."""
        name = question.plan.named
        if name is not None:
            return await self.kept.named(sql, parameters, (name, question.plan.left))
        return await self.kept.shared(sql, parameters)

    async def ask_turns(
        self,
        question: Question,
        span: Span,
        ids: Sequence[str],
        places: Sequence[sessions.Place] | None,
        count: int,
        *,
        caches: bool = False,
    ) -> list[Row]:
        """Up to ``count`` requests of sessions, oldest first. Those of days that are summed up are kept apart from
        those of days that requests are still read of."""
        plan = question.plan

        def turns(places: Sequence[sessions.Place] | None) -> sums.Sql:
            return sessions.turns(ids, count, question.criteria, span, places, caches=caches)

        if places is None or plan.buildings is None:
            return await self.ask_requests(question, *turns(places))
        open_days = plan.raw_days
        over = [place for place in places if place[0] not in open_days]
        running = [place for place in places if place[0] in open_days]
        asking = []
        if over:
            asking.append(self.kept.named(*turns(over), (plan.buildings, plan.left)))
        if running:
            asking.append(self.ask_requests(question, *turns(running)))
        found = await asyncio.gather(*asking)
        if len(found) == 1:
            return found[0]
        rows = [row for each in found for row in each]
        return sorted(rows, key=lambda row: (row["started_at_ms"], row["request_id"]))[:count]

    async def added(self, question: Question, asked: Asked) -> list[Row] | None:
        """Sums added up from what is kept and what is open; None: to be asked in one statement."""
        return await add_up(self.kept, self._opened, question, asked)

    # -- sessions ------------------------------------------------------------------------------------------------

    async def sessions(
        self, wanted: Criteria, span: Span, sort_by: str, *, descending: bool, count: int, offset: int
    ) -> tuple[list[Row], int]:
        """(summaries in order, how many sessions there are); what only requests know is None where they have left."""
        question = await self.question(wanted, span, dimension("session"), columns=sessions.RANKED_BY)
        ranked = await self.ask(
            question, *sessions.ranked(question, sort_by, descending=descending, count=count, offset=offset)
        )
        if not ranked:
            return [], 0
        ids = [row["session"] for row in ranked]
        return await session_sums.summaries(self, question, span, ids), ranked[0]["sessions_found"]

    async def session_left(self, session_id: str) -> Row | None:
        """Sums of a session's requests that have left; None: it had none, or all requests are kept."""
        kept_from_ms = await self.rows_kept.from_ms()
        if not kept_from_ms:
            return None
        span = Span(kept_from_ms - LEFT_SPAN_MS, kept_from_ms)
        question = await self.question(self.criteria(Filters()), span, dimension("session"), columns=sessions.RANKED_BY)
        rows = await self.sums_of(question, [session_id])
        return rows[0] if rows else None

    async def sums_of(self, question: Question, ids: Sequence[str]) -> list[Row]:
        """Sums of sessions, and ``places``, where their requests are."""
        return await self.ask(question, *sessions.sums_of(question, ids))

    async def all_sessions(self, wanted: Criteria, span: Span) -> Row:
        """Sums over all sessions of the range together, and ``sessions``, how many there are."""
        question = await self.question(wanted, span, dimension("session"), columns=sessions.RANKED_BY)
        (row,) = await self.ask(question, *sessions.summed(question))
        return row

    async def places(self, question: Question, ids: Sequence[str]) -> list[logs.Haunt] | None:
        """Days and keys of the sessions' requests; None: too many to be known."""
        return sessions.places_of(await self.ask(question, *sessions.places(question, ids)))

    def name_of(self, dimension: str, value: str, label: str = "") -> str:
        """The name to show for a value: today's, else the one on record, else the value itself."""
        stores: Mapping[str, Mapping[str, Any]] = {
            "customer": self._projection.customers,
            "team": self._projection.teams,
            "user": self._projection.users,
            "key": self._projection.virtual_keys,
        }
        document = stores.get(dimension, {}).get(value)
        return document.name if document is not None else (label or value)
