"""``/insights``: what could cost less, each with its rule and its numbers in sight."""

from __future__ import annotations

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.pages.frame import Frame
from bursar_admin.routes import Route

KNOWN = ("opus_like_sonnet", "expired_caches", "dearest_sessions", "fastest_growing_users", "refusals_by_team")
"""Insights with a table of their own; others are shown by their numbers."""


def routes(_desk: Desk, frame: Frame) -> list[Route]:
    async def page(request: web.Request) -> web.StreamResponse:
        return frame.shell(frame.view(request), "insights", "insights.html", "Insights")

    async def content(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        compared: dict[str, int] = {}
        if view.compare:
            compared = {"previous_from": view.span.before_start_s, "previous_to": view.span.before_end_s}
        answer = await view.api.get("/api/insights", {**view.within(), **compared})
        return frame.fragment(view, "parts/insights.html", insights=answer["insights"], known=KNOWN)

    return [
        Route("GET", "/insights", page, "insights_page", "Insights."),
        Route("GET", "/fragments/insights", content, "insights_content", "The insights."),
    ]
