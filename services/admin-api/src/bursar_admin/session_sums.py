"""Sums of certain sessions, and what only their requests say of them: of what is summed up, and of what is open, each
by itself, added up here. So what was asked of the one is kept while requests come into the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from bursar_admin.queries import sessions
from bursar_admin.queries.ranges import HOUR_MS, Plan, Span, joined
from bursar_admin.queries.sums import MEASURES, Question

MAX_LISTED: Final = 20
"""Keys and models of one session that are listed."""

Row = dict[str, Any]
Half = tuple[Question, tuple[Span, ...]]
"""A question about a part of a range, and that part."""


class Asks(Protocol):
    async def ask(self, question: Question, sql: str, parameters: Mapping[str, Any]) -> list[Row]: ...

    async def ask_requests(self, question: Question, sql: str, parameters: Mapping[str, Any]) -> list[Row]: ...


def halves(question: Question, span: Span) -> list[Half]:
    """The question about what is summed up, and about what is open; one where there is nothing of the other kind, or
    where it is not known which buildings stand."""
    plan = question.plan
    if not plan.buildings or not plan.raw:
        return [(question, (span,))]
    closed = replace(plan, raw=())
    opened = replace(plan, hours=(), open_hours=(), days=None, open_days=(), buildings=())
    return [(replace(question, plan=closed), summed_up(plan)), (replace(question, plan=opened), plan.raw)]


def summed_up(plan: Plan) -> tuple[Span, ...]:
    """The stretches that are read from sums: all of the plan's days and hours but those hours that are open."""
    stretches = [*plan.hours, *([plan.days] if plan.days is not None else [])]
    found = list(joined(sorted(stretches, key=lambda each: each.from_ms)))
    for hour in plan.open_hours:
        opened = Span(hour * 1000, hour * 1000 + HOUR_MS)
        pieces = (
            piece
            for each in found
            for piece in (
                (Span(each.from_ms, opened.from_ms), Span(opened.to_ms, each.to_ms))
                if each.from_ms <= opened.from_ms < each.to_ms
                else (each,)
            )
        )
        found = [piece for piece in pieces if piece.from_ms < piece.to_ms]
    return tuple(found)


async def sums_of(store: Asks, question: Question, span: Span, ids: Sequence[str]) -> list[Row]:
    """As :func:`bursar_admin.queries.sessions.sums_of` asks it, in no order. Raises Refusal (503)."""
    return merged(await asyncio.gather(*(_sums(store, half, ids) for half, _ in halves(question, span))))


async def summaries(store: Asks, question: Question, span: Span, ids: Sequence[str]) -> list[Row]:
    """Sums of sessions with their agents, models and ends, in the order of ``ids``; None for each of these where not
    all of its requests are there any more. Raises Refusal (503)."""
    found = await asyncio.gather(*(_half(store, *half, ids) for half in halves(question, span)))
    known = {row["session"]: row for row in merged([rows for rows, _ in found])}
    looked_at = looked(row for _, rows in found for row in rows)
    found_of = {each: sessions.with_agents(known[each], looked_at.get(each)) for each in ids if each in known}
    return [row | {"keys": sorted(row["keys"])} for row in found_of.values()]


async def _sums(store: Asks, question: Question, ids: Sequence[str]) -> list[Row]:
    return await store.ask(question, *sessions.sums_of(question, ids))


async def _half(
    store: Asks, question: Question, spans: tuple[Span, ...], ids: Sequence[str]
) -> tuple[list[Row], list[Row]]:
    rows = await _sums(store, question, ids)
    there = {row["session"] for row in rows}
    if not there:
        return [], []
    places = sessions.places_of(rows)
    agents = sessions.agents(question.criteria, spans, [each for each in ids if each in there], places)
    return rows, await store.ask_requests(question, *agents)


def merged(parts: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several parts of a range, those of one session as one. Rows that were given are not changed."""
    if len(parts) == 1:
        return list(parts[0])
    found: dict[str, Row] = {}
    for row in (row for part in parts for row in part):
        there = found.get(row["session"])
        if there is None:
            found[row["session"]] = dict(row)
            continue
        if _latest(row) > _latest(there):
            there.update((f"of_{name}", row[f"of_{name}"]) for name in ("ms", *sessions.LAST))
        there["places"] = _together(there["places"], row["places"])
        there["keys"] = _together(there["keys"], row["keys"])[:MAX_LISTED]
        for name in MEASURES:
            there[f"sum_{name}"] += row[f"sum_{name}"]
    return list(found.values())


def looked(rows: Iterable[Row]) -> dict[str, Row]:
    """What :func:`bursar_admin.queries.sessions.agents` found in several parts of a range, by session."""
    found: dict[str, Row] = {}
    for row in rows:
        there = found.get(row["session"])
        if there is None:
            found[row["session"]] = dict(row)
            continue
        there["first_ms"] = min(there["first_ms"], row["first_ms"])
        there["last_ms"] = max(there["last_ms"], row["last_ms"])
        there["agent_ids"] = _together(there["agent_ids"], row["agent_ids"])
        there["models"] = _together(there["models"], row["models"])[:MAX_LISTED]
        there["seen"] += row["seen"]
    for row in found.values():
        row["agents"], row["models"] = len(row.pop("agent_ids")), sorted(row["models"])
    return found


def _latest(row: Row) -> tuple[Any, ...]:
    """What the last request of a row is chosen by."""
    return row["of_ms"], *(row[f"of_{name}"] for name in sessions.LAST)


def _together(one: Sequence[Any], two: Sequence[Any]) -> list[Any]:
    """What is in either, each once."""
    there = {tuple(each) if isinstance(each, list) else each for each in one}
    return [*one, *(each for each in two if (tuple(each) if isinstance(each, list) else each) not in there)]
