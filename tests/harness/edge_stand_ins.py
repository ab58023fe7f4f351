"""What the edge's own tests run it between: an upstream that records raw bytes and answers by script, and an enforcer
that speaks the wire contract and decides as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from bursar_common import wire
from bursar_common.catalogue import build_book
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import USAGE_TOPIC, Envelope, Usage, decode_envelope, decode_usage
from bursar_common.governance import Provider
from bursar_common.settings import Settings
from bursar_edge.app import Edge, Limits, Waits

TOKEN = "internal-token-of-the-tests"
MODEL = "claude-sonnet-4-6"
KEY = "sk-bf-" + "0" * 64
COUNTER = "n:budget-1:1700000000:1800000000"
TOKEN_COUNTER = "t:limit-1:1700000000:1800000000"
BOOK = build_book(Provider(id="provider-1", name="anthropic", kind="anthropic", created_at_s=0))
OWNERS = wire.Owners("key-1", "alice", team_id="team-1", team="platform")
WAIT_S = 60.0
"""Bound for anything to happen here on a busy machine, which may pause."""


class Got:
    """One request as the upstream received it."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body
        line, *headers = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = line.split(" ", 2)
        self.header_lines = headers

    def header(self, name: str) -> list[str]:
        found = [line.partition(":") for line in self.header_lines]
        return [value.strip() for key, _, value in found if key.lower() == name]


Respond = Callable[[Got, asyncio.StreamWriter], Awaitable[None]]


def json_answer(body: bytes, *, status: str = "200 OK", headers: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nrequest-id: req_upstream\r\n%bcontent-length: %d\r\n\r\n%b"
        % (status.encode(), headers, len(body), body)
    )


def message(*, input_tokens: int = 12, output_tokens: int = 7, model: str = MODEL, **usage: Any) -> bytes:
    return msgspec.json.encode(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens, **usage},
        }
    )


def event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


START = event(
    "message_start",
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "model": MODEL,
            "usage": {
                "input_tokens": 12,
                "cache_read_input_tokens": 15000,
                "cache_creation_input_tokens": 5000,
                "cache_creation": {"ephemeral_5m_input_tokens": 5000, "ephemeral_1h_input_tokens": 0},
                "output_tokens": 1,
                "service_tier": "standard",
            },
        },
    },
)


def delta(text: str) -> bytes:
    return event(
        "content_block_delta",
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
    )


