"""``/budgets``: every owner as a tree, with what is spent, held and allowed; limits are changed in place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from bursar_admin.budget_totals import standing
from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal, bad_field, not_found
from bursar_admin.pages.api import everything
from bursar_admin.pages.forecast import Forecast, forecast
from bursar_admin.pages.frame import Frame, View
from bursar_admin.pages.money_tabs import ACTIVE, tabs
from bursar_admin.pages.numbers import window_words
from bursar_admin.routes import Route

KINDS = {"customer": "customers", "team": "teams", "virtual_key": "virtual-keys"}
WORDS = {"customer": "Customer", "team": "Team", "virtual_key": "Key"}
ATTENTION = "attention"
"""Value of ``show`` in the URL: only budgets that are spent, nearly so or going to be."""
OWNERS_SHOWN = 100
"""Customers and teams of one page of the tree: what a browser lays out at once, and again when figures change. Where
there are more, teams come when their customer is opened."""
KEYS_SHOWN = 100
"""Keys of one owner that are shown at once; the rest is asked for."""


@dataclass
class Line:
    """One budget, ready to be shown. Money in nano-dollars, None where the ledger did not say."""

    budget: dict[str, Any]
    index: int
    spent: int | None
    held: int | None
    limit: int
    forecast: Forecast
    pace_nusd: int | None = None
    """Spent so far by the time passed: an hour's in windows up to a day, else a day's. None: unknown, or too early."""
    pace_unit: str = "day"
    pace_nusd_per_s: int | None = None
    """The same a second, rounded down: for the form's preview."""
    via: str = ""
    """The provider whose config of a key it belongs to."""
    siblings: tuple[str, ...] = ()
    """Ids of all budgets of the owner, or of the key's config: what stands in a change keeps what it does not say."""

    def part(self, nusd: int | None) -> float:
        """Per cent of the limit, 0 to 100."""
        if not nusd or nusd < 0:
            return 0.0
        return 100.0 if self.limit <= 0 else min(100.0, 100 * nusd / self.limit)

    @property
    def state(self) -> str:
        """``over``, ``near`` or empty."""
        if self.spent is None:
            return ""
        found = standing(self.spent, self.limit, soon=False)
        return found if found in ("over", "near") else ""

    @property
    def window(self) -> str:
        """``a month``, ``every 90 minutes``."""
        return window_words(self.budget["reset_duration"])


@dataclass
class Owner:
    """A node of the tree."""

    kind: str
    id: str
    name: str
    version: int
    lines: list[Line]
    rate_limit: dict[str, Any] | None = None
    children: list[Owner] = field(default_factory=list)
    keys: int = 0
    """Virtual keys right below it, shown when it is opened."""
    teams: int = 0
    """Teams below a customer that are shown when it is opened; 0 where they are ``children``."""
    inactive: bool = False
    providers: tuple[str, ...] = ()
    """Of a key with a list of providers, in order."""

    def within(self, line: Line) -> str:
        """Where the line's budgets stand in a body that changes the owner: empty, or ``provider_configs[1].``."""
        return f"provider_configs[{self.providers.index(line.via)}]." if line.via else ""

    @property
    def word(self) -> str:
        return WORDS[self.kind]


def whole_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def line(budget: dict[str, Any], index: int, now_s: int, via: str = "") -> Line:
    spent, limit = budget["spent_nusd"], budget["limit_nusd"]
    start_s, end_s = seconds(budget["window_start"]), seconds(budget["window_end"])
    found = forecast(spent, limit, start_s, end_s, now_s)
    unit_s, unit = (3600, "hour") if end_s - start_s <= 86_400 else (86_400, "day")
    known = spent is not None and found.end_nusd is not None and now_s > start_s
    passed_s = max(1, min(now_s - start_s, end_s - start_s))
    return Line(
        budget=budget,
        index=index,
        spent=spent,
        held=budget["held_nusd"],
        limit=limit,
        forecast=found,
        pace_nusd=spent * unit_s // passed_s if known else None,
        pace_unit=unit,
        pace_nusd_per_s=spent // passed_s if known else None,
        via=via,
    )


def owner(kind: str, entity: dict[str, Any], now_s: int) -> Owner:
    return Owner(
        kind,
        entity["id"],
        entity["name"],
        entity["version"],
        lines_of(entity, now_s),
        entity["rate_limit"],
        inactive=not entity.get("is_active", True),
        providers=tuple(config["provider"] for config in entity.get("provider_configs") or ()),
    )


def lines_of(entity: dict[str, Any], now_s: int) -> list[Line]:
    """An owner's budgets, and of a key those of its provider configs."""
    found = []
    configs = [(config["provider"], config) for config in entity.get("provider_configs") or ()]
    for via, holder in [("", entity), *configs]:
        budgets = holder.get("budgets", ())
        siblings = tuple(budget["id"] for budget in budgets)
        for index, budget in enumerate(budgets):
            found.append(replace(line(budget, index, now_s, via), siblings=siblings))
    return found


