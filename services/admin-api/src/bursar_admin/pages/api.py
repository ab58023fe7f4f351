"""The REST API, asked from within this process: pages show what it answers and nothing else, so a page and a script
that asks the same question get the same figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from yarl import URL

from bursar_admin.errors import Refusal

PAGE = 500
"""Entities asked for at once."""
MAX_PAGES = 40
"""Of one listing: 20,000 entities; a page that shows more would not be read."""


class Api(Protocol):
    """What page handlers ask. Raises Refusal as the REST API would answer it."""

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]: ...


class InProcess:
    """Asks the handlers of this application on behalf of a page's request, whose access was checked."""

    def __init__(self, request: web.Request) -> None:
        self._request = request

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """``query``: a list stands for a repeated parameter, None for one that is absent."""
        text = urlencode({name: value for name, value in (query or {}).items() if value is not None}, doseq=True)
        asked = self._request.clone(method="GET", rel_url=URL(f"{path}?{text}" if text else path, encoded=True))
        found = await self._request.app.router.resolve(asked)
        if found.http_exception is not None:
            raise Refusal(404, "not_found_error", f"This release has no {path} yet.")
        asked._match_info = found  # as aiohttp's own application does it
        response = await found.handler(asked)
        assert isinstance(response, web.Response)
        body = response.body
        assert isinstance(body, bytes)
        answer: dict[str, Any] = msgspec.json.decode(body)
        return answer


async def everything(api: Api, path: str, plural: str, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """All pages of a governance listing, up to :data:`MAX_PAGES`."""
    found: list[dict[str, Any]] = []
    for _ in range(MAX_PAGES):
        page = await api.get(path, {**(query or {}), "limit": PAGE, "offset": len(found)})
        found += page[plural]
        if not page[plural] or len(found) >= page["total_count"]:
            break
    return found
