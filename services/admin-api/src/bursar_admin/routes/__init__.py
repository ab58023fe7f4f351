"""The route table: everything the admin API answers is registered from it, and described from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bursar_admin.schemas import Body

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Parameter:
    """A query parameter."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    handler: Handler
    operation_id: str
    summary: str
    answer: Any = None
    """The type (a TypedDict) of a 200's body; None: not JSON."""
    media: tuple[str, ...] = ()
    """Content types of what is not JSON. Neither these nor ``answer``: a page."""
    body: type[Body] | None = None
    body_required: bool = True
    creating: bool = False
    """The body's required fields are those of a creation."""
    query: tuple[Parameter, ...] = ()
    may_be_pending: bool = False
    """Answers 202 when the ledger has not taken the change over in time."""
    asks_analytics: bool = False
    """Answers 503 while ClickHouse does not."""
    open_page: bool = False
    """Needs no token."""
    key_page: bool = False
    """The caller shows its own virtual key instead of the admin token; the handler checks it."""
    own_access: bool = False
    """The handler itself decides who is let in."""
    probe: bool = False
    """Asked by supervisors: neither ``Host`` nor token is looked at."""
