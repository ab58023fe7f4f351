"""``/api/usage`` and ``/api/usage/mine``: usage by period and model, of the fleet or of the key that asks."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from typing_extensions import TypedDict

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.key_access import asking_key
from bursar_admin.queries.filters import Filters
from bursar_admin.queries.ranges import DAY_MS, span_of
from bursar_admin.queries.usage_report import PERIODS, usage_by
from bursar_admin.quota import usd
from bursar_admin.requests import json_answer
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import FILTERS, TIMEZONE, asked, choice
from bursar_common.clock import rfc3339

PATH = "/api/usage"
OWN_PATH = "/api/usage/mine"
MAX_DAYS_BY_MINUTE = 62
"""Days that may be asked for by minute: some ten thousand rows a model."""
DEFAULT_DAYS = 31

BY = Parameter("by", "Period of a row.", {"type": "string", "enum": list(PERIODS), "default": "day"})


class UsageRowAnswer(TypedDict):
    """One period and model."""

    period: str
    model: str
    requests: int
    estimated: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    cost_nusd: int
    cost_usd: str | None
    list_cost_nusd: int
    list_cost_usd: str | None
    project: str
    first_at: str
    last_at: str


class UsageReportAnswer(TypedDict):
    by: str
    since: str
    until: str
    rows: list[UsageRowAnswer]


class UsageReport:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        summary = "Usage by period and model: tokens by kind, billed and list cost."
        return [
            Route("GET", PATH, self.fleet, "get_usage", summary, UsageReportAnswer,
                  query=(*FILTERS, BY, TIMEZONE), asks_analytics=True),
            Route("GET", OWN_PATH, self.own, "get_own_usage", f"{summary} Only of the virtual key that asks.",
                  UsageReportAnswer, query=(*FILTERS, BY, TIMEZONE), key_page=True, asks_analytics=True),
        ]  # fmt: skip

    async def fleet(self, request: web.Request) -> web.Response:
        filters, query = asked(request, (BY, TIMEZONE))
        return await self._report(filters, query)

    async def own(self, request: web.Request) -> web.Response:
        key = asking_key(self.desk, request)
        filters, query = asked(request, (BY, TIMEZONE))
        if filters.key and filters.key not in ((key.id,), (key.name,)):
            raise bad_field("key", "is not the key that asks", None, key.name)
        return await self._report(filters.model_copy(update={"key": (key.id,)}), query)

    async def _report(self, filters: Filters, query: dict[str, str]) -> web.Response:
        by = choice(query, "by", list(PERIODS), "day")
        span = span_of(filters, self.desk.clock.now_ms(), DEFAULT_DAYS)
        if by == "minute" and span.to_ms - span.from_ms > (MAX_DAYS_BY_MINUTE + 1) * DAY_MS:
            raise bad_field("from", "is too long before to", None, f"at most {MAX_DAYS_BY_MINUTE} days by minute")
        criteria = self.desk.usage.criteria(filters)
        rows = await self.desk.analytics.rows(*usage_by(criteria, span, by, query.get("timezone", "")))
        answer: UsageReportAnswer = {
            "by": by,
            "since": rfc3339(span.from_ms),
            "until": rfc3339(span.until_ms),
            "rows": [_row(row) for row in rows],
        }
        return json_answer(answer)


def _row(row: dict[str, Any]) -> UsageRowAnswer:
    shown: Any = {name: value for name, value in row.items() if name not in ("first_ms", "last_ms")}
    shown |= {
        "cost_usd": usd(row["cost_nusd"]),
        "list_cost_usd": usd(row["list_cost_nusd"]),
        "first_at": rfc3339(row["first_ms"]),
        "last_at": rfc3339(row["last_ms"]),
    }
    answer: UsageRowAnswer = shown
    return answer


def routes(desk: Desk) -> list[Route]:
    return UsageReport(desk).routes()
