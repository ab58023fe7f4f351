"""Requests of hours that are open, read once for all who ask: summed by everything that pages sum by and filter by, and
added up here for each question.

A page asks a dozen questions about the same hours. What a statement costs is being planned and unpacking the hours'
columns, far more than the thousand rows more that come of more dimensions."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import add, itemgetter
from time import monotonic
from typing import Any, Final

from bursar_admin.analytics import Analytics
from bursar_admin.freshness import accepted_s
from bursar_admin.kept import digest
from bursar_admin.queries import added
from bursar_admin.queries.criteria import MATCHED, Criteria
from bursar_admin.queries.sums import MEASURES, Question
from bursar_common.usage_sums import CUTS

WIDE: Final = tuple(dict.fromkeys((*CUTS["key"], *CUTS["project"], *CUTS["team"])))
"""Columns that open hours are summed by."""
MAX_GROUPS: Final = 12_000
"""Groups of open hours that are held: some 20 MB. Where there are more each question is asked by itself."""
WIDE_AGAIN_S: Final = 300.0
"""Seconds that each question is asked by itself after there were more."""
HELD: Final = 2
"""Stretches whose groups are held: those that were asked for last."""

Row = dict[str, Any]


Group = tuple[tuple[str, ...], int, int, tuple[int, ...]]
"""Values of WIDE, the hour (Unix s), the last moment of its requests (Unix ms), and sums of MEASURES."""


@dataclass(frozen=True)
class Held:
    """Groups of the requests of some stretches."""

    groups: list[Group]
    name: str | None
    """Names the requests they are of; None: not known."""


class Opened:
    """Raises Refusal (503) while ClickHouse does not answer."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics
        self._held: OrderedDict[bytes, Held] = OrderedDict()
        self._asking: dict[tuple[tuple[int, int | None], ...], tuple[str | None, asyncio.Task[Held | None]]] = {}
        """By place: what is on its way, and the name of what it is asked of."""
        self._not_before = 0.0

    async def held(self, question: Question, columns: Iterable[str], measures: Iterable[str]) -> Held | None:
        """Groups to be added up (:func:`summed`) by the columns; None: the question is to be asked by itself."""
        wanted, plan = question.criteria, question.plan
        if not plan.place or not (wanted.columns | set(columns) <= set(WIDE) and set(measures) <= set(MEASURES)):
            return None
        sql, parameters = added.groups_of(unfiltered(question), WIDE, MEASURES, count=MAX_GROUPS + 1)
        key = digest(sql, parameters)
        held = self._held.get(key)
        if held is not None and held.name == plan.requests:
            self._held.move_to_end(key)
            return held
        # A person's or key's few requests are found at once; all of them cost more.
        if wanted.early or monotonic() < self._not_before:
            return None
        # Where the same is on its way, but was asked before the last insert, it is what whoever accepts an older answer
        # gets: on a busy gateway there is always another insert.
        asking = self._asking.get(plan.place)
        if asking is None or (asking[0] != plan.requests and not accepted_s.get()):

            async def work() -> Held | None:
                try:
                    return await self._ask(key, sql, parameters, plan.requests)
                finally:
                    if self._asking.get(plan.place) is asking:
                        del self._asking[plan.place]

            asking = self._asking[plan.place] = plan.requests, asyncio.create_task(work(), name="open-hours")
        return await asyncio.shield(asking[1])

    async def _ask(self, key: bytes, sql: str, parameters: dict[str, Any], name: str | None) -> Held | None:
        rows = await self._analytics.rows(sql, parameters)
        if len(rows) > MAX_GROUPS:
            self._not_before = monotonic() + WIDE_AGAIN_S
            return None
        groups = [(tuple(row["of"]), row["hour_s"], row["last_ms"], tuple(map(int, row["sums"]))) for row in rows]
        held = Held(groups, name)
        if name is not None:
            self._held[key] = held
            while len(self._held) > HELD:
                self._held.popitem(last=False)
        return held


def unfiltered(question: Question) -> Question:
    return Question(Criteria(type(question.criteria.filters)()), question.plan)


def passing(wanted: Criteria) -> Callable[[tuple[str, ...]], bool] | None:
    """The conditions of :meth:`Criteria.sql` as a test of a group's values; None: all pass."""
    tests: list[tuple[int, frozenset[str], int, frozenset[str]]] = []
    for name, columns in MATCHED.items():
        values = wanted.values(name)
        if not values:
            continue
        named = frozenset(value for value in values if value)
        if len(columns) == 1 or (name == "key" and wanted.by_key_id):
            named = frozenset()
        tests.append((WIDE.index(columns[0]), frozenset(values), WIDE.index(columns[-1]), named))
    if not tests:
        return None
    return lambda of: all(of[one] in values or of[two] in named for one, values, two, named in tests)


def summed(held: Held, wanted: Criteria, columns: Sequence[str], measures: Sequence[str]) -> list[Row]:
    """Groups added up by fewer columns, and by hour: rows as of :func:`bursar_admin.queries.added.of_requests`."""
    passes = passing(wanted)
    key_of = _picked([WIDE.index(name) for name in columns])
    sums_of = _picked([MEASURES.index(name) for name in measures]) if tuple(measures) != MEASURES else None
    found: dict[tuple[tuple[Any, ...], int], tuple[int, Iterable[int]]] = {}
    for of, hour_s, last_ms, every in held.groups:
        if passes is not None and not passes(of):
            continue
        key = key_of(of), hour_s
        sums = every if sums_of is None else sums_of(every)
        there = found.get(key)
        if there is None:
            found[key] = last_ms, sums
        else:
            found[key] = last_ms if last_ms > there[0] else there[0], tuple(map(add, there[1], sums))
    names = (*columns, "hour_s", "last_ms", *(f"sum_{name}" for name in measures))
    return [
        dict(zip(names, (*values, hour_s, last_ms, *sums), strict=True))
        for (values, hour_s), (last_ms, sums) in found.items()
    ]


def _picked(places: Sequence[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """These of a tuple's values, as a tuple."""
    if not places:
        return lambda _: ()
    if len(places) == 1:
        (place,) = places
        return lambda values: (values[place],)
    return itemgetter(*places)
