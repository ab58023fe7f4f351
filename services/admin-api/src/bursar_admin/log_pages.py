"""Pages of requests: found stretch by stretch, corrected ones at the amounts they have now.

A page by time is looked for in stretches that grow, the first being where it mostly is. Names lead to the days and keys
whose requests can have a text; stored content and ids are compared with what no index knows, so a page of a search may
end before it is full: where its time is up, it says how far it looked.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from bursar_admin.analytics import Analytics
from bursar_admin.queries import corrected_requests, logs, names
from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.ranges import DAY_MS, HOUR_MS, Span, day_of
from bursar_admin.queries.sums import Question, Sql
from bursar_admin.recorded import RecordedRows

MORE_CANDIDATES: Final = 4
"""Candidates beyond a page: for those another event of their request has overtaken."""
CANDIDATES_AT_ONCE: Final = 1_016
"""Rows looked up by one statement: the ids take some 45 kB."""
TEXT_S: Final = 2.0
"""Seconds after which a page of a text search ends with what it has: nobody waits much longer for a page. A stretch
that was begun is finished."""

LOOK_AGAIN_S: Final = 60.0
"""Seconds until a corrected request that is not on record is looked for again: mostly it has left for good, but while
requests are read anew from the event log, corrections may be there before them."""

Row = dict[str, Any]
Place = tuple[int, str]


@dataclass(frozen=True)
class Haunts:
    """Where the requests of the highest values behind a place are."""

    days: list[logs.Haunt]
    """Days of keys, of what is summed up."""
    opened: tuple[Span, ...]
    """Stretches that no sums are of: anywhere in these."""
    least: int
    """Both together have all requests of values from here on."""
    question: Question
    """About what is summed up, which is what ``days`` depend on."""
    span: Span
    """From its first moment to its last."""


@dataclass(frozen=True)
class Page:
    rows: list[Row]
    """In order; each has its ``sort_value``."""
    looked_to_ms: int | None = None
    """The page ended here because its time was up: what lies beyond was not looked at."""


class Tops(Protocol):
    """Where the highest values are, and answers that are kept for as long as what they depend on stands."""

    async def haunts(
        self, wanted: Criteria, span: Span, sort_by: str, after: Place | None, count: int
    ) -> Haunts | None: ...

    async def ask_requests(self, question: Question, sql: str, parameters: Mapping[str, Any]) -> list[Row]: ...


class Kept(Protocol):
    """Since when requests are kept, and since when they are in ``bursar.usage_recent`` too, Unix ms; and whether their
    names are in ``bursar.usage_names``."""

    async def from_ms(self) -> int: ...

    async def recent_ms(self) -> int | None: ...

    async def named(self) -> bool: ...


class CorrectedPlaces:
    """Where corrected requests lie. It never changes, so each is looked up once; those not on record now and then."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics
        self._known: dict[str, logs.Haunt] = {}
        self._not_found: dict[str, float] = {}
        """Ids that are not on record, and when they were looked for."""

    async def all(self) -> Mapping[str, logs.Haunt]:
        """Of every request that has a correction and is on record. Raises Refusal (503)."""
        ids = [row["request_id"] for row in await self._analytics.rows(corrected_requests.IDS)]
        now, never = time.monotonic(), -math.inf
        new = [
            each for each in ids if each not in self._known and now - self._not_found.get(each, never) >= LOOK_AGAIN_S
        ]
        at_once = corrected_requests.MAX_IDS
        for first in range(0, len(new), at_once):
            found = await self._analytics.rows(*corrected_requests.places(new[first : first + at_once]))
            self._known.update((row["request_id"], (row["day"], row["of_key"])) for row in found)
        for each in new:
            if each in self._known:
                self._not_found.pop(each, None)
            else:
                self._not_found[each] = now
        return {each: self._known[each] for each in ids if each in self._known}


