"""Whether the aggregator does its work, for those who ask over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from bursar_common.service import listen

log = structlog.get_logger()


class Health:
    """``/livez`` and ``/readyz``: the schema is applied, the log can be read, ClickHouse takes the rows."""

    def __init__(self, why_unready: Callable[[], str]) -> None:
        self._why_unready = why_unready
        self.why_not_migrated = "the schema is not applied yet"

    def why(self) -> str:
        """Empty when ready."""
        return self.why_not_migrated or self._why_unready()

    def routes(self) -> list[web.RouteDef]:
        async def livez(_request: web.Request) -> web.Response:
            return web.json_response({"status": "ok"})

        async def readyz(_request: web.Request) -> web.Response:
            why = self.why()
            if why:
                return web.json_response({"status": "unready", "why": why}, status=503)
            return web.json_response({"status": "ok"})

        return [web.get("/livez", livez), web.get("/readyz", readyz)]


async def serve_health(health: Health, address: str, stack: AsyncExitStack, *more: web.RouteDef) -> None:
    """Listen until the stack is left. ``more``: what else is answered."""
    app = web.Application()
    app.add_routes([*health.routes(), *more])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await listen(runner, address)
    log.info("listening", address=address)
