"""One request of a client, and the answers given to it.

aiohttp's own response class rebuilds header names, adds defaults and costs more than the rest of a small request, so
answers are written as bytes: status line and headers as given, in their order and spelling, body chunks as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDictProxy

from bursar_edge.known_head import Body, KnownHead
from bursar_edge.whole_answer import WholeBody

if TYPE_CHECKING:
    from bursar_edge.tracing import RequestTrace

REASONS = {status.value: status.phrase for status in HTTPStatus}
REASONS[529] = "Overloaded"
Header = tuple[bytes, bytes]


def whole(payload: StreamReader | WholeBody) -> bytes:
    """The bytes of a body that has come whole; the reader's own way wakes and resumes what nobody paused."""
    if isinstance(payload, WholeBody):
        return payload.content
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
        "known",
        "method",
        "payload",
        "protocol",
        "raw_headers",
        "request_id",
        "started",
        "target",
        "trace",
        "transport",
    )

    remote = None

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader | Body,
        protocol: Any,
        task: asyncio.Task[None],
        known: KnownHead | None = None,
    ) -> None:
        self.method: str = message.method
        self.target: str = message.path
        """Path and query exactly as sent."""
        self.headers: CIMultiDictProxy[str] = message.headers
        self.raw_headers: tuple[Header, ...] = message.raw_headers
        """As the parser gave them; ``content-length`` may be another request's, see ``length``."""
        self.known = known
        """Where to keep what the head alone says."""
        self.payload = payload
        self.protocol: Any = protocol
        self.transport: asyncio.Transport | None = protocol.transport
        self.request_id = ""
        """Ours, once it has one."""
        self.keep_alive: bool = not message.should_close
        self.trace: RequestTrace | None = None
        """Where its spans are written, if they are."""
        self.started = False
        self.chunked = False
        self.body_allowed = message.method != "HEAD"
        self._task = task
        self.http11 = message.version == HttpVersion11
        if not self.http11:
            self.keep_alive = False

    @property
    def length(self) -> int | None:
        """Bytes of the body, as declared; None: it is chunked, or there is none."""
        if isinstance(self.payload, Body):
            return self.payload.length
        declared = self.headers.get("content-length")
        return int(declared) if declared is not None and declared.isdigit() else None

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
        if self.trace is not None:
            self.trace.status = status
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


def answer_headers(request_id: str) -> list[Header]:
    """Headers of an answer made here."""
    rid = request_id.encode()
    return [(b"content-type", b"application/json"), (b"request-id", rid), (b"x-bursar-request-id", rid)]