class LogPages:
    def __init__(self, analytics: Analytics, tops: Tops, kept: Kept) -> None:
        self._analytics = analytics
        self._tops = tops
        self._kept = kept
        self._corrected = CorrectedPlaces(analytics)
        self._recorded = RecordedRows()

    async def page(
        self,
        wanted: Criteria,
        span: Span,
        sort_by: str,
        *,
        descending: bool,
        after: Place | None,
        count: int,
        in_time: bool = False,
    ) -> Page:
        """Up to ``count`` requests behind a place. ``in_time``: a search that takes long ends early and says where.

        Raises Refusal (503)."""
        # Sums still count the requests that have left: they would lead to days where there are none any more.
        span = replace(span, from_ms=max(span.from_ms, await self._kept.from_ms()))
        if span.to_ms <= span.from_ms:
            return Page([])
        corrected: Mapping[str, logs.Haunt] = {}
        if sort_by in logs.AMOUNTS or wanted.by_amounts:
            corrected = await self._corrected.all()
        recent_ms = await self._kept.recent_ms()
        finder = _Finder(self, wanted, sort_by, descending, count, corrected, recent_ms)
        if sort_by != "started_at":
            await finder.look(span, after)
            return Page(finder.found[:count])
        searching = wanted.searched and in_time
        span = await self._from_there(span, descending, after, oldest=searching)
        if span.to_ms <= span.from_ms:
            return Page([])
        pace = _Pace()
        async with aclosing(self._stretches(wanted, span, descending, pace if searching else None)) as stretches:
            async for stretch, among in stretches:
                after = await finder.look(stretch, after, among)
                edge, end = (stretch.from_ms, span.from_ms) if descending else (stretch.to_ms, span.to_ms)
                if len(finder.found) >= count or edge == end:
                    break
                if searching and pace.over:
                    return Page(finder.found, edge)
        return Page(finder.found[:count])

    async def _stretches(
        self, wanted: Criteria, span: Span, descending: bool, pace: _Pace | None
    ) -> AsyncGenerator[names.Part]:
        """A range cut into stretches that grow, and where a text is looked for the days of keys that can have it."""
        if not wanted.names_searched or not await self._kept.named():
            for stretch in logs.windows(span, newest_first=descending, sizes=pace.sizes() if pace else logs.WINDOWS_MS):
                yield stretch, None
            return
        # Names are few; what is stored of prompts and answers is read from one end to the other.
        content = bool(await self._analytics.rows(*names.has_content(span)))
        sizes = pace.sizes() if content and pace else names.windows_ms()
        for number, window in enumerate(logs.windows(span, newest_first=descending, sizes=sizes)):
            rest = window
            while rest.to_ms > rest.from_ms:
                asked = names.haunts_of(wanted, rest, newest_first=descending, content=content)
                found = [(row["day"], row["of_key"]) for row in await self._analytics.rows(*asked)]
                for stretch, among in names.parts(found, rest, newest_first=descending):
                    common = among is None or (number == 0 and among)
                    for part in logs.windows(stretch, newest_first=descending, sizes=names.COMMON_MS if common else ()):
                        yield part, among
                rest = Span(rest.from_ms, stretch.from_ms) if descending else Span(stretch.to_ms, rest.to_ms)

    async def _from_there(self, span: Span, descending: bool, after: Place | None, *, oldest: bool) -> Span:
        """The part of a range that can hold what follows a place, or anything at all."""
        if after is not None:
            first, last = (span.from_ms, after[0] + 1) if descending else (after[0], span.to_ms)
            span = Span(max(span.from_ms, first), min(span.to_ms, last))
        if not oldest and (descending or after is not None):
            return span
        (row,) = await self._analytics.rows(logs.OLDEST)
        return Span(max(span.from_ms, row["oldest_ms"]) if row["rows"] else span.to_ms, span.to_ms)


