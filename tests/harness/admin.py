"""admin-api for tests: the real service in this process on a real SQLite log, and a stand-in for the enforcer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from bursar_admin.app import make_desk, open_runner, start_desk, stop_desk
from bursar_admin.desk import Desk
from bursar_common.clock import Clock
from bursar_common.eventlog import open_log
from bursar_common.events import GOVERNANCE_TOPIC
from bursar_common.service import listen
from bursar_common.settings import Settings, load_settings
from bursar_common.wire import (
    BATCH_PATH,
    MAX_BATCH_OPERATIONS,
    STATE_PATH,
    Balance,
    Balances,
    GovernancePosition,
    Invalid,
    Ok,
    Position,
    Reply,
    Unavailable,
    decode_operations,
    encode,
)

KEY_SECRET = "a-key-secret-of-the-tests"
INTERNAL_TOKEN = "an-internal-token-of-the-tests"


class EnforcerStandIn:
    """Answers positions and balances as a test sets them. ``position`` None: it has always applied everything."""

    def __init__(self) -> None:
        self.position: int | None = None
        self.balances: dict[str, Balance] = {}
        self.reachable = True
        self.state: dict[str, Any] | None = None
        self.asked: list[str] = []
        self._runner: web.AppRunner | None = None

    async def start(self, address: str) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_post(BATCH_PATH, self._batch)
        app.router.add_get(STATE_PATH, self._state)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await listen(self._runner, address)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _batch(self, request: web.Request) -> web.Response:
        if not self.reachable:
            return web.Response(status=503)
        operations = decode_operations(await request.read())
        assert len(operations) <= MAX_BATCH_OPERATIONS
        return web.Response(body=encode([self._reply(operation) for operation in operations]))

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response(self.state, status=200 if self.state is not None and self.reachable else 503)

    def _reply(self, operation: Any) -> Reply:
        if isinstance(operation, GovernancePosition):
            return Position(self.position if self.position is not None else 1 << 50)
        if isinstance(operation, Balances):
            self.asked += operation.counters
            return Ok(balances=tuple(self.balances.get(name, Balance(name, 0, 0, 0)) for name in operation.counters))
        return Invalid("not for admin-api") if operation else Unavailable("")


def admin_settings(home: Path, **more: str) -> Settings:
    """Settings of a loopback admin-api on the SQLite log below ``home``; ``more`` by field name."""
    values = {
        "home": str(home),
        "enforcer_url": f"unix:{home}/enforcer.sock",
        "admin_listen": f"unix:{home}/admin.sock",
        "key_secret": KEY_SECRET,
        "internal_token": INTERNAL_TOKEN,
        **more,
    }
    return load_settings({f"BURSAR_{name.upper()}": value for name, value in values.items()})


class Admin:
    """A running admin-api and a client of it."""

    def __init__(self, desk: Desk, session: aiohttp.ClientSession, enforcer: EnforcerStandIn) -> None:
        self.desk = desk
        self.session = session
        self.enforcer = enforcer

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """(status, parsed body or text, headers)."""
        sent = {"Host": "localhost", **(headers or {})}
        options: dict[str, Any] = {}
        if raw is not None:
            options["data"] = raw
            sent.setdefault("content-type", "application/json")
        elif body is not None:
            options["json"] = body
        async with self.session.request(method, f"http://admin{path}", headers=sent, **options) as response:
            if response.content_type == "application/json" and method != "HEAD":
                return response.status, await response.json(), response.headers
            return response.status, await response.text(), response.headers

    async def create(self, kind: str, **body: Any) -> dict[str, Any]:
        """Create below ``/api/governance`` and return the whole answer."""
        status, answer, _ = await self.call("POST", f"/api/governance/{kind}", body)
        assert status == 200, answer
        return dict(answer)

    async def events(self) -> list[bytes]:
        """Every event in the governance log."""
        event_log = open_log(self.desk_settings)
        await event_log.start()
        try:
            return [record.value for record in await event_log.read(GOVERNANCE_TOPIC, 0, 0, max_records=10_000)]
        finally:
            await event_log.close()

    desk_settings: Settings


@asynccontextmanager
async def running_admin(
    home: Path, *, enforcer: EnforcerStandIn | None = None, clock: Clock | None = None, name: str = "admin", **more: str
) -> AsyncIterator[Admin]:
    """An admin-api on ``home``; start several at once with different ``name``s for replicas."""
    settings = admin_settings(home, **{"admin_listen": f"unix:{home}/{name}.sock", **more})
    own = enforcer is None
    stand_in = enforcer or EnforcerStandIn()
    if own:
        await stand_in.start(settings.enforcer_url)
    desk = make_desk(settings, open_log(settings), clock=clock)
    runner = await open_runner(desk)
    socket_path = f"{home}/{name}.http"
    await listen(runner, f"unix:{socket_path}")
    try:
        await start_desk(desk, settings)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket_path)) as session:
            admin = Admin(desk, session, stand_in)
            admin.desk_settings = settings
            yield admin
    finally:
        await runner.cleanup()
        await stop_desk(desk)
        if own:
            await stand_in.close()
