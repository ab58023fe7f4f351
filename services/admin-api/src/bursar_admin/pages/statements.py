"""``/finance``: what each team is charged in a month, what was corrected in it, which months are closed;
``/finance/statements/...``: one team's statement, to be printed."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from aiohttp import web

from bursar_admin.closing import read_month
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.pages.budgets import whole_number
from bursar_admin.pages.events import ACTOR_WORDS
from bursar_admin.pages.frame import Frame, View
from bursar_admin.pages.governance import checked_query
from bursar_admin.pages.money_tabs import ACTIVE, tabs
from bursar_admin.routes import Route
from bursar_admin.statements import KINDS
from bursar_common.finance import month_bounds_ms, month_of_ms

MONTHS_SHOWN = 12
"""Months to choose from, the running one first."""
PAGE = 50
ORDER = ("month", "sort_by", "order", "offset")
TEAMS = (
    ("Team", "team", "text"), ("Share", "", "text"), ("Requests", "requests", "number"), ("List", "list", "number"),
    ("Billed", "billed", "number"),
)  # fmt: skip
CORRECTIONS = (
    ("Request", "request_id", "time"), ("Of month", "of_month", "time"), ("Team", "team", "text"),
    ("Key", "key", "text"), ("Why", "", "text"), ("Who", "", "text"), ("When", "", "time"), ("List", "list", "number"),
    ("Billed", "cost", "number"),
)  # fmt: skip
CLOSES = (
    ("Month", "month", "time"), ("Closed", "closed_at", "time"), ("By", "closed_by", "text"),
    ("Requests", "requests", "number"), ("Corrections", "corrections_nusd", "number"),
    ("Fees, commitments", "allocated_nusd", "number"), ("Billed", "billed_nusd", "number"), ("Checksum", "", "text"),
)  # fmt: skip


def months_back(now_ms: int) -> list[str]:
    """The running month and those before it."""
    found = [month_of_ms(now_ms)]
    while len(found) < MONTHS_SHOWN:
        found.append(month_of_ms(month_bounds_ms(found[-1])[0] - 1))
    return found


def in_close_order(closes: list[dict[str, Any]], view: View) -> list[dict[str, Any]]:
    """Closed months as the address sorts them, the latest first where it says nothing. Raises Refusal (400)."""
    by, order = view.query.get("sort_by") or "month", view.query.get("order") or "desc"
    names = [sort_by for _, sort_by, _ in CLOSES if sort_by]
    for name, given, allowed in (("sort_by", by, names), ("order", order, ["asc", "desc"])):
        if given not in allowed:
            raise bad_field(name, "must be one of those allowed", given[:100], allowed)
    return sorted(closes, key=lambda close: (close[by], close["month"]), reverse=order == "desc")


def routes(desk: Desk, frame: Frame) -> list[Route]:
    def month_page(view: View, path: str, current: str, title: str, lead: str) -> web.Response:
        """A page of one month, whose figures come as a fragment of the same query."""
        checked_query(view, *ORDER)
        now_ms = desk.clock.now_ms()
        months = months_back(now_ms)
        month = read_month(view.query.get("month") or months[0], now_ms)
        whole_number(view.query.get("offset", ""))
        return frame.shell(
            view, ACTIVE, "finance.html", title, tabs=tabs(view), month=month, months=months, path=path,
            current=current, lead=lead, whole=view.part(f"{path[1:]}/{month}"),
        )  # fmt: skip

    def asked(request: web.Request) -> tuple[View, str, dict[str, Any]]:
        """The view, the month, and what the REST API is asked for a page of it."""
        view = frame.view(request)
        month = read_month(request.match_info["month"], desk.clock.now_ms())
        query = {name: view.query.get(name) or None for name in ("sort_by", "order")}
        offset = whole_number(view.query.get("offset", ""))
        return view, month, {"month": month, "limit": PAGE, "offset": offset, **query}

    async def finance(request: web.Request) -> web.StreamResponse:
        lead = (
            "What each team is charged in a month of UTC: requests, shared keys divided, fees and commitments. "
            "A team's statement prints on a page."
        )
        return month_page(frame.view(request), "/finance", "statements", "Statements", lead)

    async def corrected(request: web.Request) -> web.StreamResponse:
        lead = (
            "What was added to the cost of single requests after the fact, and taken off it, booked in this month. "
            "A request of a closed month is corrected in the next open one."
        )
        return month_page(frame.view(request), "/finance/corrections", "corrections", "Corrections", lead)

    async def sums(request: web.Request) -> web.StreamResponse:
        view, month, query = asked(request)
        answer, corrections, closed = await asyncio.gather(
            view.api.get("/api/finance/statements", query),
            view.api.get("/api/finance/corrections", {"month": month, "limit": 1}),
            view.api.get("/api/finance/closes"),
        )
        closes = {close["month"]: close for close in closed["closes"]}
        return frame.fragment(
            view, "parts/finance_month.html", month=month, answer=answer, close=closes.get(month), columns=TEAMS,
            corrections=corrections, over=desk.clock.now_ms() >= month_bounds_ms(month)[1], page=PAGE,
        )  # fmt: skip

    async def corrections(request: web.Request) -> web.StreamResponse:
        view, month, query = asked(request)
        answer = await view.api.get("/api/finance/corrections", query)
        return frame.fragment(
            view, "parts/finance_corrections.html", month=month, answer=answer, columns=CORRECTIONS, page=PAGE,
            actors=ACTOR_WORDS,
        )  # fmt: skip

    async def closed(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view, "sort_by", "order")
        answer = await view.api.get("/api/finance/closes")
        closes = answer["closes"]
        return frame.shell(
            view, ACTIVE, "finance_closes.html", "Closed months", tabs=tabs(view), columns=CLOSES,
            closes=in_close_order(closes, view), actors=ACTOR_WORDS, next=answer["next_month"], notice=answer["notice"],
            running=month_of_ms(desk.clock.now_ms()), last=max((close["month"] for close in closes), default=""),
        )  # fmt: skip

    async def closing(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        month = read_month(request.match_info["month"], desk.clock.now_ms())
        query = {"month": month, "limit": 1}
        answer, corrections = await asyncio.gather(
            view.api.get("/api/finance/statements", query), view.api.get("/api/finance/corrections", query)
        )
        return frame.fragment(
            view, "parts/finance_closing.html", month=month, answer=answer, corrections=corrections,
        )  # fmt: skip

    async def statement(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        team, month = request.match_info["team"], request.match_info["month"]
        path = f"/api/finance/statements/{quote(team, safe='')}/{quote(month, safe='')}"
        answer = await view.api.get(path)
        groups = [
            (each, KINDS[each["charge_kind"]], [
                line for line in answer["lines"]
                if line["charge_kind"] == each["charge_kind"] and line["billing"] == "metered"
            ])
            for each in answer["by_kind"]
        ]  # fmt: skip
        title = f"Statement of {answer['team']['name']}, {month}"
        return frame.shell(view, ACTIVE, "statement.html", title, statement=answer, groups=groups, path=path)

    return [
        Route("GET", "/finance", finance, "finance_page", "Statements of a month."),
        Route("GET", "/finance/corrections", corrected, "corrections_page", "Corrections booked in a month."),
        Route("GET", "/finance/closes", closed, "closes_page", "Months that are closed, and the closing of one."),
        Route("GET", "/fragments/finance/{month}", sums, "finance_month", "What each team is charged in it."),
        Route(
            "GET", "/fragments/finance/corrections/{month}", corrections, "finance_corrections", "What was corrected."
        ),
        Route("GET", "/fragments/finance/closing/{month}", closing, "finance_closing", "What closing it would fix."),
        Route("GET", "/finance/statements/{team}/{month}", statement, "statement_page", "One team's statement."),
    ]