class _Pace:
    """How large the stretches of a search are: as many days as can be looked through well within its time."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() - self._began > TEXT_S

    def sizes(self) -> Iterator[int]:
        yield from (2 * HOUR_MS, 22 * HOUR_MS)
        days = 1
        while True:
            began = time.monotonic()
            yield days * DAY_MS
            took = time.monotonic() - began
            days = days * 2 if took < TEXT_S / 8 else max(1, days // 2) if took > TEXT_S / 4 else days


def _place(row: Row) -> Place:
    return row["sort_value"], row["request_id"]


class _Finder:
    """One page in the making."""

    def __init__(
        self,
        pages: LogPages,
        wanted: Criteria,
        sort_by: str,
        descending: bool,
        count: int,
        corrected: Mapping[str, logs.Haunt],
        recent_ms: int | None,
    ) -> None:
        self._analytics, self._tops, self._recorded = pages._analytics, pages._tops, pages._recorded
        self._wanted, self._sort_by, self._descending, self._count = wanted, sort_by, descending, count
        self._corrected = corrected
        self._recent_ms = recent_ms
        self.found: list[Row] = []

    async def look(self, stretch: Span, after: Place | None, among: Sequence[logs.Haunt] | None = None) -> Place | None:
        """Go through a stretch until the page is full; the place where that ended. ``among``: nowhere but on these days
        of keys."""
        more = MORE_CANDIDATES
        while len(self.found) < self._count:
            asked = min(self._count - len(self.found) + more, CANDIDATES_AT_ONCE)
            more *= 2  # many of a page dropped out: where a month's dearest were corrected, the next may be as well
            places, reach = await self._candidates(stretch, after, asked, among)
            if places:
                self.found += await self._rows_at(places)
                after = _place(places[-1])
            if reach is None:
                break
            after = reach
        return after

    async def _candidates(
        self, stretch: Span, after: Place | None, asked: int, days: Sequence[logs.Haunt] | None
    ) -> tuple[list[Row], Place | None]:
        """The next places, in order, of requests as recorded and as corrected, and how far these are all there are;
        None: to the end of the stretch."""
        only = None
        if self._descending:
            only = await self._tops.haunts(self._wanted, stretch, self._sort_by, after, asked)
        among = {
            request_id: haunt
            for request_id, haunt in self._corrected.items()
            if day_of(stretch.from_ms) <= haunt[0] <= day_of(stretch.to_ms - 1)
        }
        if not among:
            plain = await self._plain(stretch, after, asked, only, days)
            return plain, self._reach(plain, asked, only)
        plain, corrected = await asyncio.gather(
            self._plain(stretch, after, asked, only, days),
            self._analytics.rows(
                *logs.corrected_candidates(
                    self._wanted,
                    stretch,
                    self._sort_by,
                    descending=self._descending,
                    after=after,
                    count=asked,
                    among=among,
                )
            ),
        )
        # Each of both lists has the next of its kind as far as it reaches: up to where the first of them ends, both
        # together have no gap. How many they are says nothing: what stands in both, or several times, counts once.
        both = {_place(row): row for row in (*plain, *corrected)}
        places = sorted(both, reverse=self._descending)
        reaches = [self._reach(plain, asked, only), self._reach(corrected, asked, None)]
        reach = self._first([each for each in reaches if each is not None])
        if reach is not None:
            places = [each for each in places if self._first([each, reach]) == each]
        if len(places) > asked:
            places = places[:asked]
            reach = places[-1]
        return [both[each] for each in places], reach

    async def _plain(
        self, stretch: Span, after: Place | None, asked: int, only: Haunts | None, days: Sequence[logs.Haunt] | None
    ) -> list[Row]:
        """The next places of requests as recorded. Of several rows of one request at one place each is listed."""

        def question(span: Span, only: tuple[Sequence[logs.Haunt], Sequence[Span], int] | None) -> Sql:
            return logs.candidates(
                self._wanted,
                span,
                self._sort_by,
                descending=self._descending,
                after=after,
                count=asked,
                only=only,
                recent_ms=self._recent_ms,
            )

        if days is not None:
            least = logs.any_value(descending=self._descending)
            return await self._analytics.rows(*question(stretch, (days, (), least))) if days else []
        if only is None:
            return await self._analytics.rows(*question(stretch, None))
        parts: list[Awaitable[list[Row]]] = []
        if only.days:
            # These days may have open hours as well, whose requests are in the other part: it does not matter that
            # those which came since are missing here.
            parts.append(self._tops.ask_requests(only.question, *question(only.span, (only.days, (), only.least))))
        if only.opened:
            parts.append(self._analytics.rows(*question(stretch, ((), only.opened, only.least))))
        found = [row for rows in await asyncio.gather(*parts) for row in rows]
        return sorted(found, key=_place, reverse=self._descending)[:asked]

    def _reach(self, listed: Sequence[Row], asked: int, only: Haunts | None) -> Place | None:
        """How far a list of the next places is complete; None: to the end."""
        if len(listed) >= asked:
            return _place(listed[-1])
        if only is not None and only.least > logs.NO_TOP:
            # The days looked through have all requests from there on. Fewer than their sums promised: rows have left,
            # or come, since those were asked.
            return only.least, ""
        return None

    def _first(self, places: Sequence[Place]) -> Place | None:
        """The one that comes first in the page's order."""
        return (max if self._descending else min)(places, default=None)

    async def _rows_at(self, places: Sequence[Row]) -> list[Row]:
        by_id = await self._standing(places)
        ordered: list[Row] = []
        for place in places:
            row = by_id.get(place["request_id"])
            # Of a request's events only the one that stands is shown, at its own place, once.
            if row is not None and row["sort_value"] == place["sort_value"]:
                ordered.append(by_id.pop(place["request_id"]))
        return ordered

    async def _standing(self, places: Sequence[Row]) -> dict[str, Row]:
        """The events at the places that stand and match, as they are shown, by id."""
        corrected = [place for place in places if place["request_id"] in self._corrected]
        plain = [place for place in places if place["request_id"] not in self._corrected]
        kept = {place["request_id"]: self._recorded.at(place) for place in plain}
        unread = [place for place in plain if kept[place["request_id"]] is None]
        shown, events, corrections = await asyncio.gather(
            self._ask(corrected, lambda: logs.corrected_rows_at(corrected, self._wanted, self._sort_by)),
            self._ask(unread, lambda: logs.rows_at(unread, self._wanted, self._sort_by)),
            self._ask(plain, lambda: logs.corrections_of([place["request_id"] for place in plain])),
        )
        for row in events:
            self._recorded.keep(row)
        standing = logs.standing([*events, *(row for row in kept.values() if row is not None)], corrections)
        return standing | {row["request_id"]: row for row in shown}

    async def _ask(self, places: Sequence[Row], question: Callable[[], Sql]) -> list[Row]:
        return await self._analytics.rows(*question()) if places else []
