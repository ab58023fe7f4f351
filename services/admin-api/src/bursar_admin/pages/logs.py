"""``/logs``: requests as they happen, found by any filter, each with all that is known about it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.pages.frame import CARRIED, Frame, View
from bursar_admin.pages.records import Record, records_of
from bursar_admin.queries.filters import LISTED, NAMES
from bursar_admin.routes import Route

ROWS = 50
"""Of one page of the table; more come when its end is reached."""
MOST_ROWS = 500
"""Of a table: what a browser lays out again at once while one scrolls. Further ones are a page of their own."""
STRIP_HOURS = 8 * 24
"""Longest span whose requests are counted by hour above the table; longer ones by day."""
CHOICES = 200
"""Known values offered for one filter."""
CSV_ROWS = 10_000
"""Most rows of a CSV file; the REST API gives more, in pieces."""
SPAN_NAMES = ("range", "from", "to")
OWN = ("sort_by", "order", "cursor", "request", "open", "compare", "shown")
"""Parameters of the page that are no filters."""


@dataclass(frozen=True)
class Column:
    name: str
    word: str
    sort_by: str = ""
    right: bool = False
    shown: bool = True
    wide: bool = False
    """Left out on a telephone, unless the reader chooses it: what a request cost is in sight there."""


COLUMNS = (
    Column("time", "Time", "started_at"),
    Column("outcome", "Outcome"),
    Column("who", "Who"),
    Column("team", "Team", wide=True),
    Column("model", "Model", wide=True),
    Column("input", "Input", "input_tokens", right=True, wide=True),
    Column("cached", "Cached", right=True, wide=True),
    Column("output", "Output", "output_tokens", right=True, wide=True),
    Column("cost", "Cost", "cost", right=True),
    Column("latency", "Latency", "latency_ms", right=True),
    Column("ttft", "First token", "time_to_first_token_ms", right=True, shown=False),
    Column("project", "Project"),
    Column("session", "Session"),
    Column("provider", "Provider", shown=False),
    Column("billing", "Billing", shown=False),
    Column("id", "Request", shown=False),
)
OUTCOMES = ("completed", "interrupted", "refused", "upstream_error", "unreadable", "unknown", "expired", "not_sent")
BILLINGS = ("metered", "subscription", "customer", "imported")
OFFERED = (
    "model", "provider", "customer", "team", "user", "key", "project", "repository", "branch", "environment",
    "cost_center", "refused_by",
)  # fmt: skip
"""Filters whose known values are offered while one types."""
FORM = (
    (
        "Who", ("customer", "team", "user", "key"),
    ),
    (
        "What for", ("project", "repository", "branch", "environment", "cost_center", "tag", "session", "agent"),
    ),
    (
        "What", ("model", "provider", "refused_by", "error_type"),
    ),
)  # fmt: skip
"""Text fields of the filter form; outcome, billing and the ranges follow."""
RANGES = (("Cost, $", "cost_usd", "decimal"), ("Tokens", "tokens", "numeric"), ("Latency, ms", "latency_ms", "numeric"))
IN_FORM = (
    *(name for _, names in FORM for name in names), "outcome", "billing",
    *(f"{end}_{name}" for _, name, _ in RANGES for end in ("min", "max")),
)  # fmt: skip
FIELD_WORDS = {"cost_center": "Cost centre", "refused_by": "Refused by", "error_type": "Error"}
WORDS = {
    "min_cost_usd": "cost from $", "max_cost_usd": "cost up to $", "min_tokens": "tokens from ",
    "max_tokens": "tokens up to ", "min_latency_ms": "latency from ms ", "max_latency_ms": "latency up to ms ",
    "text": "text: ", "cost_center": "cost centre: ", "refused_by": "refused: ", "error_type": "error: ",
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """Requests of one step of time, as per cent of the busiest step."""

    start_s: int
    end_s: int
    requests: int
    refused: int
    height: float
    refused_height: float


@dataclass(frozen=True)
class Chip:
    """A filter in force, and the link without it."""

    text: str
    without: str


def filters(view: View) -> dict[str, Any]:
    """The page's filters for the REST API, its scope and time range included. Raises Refusal (400)."""
    asked: dict[str, Any] = {}
    known = {*NAMES, *OWN, *SPAN_NAMES}
    for name in dict.fromkeys(view.query):
        if name not in known:
            raise bad_field(name[:100], "is not a filter", None, sorted(known))
        if name in OWN or name in SPAN_NAMES:
            continue
        values = [value for value in view.query.getall(name) if value != "" or name in LISTED]
        if values and values != [""]:
            asked[name] = values if name in LISTED else values[0]
    span = view.span
    # What is running has no end: a request of this moment belongs into it.
    return {**asked, "from": span.start_s, "to": None if span.running else span.end_s}


def bars(served: dict[str, Any], refused: dict[str, Any], end_s: int) -> list[Bar]:
    """Two courses of the REST API over the same steps, on top of each other."""
    starts = [bucket["start_s"] for bucket in served["buckets"]]
    counts = [answer["series"][0]["values"] if answer["series"] else [0] * len(starts) for answer in (served, refused)]
    most = max((sum(pair) for pair in zip(*counts, strict=True)), default=0)
    ends = [*starts[1:], max(end_s, starts[-1] + 1)] if starts else []

    def part(count: int) -> float:
        return round(100 * count / most, 2) if most else 0.0

    return [
        Bar(start, end, requests, denied, part(requests), part(denied))
        for start, end, requests, denied in zip(starts, ends, *counts, strict=True)
    ]


