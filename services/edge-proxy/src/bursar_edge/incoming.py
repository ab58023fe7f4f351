"""The client's side of a connection: aiohttp's HTTP parser and keep-alive, with our own answers.

aiohttp's own response class rebuilds header names, adds defaults and costs more than the rest of a small request, so
answers are written as bytes: status line and headers as given, in their order and spelling, body chunks as they come.
A header flood, a malformed head and a half-sent head are answered in the provider's envelope and never logged with
their content.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDictProxy

from bursar_common.ids import uuid7
from bursar_common.wire import Refused
from bursar_edge.refusals import say

REASONS = {status.value: status.phrase for status in HTTPStatus}
REASONS[529] = "Overloaded"
Header = tuple[bytes, bytes]


def whole(payload: StreamReader) -> bytes:
    """The bytes of a body that has come whole; the reader's own way wakes and resumes what nobody paused."""
    if payload is EMPTY_PAYLOAD:
        return b""
    buffer = payload._buffer
    if len(buffer) == 1 and not payload._buffer_offset and not payload._protocol._reading_paused:
        payload._size = 0
        return buffer.popleft()
    return payload.read_nowait(-1)


class ClientGone(ConnectionError):
    """The client closed its connection."""


class Incoming:
    """One request. The attributes beginning with an underscore are what aiohttp's protocol expects of a request."""

    __slots__ = (
        "_task",
        "body_allowed",
        "chunked",
        "headers",
        "http11",
        "keep_alive",
        "method",
        "payload",
        "protocol",
        "raw_headers",
        "started",
        "target",
        "transport",
        "writer",
    )

    remote = None

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: Any,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> None:
        self.method: str = message.method
        self.target: str = message.path
        """Path and query exactly as sent."""
        self.headers: CIMultiDictProxy[str] = message.headers
        self.raw_headers: tuple[Header, ...] = message.raw_headers
        self.payload = payload
        self.protocol: Any = protocol
        self.transport: asyncio.Transport | None = protocol.transport
        self.writer = writer
        self.keep_alive: bool = not message.should_close
        self.started = False
        self.chunked = False
        self.body_allowed = message.method != "HEAD"
        self._task = task
        self.http11 = message.version == HttpVersion11
        if not self.http11:
            self.keep_alive = False

    def _finish(self) -> None:
        """Nothing is kept."""

    def _cancel(self, exc: BaseException) -> None:
        """The connection is lost: a reader of the body learns of it."""
        payload = self.payload
        if payload is not None and not payload.is_eof():
            payload.set_exception(exc)

    # ---- what aiohttp does with a finished answer: we are both request and answer

    async def prepare(self, _request: object) -> None:
        """Headers are out already."""

    async def write_eof(self) -> None:
        """The body is out already. The connection waits for the next head."""
        self.protocol.answered += 1

    # ---- answering

    def start(self, status: int, reason: str, headers: Iterable[Header], *, length: int | None = None) -> None:
        """Send the head. ``headers`` without framing; ``length`` None: chunked, or until close for HTTP/1.0."""
        self.write_raw(self._head(status, reason, headers, length))

    def answer(
        self, status: int, headers: Iterable[Header], body: bytes, reason: str = "", *, length_known: bool = True
    ) -> None:
        """Send a whole answer, in one write; ``length_known`` False: framed as one whose length was not known."""
        head = self._head(status, reason or REASONS.get(status, ""), headers, len(body) if length_known else None)
        if not self.body_allowed:
            body = b""
        elif self.chunked:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        self.write_raw(head + body)

    def _head(self, status: int, reason: str, headers: Iterable[Header], length: int | None) -> bytes:
        self.started = True
        parts = [f"HTTP/1.1 {status} {reason}\r\n".encode("utf-8", "surrogateescape")]
        parts += [name + b": " + value + b"\r\n" for name, value in headers]
        if length is not None:
            parts.append(b"content-length: %d\r\n" % length)
        elif status >= 200 and status not in (204, 304) and self.body_allowed:
            self.chunked = self.http11
            if self.chunked:
                parts.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Send body bytes."""
        self.write_raw(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def end(self) -> None:
        """Finish a body of unknown length."""
        if self.chunked:
            self.write_raw(b"0\r\n\r\n")

    def write_raw(self, data: bytes) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        transport.write(data)

    async def drain(self) -> None:
        """Wait while the client reads slower than we write."""
        if self.protocol.writing_paused:
            await self.protocol._drain_helper()

    def abort(self) -> None:
        """Close without finishing the answer, so that the client knows it is cut."""
        self.keep_alive = False
        if self.transport is not None:
            self.transport.close()

    def continue_100(self) -> None:
        """Ask for the body of an ``Expect: 100-continue`` request."""
        self.write_raw(b"HTTP/1.1 100 Continue\r\n\r\n")


HandlerFunction = Callable[[Incoming], Awaitable[Incoming]]


class ClientConnection(RequestHandler):
    """aiohttp's connection, with a limit on how long a head may take and errors in the provider's envelope."""

    __slots__ = ("_head_handle", "_head_s", "_partial", "answered")

    def __init__(self, manager: Any, *, loop: asyncio.AbstractEventLoop, head_s: float, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._head_s = head_s
        self._head_handle: asyncio.TimerHandle | None = None
        self._partial = False
        self.answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_handle = self._loop.call_later(self._head_s, self._head_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._request_count > self.answered:  # a whole head is here, and its request is being answered
            if self._head_handle is not None:
                self._stop_head_timer()
        elif data:
            self._partial = True
            if self._head_handle is None:
                self._head_handle = self._loop.call_later(self._head_s, self._head_late)

    def _stop_head_timer(self) -> None:
        self._partial = False
        if self._head_handle is not None:
            self._head_handle.cancel()
            self._head_handle = None

    def _head_late(self) -> None:
        """Runs when a connection sent no whole head in time (or nothing at all)."""
        self._head_handle = None
        transport = self.transport
        if transport is None or self._request_count > self.answered:
            return
        if self._partial:
            transport.write(_whole_answer(Refused("slow_request"), "the request head was not complete in time"))
        self.force_close()

    def handle_error(
        self,
        request: Any,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> Any:
        """Answer what aiohttp could not parse. The exception's text may hold header values: it goes nowhere."""
        request.keep_alive = False
        if request.started:
            request.abort()
            return request
        if isinstance(exc, LineTooLong) or "Too many headers" in (getattr(exc, "message", "") or ""):
            problem = "its request line or a header is too long, or there are too many headers"
        elif isinstance(exc, HttpProcessingError):
            problem = "it is malformed"
        else:
            problem = "it failed"
        request_id = uuid7()
        said = say(Refused("bad_http" if status == 400 else "internal"), request_id, detail=problem)
        request.answer(said.status, [*said.headers, *answer_headers(request_id)], said.body)
        return request

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp's messages may hold what the client sent; what matters is logged where it happens."""

    def log_debug(self, *args: Any, **kw: Any) -> None:
        """Likewise."""


