"""``/api/insights``."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.insights import IDS, Insights
from bursar_admin.queries.ranges import DAY_MS, span_of
from bursar_admin.requests import json_answer
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import FILTERS, TIMEZONE, asked, choice
from bursar_admin.routes.usage_sums import COMPARE, previous, times
from bursar_admin.usage_answers import InsightsAnswer

PATH: Final = "/api/insights"
MAX_DAYS: Final = 93
"""Requests are read one by one for some insights: a quarter at most."""
ONLY: Final = Parameter("only", "One of them; left out: all.", {"type": "string", "enum": list(IDS)})


def routes(desk: Desk) -> list[Route]:
    insights = Insights(desk.usage, desk.books)

    async def get(request: web.Request) -> web.Response:
        filters, query = asked(request, (*COMPARE, ONLY, TIMEZONE))
        span = span_of(filters, desk.clock.now_ms())
        if span.to_ms - span.from_ms > MAX_DAYS * DAY_MS:
            raise bad_field("from", "is too long before to", None, f"at most {MAX_DAYS} days")
        before = previous(query, span, default="none")
        if before is not None and before.to_ms - before.from_ms > MAX_DAYS * DAY_MS:
            raise bad_field("previous_from", "is too long before previous_to", None, f"at most {MAX_DAYS} days")
        only = choice(query, "only", ("", *IDS), "")
        wanted = desk.usage.criteria(filters)
        found = await insights.all(wanted, span, before, compare=before is not None, only=only)
        return json_answer({"insights": found, **times(span, before or span.before)})

    return [
        Route(
            "GET", PATH, get, "get_insights",
            "What could cost less, what costs most, what grows, what is refused: each with its rule, its numbers and "
            "rows. Default range: 7 days. With a period to compare to, numbers of both where that says something "
            "(previous_numbers); growth is always against one. Of caches that ran out, ask for the other period: its "
            "turns are read one by one.", InsightsAnswer,
            query=(*FILTERS, *COMPARE, ONLY, TIMEZONE), asks_analytics=True,
        )
    ]  # fmt: skip
