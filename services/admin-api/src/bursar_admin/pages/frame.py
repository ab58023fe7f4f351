"""What all pages have: rail, scope, time range, theme; and how a template becomes an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from multidict import MultiMapping

from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal
from bursar_admin.pages import numbers
from bursar_admin.pages.api import Api, InProcess
from bursar_admin.pages.assets import Assets
from bursar_admin.pages.spans import CHOICES, DEFAULT, Span, span_of
from bursar_admin.queries.filters import NAMES as FILTER_NAMES

TEMPLATES = Path(__file__).parent.parent / "templates"
SECURITY_HEADERS = {
    # Nothing inline and nothing from elsewhere. `data:` is for the icon of the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
RAIL = (
    ("overview", "/", "Overview"),
    ("logs", "/logs", "Logs"),
    ("sessions", "/sessions", "Sessions"),
    ("insights", "/insights", "Insights"),
    ("budgets", "/budgets", "Budgets"),
    ("governance", "/governance", "Governance"),
    ("events", "/events", "Events"),
    ("settings", "/settings", "Settings"),
)
SCOPES = (
    ("customer", "customer", "Customer"),
    ("team", "team", "Team"),
    ("user", "user", "User"),
    ("key", "virtual_key", "Key"),
)
"""(parameter of URLs, kind of entity, word), from the outside in."""
MAX_COLOURED = 500
"""Owners of one level that a page tells its charts the colours of; those of others are made of their names."""
CARRIED = ("range", "from", "to", "compare", *(name for name, _, _ in SCOPES))
"""Parameters that stay when the page changes."""
SORTED = "sorted"
"""How tables that are on a page whole are sorted (js/sorting.js)."""
FRAGMENTS = "/fragments/"
FILTERS = frozenset(FILTER_NAMES) - {"from", "to"}
THEME_COOKIE, ZONE_COOKIE = "bursar_theme", "bursar_tz"
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,31}){0,2}")


@dataclass(frozen=True)
class Crumb:
    """One level of the scope: what is chosen there."""

    parameter: str
    word: str
    id: str
    name: str


@dataclass
class View:
    """One request for a page: what its URL and cookies say. Raises Refusal (400) where they say nonsense."""

    desk: Desk
    request: web.Request
    _api: Api | None = field(default=None)

    @property
    def api(self) -> Api:
        if self._api is None:
            self._api = InProcess(self.request)
        return self._api

    @property
    def query(self) -> MultiMapping[str]:
        return self.request.query

    @cached_property
    def now_s(self) -> int:
        return self.desk.now_s()

    @cached_property
    def timezone(self) -> str:
        """The viewer's, as their browser says; UTC until it has said so."""
        name = self.request.cookies.get(ZONE_COOKIE, "").replace("%2F", "/")
        if _ZONE.fullmatch(name):
            try:
                return ZoneInfo(name).key
            except (ZoneInfoNotFoundError, ValueError, OSError):
                pass
        return "UTC"

    @property
    def theme(self) -> str:
        chosen = self.request.cookies.get(THEME_COOKIE, "")
        return chosen if chosen in ("light", "dark") else "system"

    @cached_property
    def span(self) -> Span:
        return span_of(self.query, self.now_s, self.timezone)

    @property
    def compare(self) -> bool:
        return self.query.get("compare", "1") != "0"

    @cached_property
    def scope(self) -> tuple[Crumb, ...]:
        """What is chosen, from the outside in, the owners of what is chosen included. An id (or name) nobody has is
        kept as it is: requests of deleted owners are still on record."""
        given = {name: self.query[name] for name, _, _ in SCOPES if self.query.get(name)}
        names: dict[str, str] = {}
        for parameter, entity, _ in reversed(SCOPES):
            if parameter not in given:
                continue
            document = self._owner(entity, given[parameter])
            names[parameter] = document.name if document is not None else given[parameter]
            for above in ("customer", "team"):
                owner = getattr(document, f"{above}_id", "") if document is not None else ""
                if owner:
                    given.setdefault(above, owner)
        return tuple(
            Crumb(parameter, word, given[parameter], names.get(parameter, given[parameter]))
            for parameter, _, word in SCOPES
            if parameter in given
        )

    def _owner(self, entity: str, key: str) -> Any:
        documents = self.desk.projection.entities(entity)
        if key in documents:
            return documents[key]
        named = [document for document in documents.values() if document.name == key]
        return named[0] if len(named) == 1 else None

    @property
    def filters(self) -> dict[str, str]:
        """The innermost choice of the scope, as the REST API's filter: it implies those above it."""
        return {self.scope[-1].parameter: self.scope[-1].id} if self.scope else {}

    def within(self, span: Span | None = None) -> dict[str, Any]:
        """Scope and time range as filters of the REST API."""
        chosen = span or self.span
        return {**self.filters, "from": chosen.start_s, "to": chosen.end_s}

    def before(self) -> dict[str, Any]:
        """The same of the span it is compared to."""
        return {**self.filters, "from": self.span.before_start_s, "to": self.span.before_end_s}

    def href(self, path: str, **changes: str | int | None) -> str:
        """A link that keeps scope and time range; ``None`` leaves a parameter out."""
        kept = {name: self.query[name] for name in CARRIED if self.query.get(name)}
        return address(path, kept, changes)

    def colours_of(self, parameter: str) -> dict[str, int]:
        """Id to colour of the owners of one level: the same on every page, and the first ones all differ."""
        entity = next((entity for name, entity, _ in SCOPES if name == parameter), "")
        ids = self.desk.projection.ordered(entity) if entity else []
        return {each: number % numbers.CATEGORIES for number, each in enumerate(ids[:MAX_COLOURED])}

    @property
    def page_path(self) -> str:
        """The path of the page; for a fragment, of the page it stands in."""
        if not self.request.path.startswith(FRAGMENTS):
            return self.request.path
        path = urlsplit(self.request.headers.get("HX-Current-URL", "/")).path
        return path if path.startswith("/") and not path.startswith("//") else "/"

    def here(self, **changes: str | int | None) -> str:
        """This page's own address with some parameters changed."""
        changes.setdefault("cursor", None)
        return address(self.page_path, self.query, changes)

    def part(self, name: str, **changes: str | int | None) -> str:
        """A fragment of this page, told the same query."""
        return address(f"{FRAGMENTS}{name}", self.query, changes)

    @property
    def stream(self) -> str:
        """New requests under this page's filters, as server-sent events; empty where the span is over."""
        if not self.span.running:
            return ""
        kept = [(name, value) for name, value in self.query.items() if name in FILTERS and value]
        return f"/api/logs/stream?{urlencode(kept)}" if kept else "/api/logs/stream"

    @property
    def origin(self) -> str:
        """This site, for commands to copy."""
        return f"{self.request.scheme}://{self.request.host}"

    def scoped(self, parameter: str, owner_id: str) -> str:
        """The page a reader is on, for another owner."""
        current = self.request.headers.get("HX-Current-URL", "")
        kept = {name: value for name, value in parse_qsl(urlsplit(current).query) if name in ("range", "from", "to")}
        return address(self.page_path, kept, {parameter: owner_id})

    def through(self, crumb: Crumb) -> str:
        """This page with the scope cut behind a crumb."""
        names = [name for name, _, _ in SCOPES]
        inner = names[names.index(crumb.parameter) + 1 :]
        return self.here(**{crumb.parameter: crumb.id}, **dict.fromkeys(inner))

    @property
    def span_days(self) -> tuple[str, str]:
        """First and last day of the span, for date fields."""
        zone = ZoneInfo(self.timezone)
        days = (self.span.start_s, self.span.end_s - 1)
        first, last = (datetime.fromtimestamp(moment, zone).date().isoformat() for moment in days)
        return first, last

    def spans(self) -> list[tuple[str, str, str, bool]]:
        """(name, word, link, chosen)"""
        current = self.query.get("range") or ("custom" if self.query.get("from") else DEFAULT)
        return [
            (name, word, self.here(range=name, **{"from": None, "to": None}), name == current) for name, word in CHOICES
        ]


