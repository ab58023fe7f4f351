"""``/events``: the governance log, dead letters, how the system does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from aiohttp import web

from bursar_admin.corrected import ENTITY as REQUEST
from bursar_admin.desk import Desk
from bursar_admin.errors import not_found
from bursar_admin.pages.frame import SCOPES, Frame, View
from bursar_admin.pages.governance import checked_query
from bursar_admin.pages.numbers import money, short_id, window_words, words
from bursar_admin.routes import Route
from bursar_admin.routes.events import ACTIONS, ENTITIES

PAGE = 50
TABS = (("log", "/events", "Log"), ("dead-letters", "/events/dead-letters", "Dead letters"),
        ("system", "/events/system", "System"))  # fmt: skip
FILTERS = ("entity", "action", "actor", "outcome", "text", "id", "from", "to")
ORDER = ("sort_by", "order")
COLUMNS = (
    ("When", "time", "time"), ("What happened", "action", "text"), ("To what", "name", "text"),
    ("Changes", "", "text"), ("Who", "actor", "text"),
)  # fmt: skip
BOOK_CHARS = 12
"""Of a price book's id, by which it is told apart."""
SAID = 3
"""Changes told in one line of the log; the event's own page has all."""
FIRST_TOLD = ("team_id", "customer_id", "user_id", ".limit_nusd", ".window")
SLUGS = {"customer": "customers", "team": "teams", "user": "users", "virtual_key": "keys", "provider": "providers"}
ENTITY_WORDS = {
    "virtual_key": "key", "price_book": "price book", "dead_letter": "dead letter", "config": "settings",
    "period_close": "closed month", "content_deletion": "deletion of content", "request": "cost of request",
}  # fmt: skip
HAPPENED = {("created", "period_close"): "Closed month", ("created", "content_deletion"): "Deleted content of"}
"""What is said otherwise than as an action on a thing."""
FIELD_WORDS = {
    "limit_nusd": "limit", "max_overshoot_nusd": "overshoot", "opening_nusd": "opening balance", "is_active": "active",
    "value": "value", "expires_at_s": "expires", "team_id": "team", "customer_id": "customer", "user_id": "person",
    "default_virtual_key_id": "default key", "enforce_auth_on_inference": "enforce keys", "token_max": "token limit",
    "request_max": "request limit", "hmac": "value", "cost_nusd": "cost", "list_cost_nusd": "list cost",
}  # fmt: skip
ACTOR_WORDS = {"local": "this machine", "admin-token": "admin token", "system": "Bursar"}
READERS = {
    ("admin-api", "bursar.governance.v1"): "Pages and API behind governance",
    ("ledger", "bursar.governance.v1"): "Ledger behind governance",
    ("ledger", "bursar.usage.v1"): "Ledger behind requests",
    ("analytics", "bursar.usage.v1"): "Analytics behind requests",
}


@dataclass(frozen=True)
class Said:
    """One change in words."""

    field: str
    before: str
    after: str


def happened(action: str, entity: str) -> str:
    """``Created key``."""
    return HAPPENED.get((action, entity)) or f"{action.capitalize()} {ENTITY_WORDS.get(entity, words(entity))}"


def field_words(path: str) -> str:
    """``budgets[0].limit_nusd`` as ``budget limit``."""
    parts = []
    for part in path.split("."):
        name, _, index = part.partition("[")
        word = FIELD_WORDS.get(name) or words(name.removesuffix("_nusd").removesuffix("_s"))
        if index:
            word = f"{word.removesuffix('s')}{'' if index == '0]' else ' ' + str(int(index[:-1]) + 1)}"
        parts.append(word)
    return " ".join(parts)


def value_words(path: str, value: Any) -> str:
    """A value as people say it."""
    name = path.rpartition(".")[2]
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_nusd") and isinstance(value, int):
        return money(value)
    if name == "window" and isinstance(value, str):
        try:
            return window_words(value)
        except (ValueError, KeyError):
            return value
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return value or "empty"
    return json.dumps(value, ensure_ascii=False)


