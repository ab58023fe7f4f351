"""``/``: what was spent, against before and against what may be; where it goes; what it will come to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal, bad_field
from bursar_admin.pages import numbers
from bursar_admin.pages.forecast import forecast
from bursar_admin.pages.frame import Frame, View, address
from bursar_admin.pages.spans import Span, span_of
from bursar_admin.routes import Route

RANKED = 6
"""Rows of a ranking on this page."""
MOVERS_OF = 100
"""Owners looked at for the largest changes: the dearest ones."""
MOVERS = 6
DIMENSIONS = {
    "team": "Team",
    "user": "User",
    "model": "Model",
    "project": "Project",
    "key": "Key",
    "customer": "Customer",
}
RANKINGS = ("team", "user", "model", "project")
FIGURES = (("today", "Today", "day"), ("week", "This week", "week"), ("month", "This month", "month"))
"""(range, title, window of the budgets it stands against)"""
BUDGET_WORDS = {"day": "daily", "week": "weekly", "month": "monthly"}
FEW_DAYS = 3
"""Of a course by day; shorter ones are drawn by hour."""


@dataclass(frozen=True)
class Figure:
    word: str
    window: str
    span: Span
    now_nusd: int
    before_nusd: int | None
    """None: not compared."""
    values: list[int]
    """Of equal steps, for the line."""
    step: str
    """``hour`` or ``day``"""


@dataclass(frozen=True)
class Allowed:
    """What budgets of one window allow the scope together, of the REST API."""

    word: str
    """``daily``"""
    budgets: int
    observed: int
    limit_nusd: int
    spent_nusd: int | None
    resets_at: str | None

    @property
    def used(self) -> float:
        """Per cent that is spent, 0 to 100."""
        if not self.limit_nusd:
            return 100.0 if self.budgets else 0.0
        return min(100.0, 100 * (self.spent_nusd or 0) / self.limit_nusd)


async def figures(view: View) -> list[Figure]:
    """The three figures from one course by hour, which all of them are parts of."""
    spans = [span_of({"range": name}, view.now_s, view.timezone) for name, _, _ in FIGURES]
    first, last = min(span.start_s for span in spans), max(span.end_s for span in spans)

    async def spent(start_s: int, end_s: int, interval: str) -> list[tuple[int, int]]:
        asked = {"from": start_s, "to": end_s, "interval": interval, "timezone": view.timezone}
        course = await view.api.get("/api/logs/histogram", {**view.filters, **asked})
        values = course["series"][0]["values"] if course["series"] else []
        return [(bucket["start_s"], value) for bucket, value in zip(course["buckets"], values, strict=False)]

    compared = spans if view.compare else []
    hours, *before = await asyncio.gather(
        spent(first, last, "hour"), *(spent(span.before_start_s, span.before_end_s, "day") for span in compared)
    )
    sums: list[int | None] = [sum(value for _, value in course) for course in before]
    sums = sums or [None] * len(spans)
    return [
        _figure(word, window, span, [each for each in hours if each[0] >= span.start_s], earlier)
        for (_, word, window), span, earlier in zip(FIGURES, spans, sums, strict=True)
    ]


def _figure(word: str, window: str, span: Span, hours: list[tuple[int, int]], before_nusd: int | None) -> Figure:
    values = [value for _, value in hours]
    zone = ZoneInfo(span.timezone)
    days: dict[date, int] = {}
    for start_s, value in hours:
        day = datetime.fromtimestamp(start_s, zone).date()
        days[day] = days.get(day, 0) + value
    by_day = len(days) >= FEW_DAYS
    return Figure(
        word, window, span, sum(values), before_nusd, list(days.values()) if by_day else values,
        "day" if by_day else "hour",
    )  # fmt: skip


async def allowed(view: View) -> dict[str, Allowed] | None:
    """By window; None where the scope is an owner that is gone."""
    try:
        answer = await view.api.get("/api/governance/budget-totals", view.filters)
    except Refusal as refusal:
        if refusal.status != 404:
            raise
        return None
    return {
        each["window"]: Allowed(
            BUDGET_WORDS[each["window"]],
            *(each[name] for name in ("budgets", "observed", "limit_nusd", "spent_nusd", "resets_at")),
        )
        for each in answer["totals"]
    }


def movers(rankings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Owners whose amount changed most, the largest first."""
    moved = [
        {**row, "moved_nusd": row["cost_nusd"] - (row["previous_metric"] or 0)}
        for row in rankings
        if row["cost_nusd"] != (row["previous_metric"] or 0)
    ]
    return sorted(moved, key=lambda row: -abs(row["moved_nusd"]))[:MOVERS]


