"""``/settings``: who gets in, the default key, what is kept how long, who you are."""

from __future__ import annotations

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.pages.frame import Frame
from bursar_admin.pages.governance import checked_query, choices, totals_of
from bursar_admin.routes import Route


def routes(desk: Desk, frame: Frame) -> list[Route]:
    async def page(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view)
        config = await view.api.get("/api/config")
        chosen = config["client_config"]["default_virtual_key_id"]
        return frame.shell(
            view, "settings", "settings.html", "Settings",
            config=config["client_config"], version=config["version"],
            installation=await view.api.get("/api/installation"),
            keys=choices(view, "virtual_key", chosen), clickhouse=desk.settings.single_machine, totals=totals_of(view),
        )  # fmt: skip

    return [Route("GET", "/settings", page, "settings_page", "Settings.")]
