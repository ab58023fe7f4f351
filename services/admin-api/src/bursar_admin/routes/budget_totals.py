"""``/api/governance/budget-totals``: what may be spent in a day, a week and a month, and what of it is."""

from __future__ import annotations

from typing import Annotated, Final

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from bursar_admin.answers import BalancesState
from bursar_admin.budget_totals import RULE, WINDOWS, Total, WindowName, covering, total
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.owners import find
from bursar_admin.quota import usd
from bursar_admin.representation import Figures
from bursar_admin.requests import check_query, json_answer
from bursar_admin.routes import Parameter, Route
from bursar_common.clock import rfc3339

PATH: Final = "/api/governance/budget-totals"
KINDS: Final = {"customer": "customer", "team": "team", "user": "user", "key": "virtual_key"}
QUERY: Final = tuple(Parameter(name, f"Only of this {name}, by id.") for name in KINDS)


class BudgetTotal(TypedDict):
    window: Annotated[WindowName, Field(description="Length; each budget's own window may begin at another moment.")]
    budgets: Annotated[int, Field(description="How many are added up; 0: nothing limits this owner so.")]
    observed: Annotated[int, Field(description="Of these, budgets that refuse nothing.")]
    limit_nusd: int
    limit_usd: str | None
    spent_nusd: Annotated[int | None, Field(description="By the ledger; null where it cannot be asked.")]
    spent_usd: str | None
    held_nusd: int | None
    held_usd: str | None
    resets_at: Annotated[str | None, Field(description="Null where they are not reset at one moment.")]


class BudgetTotals(TypedDict):
    totals: list[BudgetTotal]
    balances: BalancesState
    rule: str


def routes(desk: Desk) -> list[Route]:
    async def get(request: web.Request) -> web.Response:
        query = check_query(request, QUERY)
        if len(query) > 1:
            second = list(query)[1]
            raise bad_field(second, "stands beside another owner", query[second][:100], "one of them, the innermost")
        kind, owner_id = next(((KINDS[name], value) for name, value in query.items()), ("", ""))
        if kind:
            find(desk.projection, kind, owner_id)
        found = {name: covering(desk.projection, kind, owner_id, name, desk.now_s()) for name in WINDOWS}
        balances = await desk.enforcer.balances([each.counter for several in found.values() for each in several])
        figures = Figures(balances)
        answer: BudgetTotals = {
            "totals": [_answer(name, total(several, figures)) for name, several in found.items()],
            "balances": "live" if figures.known else "unavailable",
            "rule": RULE,
        }
        return json_answer(answer)

    return [
        Route(
            "GET", PATH, get, "get_budget_totals",
            "What budgets of a day, a week and a month allow an owner, or everybody, and what of that is spent.",
            BudgetTotals, query=QUERY,
        )
    ]  # fmt: skip


def _answer(window: WindowName, found: Total) -> BudgetTotal:
    return {
        "window": window,
        "budgets": found.budgets,
        "observed": found.observed,
        "limit_nusd": found.limit_nusd,
        "limit_usd": usd(found.limit_nusd),
        "spent_nusd": found.spent_nusd,
        "spent_usd": usd(found.spent_nusd),
        "held_nusd": found.held_nusd,
        "held_usd": usd(found.held_nusd),
        "resets_at": rfc3339(found.resets_at_s * 1000) if found.resets_at_s is not None else None,
    }