def named(view: View, path: str, value: Any) -> str:
    """As :func:`value_words`; ids of owners by their names of today."""
    entity = {
        "team_id": "team", "customer_id": "customer", "user_id": "user",
        "virtual_key_id": "virtual_key", "default_virtual_key_id": "virtual_key",
    }.get(path.rpartition(".")[2])  # fmt: skip
    if entity is not None and isinstance(value, str) and value:
        document = view.desk.projection.entities(entity).get(value)
        return document.name if document is not None else value
    return value_words(path, value)


def told(view: View, changes: list[dict[str, Any]]) -> list[Said]:
    return [
        Said(
            field_words(change["field"]),
            named(view, change["field"], change["before"]),
            named(view, change["field"], change["after"]),
        )
        for change in changes
    ]


def corrected(changes: list[dict[str, Any]]) -> list[Said]:
    """What a correction added to a request's cost, with its sign, and why."""
    found = []
    for change in changes:
        value, field = change["after"], change["field"]
        if field.endswith("_nusd"):
            found.append(Said(field_words(field), "none", f"{'+' if value > 0 else ''}{money(value)}"))
        else:
            found.append(Said("because", "none", str(value)))
    return sorted(found, key=lambda each: each.field == "because")


def owners_of(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(word, kind of entity, id) of those a corrected request was of, the innermost first; names are of then."""
    found = (("Key", "virtual_key"), ("Person", "user"), ("Team", "team"), ("Customer", "customer"))
    return [(word, entity, document[f"{entity}_id"]) for word, entity in found if document.get(f"{entity}_id")]


def short_name(event: dict[str, Any]) -> str:
    """A price book and a request have no name but an id."""
    if event["entity"] == "price_book":
        return str(event["name"])[:BOOK_CHARS]
    return short_id(event["name"]) if event["entity"] == REQUEST else str(event["name"])


def corrections_end(answer: dict[str, Any], *, in_order: bool, entity: str | None) -> str | None:
    """The time before which corrections are missing on this page of events; None: none is. In order of time it is so
    from the page on that gets there, in any other order on every page."""
    since: str | None = answer["corrections_since"]
    if since is None or entity not in (None, REQUEST):
        return None
    events = answer["events"]
    reached = answer["next_cursor"] is None or (bool(events) and events[-1]["time"] <= since)
    return since if reached or not in_order else None


def routes(desk: Desk, frame: Frame) -> list[Route]:
    def tabs(view: View) -> list[tuple[str, str, str, int | None]]:
        return [(slug, word, view.href(path), None) for slug, path, word in TABS]

    def owner_href(view: View, entity: str, entity_id: str) -> str:
        """The page of one that is still there; empty: it is not."""
        there = entity_id in desk.projection.entities(entity)
        return view.href(f"/governance/{SLUGS[entity]}/{quote(entity_id, safe='')}") if there else ""

    def entity_href(view: View, event: dict[str, Any]) -> str:
        if event["entity"] == REQUEST:
            return view.href("/logs", range=None, **{"from": None, "to": None}, request=event["entity_id"])
        if event["entity"] in SLUGS:
            return owner_href(view, event["entity"], event["entity_id"])
        return view.href("/settings") if event["entity"] == "config" else ""

    def line(view: View, event: dict[str, Any]) -> dict[str, Any]:
        changes = [] if event["action"] in ("deleted", "retried") else list(event["changes"])
        if event["action"] == "created":
            # What distinguishes it at a glance: where it belongs and what it may spend.
            changes = [each for each in changes if each["field"].endswith(FIRST_TOLD)]
        if event["entity"] == REQUEST:
            said = corrected(changes)
        else:
            said = told(view, [each for each in changes if each["field"] != "value"])
        return {
            "event": event,
            # A price book has no name but the hash of what it says.
            "name": short_name(event),
            "happened": happened(event["action"], event["entity"]),
            "actor": ACTOR_WORDS.get(event["actor"], event["actor"]),
            "href": entity_href(view, event),
            "said": said[:SAID],
            "more": max(0, event["changes_count"] - SAID) if said and event["action"] == "changed" else 0,
        }

    async def log(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view, *FILTERS, *ORDER, "cursor")
        query: dict[str, Any] = {name: view.query.get(name) or None for name in (*FILTERS, *ORDER, "cursor")}
        query |= {name: view.query.get(name) or None for name, _, _ in SCOPES}
        answer = await view.api.get("/api/events", {**query, "limit": PAGE})
        by_time = (query["sort_by"] or "time") == "time" and query["order"] != "asc"
        chips = [
            (f"{words(name)}: {view.query[name]}", view.here(**{name: None}))
            for name in FILTERS
            if view.query.get(name)
        ]
        return frame.shell(
            view, "events", "events.html", "Events",
            tabs=tabs(view), lines=[line(view, event) for event in answer["events"]], cursor=answer["next_cursor"],
            complete=answer["complete"], looked_back_to=answer["looked_back_to"], chips=chips, columns=COLUMNS,
            sorted_since=answer["sorted_since"], corrections_known=answer["corrections_known"],
            corrections_since=corrections_end(answer, in_order=by_time, entity=query["entity"]), by_time=by_time,
            entities=[(each, ENTITY_WORDS.get(each, words(each)))
            for each in ENTITIES], actions=ACTIONS, actors=tuple(ACTOR_WORDS.items()),
        )  # fmt: skip

    async def one(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view)
        event_id = request.match_info["id"]
        event = (await view.api.get(f"/api/events/{quote(event_id, safe='')}"))["event"]
        raw = {name: event[name] for name in ("id", "type", "time", "actor", "seen", "document")}
        said = line(view, event)
        correction = event["document"] if event["entity"] == REQUEST else None
        return frame.shell(
            view, "events", "event.html", f"{said['happened']} {said['name']}",
            line=said, changes=told(view, event["changes"]), correction=correction,
            owners=[(word, owner_href(view, entity, owner), named(view, f"{entity}_id", owner))
            for word, entity, owner in owners_of(correction or {})], raw=json.dumps(raw, indent=2, ensure_ascii=False),
        )  # fmt: skip

    async def letters(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view, "cursor")
        answer = await view.api.get("/api/events/dead-letters", {"limit": 20, "cursor": view.query.get("cursor")})
        return frame.shell(
            view, "events", "dead_letters.html", "Events",
            tabs=tabs(view), letters=answer["dead_letters"], total=answer["total_count"],
            waiting=answer["waiting_count"], cursor=answer["next_cursor"], actor_words=ACTOR_WORDS,
        )  # fmt: skip

    async def system(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view)
        return frame.shell(view, "events", "system.html", "Events", tabs=tabs(view))

    async def state(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        health = await view.api.get("/api/health/system")
        installation = await view.api.get("/api/installation")
        lags = [(READERS.get((lag["reader"], lag["topic"]), lag["reader"]), lag) for lag in health["lags"]]
        return frame.fragment(view, "parts/system_state.html", health=health, lags=lags, installation=installation)

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise not_found("page", request.match_info["rest"])

    return [
        Route("GET", "/events", log, "events_page", "What happened."),
        Route("GET", "/events/dead-letters", letters, "dead_letters_page", "Records that could not be read."),
        Route("GET", "/events/system", system, "system_page", "How the parts do."),
        Route("GET", "/events/log/{id}", one, "event_page", "One event."),
        Route("GET", "/events/{rest}", elsewhere, "events_elsewhere", "Nothing."),
        Route("GET", "/fragments/system", state, "system_state", "How the parts do, now."),
    ]
