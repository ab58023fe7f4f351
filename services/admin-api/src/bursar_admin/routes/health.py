"""Probes."""

from __future__ import annotations

from aiohttp import web

from bursar_admin.answers import HealthAnswer
from bursar_admin.desk import Desk
from bursar_admin.requests import json_answer
from bursar_admin.routes import Route


def routes(desk: Desk) -> list[Route]:
    async def livez(_request: web.Request) -> web.Response:
        return json_answer({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        if desk.journal.failure:
            return json_answer({"status": "unready", "why": desk.journal.failure}, status=503)
        return json_answer({"status": "ok"})

    return [
        Route("GET", "/livez", livez, "livez", "Whether the process runs.", HealthAnswer, probe=True),
        Route("GET", "/readyz", readyz, "readyz", "Whether it has read the governance log.", HealthAnswer, probe=True),
    ]
