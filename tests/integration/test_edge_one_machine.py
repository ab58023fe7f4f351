"""On one machine: the public port is the edge's, what is not its own is admin-api's; the sum of all parts' health."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import ClientSession, WSMsgType, web

from bursar.simulator import Simulator
from bursar.simulator import runner as serving
from bursar_edge import health
from tests.harness.edge_stand_ins import KEY, SMALL, Upstream, post
from tests.harness.edge_stand_ins import patient_world as world


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Parts that are there answer, however long the machine pauses; those that are not refuse the connection."""
    monkeypatch.setattr(health, "ANSWER_S", 60.0)


class Admin:
    """An admin-api that echoes."""

    def __init__(self):
        self.raw = Upstream()
        self.ready = True

    async def start(self):
        app = web.Application()
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/api/events", self._events)
        app.router.add_get("/api/socket", self._socket)
        app.router.add_route("*", "/{path:.*}", self._echo)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = site.name

    async def _ready(self, request):
        if self.ready:
            return web.json_response({"status": "ok"})
        return web.json_response({"status": "unready", "why": "no projection yet"}, status=503)

    async def _echo(self, request):
        body = await request.read()
        answer = {
            "method": request.method,
            "path": request.raw_path,
            "headers": dict(request.headers),
            "length": len(body),
        }
        return web.json_response(answer, status=201)

    async def _events(self, request):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await response.write(b"data: %d\n\n" % number)
            await asyncio.sleep(0.02)
        return response

    async def _socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data.upper())
        return socket

    async def stop(self):
        await self._runner.cleanup()


def one_machine(w_settings, admin):
    return {"single_machine": True, "admin_url": admin.url, **w_settings}


async def started():
    admin = Admin()
    await admin.start()
    return admin


async def test_what_is_not_the_edges_goes_to_admin_as_it_came(tmp_path):
    admin = await started()
    async with world(tmp_path, settings=one_machine({}, admin)) as w:
        raw = await w.raw(
            post(
                SMALL,
                "Origin: http://localhost:8080",
                "Cookie: session=1",
                f"x-bursar-x: {KEY}",
                path="/api/governance/teams?q=%2F",
            )
        )
        head, _, body = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201 Created")
        seen = json.loads(body)
        assert (seen["method"], seen["path"], seen["length"]) == ("POST", "/api/governance/teams?q=%2F", len(SMALL))
        headers = {name.lower(): value for name, value in seen["headers"].items()}
        assert headers["host"] == "gateway"
        assert headers["origin"] == "http://localhost:8080"
        assert headers["cookie"] == "session=1"
        assert "connection" not in headers
        raw = await w.raw(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert b'"path": "/"' in raw
        assert not w.upstream.got
        raw = await w.raw(b"GET /v1/organizations/me HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 201 ")
    await admin.stop()


async def test_events_and_sockets_pass(tmp_path):
    admin = await started()
    async with world(tmp_path, settings=one_machine({}, admin)) as w, ClientSession() as session:
        async with session.get(f"{w.url}/api/events") as answer:
            assert await answer.read() == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        async with session.ws_connect(f"{w.url}/api/socket") as socket:
            for _ in range(3):
                await socket.send_str("hello")
                assert (await socket.receive()).data == "HELLO"
    await admin.stop()


async def test_health_is_the_sum_of_all_parts(tmp_path):
    admin = await started()
    async with world(tmp_path, settings=one_machine({}, admin)) as w, ClientSession() as session:
        async with session.get(f"{w.url}/healthz") as answer:
            assert answer.status == 200
            health = await answer.json()
            assert health["status"] == "ok"
            assert health["upstream"] == "anthropic"
            assert set(health["parts"].values()) == {"ok"}
        admin.ready = False
        async with session.get(f"{w.url}/healthz") as answer:
            assert answer.status == 503
            assert (await answer.json())["parts"]["admin-api"] == "no projection yet"
        await admin.stop()
        async with session.get(f"{w.url}/healthz") as answer:
            assert answer.status == 503
            assert (await answer.json())["parts"]["admin-api"] == "not reachable"
        async with session.get(f"{w.url}/readyz") as answer:
            assert answer.status == 200
        async with session.get(f"{w.url}/api/config") as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["type"] == "api_error"
        async with session.get(f"{w.url}/livez") as answer:
            assert answer.status == 200


async def test_a_simulator_that_is_the_upstream_is_a_part(tmp_path):
    admin = await started()
    simulator = Simulator(instance="s", records=10)
    runner = serving(simulator)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    settings = one_machine({"simulator_url": site.name}, admin)
    async with world(tmp_path, settings=settings) as w, ClientSession() as session:
        async with session.get(f"{w.url}/healthz") as answer:
            health = await answer.json()
            assert (answer.status, health["status"], health["upstream"]) == (200, "ok", "simulator")
            assert health["parts"]["simulator"] == "ok"
        async with session.get(f"{site.name}/sim/totals") as answer:
            assert (await answer.json())["requests"] == 0  # being asked for health is no request served
        await runner.cleanup()
        async with session.get(f"{w.url}/healthz") as answer:
            health = await answer.json()
            assert (answer.status, health["why"]) == (503, "not serving: simulator")
            assert health["parts"]["simulator"] == "not reachable"
    await admin.stop()


async def test_without_an_admin_everything_else_is_404(tmp_path):
    async with world(tmp_path) as w, ClientSession() as session:
        for path in ("/", "/api/governance/teams", "/v1/organizations/me"):
            async with session.get(f"{w.url}{path}") as answer:
                assert answer.status == 404, path