def routes(_desk: Desk, frame: Frame) -> list[Route]:
    async def page(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        by = view.query.get("by", RANKINGS[0])
        if by not in RANKINGS:
            raise bad_field("by", "is not something to show spend by", by[:100], list(RANKINGS))
        colours = {name: view.colours_of(name) for name in ("team", "user")}
        return frame.shell(
            view, "overview", "overview.html", "Overview", dimensions=DIMENSIONS, rankings=RANKINGS, by=by,
            chart=_chart(view, by), colours=msgspec.json.encode(colours).decode(),
        )  # fmt: skip

    async def top(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        found, limits = await asyncio.gather(figures(view), allowed(view))
        month, limit = found[-1], (limits or {}).get("month")
        limit = limit if limit is not None and limit.budgets else None
        future = forecast(
            month.now_nusd, limit.limit_nusd if limit else None, month.span.start_s, month.span.whole_end_s, view.now_s
        )
        silent = not view.scope and not any(figure.now_nusd or figure.before_nusd for figure in found)
        return frame.fragment(
            view, "parts/overview_top.html", figures=found, limits=limits, allowed=limit, future=future,
            words=BUDGET_WORDS,
            nothing_yet=silent and not (await view.api.get("/api/logs", {"limit": 1}))["logs"],
        )  # fmt: skip

    async def health(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        before = {"previous_from": view.span.before_start_s, "previous_to": view.span.before_end_s}
        answer = await view.api.get("/api/logs/stats", {**view.within(), **before})
        return frame.fragment(
            view,
            "parts/overview_health.html",
            stats=answer["stats"],
            previous=answer["previous"],
            rules=answer["rules"],
        )

    async def ranking(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        by = request.match_info["by"]
        if by not in DIMENSIONS:
            raise bad_field("by", "is not something to rank by", by, list(DIMENSIONS))
        answer = await view.api.get("/api/logs/rankings", {**_compared(view), "by": by, "limit": RANKED})
        rows, known = answer["rankings"], view.colours_of(by)
        palette = numbers.colours([row["name"] or f"no {by}" for row in rows], [known.get(row["id"]) for row in rows])
        return frame.fragment(
            view, "parts/overview_ranking.html", by=by, rows=rows, total=answer["total_count"], palette=palette
        )

    async def moved(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        by = "user" if view.desk.projection.users else "key"
        answer = await view.api.get("/api/logs/rankings", {**_compared(view), "by": by, "limit": MOVERS_OF})
        return frame.fragment(view, "parts/overview_movers.html", by=by, rows=movers(answer["rankings"]))

    async def refused(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        asked = {**view.within(), "sort_by": "refused", "limit": RANKED, "compare": "none", "outcome": "refused"}
        reasons, teams = await asyncio.gather(
            *(view.api.get("/api/logs/rankings", {**asked, "by": by}) for by in ("refused_by", "key"))
        )
        return frame.fragment(view, "parts/overview_refused.html", reasons=reasons["rankings"], keys=teams["rankings"])

    async def unpaid(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        before = {"previous_from": view.span.before_start_s, "previous_to": view.span.before_end_s}
        answer = await view.api.get("/api/logs/stats", {**view.within(), **before, "latency": "false"})
        earlier = {entry["billing"]: entry for entry in (answer["previous"] or {}).get("by_billing", ())}
        rows = [entry for entry in answer["stats"]["by_billing"] if entry["billing"] != "metered" and entry["requests"]]
        return frame.fragment(view, "parts/overview_unpaid.html", rows=rows, earlier=earlier)

    return [
        Route("GET", "/", page, "overview_page", "Overview."),
        Route("GET", "/fragments/overview/top", top, "overview_top", "The figures."),
        Route("GET", "/fragments/overview/health", health, "overview_health", "Cache, refusals, latency."),
        Route("GET", "/fragments/overview/by/{by}", ranking, "overview_ranking", "Where it goes."),
        Route("GET", "/fragments/overview/movers", moved, "overview_movers", "What changed most."),
        Route("GET", "/fragments/overview/unpaid", unpaid, "overview_unpaid", "What nobody paid for in dollars."),
        Route("GET", "/fragments/overview/refused", refused, "overview_refused", "What was refused."),
    ]


def _compared(view: View) -> dict[str, Any]:
    return {
        **view.within(), "previous_from": view.span.before_start_s, "previous_to": view.span.before_end_s
    }  # fmt: skip


def _chart(view: View, by: str) -> str:
    span = view.span
    end = span.whole_end_s if span.running else span.end_s
    asked = {
        "from": span.start_s,
        "to": end,
        "interval": span.bucket,
        "timezone": span.timezone,
        "by": by,
        "top": 7,
    }
    return address("/api/logs/histogram", view.filters, asked)
