"""The choices of the scope, and what the search box finds."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.pages.frame import SCOPES, Frame, View
from bursar_admin.routes import Route

MAX_CHOICES = 30
"""Of one level; the search box finds the others."""
MAX_FOUND = 8
PLURALS = {"customer": "Customers", "team": "Teams", "user": "Users", "key": "Keys"}


def _below(view: View) -> list[tuple[str, list[Any], int]]:
    """(level, first owners below what is chosen, how many there are)"""
    projection = view.desk.projection
    chosen = {crumb.parameter: crumb.id for crumb in view.scope}
    found = []
    for parameter, entity, _ in SCOPES:
        if parameter in chosen:
            continue
        documents = [projection.entities(entity)[each] for each in projection.ordered(entity)]
        if "user" in chosen:
            documents = [each for each in documents if getattr(each, "user_id", "") == chosen["user"]]
        elif "team" in chosen:
            documents = [each for each in documents if getattr(each, "team_id", "") == chosen["team"]]
        elif "customer" in chosen:
            teams = projection.children(chosen["customer"], "team")
            documents = [
                each
                for each in documents
                if getattr(each, "customer_id", "") == chosen["customer"] or getattr(each, "team_id", "") in teams
            ]
        if documents:
            documents.sort(key=lambda each: each.name.casefold())
            found.append((parameter, documents[:MAX_CHOICES], len(documents)))
    return found


def _named(view: View, text: str) -> list[tuple[str, str, Any]]:
    """(parameter, word, document) of owners whose name or id contains the text, the best first."""
    wanted = text.casefold().strip()
    if not wanted:
        return []
    hits = []
    for parameter, entity, word in SCOPES:
        for document in view.desk.projection.entities(entity).values():
            name = document.name.casefold()
            if wanted in name or document.id == text.strip():
                hits.append((not name.startswith(wanted), len(name), parameter, word, document))
    hits.sort(key=lambda hit: hit[:3])
    return [(parameter, word, document) for _, _, parameter, word, document in hits[:MAX_FOUND]]


def routes(_desk: Desk, frame: Frame) -> list[Route]:
    async def scope(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        return frame.fragment(view, "parts/scope_choices.html", levels=_below(view), plurals=PLURALS)

    async def search(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        text = request.query.get("text", "")[:200]
        return frame.fragment(view, "parts/found.html", text=text, owners=_named(view, text))

    return [
        Route("GET", "/fragments/scope", scope, "scope_choices", "Owners to choose from."),
        Route("GET", "/fragments/search", search, "search", "Owners of a name."),
    ]
