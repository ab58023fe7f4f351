"""``/api/logs/{stats,histogram,rankings,filterdata}``: sums over requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from bursar_admin import sums as parts
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.queries.dimensions import NAMES, dimension
from bursar_admin.queries.filters import MAX_RANGE_DAYS, MAX_VALUE_CHARS, moment_ms
from bursar_admin.queries.ranges import DAY_MS, DEFAULT_DAYS, Span, span_of
from bursar_admin.queries.sums import METRICS
from bursar_admin.requests import json_answer, whole
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import FILTERS, TIMEZONE, asked, choice
from bursar_admin.sums import UsageSums
from bursar_admin.usage_answers import FilterDataAnswer, HistogramAnswer, RankingsAnswer, StatsAnswer
from bursar_common.clock import rfc3339

MAX_SERIES: Final = 50
MAX_RANKED: Final = 1000
MAX_SKIPPED: Final = 100_000
MAX_VALUES: Final = 1000
LISTED_DIMENSIONS: Final = (
    "provider", "model", "customer", "team", "user", "key", "project", "environment", "cost_center", "outcome",
    "billing", "refused_by",
)  # fmt: skip
"""What filterdata lists unless asked for something."""

_BY = f"{', '.join(NAMES)} or tag:<name>"
COMPARE: Final = (
    Parameter("compare", "previous: the period before as well.", {"type": "string", "enum": ["none", "previous"]}),
    Parameter("previous_from", "Start of the period to compare to; default: as long as this one, right before it."),
    Parameter("previous_to", "Its end."),
)
STATS: Final = (
    *COMPARE,
    Parameter("latency", "false: leave the quantiles out, which are the slowest to find.", {"type": "boolean"}),
    TIMEZONE,
)
HISTOGRAM: Final = (
    Parameter("interval", "Width of a bucket.", {"type": "string", "enum": ["hour", "day"], "default": "day"}),
    Parameter("metric", "What to add up; latency: quantiles.",
              {"type": "string", "enum": [*METRICS, "latency"], "default": "cost"}),
    Parameter("by", f"Series by {_BY}; left out: one series."),
    Parameter("top", "Series shown by themselves; the rest is `other`.",
              {"type": "integer", "minimum": 1, "maximum": MAX_SERIES, "default": 8}),
    TIMEZONE,
)  # fmt: skip
RANKINGS: Final = (
    Parameter("by", _BY),
    Parameter("sort_by", "Metric.", {"type": "string", "enum": list(METRICS), "default": "cost"}),
    Parameter("order", "Direction.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    Parameter("limit", "Rows.", {"type": "integer", "minimum": 1, "maximum": MAX_RANKED, "default": 20}),
    Parameter("offset", "Rows to skip.", {"type": "integer", "minimum": 0, "maximum": MAX_SKIPPED, "default": 0}),
    *COMPARE,
    TIMEZONE,
)
FILTERDATA: Final = (
    Parameter("dimension", f"{_BY}, or `tag` for the names of tags; several with commas. Default: the usual ones."),
    Parameter("prefix", "Only values, or names, that begin so; upper and lower case are alike."),
    Parameter("limit", "Values of each.", {"type": "integer", "minimum": 1, "maximum": MAX_VALUES, "default": 50}),
    TIMEZONE,
)


class Sums:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.sums = UsageSums(desk.usage, desk.books)

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET", "/api/logs/stats", self.stats, "get_log_stats",
                f"Sums of the requests: cost, tokens, cache, latency. Default range: {DEFAULT_DAYS} days.",
                StatsAnswer, query=(*FILTERS, *STATS), asks_analytics=True,
            ),
            Route(
                "GET", "/api/logs/histogram", self.histogram, "get_log_histogram",
                "A metric over time, by hour or day of a zone, in series by any dimension.", HistogramAnswer,
                query=(*FILTERS, *HISTOGRAM), asks_analytics=True,
            ),
            Route(
                "GET", "/api/logs/rankings", self.rankings, "get_log_rankings",
                "Values of a dimension by a metric, with share and change.", RankingsAnswer,
                query=(*FILTERS, *RANKINGS), asks_analytics=True,
            ),
            Route(
                "GET", "/api/logs/filterdata", self.filterdata, "get_log_filterdata",
                "Values that filters can have, with the requests that have them.", FilterDataAnswer,
                query=(*FILTERS, *FILTERDATA), asks_analytics=True,
            ),
        ]  # fmt: skip

    async def stats(self, request: web.Request) -> web.Response:
        filters, query = asked(request, STATS)
        span = span_of(filters, self.desk.clock.now_ms())
        before = previous(query, span, default="none")
        latency = choice(query, "latency", ("true", "false"), "true") == "true"
        wanted = self.desk.usage.criteria(filters)
        spans = [span] if before is None else [span, before]
        answers = await asyncio.gather(*(self.sums.stats(wanted, each, latency=latency) for each in spans))
        return json_answer(
            {
                "stats": answers[0],
                "previous": answers[1] if before is not None else None,
                **times(span, before),
                "rules": {
                    "cache_savings": parts.SAVINGS_RULE,
                    "cache_hit_rate": parts.HIT_RATE_RULE,
                    "latency": parts.LATENCY_RULE,
                },
            }
        )

    async def histogram(self, request: web.Request) -> web.Response:
        filters, query = asked(request, HISTOGRAM)
        span = span_of(filters, self.desk.clock.now_ms())
        metric = choice(query, "metric", (*METRICS, "latency"), "cost")
        by = dimension(query["by"]) if "by" in query else None
        if metric == "latency" and by is not None:
            raise bad_field("by", "cannot be combined with metric=latency", query["by"], "filter by it instead")
        interval = choice(query, "interval", ("hour", "day"), "day")
        top = whole(query, "top", 8, 1, MAX_SERIES)
        timezone = query.get("timezone", "") or "UTC"
        found = await self.sums.histogram(
            self.desk.usage.criteria(filters), span, interval=interval, timezone=timezone, metric=metric, by=by, top=top
        )
        return json_answer(
            {
                "metric": metric,
                "interval": interval,
                "timezone": timezone,
                "by": by.name if by is not None else None,
                **times(span, None),
                **found,
            }
        )

    async def rankings(self, request: web.Request) -> web.Response:
        filters, query = asked(request, RANKINGS)
        if "by" not in query:
            raise bad_field("by", "is required", None, _BY)
        by = dimension(query["by"])
        span = span_of(filters, self.desk.clock.now_ms())
        before = previous(query, span, default="previous")
        limit, offset = whole(query, "limit", 20, 1, MAX_RANKED), whole(query, "offset", 0, 0, MAX_SKIPPED)
        sort_by = choice(query, "sort_by", tuple(METRICS), "cost")
        found, total = await self.sums.rankings(
            self.desk.usage.criteria(filters), span, before, by,
            sort_by=sort_by, descending=choice(query, "order", ("asc", "desc"), "desc") == "desc",
            limit=limit, offset=offset,
        )  # fmt: skip
        return json_answer(
            {
                "by": by.name,
                "sort_by": sort_by,
                "rankings": found,
                "count": len(found),
                "total_count": total,
                "limit": limit,
                "offset": offset,
                **times(span, before),
                "rules": {"share": parts.SHARE_RULE, "change": parts.CHANGE_RULE},
            }
        )

    async def filterdata(self, request: web.Request) -> web.Response:
        filters, query = asked(request, FILTERDATA)
        span = span_of(filters, self.desk.clock.now_ms(), days=30)
        limit = whole(query, "limit", 50, 1, MAX_VALUES)
        prefix = query.get("prefix", "")
        if len(prefix) > MAX_VALUE_CHARS or not (prefix.isprintable() or prefix == ""):
            raise bad_field("prefix", "is too long", None, f"at most {MAX_VALUE_CHARS} printable characters")
        names = [name for name in query.get("dimension", "").split(",") if name] or list(LISTED_DIMENSIONS)
        if len(names) > len(LISTED_DIMENSIONS) + 4:
            raise bad_field("dimension", "are too many", None, f"at most {len(LISTED_DIMENSIONS) + 4}")
        wanted = self.desk.usage.criteria(filters)
        found = await asyncio.gather(
            *(
                self.sums.tag_names(wanted, span, prefix, limit)
                if name == "tag"
                else self.sums.values(wanted, span, dimension(name, "dimension"), prefix, limit)
                for name in names
            )
        )
        return json_answer({"filters": dict(zip(names, found, strict=True)), **times(span, None)})


def previous(query: Mapping[str, str], span: Span, *, default: str) -> Span | None:
    """The period to compare to. Raises Refusal (400)."""
    given = {name: query[name] for name in ("previous_from", "previous_to") if name in query}
    compare = choice(query, "compare", ("none", "previous"), "previous" if given else default)
    if compare == "none":
        if given:
            raise bad_field("compare", "is none, although a period to compare to is given", None, "previous")
        return None
    if not given:
        return span.before
    moments: list[int] = []
    for name in ("previous_from", "previous_to"):
        moment = moment_ms(given.get(name, ""), query.get("timezone", ""), end=name == "previous_to")
        if moment is None:
            raise bad_field(name, "is not a day or moment", given.get(name), "both ends of the period")
        moments.append(moment)
    if not 0 < moments[1] - moments[0] <= MAX_RANGE_DAYS * DAY_MS:
        raise bad_field("previous_to", "is not after previous_from, or too far", None, f"at most {MAX_RANGE_DAYS} days")
    return Span(moments[0], moments[1])


def times(span: Span, before: Span | None) -> dict[str, Any]:
    found: dict[str, Any] = {"from": rfc3339(span.from_ms), "to": rfc3339(span.until_ms)}
    if before is not None:
        found |= {"previous_from": rfc3339(before.from_ms), "previous_to": rfc3339(before.to_ms)}
    return found


def routes(desk: Desk) -> list[Route]:
    return Sums(desk).routes()