def tree(
    customers: Iterable[Owner], teams: Iterable[tuple[Owner, str | None]], keys_below: dict[str, int]
) -> list[Owner]:
    """Teams below their customers, both by name; an owner knows how many keys are right below it."""
    by_id = {each.id: each for each in customers}
    top = list(by_id.values())
    for team, customer_id in teams:
        parent = by_id.get(customer_id or "")
        (parent.children if parent is not None else top).append(team)
    for each in [*top, *(child for parent in top for child in parent.children)]:
        each.keys = keys_below.get(each.id, 0)
        each.children.sort(key=lambda child: child.name.casefold())
    top.sort(key=lambda each: (each.kind != "customer", each.name.casefold()))
    return top


def marks(owners: list[Owner]) -> dict[str, int]:
    """How many budgets are in which state."""
    lines = [line for each in owners for one in (each, *each.children) for line in one.lines]
    return {
        "budgets": len(lines),
        "over": sum(line.state == "over" for line in lines),
        "near": sum(line.state == "near" for line in lines),
        "soon": sum(not line.state and line.forecast.spent_by_s is not None for line in lines),
    }


def _question(owner: Owner, line: Line) -> str:
    """What a preview of the budget asks for, the limit apart, as JSON; empty where there is none: a provider's share of
    a key is not told apart."""
    if line.via:
        return ""
    asked = {
        "kind": owner.kind,
        "id": owner.id,
        "reset_duration": line.budget["reset_duration"],
        "calendar_aligned": "true" if line.budget["calendar_aligned"] else "false",
    }
    return msgspec.json.encode(asked).decode()


def _keys_below(view: View) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key in view.desk.projection.virtual_keys.values():
        above = key.team_id or key.customer_id
        counts[above] = counts.get(above, 0) + 1
    return counts


def _colours(view: View) -> dict[str, dict[str, int]]:
    return {kind: view.colours_of("key" if kind == "virtual_key" else kind) for kind in KINDS}


