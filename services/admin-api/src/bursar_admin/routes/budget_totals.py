"""``/api/governance/budget-totals``: what may be spent in a day, a week and a month, and what of it is."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from bursar_admin.answers import BalancesState
from bursar_admin.budget_totals import RULE, WINDOWS, Total, WindowName, attention, counters, covering, total
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.owners import find
from bursar_admin.quota import usd
from bursar_admin.representation import Figures
from bursar_admin.requests import PAGING, check_query, json_answer, page
from bursar_admin.routes import Parameter, Route
from bursar_common.clock import rfc3339

PATH: Final = "/api/governance/budget-totals"
ATTENTION_PATH: Final = "/api/governance/budget-attention"
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


class AttentiveOwner(TypedDict):
    kind: Literal["customer", "team"]
    owner: Annotated[dict[str, Any], Field(description="As in the list of its kind.")]


class BudgetAttention(TypedDict):
    budgets: Annotated[int, Field(description="Of all customers and teams.")]
    over: int
    near: Annotated[int, Field(description="Above 80 %.")]
    soon: Annotated[int, Field(description="Spent before the reset at the pace so far, and neither of the others.")]
    owners: list[AttentiveOwner]
    count: int
    total_count: int
    limit: int
    offset: int
    balances: BalancesState


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

    async def attentive(request: web.Request) -> web.Response:
        query = check_query(request, PAGING)
        limit, offset = page(query)
        now_s = desk.now_s()
        asked = counters(desk.projection, now_s)
        found = attention(asked, Figures(await desk.enforcer.balances(list(asked))), now_s)
        customers = desk.projection.entities("customer")

        def place(owner: tuple[str, Any]) -> tuple[bool, str, str, bool, str]:
            kind, document = owner
            above = document if kind == "customer" else customers.get(document.customer_id)
            name = "" if above is None else above.name.casefold()
            return above is None, name, "" if above is None else above.id, kind == "team", document.name.casefold()

        chosen = sorted(found.owners, key=place)[offset : offset + limit]
        answers: dict[str, dict[str, Any]] = {}
        state: BalancesState = "live"
        for kind in ("customer", "team"):
            documents = [document for each, document in chosen if each == kind]
            if documents:
                listed, state = await desk.represent(kind, documents)
                answers |= {each["id"]: each for each in listed}
        answer: BudgetAttention = {
            "budgets": found.budgets, "over": found.over, "near": found.near, "soon": found.soon,
            "owners": [
                {"kind": "customer" if kind == "customer" else "team", "owner": answers[document.id]}
                for kind, document in chosen
            ],
            "count": len(chosen), "total_count": len(found.owners), "limit": limit, "offset": offset,
            "balances": state,
        }  # fmt: skip
        return json_answer(answer)

    return [
        Route(
            "GET", ATTENTION_PATH, attentive, "list_budget_attention",
            "Customers and teams with a budget that is spent, nearly so (80 %), or will be before its reset at the "
            "pace so far: by name, teams behind their customers.", BudgetAttention, query=PAGING,
        ),
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