def address(path: str, kept: Mapping[str, str], changes: Mapping[str, Any]) -> str:
    """``path`` with the parameters kept (repeated ones, too) and changed; None leaves one out."""
    items = kept.items() if isinstance(kept, MultiMapping) else list(kept.items())
    merged = [(name, value) for name, value in items if name not in changes]
    merged += [(name, str(value)) for name, value in changes.items() if value is not None]
    text = urlencode(merged)
    return f"{path}?{text}" if text else path


def environment(assets: Assets) -> Environment:
    """Templates: escaped always, and a name that is not there is an error, never an empty place."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.globals.update(static=assets.url, RAIL=RAIL, SCOPES=SCOPES, UNKNOWN=numbers.UNKNOWN)
    env.filters.update(
        money=numbers.money,
        exact_money=numbers.exact_money,
        big_money=numbers.big_money,
        axis_money=numbers.axis_money,
        count=numbers.count,
        exact_count=numbers.exact_count,
        span_ms=numbers.span_ms,
        short_id=numbers.short_id,
        category=numbers.category,
        iso=numbers.iso,
        trim_zeros=numbers.trim_zeros,
        words=numbers.words,
        window=numbers.window_words,
        plain_number=numbers.plain_number,
    )
    env.globals.update(footing=numbers.footing, change=numbers.change, percent=numbers.percent, colours=numbers.colours)
    return env


class Frame:
    """Renders for one process."""

    def __init__(self, desk: Desk, assets: Assets | None = None) -> None:
        self.desk = desk
        self.assets = assets or Assets()
        self.env = environment(self.assets)

    def view(self, request: web.Request) -> View:
        return View(self.desk, request)

    def shell(self, view: View, active: str, template: str, title: str, **context: Any) -> web.Response:
        """A whole page; ``active`` is its entry of the rail."""
        text = self.env.get_template(template).render(
            view=view, active=active, title=title, signed_in=self.desk.access.has_token, **context
        )
        return _html(text)

    def fragment(self, view: View, template: str, **context: Any) -> web.Response:
        """A part that htmx puts into a page."""
        return _html(self.env.get_template(template).render(view=view, **context))

    def failure(self, request: web.Request, refusal: Refusal, request_id: str) -> web.Response:
        """A refusal for a person: a page, or a part of one. Never raises for what the URL says."""
        status = refusal.status
        if status == 401:
            target = request.headers.get("HX-Current-URL") if "HX-Request" in request.headers else None
            back = "/" + target.split("/", 3)[3] if target and target.count("/") >= 3 else str(request.rel_url)
            where = address("/sign-in", {}, {"next": back})
            if "HX-Request" in request.headers:
                return _html("", status=401, headers={"HX-Redirect": where})
            return _html("", status=303, headers={"Location": where})
        template = "parts/failure.html" if "HX-Request" in request.headers else "error.html"
        text = self.env.get_template(template).render(
            view=View(self.desk, request), refusal=refusal, request_id=request_id, title=f"{status}", active=""
        )
        return _html(text, status=status, headers=dict(refusal.headers))


def _html(text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        text=text, status=status, content_type="text/html", headers={**SECURITY_HEADERS, **(headers or {})}
    )


def wants_page(request: web.Request) -> bool:
    """Whether a person's browser asks, so that a failure is said in HTML."""
    path = request.path
    if path == "/api" or path.startswith(("/api/", "/static/", "/ws", "/v1/")):
        return False
    return "HX-Request" in request.headers or "text/html" in request.headers.get("Accept", "")