def routes(_desk: Desk, frame: Frame) -> list[Route]:
    async def page(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        if view.query.get("show", ATTENTION) != ATTENTION:
            raise bad_field("show", "is not a choice of budgets", view.query["show"][:100], ATTENTION)
        return frame.shell(view, ACTIVE, "budgets.html", "Budgets", tabs=tabs(view))

    async def owners(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        chosen = view.scope[-1] if view.scope else None
        offset = whole_number(view.query.get("offset", ""))
        if chosen is not None and chosen.parameter in ("user", "key"):
            keys = await _keys(view, chosen.parameter, chosen.id)
            return shown(view, keys, counts=marks(keys))
        if chosen is not None:
            found = await _one(view, chosen.parameter, chosen.id)
            return shown(view, found, counts=marks(found))
        if view.query.get("show") == ATTENTION:
            return await _attentive(view, offset)
        projection, below = view.desk.projection, _keys_below(view)
        customers = len(projection.customers)
        loose = sum(not each.customer_id for each in projection.teams.values())
        if customers + len(projection.teams) <= OWNERS_SHOWN:
            listed, teams = await asyncio.gather(
                everything(view.api, "/api/governance/customers", "customers"),
                everything(view.api, "/api/governance/teams", "teams"),
            )
            found = tree(
                [owner("customer", each, view.now_s) for each in listed],
                [(owner("team", each, view.now_s), each["customer_id"]) for each in teams],
                below,
            )
            return shown(view, found, loose=below.get("", 0), counts=marks(found))
        page = {"sort_by": "name", "limit": OWNERS_SHOWN, "offset": offset}
        answer = await view.api.get("/api/governance/customers", page)
        found = [owner("customer", each, view.now_s) for each in answer["customers"]]
        for each in found:
            each.keys, each.teams = below.get(each.id, 0), len(projection.children(each.id, "team"))
        last = offset + OWNERS_SHOWN >= customers
        return shown(
            view, found, loose=below.get("", 0) if last else 0, loose_teams=loose if last else 0, offset=offset,
            total=customers,
        )  # fmt: skip

    def shown(
        view: View,
        owners: list[Owner],
        *,
        loose: int = 0,
        loose_teams: int = 0,
        counts: dict[str, int] | None = None,
        only: bool = False,
        offset: int = 0,
        total: int = 0,
    ) -> web.Response:
        """``counts`` None: they are of so many budgets that they are asked for apart."""
        return frame.fragment(
            view, "parts/budget_tree.html", owners=owners, loose=loose, loose_teams=loose_teams, only=only,
            offset=offset, total=total, page=OWNERS_SHOWN, marks=counts, colours=_colours(view),
            nobody=not owners and not loose and not loose_teams and not offset and not only,
        )  # fmt: skip

    async def _attentive(view: View, offset: int) -> web.Response:
        asked = {"limit": OWNERS_SHOWN, "offset": offset}
        answer = await view.api.get("/api/governance/budget-attention", asked)
        found: list[Owner] = []
        for each in answer["owners"]:
            one = owner(each["kind"], each["owner"], view.now_s)
            above = each["owner"].get("customer_id")
            if each["kind"] == "team" and above:
                if not found or found[-1].id != above:
                    found += await _one(view, "customer", above, alone=True)
                found[-1].children.append(one)
            else:
                found.append(one)
        return shown(view, found, counts=answer, only=True, offset=offset, total=answer["total_count"])

    async def _one(view: View, parameter: str, owner_id: str, *, alone: bool = False) -> list[Owner]:
        """A customer or team; with what is below it, unless ``alone``. Empty where it is gone."""
        try:
            answer = await view.api.get(f"/api/governance/{KINDS[parameter]}/{owner_id}")
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            return []
        one = owner(parameter, answer[parameter], view.now_s)
        if alone:
            return [one]
        below = _keys_below(view)
        one.keys = below.get(owner_id, 0)
        if parameter == "customer":
            page = {"customer_id": owner_id, "sort_by": "name", "limit": OWNERS_SHOWN}
            listed = await view.api.get("/api/governance/teams", page)
            if listed["total_count"] <= OWNERS_SHOWN:
                one.children = [owner("team", each, view.now_s) for each in listed["teams"]]
                for each in one.children:
                    each.keys = below.get(each.id, 0)
            else:
                one.teams = listed["total_count"]
        return [one]

    async def teams(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        customer_id, offset = request.match_info["id"].removeprefix("-"), whole_number(view.query.get("below", ""))
        page = {"customer_id": customer_id, "sort_by": "name", "limit": OWNERS_SHOWN, "offset": offset}
        answer = await view.api.get("/api/governance/teams", page)
        found = [owner("team", each, view.now_s) for each in answer["teams"]]
        below = _keys_below(view)
        for each in found:
            each.keys = below.get(each.id, 0)
        return frame.fragment(
            view, "parts/budget_teams.html", owners=found, customer_id=customer_id, total=answer["total_count"],
            after=offset + len(found), colours=_colours(view),
        )  # fmt: skip

    async def counted(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        answer = await view.api.get("/api/governance/budget-attention", {"limit": 1})
        return frame.fragment(view, "parts/budget_marks.html", marks=answer)

    async def _keys(view: View, parameter: str, owner_id: str) -> list[Owner]:
        if parameter == "key":
            answer = await view.api.get(f"/api/governance/virtual-keys/{owner_id}")
            return [owner("virtual_key", answer["virtual_key"], view.now_s)]
        query = {f"{parameter}_id": owner_id, "limit": KEYS_SHOWN}
        answer = await view.api.get("/api/governance/virtual-keys", query)
        found = answer["virtual_keys"]
        if parameter == "customer":
            found = [each for each in found if not each["team_id"]]
        return [owner("virtual_key", each, view.now_s) for each in found]

    async def keys(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        kind, owner_id = request.match_info["kind"], request.match_info["id"].removeprefix("-")
        if kind not in ("customer", "team"):
            raise not_found("owner", kind)
        found = await _keys(view, kind, owner_id)
        return frame.fragment(
            view, "parts/budget_keys.html", owners=found, shown=KEYS_SHOWN, colours=_colours(view)
        )  # fmt: skip

    async def edit(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        kind, owner_id, budget_id = (request.match_info[name] for name in ("kind", "id", "budget"))
        if kind not in KINDS:
            raise not_found("kind of owner", kind)
        path = f"/api/governance/{KINDS[kind]}/{owner_id}"
        found = owner(kind, (await view.api.get(path))[kind], view.now_s)
        chosen = [each for each in found.lines if each.budget["id"] == budget_id]
        if not chosen:
            raise not_found("budget", budget_id)
        return frame.fragment(
            view, "parts/budget_form.html", owner=found, line=chosen[0], path=path, question=_question(found, chosen[0])
        )

    return [
        Route("GET", "/budgets", page, "budgets_page", "Budgets."),
        Route("GET", "/fragments/budgets/tree", owners, "budget_tree", "Every owner's budgets."),
        Route("GET", "/fragments/budgets/marks", counted, "budget_marks", "How many budgets want attention."),
        Route("GET", "/fragments/budgets/customer/{id}/teams", teams, "budget_teams", "The teams of a customer."),
        Route("GET", "/fragments/budgets/{kind}/{id}/keys", keys, "budget_keys", "The keys below an owner."),
        Route("GET", "/fragments/budgets/{kind}/{id}/{budget}", edit, "budget_form", "The form of one budget."),
    ]
