"""Sums by a few dimensions, added up here from two answers: one over complete sums, which is kept
(:mod:`bursar_admin.kept`), and the requests of hours that are open (:mod:`bursar_admin.opened`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from bursar_admin.kept import Kept, digest
from bursar_admin.opened import Opened, summed
from bursar_admin.queries import added
from bursar_admin.queries.ranges import HOUR_MS
from bursar_admin.queries.sums import Question, Sql
from bursar_common.windows import zone

MAX_GROUPS: Final = 20_000
"""Rows added up here, of each statement; with more of them ClickHouse adds them up, in one statement."""
MAX_OPEN_MS: Final = 6 * HOUR_MS
"""Length of what is read request by request beside kept sums, at most."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Only:
    """A further condition, in SQL and of a row."""

    sql: str
    test: Callable[[Row], bool]


@dataclass(frozen=True)
class Asked:
    keys: tuple[str, ...]
    """Columns to sum by: dimensions of the cut."""
    measures: tuple[str, ...]
    label: str = ""
    """A column whose latest value each row has as ``label``."""
    interval: str = ""
    """``hour`` or ``day``: also by time, as ``bucket``."""
    timezone: str = "UTC"
    """Of days: one whose offset is whole hours throughout."""
    only: Only | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.keys, self.label) if self.label else self.keys


async def add_up(kept: Kept, opened: Opened, question: Question, asked: Asked) -> list[Row] | None:
    """Rows of ``keys``, ``label``, ``bucket`` and ``sum_<measure>``, in no order; None where it cannot be done here.

    Raises Refusal (503)."""
    plan = question.plan
    if plan.buildings is None or sum(each.to_ms - each.from_ms for each in plan.raw) > MAX_OPEN_MS:
        return None
    held = await opened.held(question, asked.columns, asked.measures) if plan.raw else None
    fresh_name = plan.requests if held is None else held.name
    closed = _closed(question, asked)

    async def add() -> list[Row]:
        sums, fresh = await asyncio.gather(
            kept.named(*closed, plan.buildings) if closed is not None else _nothing(),
            _open(kept, question, asked) if held is None else _nothing(),
        )
        if held is not None:
            fresh = summed(held, question.criteria, asked.columns, asked.measures)
        if len(sums) > MAX_GROUPS or len(fresh) > MAX_GROUPS:
            return [_TOO_MANY]
        return merged(sums, fresh, asked) if fresh else sums

    if closed is None or not plan.raw or fresh_name is None:
        rows = await add()
    else:
        name = plan.buildings, fresh_name, plan.place
        rows = await kept.made(b"added" + digest(*closed), name, add)
    return None if rows and rows[0] is _TOO_MANY else rows


async def _nothing() -> list[Row]:
    return []


_TOO_MANY: Final[Row] = {}


def _closed(question: Question, asked: Asked) -> Sql | None:
    plan = question.plan
    if not plan.buildings:
        return None
    return added.of_buildings(
        replace(question, plan=replace(plan, raw=())),
        asked.keys,
        asked.measures,
        label=asked.label,
        bucket=(asked.interval, asked.timezone) if asked.interval else None,
        only=asked.only.sql if asked.only is not None else "",
        count=MAX_GROUPS + 1,
    )


async def _open(kept: Kept, question: Question, asked: Asked) -> list[Row]:
    plan = question.plan
    if not plan.raw:
        return []
    only = asked.only.sql if asked.only is not None else ""
    sql, parameters = added.of_requests(question, asked.columns, asked.measures, only=only, count=MAX_GROUPS + 1)
    if plan.requests is None:
        return await kept.shared(sql, parameters)
    return await kept.named(sql, parameters, plan.requests)


def merged(closed: Iterable[Row], fresh: Iterable[Row], asked: Asked) -> list[Row]:
    """Rows of both, those with equal keys as one."""
    names = [f"sum_{name}" for name in asked.measures]
    bucket_of = _bucket(asked)
    found: dict[tuple[Any, ...], Row] = {}
    keys = (*asked.keys, "bucket") if asked.interval else asked.keys
    for row in closed:
        found[tuple(row[name] for name in keys)] = row
    own: set[tuple[Any, ...]] = set()
    for row in fresh:
        if asked.only is not None and not asked.only.test(row):
            continue
        key = tuple(row[name] for name in asked.keys)
        if bucket_of is not None:
            key = (*key, bucket_of(row["hour_s"]))
        there = found.get(key)
        if there is None:
            found[key] = _begun(row, key, keys, asked.label, names)
            own.add(key)
            continue
        if key not in own:
            # Kept rows belong to everybody.
            there = found[key] = dict(there)
            own.add(key)
        for name in names:
            there[name] += row[name]
        if asked.label and row["last_ms"] >= there["label_ms"]:
            there["label"], there["label_ms"] = row[asked.label], row["last_ms"]
    return list(found.values())


def _begun(row: Row, key: Sequence[Any], keys: Sequence[str], label: str, names: Sequence[str]) -> Row:
    begun: Row = dict(zip(keys, key, strict=True))
    if label:
        begun["label"], begun["label_ms"] = row[label], row["last_ms"]
    begun.update((name, row[name]) for name in names)
    return begun


def _bucket(asked: Asked) -> Callable[[int], str] | None:
    """The key of an hour's bucket, as queries.sums.bucket_key makes it."""
    if not asked.interval:
        return None
    if asked.interval == "hour":
        return str
    known: dict[int, str] = {}
    tz = zone(asked.timezone)

    def day(hour_s: int) -> str:
        if hour_s not in known:
            known[hour_s] = datetime.fromtimestamp(hour_s, tz).date().isoformat()
        return known[hour_s]

    return day


def amount_of(measures: Sequence[str]) -> Callable[[Mapping[str, Any]], int]:
    """The measures of a row, added up: for many rows."""
    names = [f"sum_{name}" for name in measures]
    if len(names) == 1:
        (name,) = names
        return lambda row: int(row[name])
    return lambda row: sum([row[name] for name in names])