def finish(output_tokens: int) -> bytes:
    return event(
        "message_delta",
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output_tokens}},
    ) + event("message_stop", {"type": "message_stop"})


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nrequest-id: req_upstream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream:
    """``respond`` writes the answer; when it returns, the connection serves on, unless it closed it."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.connections = 0
        self.closed = asyncio.Event()
        """Set each time the edge closed a connection."""
        self.respond: Respond = self._hello
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def _hello(self, got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(message()))

    def answers(self, data: bytes) -> None:
        async def respond(got: Got, writer: asyncio.StreamWriter) -> None:
            writer.write(data)

        self.respond = respond

    def streams(self, *parts: bytes) -> None:
        async def respond(got: Got, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD)
            for part in parts:
                writer.write(chunk(part))
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        self.respond = respond

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                got = Got(head, await reader.readexactly(length))
                self.got.append(got)
                answering = asyncio.ensure_future(self.respond(got, writer))
                watching = asyncio.ensure_future(reader.read(1))
                try:
                    await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError:
                    answering.cancel()
                    watching.cancel()
                    return
                if watching.done() and watching.result() == b"":
                    answering.cancel()
                    self.closed.set()
                    return
                await answering
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    early = await watching
                    assert not early, "pipelined"
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class StandInEnforcer:
    """Records every operation. ``decide`` answers admissions (None: the default admission)."""

    def __init__(self) -> None:
        self.operations: list[Any] = []
        self.decide: Callable[[wire.Admit], Any] | None = None
        self.authorize: Callable[[wire.Authorize], Any] | None = None
        self.credential = "env:ANTHROPIC_API_KEY"
        self.down = False
        self.batches = 0
        self.seen = asyncio.Condition()
        self.hold: tuple[wire.HoldEntry, ...] = (
            wire.HoldEntry(COUNTER, 5_000_000, 90_000_000),
            wire.HoldEntry(TOKEN_COUNTER, 400, 9000),
        )
        self.renewed_hold = self.hold
        self.header = "x-api-key"
        self.default_key = False
        """Whether requests without a credential are somebody's."""
        self.would_refuse = ""

    def of(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.operations if isinstance(each, kind)]

    async def wait_for(self, kind: type[Any], count: int = 1) -> list[Any]:
        async with asyncio.timeout(WAIT_S), self.seen:
            await self.seen.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    def admitted(self, ask: wire.Admit) -> wire.Admitted:
        return wire.Admitted(
            hold=self.hold,
            header=ask.key_hashes[0].header if ask.key_hashes else "",
            price_book_id=BOOK.id,
            route=self.route(),
            owners=OWNERS,
            ttl_s=60,
            expected_nusd=5_000_000,
            bound_nusd=90_000_000,
            would_refuse=self.would_refuse,
        )

    def route(self) -> wire.Route:
        return wire.Route("anthropic", "provider-1", credential=self.credential)

    def _reply(self, operation: Any) -> Any:
        if isinstance(operation, wire.Admit | wire.Authorize) and not (operation.key_hashes or self.default_key):
            return wire.Refused("no_key")
        if isinstance(operation, wire.Admit):
            decided = self.decide(operation) if self.decide is not None else None
            return decided or self.admitted(operation)
        if isinstance(operation, wire.Authorize):
            if self.authorize is not None:
                return self.authorize(operation)
            models = (wire.ModelEntry(MODEL, "Sonnet"), wire.ModelEntry("claude-opus-4-6"))
            header = operation.key_hashes[0].header if operation.key_hashes else ""
            return wire.Authorized(header, OWNERS, self.route(), models)
        if isinstance(operation, wire.Renew):
            return wire.Ok(hold=self.renewed_hold)
        return wire.Ok()

    async def start(self) -> None:
        app = web.Application(client_max_size=wire.MAX_BATCH_BYTES)
        app.router.add_post(wire.BATCH_PATH, self._batch)
        app.router.add_get("/internal/v1/price-books/{id}", self._book)
        app.router.add_get("/readyz", self._ready)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await self._site.start()
        self.url = self._site.name

    async def _ready(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _batch(self, request: web.Request) -> web.Response:
        assert request.headers[wire.INTERNAL_TOKEN_HEADER] == TOKEN
        if self.down:
            return web.Response(status=503)
        operations = wire.decode_operations(await request.read())
        self.batches += 1
        replies = [self._reply(each) for each in operations]
        async with self.seen:
            self.operations += operations
            self.seen.notify_all()
        return web.Response(body=wire.encode(replies), content_type="application/json")

    async def _book(self, request: web.Request) -> web.Response:
        assert request.match_info["id"] == BOOK.id
        return web.Response(body=BOOK.encode())

    async def stop(self) -> None:
        await self._runner.cleanup()


class World:
    """An edge between the two."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.upstream = Upstream()
        self.enforcer = StandInEnforcer()
        self.settings: dict[str, Any] = {}
        self.environ = {"ANTHROPIC_API_KEY": "sk-ant-provider"}
        self.limits = Limits()
        self.waits = Waits(ledger_s=2.0, book_s=2.0, ship_s=2.0, drain_s=10.0)
        self.remote: Any = None

    async def start(self) -> None:
        await self.upstream.start()
        await self.enforcer.start()
        values: dict[str, Any] = {
            "home": self.home,
            "enforcer_url": self.enforcer.url,
            "internal_token": TOKEN,
            "anthropic_base_url": self.upstream.url,
            "edge_listen": "127.0.0.1:0",
            **self.settings,
        }
        settings = Settings.model_validate(values)
        self.edge = Edge(settings, self.environ, limits=self.limits, waits=self.waits, remote=self.remote)
        await self.edge.start()

    @property
    def port(self) -> int:
        runner = self.edge._runner
        assert runner is not None
        return int(runner.addresses[0][1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def raw(self, data: bytes, *, until: bytes | None = None) -> bytes:
        """Send bytes on a connection of its own; everything that comes back until the edge closes (or ``until``)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(WAIT_S):
                return await (reader.readuntil(until) if until else reader.read())
        finally:
            writer.close()

    async def events(self, count: int = 1) -> list[tuple[Envelope, Usage]]:
        """The first ``count`` usage events of the log, waited for."""
        log = SqliteEventLog(self.home / "log.db")
        await log.start()
        try:
            async with asyncio.timeout(WAIT_S):
                while len(found := await log.read(USAGE_TOPIC, 0, 0, wait_s=0.05)) < count:
                    pass
        finally:
            await log.close()
        envelopes = [decode_envelope(each.value) for each in found]
        return [(each, decode_usage(each)) for each in envelopes]

    async def event(self) -> Usage:
        """The one usage event of the log."""
        found = await self.events(1)
        assert len(found) == 1
        return found[0][1]

    async def stop(self) -> int:
        left = await self.edge.stop() if self.edge._runner is not None else 0
        await self.enforcer.stop()
        await self.upstream.stop()
        return left


@contextlib.asynccontextmanager
async def world(home: Path, **changes: Any) -> AsyncIterator[World]:
    """``settings``, ``limits``, ``waits``, ``environ``, ``remote`` as keywords."""
    made = World(home)
    for name, value in changes.items():
        setattr(made, name, value)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def patient_world(home: Path, **changes: Any) -> contextlib.AbstractAsyncContextManager[World]:
    """A world in which nothing is ever away, so that nothing needs to be given up soon: the edge waits as long as it
    does for people, however long the machine pauses."""
    return world(home, **{"waits": Waits(drain_s=60.0), **changes})


def post(
    body: bytes, *headers: str, path: str = "/anthropic/v1/messages", key: str = f"x-api-key: {KEY}", close: bool = True
) -> bytes:
    """A raw request."""
    lines = [f"POST {path} HTTP/1.1", "Host: gateway", key, "content-type: application/json", *headers]
    if close:
        lines.append("connection: close")
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join(line for line in lines if line).encode("latin-1") + b"\r\n\r\n" + body


SMALL = b'{"model":"claude-sonnet-4-6","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}'


def unchunk(body: bytes) -> bytes:
    """The payload of a chunked body; raises ValueError if it is not complete. What is left of it is not copied for each
    chunk: that takes minutes for tens of megabytes on a busy machine."""
    out = []
    at = 0
    while True:
        end = body.find(b"\r\n", at)
        if end < 0:
            end = len(body)
        number = int(body[at:end], 16)
        at = end + 2
        if number == 0:
            if body[at:] != b"\r\n":
                raise ValueError("no end")
            return b"".join(out)
        out.append(body[at : at + number])
        at += number + 2
