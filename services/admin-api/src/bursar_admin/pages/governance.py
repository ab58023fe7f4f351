"""``/governance``: customers, teams, users, keys and providers, listed, made, changed and deleted; the price book."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from aiohttp import web

from bursar_admin.closing import in_the_way
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field, not_found
from bursar_admin.pages.api import everything
from bursar_admin.pages.budgets import Line, lines_of, whole_number
from bursar_admin.pages.frame import CARRIED, SORTED, Frame, View
from bursar_admin.projection import provider_key
from bursar_admin.routes import Route
from bursar_common.finance import ALLOCATION
from bursar_common.keys import KEY_PREFIX

PAGE = 50
CHOICES = 500
"""Owners offered in a choice of a form; the one that is chosen is always among them."""
LISTED_BELOW = 20
"""Keys or people named on their owner's page; the list has all of them."""
EXAMPLE_MODEL = "claude-haiku-4-5"
PLACEHOLDER_URL = "https://gateway.example.com"
WINDOWS = ("1h", "1d", "1w", "1M", "1Q", "1Y")


@dataclass(frozen=True)
class Kind:
    """One kind of entity as pages have it."""

    slug: str
    entity: str
    """Of the projection, and the member of answers."""
    api: str
    word: str
    plural: str
    lead: str
    columns: tuple[tuple[str, str, str], ...]
    """(word, what to sort by or empty, kind: see parts/sorted_head.html)"""
    scopes: Mapping[str, str] = field(default_factory=dict)
    """Scope of the page to the REST API's filter."""

    @property
    def path(self) -> str:
        return f"/governance/{self.slug}"


_NAME, _MADE, _BUDGET = ("Name", "name", "text"), ("Created", "created_at", "time"), ("Budget", "budget", "time")
_KEYS, _TEAM = ("Keys", "keys", "number"), ("Team", "team", "text")
KINDS = {
    kind.slug: kind
    for kind in (
        Kind(
            "customers", "customer", "/api/governance/customers", "customer", "Customers",
            "A company, or a part of one, that is billed on its own. Its budget holds for all its teams and keys.",
            (_NAME, _BUDGET, ("Teams", "teams", "number"), _KEYS, ("Time zone", "timezone", "text"), _MADE),
        ),
        Kind(
            "teams", "team", "/api/governance/teams", "team", "Teams",
            "People who share a budget. A team belongs to a customer, or stands alone.",
            (_NAME, ("Customer", "customer", "text"), _BUDGET, _KEYS, ("People", "users", "number"), _MADE),
            {"customer": "customer_id"},
        ),
        Kind(
            "users", "user", "/api/governance/users", "user", "Users",
            "People. Events of requests carry their id only; the name is here, and can be forgotten.",
            (_NAME, ("E-mail", "email", "text"), _TEAM, _KEYS, _MADE), {"team": "team_id"},
        ),
        Kind(
            "keys", "virtual_key", "/api/governance/virtual-keys", "virtual key", "Keys",
            "What a developer's Claude Code presents. Shown once, stored as a keyed hash, never sent to a provider.",
            (
                _NAME, ("State", "state", "text"), _TEAM, ("User", "user", "text"), _BUDGET,
                ("Models", "models", "text"), _MADE,
            ),
            {"customer": "customer_id", "team": "team_id", "user": "user_id"},
        ),
        Kind(
            "providers", "provider", "/api/providers", "provider", "Providers",
            "Where requests go: address, credential, prices. Credentials are references; values never leave the edge.",
            (
                _NAME, ("Address", "base_url", "text"), ("Credential", "credential", "text"),
                ("Discount", "discount", "number"), ("Overrides", "price_overrides", "number"), _KEYS, _MADE,
            ),
        ),
    )
}  # fmt: skip
BLANK: dict[str, Any] = {
    "id": "", "name": "", "version": None, "budgets": [], "rate_limit": None, "customer_id": None, "team_id": None,
    "user_id": None, "timezone": "", "email": "", "description": "", "content": None, "is_active": True,
    "expires_at": None, "provider_configs": None, "base_url": "", "credential": "", "discount_percent": "0",
    "unpriced_models": "refuse", "price_overrides": [],
}  # fmt: skip
"""What the form of a new entity begins with."""
RATES = (
    ("Model", "model", "text"), ("Input", "input", "number"), ("Cache read", "cache_read", "number"),
    ("Write 5 min", "cache_write_5m", "number"), ("Write 1 h", "cache_write_1h", "number"),
    ("Output", "output", "number"), ("Searches", "web_search", "number"), ("Context", "context", "number"),
)  # fmt: skip
"""Columns of the price book."""
PLURALS = {"virtual_key": "virtual_keys"}
"""Members of the REST API's lists that are not called as the page is."""
BELOW = {"customer": ("teams", "keys"), "team": ("users", "keys"), "user": ("keys",)}
TABS = (*((kind.slug, kind.plural) for kind in KINDS.values()), ("prices", "Prices"))