def chips(view: View) -> list[Chip]:
    """Filters in force; owners by their names."""
    names = {(crumb.parameter, crumb.id): crumb.name for crumb in view.scope}
    found = []
    carried = {*CARRIED, *OWN}
    for name in dict.fromkeys(view.query):
        if name in carried or name not in NAMES:
            continue
        values = [value for value in view.query.getall(name) if value]
        for value in values:
            left = [(key, kept) for key, kept in view.query.items() if (key, kept) != (name, value)]
            text = WORDS.get(name, f"{name}: ") + names.get((name, value), value)
            found.append(Chip(text, _with(view.page_path, left)))
    return found


def _with(path: str, items: list[tuple[str, str]]) -> str:
    text = urlencode([(name, value) for name, value in items if name not in ("cursor", "request")])
    return f"{path}?{text}" if text else path


def question(view: View) -> dict[str, Any]:
    return {
        **filters(view),
        "sort_by": view.query.get("sort_by"),
        "order": view.query.get("order"),
        "cursor": view.query.get("cursor"),
    }


def shown_so_far(view: View) -> int:
    """Rows that stand above the ones that are asked for."""
    text = view.query.get("shown", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def csv_link(view: View) -> str:
    """What the page shows, as a file of the REST API."""
    asked = {name: value for name, value in question(view).items() if name != "cursor"}
    asked |= {"format": "csv", "limit": CSV_ROWS}
    return f"/api/logs?{urlencode({name: value for name, value in asked.items() if value is not None}, doseq=True)}"


def routes(_desk: Desk, frame: Frame) -> list[Route]:
    async def page(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        filters(view)
        return frame.shell(
            view, "logs", "logs.html", "Logs", chips=chips(view), columns=COLUMNS, outcomes=OUTCOMES,
            billings=BILLINGS, request_id=request.query.get("request", ""), csv=csv_link(view), form=FORM,
            ranges=RANGES, in_form=IN_FORM, field_words=FIELD_WORDS, offered=OFFERED,
            in_force=sum(bool(view.query.get(name)) for name in IN_FORM),
        )  # fmt: skip

    async def summary(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        span, asked = view.span, filters(view)
        asked["to"] = span.whole_end_s if span.running and span.name == "today" else span.end_s
        zone = ZoneInfo(view.timezone)

        def moment(at_s: int) -> str:
            at = datetime.fromtimestamp(at_s, zone)
            return f"{at.day} {at:%b, %H:%M}" if hourly else f"{at:%a} {at.day} {at:%b}"

        hourly = asked["to"] - span.start_s <= STRIP_HOURS * 3600
        compared: dict[str, Any] = {}
        if view.compare:
            compared = {"previous_from": span.before_start_s, "previous_to": span.before_end_s}
        course = {**asked, "interval": "hour" if hourly else "day", "timezone": view.timezone}
        stats, served, refused = await asyncio.gather(
            view.api.get("/api/logs/stats", {**asked, **compared, "latency": "false"}),
            view.api.get("/api/logs/histogram", {**course, "metric": "requests"}),
            view.api.get("/api/logs/histogram", {**course, "metric": "refused"}),
        )
        return frame.fragment(
            view, "parts/log_summary.html", stats=stats["stats"], before=stats["previous"], hourly=hourly,
            bars=bars(served, refused, asked["to"]), moment=moment,
        )  # fmt: skip

    async def known(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        asked = {**view.within(), "dimension": ",".join(OFFERED), "limit": CHOICES}
        answer = await view.api.get("/api/logs/filterdata", asked)
        return frame.fragment(view, "parts/log_known.html", known=answer["filters"])

    async def rows(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        answer = await view.api.get("/api/logs", {**question(view), "limit": ROWS})
        records = records_of(answer)
        return frame.fragment(
            view, "parts/log_rows.html", records=records, cursor=answer.get("next_cursor"), columns=COLUMNS,
            shown=shown_so_far(view) + len(records), most=MOST_ROWS,
            looked_back_to=answer.get("looked_back_to"), first=not request.query.get("cursor"),
            filtered=bool(chips(view) or view.scope), notice=answer.get("notice"),
        )  # fmt: skip

    async def one(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        answer = await view.api.get(f"/api/logs/{request.match_info['id']}")
        return frame.fragment(view, "parts/log_one.html", record=Record.of_answer(answer))

    return [
        Route("GET", "/logs", page, "logs_page", "Logs."),
        Route("GET", "/fragments/logs/rows", rows, "log_rows", "A page of requests."),
        Route("GET", "/fragments/logs/summary", summary, "log_summary", "Requests over time, and their sums."),
        Route("GET", "/fragments/logs/known", known, "log_known", "Known values of filters."),
        Route("GET", "/fragments/logs/{id}", one, "log_one", "One request."),
    ]
