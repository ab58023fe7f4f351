"""``/``: spend, where it goes, and what it will come to."""

from __future__ import annotations

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.pages.frame import Frame
from bursar_admin.routes import Route


def routes(desk: Desk, frame: Frame) -> list[Route]:
    async def page(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        return frame.shell(view, "overview", "overview.html", "Overview")

    return [Route("GET", "/", page, "overview_page", "Overview.")]