@dataclass
class Row:
    """One entity of a list."""

    answer: dict[str, Any]
    lines: Sequence[Line] = ()
    """Its own budgets."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Of those it belongs to, by field."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What is below it, by kind."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.answer[name]
        except KeyError:
            raise AttributeError(name) from None


def kind_of(request: web.Request) -> Kind:
    kind = KINDS.get(request.match_info.get("kind", "teams"))
    if kind is None:
        raise not_found("page", request.match_info["kind"])
    return kind


def row_of(view: View, kind: Kind, answer: dict[str, Any]) -> Row:
    projection = view.desk.projection
    names = dict.fromkeys(("customer_id", "team_id", "user_id"), "")
    for name, entity in (("customer_id", "customer"), ("team_id", "team"), ("user_id", "user")):
        document = projection.entities(entity).get(answer.get(name) or "")
        if document is not None:
            names[name] = document.name
    parent = provider_key(answer["name"]) if kind.entity == "provider" else answer["id"]
    counts = {entity: len(projection.children(parent, entity)) for entity in ("team", "user", "virtual_key")}
    counts[ALLOCATION] = len(in_the_way(projection, answer["id"]))
    return Row(answer, lines_of(answer, view.now_s), names, counts)


def state_of(answer: dict[str, Any], now_s: int) -> tuple[str, str]:
    """(mark, word) of a key."""
    if not answer["is_active"]:
        return "warn", "inactive"
    expires = answer["expires_at"]
    if expires is None:
        return "good", "active"
    if datetime.fromisoformat(expires).timestamp() <= now_s:
        return "bad", "expired"
    return "good", "active until"


def choices(view: View, entity: str, chosen: str | None) -> list[tuple[str, str]]:
    """(id, name) for a choice, by name, the chosen one always among them."""
    documents = view.desk.projection.entities(entity)
    named = sorted(((each.id, each.name) for each in documents.values()), key=lambda each: each[1].casefold())
    shown = named[:CHOICES]
    if chosen and chosen in documents and all(each != chosen for each, _ in shown):
        shown.append((chosen, documents[chosen].name))
    return shown


def totals_of(view: View) -> dict[str, tuple[str, int]]:
    """(kind, how many there are) of those that forms choose from."""
    kinds = ("customer", "team", "user", "virtual_key")
    return {entity: (entity, len(view.desk.projection.entities(entity))) for entity in kinds}


def checked_query(view: View, *names: str) -> None:
    """Raises Refusal (400) for a parameter that nobody reads: an address must not promise more than it does."""
    allowed = {*CARRIED, SORTED, *names}
    for name in view.query:
        if name not in allowed:
            raise bad_field(name[:100], "is not a parameter of this page", None, sorted(allowed))


def in_price_order(models: list[dict[str, Any]], view: View) -> list[dict[str, Any]]:
    """Models as the address sorts them: by name, by a rate (of the price that is shown), by context. Raises Refusal."""
    by, order = view.query.get("sort_by") or "model", view.query.get("order") or "asc"
    names = [sort_by for _, sort_by, _ in RATES if sort_by]
    for name, given, allowed in (("sort_by", by, names), ("order", order, ["asc", "desc"])):
        if given not in allowed:
            raise bad_field(name, "must be one of those allowed", given[:100], allowed)
    shown = "list" if view.query.get("price") == "list" else "billed"

    def key(model: dict[str, Any]) -> Any:
        if by == "context":
            return model["context_window"]
        return model["id"] if by == "model" else Decimal(model[shown][0][by])

    return sorted(models, key=key, reverse=order == "desc")


def cents(rate: str) -> str:
    """A rate with at least two decimals: ``2.7`` as ``2.70``, ``0.0875`` as it is."""
    whole, _, decimals = rate.partition(".")
    return f"{whole}.{decimals.ljust(2, '0')}"


def routes(desk: Desk, frame: Frame) -> list[Route]:
    frame.env.filters["cents"] = cents

    def tabs(view: View) -> list[tuple[str, str, str, int | None]]:
        counts = {kind.slug: len(desk.projection.entities(kind.entity)) for kind in KINDS.values()}
        return [(slug, word, view.href(f"/governance/{slug}"), counts.get(slug)) for slug, word in TABS]

    async def listing(request: web.Request) -> web.StreamResponse:
        view, kind = frame.view(request), kind_of(request)
        checked_query(view, "text", "offset", "sort_by", "order")
        offset = whole_number(view.query.get("offset", ""))
        scope = next((crumb for crumb in reversed(view.scope) if crumb.parameter in kind.scopes), None)
        query = {
            "limit": PAGE,
            "offset": offset,
            "text": view.query.get("text") or None,
            "sort_by": view.query.get("sort_by", "name"),
            "order": view.query.get("order", "asc"),
            **({kind.scopes[scope.parameter]: scope.id} if scope is not None else {}),
        }
        answer = await view.api.get(kind.api, query)
        rows = [row_of(view, kind, each) for each in answer[PLURALS.get(kind.entity, kind.slug)]]
        return frame.shell(
            view, "governance", "governance.html", "Governance",
            kind=kind, rows=rows, tabs=tabs(view), total=answer["total_count"], offset=offset, page=PAGE, scope=scope,
            balances=answer.get("balances"), state_of=state_of,
        )  # fmt: skip

    async def new(request: web.Request) -> web.StreamResponse:
        view, kind = frame.view(request), kind_of(request)
        checked_query(view)
        parents = {f"{crumb.parameter}_id": crumb.id for crumb in view.scope if crumb.parameter != "key"}
        # A key in a team takes its customer from there.
        if parents.get("team_id"):
            parents.pop("customer_id", None)
        return await form_page(view, kind, BLANK | parents, None)

    async def one(request: web.Request) -> web.StreamResponse:
        view, kind = frame.view(request), kind_of(request)
        checked_query(view, "override")
        answer = (await view.api.get(f"{kind.api}/{quote(request.match_info['id'], safe='')}"))[kind.entity]
        return await form_page(view, kind, answer, row_of(view, kind, answer))

    async def form_page(view: View, kind: Kind, entity: dict[str, Any], row: Row | None) -> web.StreamResponse:
        installation = await view.api.get("/api/installation")
        base = installation["public_url"]
        context: dict[str, Any] = {
            "kind": kind,
            "entity": entity,
            "row": row,
            "tabs": tabs(view),
            "customers": choices(view, "customer", entity.get("customer_id")),
            "teams": choices(view, "team", entity.get("team_id")),
            "users": choices(view, "user", entity.get("user_id")),
            "totals": totals_of(view),
            "provider_choices": sorted((each.name, each.name) for each in desk.projection.providers.values()),
            "windows": WINDOWS,
            "base": base or PLACEHOLDER_URL,
            "base_known": base is not None,
            "previews": installation["analytics"],
            "example_model": EXAMPLE_MODEL,
            "key_prefix": KEY_PREFIX,
            "state_of": state_of,
            "override": None,
        }
        if row is not None:
            context |= await below(view, kind, row)
            if kind.entity == "provider":
                context |= await override(view, row)
        title = f"New {kind.word}" if row is None else entity["name"]
        return frame.shell(view, "governance", f"governance_{kind.entity}.html", title, **context)

    async def below(view: View, kind: Kind, row: Row) -> dict[str, Any]:
        """The first owners and keys that belong to it: (kind, some of them, how many there are, filter of the list)."""
        listed = []
        for slug in BELOW.get(kind.entity, ()):
            child, name = KINDS[slug], f"{kind.entity}_id"
            answer = await view.api.get(child.api, {name: row.id, "limit": LISTED_BELOW, "sort_by": "name"})
            found = answer[PLURALS.get(child.entity, slug)]
            listed.append((child, found, answer["total_count"], {kind.entity: row.id}))
        return {"below": listed}

    async def override(view: View, row: Row) -> dict[str, Any]:
        """The price that was asked for to be overridden, as the form's first values."""
        model = view.query.get("override", "")
        if not model:
            return {}
        prices = await view.api.get(f"/api/providers/{row.id}/prices")
        found = next((each for each in prices["models"] if each["id"] == model), None)
        values: dict[str, Any] = {"model": model}
        if found is not None:
            rates = found["list"][0]
            values |= {name: rate for name, rate in rates.items() if name != "over_tokens"}
        return {"override": {"model": model, "values": json.dumps(values)}}

    async def prices(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view, "provider", "text", "show", "price", "sort_by", "order")
        providers = await everything(view.api, "/api/providers", "providers", {"sort_by": "name"})
        chosen = view.query.get("provider") or (providers[0]["name"] if providers else "")
        found: dict[str, Any] | None = None
        models: list[dict[str, Any]] = []
        if chosen:
            found = await view.api.get(f"/api/providers/{quote(chosen, safe='')}/prices")
            text = view.query.get("text", "").casefold()
            only = view.query.get("show") == "overridden"
            models = [
                each
                for each in found["models"]
                if (not text or text in each["id"].casefold()) and (each["overridden"] or not only)
            ]
            models = in_price_order(models, view)
        provider = next((each for each in providers if chosen in (each["name"], each["id"])), None)
        return frame.shell(
            view, "governance", "governance_prices.html", "Governance",
            tabs=tabs(view), providers=providers, provider=provider, prices=found, models=models, columns=RATES,
        )  # fmt: skip

    return [
        Route("GET", "/governance", listing, "governance_page", "Governance."),
        Route("GET", "/governance/prices", prices, "prices_page", "The price book."),
        Route("GET", "/governance/{kind}", listing, "governance_kind_page", "Entities of one kind."),
        Route("GET", "/governance/{kind}/new", new, "governance_new_page", "The form of a new one."),
        Route("GET", "/governance/{kind}/{id}", one, "governance_one_page", "One of them."),
    ]
