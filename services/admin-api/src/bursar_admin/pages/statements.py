"""``/finance``: what each team is charged in a month; ``/finance/statements/...``: one team's, to be printed."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from bursar_admin.closing import read_month
from bursar_admin.desk import Desk
from bursar_admin.pages.frame import Frame, View
from bursar_admin.routes import Route
from bursar_admin.statements import KINDS
from bursar_common.finance import month_bounds_ms, month_of_ms

MONTHS_SHOWN = 12
"""Months to choose from, the running one first."""
ACTIVE = "budgets"
"""The entry of the rail that money belongs to: budgets, statements, allocations."""
TABS = (("budgets", "/budgets", "Budgets"), ("statements", "/finance", "Statements"),
        ("allocations", "/finance/allocations", "Allocations"))  # fmt: skip


def months_back(now_ms: int) -> list[str]:
    """The running month and those before it."""
    found = [month_of_ms(now_ms)]
    while len(found) < MONTHS_SHOWN:
        found.append(month_of_ms(month_bounds_ms(found[-1])[0] - 1))
    return found


def tabs(view: View) -> list[tuple[str, str, str, int | None]]:
    return [(slug, word, view.href(path), None) for slug, path, word in TABS]


def routes(desk: Desk, frame: Frame) -> list[Route]:
    async def finance(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        now_ms = desk.clock.now_ms()
        months = months_back(now_ms)
        month = read_month(view.query.get("month") or months[0], now_ms)
        return frame.shell(
            view, ACTIVE, "finance.html", "Statements", tabs=tabs(view), month=month, months=months,
            whole=f"/fragments/finance/{month}",
        )  # fmt: skip

    async def sums(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        now_ms = desk.clock.now_ms()
        month = read_month(request.match_info["month"], now_ms)
        answer = await view.api.get("/api/finance/statements", {"month": month})
        closes = {close["month"]: close for close in (await view.api.get("/api/finance/closes"))["closes"]}
        teams = answer["teams"]
        return frame.fragment(
            view, "parts/finance_month.html", month=month, state=answer["state"], teams=teams,
            billed=sum(team["billed_nusd"] for team in teams), listed=sum(team["list_nusd"] for team in teams),
            requests=sum(team["requests"] for team in teams), close=closes.get(month),
            over=now_ms >= month_bounds_ms(month)[1],
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
        Route("GET", "/fragments/finance/{month}", sums, "finance_month", "What each team is charged in it."),
        Route("GET", "/finance/statements/{team}/{month}", statement, "statement_page", "One team's statement."),
    ]
