"""``/api/finance/statements``: what each team is charged in a month."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from bursar_admin.closing import covering, read_month
from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal
from bursar_admin.month_books import MonthBooks
from bursar_admin.queries import books, month_pages
from bursar_admin.quota import usd
from bursar_admin.requests import MAX_OFFSET, check_query, json_answer, whole
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.exports import MONTH
from bursar_admin.routes.usage_query import choice
from bursar_admin.statements import Owner, Statement, as_csv, statement_of

PATH = "/api/finance/statements"
FORMAT = Parameter("format", "Of the answer.", {"type": "string", "enum": ["json", "csv"], "default": "json"})


def paging(sorts: Iterable[str], most: int, first: str) -> tuple[Parameter, ...]:
    """Parameters of a list of a month; without them it is whole, up to ``most`` rows."""
    names = list(sorts)
    return (
        Parameter("limit", "Rows of one page.", {"type": "integer", "minimum": 1, "maximum": most, "default": most}),
        Parameter("offset", "Rows to skip.", {"type": "integer", "minimum": 0, "default": 0}),
        Parameter("sort_by", "What to sort by.", {"type": "string", "enum": names, "default": first}),
        Parameter("order", "Direction.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    )


def asked_page(query: dict[str, str], sorts: Iterable[str], most: int, first: str) -> tuple[str, str, int, int]:
    """(sort_by, order, limit, offset). Raises Refusal (400)."""
    return (
        choice(query, "sort_by", tuple(sorts), first),
        choice(query, "order", ("asc", "desc"), "desc"),
        whole(query, "limit", most, 1, most),
        whole(query, "offset", 0, 0, MAX_OFFSET),
    )


TEAMS = (MONTH, *paging(month_pages.TEAM_SORTS, books.MAX_LINES, "billed"))


class TeamSum(TypedDict):
    team_id: str
    team: str
    requests: int
    billed_nusd: int
    billed_usd: str | None
    list_nusd: int
    list_usd: str | None


class TeamSums(TypedDict):
    month: str
    state: str
    teams: list[TeamSum]
    count: int
    total_count: int
    limit: int
    offset: int
    requests: Annotated[int, Field(description="Of all teams, on whichever page; as are the sums beside it.")]
    billed_nusd: int
    billed_usd: str | None
    list_nusd: int
    list_usd: str | None


class Statements:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.books = MonthBooks(desk)

    def routes(self) -> list[Route]:
        return [
            Route("GET", PATH, self.sums, "list_statements", "What each team is charged in a month, dearest first "
                  "unless told otherwise.", TeamSums, query=TEAMS, asks_analytics=True),
            Route("GET", f"{PATH}/{{team}}/{{month}}", self.get, "get_statement",
                  "A team's statement of a month, and the log positions, price books and checksum it was made from.",
                  Statement, media=("text/csv",), query=(FORMAT,), asks_analytics=True),
        ]  # fmt: skip

    async def sums(self, request: web.Request) -> web.Response:
        query = check_query(request, TEAMS)
        month = read_month(query.get("month"), self.desk.clock.now_ms())
        sort_by, order, limit, offset = asked_page(query, month_pages.TEAM_SORTS, books.MAX_LINES, "billed")
        await self.books.check_known()
        rows = await self.desk.analytics.rows(*month_pages.teams(month, sort_by, order, limit, offset))
        (totals,) = await self.desk.analytics.rows(*month_pages.team_totals(month))
        answer = {
            "month": month,
            "state": "closed" if covering(self.desk.projection, month) is not None else "open",
            "teams": [in_dollars(row, "billed", "list") for row in rows],
            "count": len(rows),
            "limit": limit,
            "offset": offset,
            **in_dollars(totals, "billed", "list"),
        }
        return json_answer(answer)

    async def get(self, request: web.Request) -> web.Response:
        query = check_query(request, (FORMAT,))
        output = choice(query, "format", ("json", "csv"), "json")
        month = read_month(request.match_info["month"], self.desk.clock.now_ms())
        team = self._team(request.match_info["team"])
        made_from = await self.books.provenance(month)
        rows = await self.desk.analytics.rows(*books.statement(team["id"], month))
        if len(rows) > books.MAX_LINES:
            message = f"The statement has more than {books.MAX_LINES} lines; ask bursar.booked_monthly in ClickHouse."
            raise Refusal(400, "invalid_request_error", message)
        known = self.desk.projection.teams.get(team["id"])
        if known is None and not rows:
            raise Refusal(404, "not_found_error", f"There is no team {team['name']!r}, and nothing is booked on it.")
        statement = statement_of(*self._names(team, rows), made_from, rows)
        if output == "json":
            return json_answer(statement)
        name = f"bursar-statement-{team['id']}-{month}.csv"
        return web.Response(
            text=as_csv(statement),
            content_type="text/csv",
            charset="utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def _team(self, key: str) -> Owner:
        """A team by id or by its name, where one team has it; teams that were deleted are known by id."""
        teams = self.desk.projection.teams
        named = [team for team in teams.values() if team.name == key]
        team = teams.get(key) or (named[0] if len(named) == 1 else None)
        if team is None and (not key.isascii() or not key.isprintable() or len(key) > 64 or '"' in key):
            raise Refusal(404, "not_found_error", "There is no team of that id or name.")
        return {"id": team.id, "name": team.name} if team is not None else {"id": key, "name": key}

    def _names(self, team: Owner, rows: list[dict[str, Any]]) -> tuple[Owner, Owner | None]:
        """Names as of then: those on record, else those of today."""
        document = self.desk.projection.teams.get(team["id"])
        customer = self.desk.projection.customers.get(document.customer_id) if document is not None else None
        first: dict[str, Any] = max(rows, key=lambda row: (row["team"] != "", row["of_month"]), default={})
        owner: Owner = {"id": team["id"], "name": first.get("team") or team["name"]}
        if first.get("customer_id"):
            return owner, {"id": first["customer_id"], "name": first["customer"]}
        return owner, {"id": customer.id, "name": customer.name} if customer is not None else None


def in_dollars(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """A row with ``..._usd`` beside each ``..._nusd``."""
    return row | {f"{name}_usd": usd(row[f"{name}_nusd"]) for name in names}


def routes(desk: Desk) -> list[Route]:
    return Statements(desk).routes()