def answer_headers(request_id: str) -> list[Header]:
    """Headers of an answer made here."""
    rid = request_id.encode()
    return [(b"content-type", b"application/json"), (b"request-id", rid), (b"x-bursar-request-id", rid)]


def _whole_answer(refused: Refused, detail: str) -> bytes:
    request_id = uuid7()
    said = say(refused, request_id, detail=detail)
    lines = [f"HTTP/1.1 {said.status} {REASONS[said.status]}\r\n".encode()]
    lines += [name + b": " + value + b"\r\n" for name, value in (*said.headers, *answer_headers(request_id))]
    return b"".join([*lines, b"content-length: %d\r\nconnection: close\r\n\r\n" % len(said.body), said.body])


class ClientServer(web.Server):
    """Makes a connection object per client."""

    def __init__(self, handler: HandlerFunction, *, head_s: float, **options: Any) -> None:
        super().__init__(handler, handler_cancellation=True, request_factory=Incoming, **options)  # type: ignore[arg-type]
        self._head_s = head_s

    def __call__(self) -> RequestHandler:
        return ClientConnection(self, loop=self._loop, head_s=self._head_s, **self._kwargs)

    def close_idle(self) -> None:
        """At stop: connections without a request end now; the others after their answer."""
        for connection in self.connections:
            if isinstance(connection, ClientConnection) and connection._request_count <= connection.answered:
                connection.force_close()

    def close_all(self) -> None:
        """Cut what still runs; its handlers are cancelled and record what was produced."""
        for connection in self.connections:
            connection.force_close()
