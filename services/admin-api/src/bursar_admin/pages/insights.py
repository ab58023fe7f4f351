"""``/insights``: what could cost less, each with its rule and its numbers in sight."""

from __future__ import annotations

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.pages.frame import Frame
from bursar_admin.routes import Route

KNOWN = ("opus_like_sonnet", "expired_caches", "dearest_sessions", "fastest_growing_users", "refusals_by_team")
"""Insights with a table of their own; others are shown by their numbers."""

MAX_DIGITS = 19
"""Of an amount in nano-dollars."""


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

    async def caches_before(request: web.Request) -> web.StreamResponse:
        """What caches that ran out cost in the period compared to: read turn by turn, so it comes when it is found."""
        view = frame.view(request)
        answer = await view.api.get("/api/insights", {**view.before(), "only": "expired_caches"})
        now = request.query.get("now", "")
        return frame.fragment(
            view, "parts/caches_before.html", n=answer["insights"][0]["numbers"],
            now=int(now) if now.isascii() and now.isdigit() and len(now) < MAX_DIGITS else None,
        )  # fmt: skip

    return [
        Route("GET", "/insights", page, "insights_page", "Insights."),
        Route("GET", "/fragments/insights", content, "insights_content", "The insights."),
        Route("GET", "/fragments/insights/caches-before", caches_before, "insights_caches_before", "Before."),
    ]
