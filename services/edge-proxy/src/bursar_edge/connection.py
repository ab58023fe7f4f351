"""The client's connection: aiohttp's parser and keep-alive under a loop of our own, and a short cut past the parser.

A client that keeps its connection sends nearly the same head with each request. A head that differs from one the parser
accepted on this connection in nothing but the digits of its ``Content-Length`` means the same, so it is not parsed
again (``known_head``), and its body is counted here. Whatever is not exactly that goes to the parser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import ERROR, PayloadAccessError, RequestHandler

from bursar_common.ids import uuid7
from bursar_common.wire import Refused
from bursar_edge.incoming import REASONS, Incoming, answer_headers
from bursar_edge.known_head import VIEW_BYTES, Body, KnownHead, learn
from bursar_edge.refusals import say

_BODY_IS_OVER = PayloadAccessError()
_UNKNOWN = -1
"""It is not known where in the stream of requests the parser stands; it reads the rest of this connection."""

HandlerFunction = Callable[[Incoming], Awaitable[Incoming]]


class ClientConnection(RequestHandler):
    """aiohttp's connection, with a limit on how long a head may take and errors in the provider's envelope."""

    __slots__ = ("_ahead", "_body", "_head_handle", "_head_s", "_known", "_partial", "answered")

    def __init__(self, manager: Any, *, loop: asyncio.AbstractEventLoop, head_s: float, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._head_s = head_s
        self._head_handle: asyncio.TimerHandle | None = None
        self._partial = False
        self._known: KnownHead | None = None
        self._body: Body | None = None
        """Being received behind a known head."""
        self._ahead = 0
        """Bytes that the parser still needs to the end of a request; 0: it has none in hand."""
        self.answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_handle = self._loop.call_later(self._head_s, self._head_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    async def start(self) -> None:
        """Answer this connection's requests, one after the other, in the connection's own task.

        aiohttp's own loop makes a task, a writer and a chain of coroutines a request. What it guarantees is kept: a
        lost connection cancels the handler, an unread body is read for a while, a refused upgrade leads back to
        parsing, and ``shutdown`` waits for a request in progress."""
        manager, handle = self._manager, self._request_handler
        assert manager is not None
        assert handle is not None
        task = self._task_handler or asyncio.current_task()
        assert task is not None
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, payload = self._messages.popleft()
            if self._parser is not None and not isinstance(message, KnownHead):
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            manager.requests_count += 1
            try:
                incoming = await self._answer(message, payload, task, handle)
                self._keepalive = incoming.keep_alive
                if not payload.is_eof():
                    await self._linger(payload)
                payload.set_exception(_BODY_IS_OVER)
            except asyncio.CancelledError:
                self.force_close()
                raise
            except Exception:
                self.force_close()
            if not self._keepalive or self._close or self._force_close:
                break
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _answer(
        self, message: Any, payload: StreamReader | Body, task: asyncio.Task[None], handle: Any
    ) -> Incoming:
        """Have one request answered, or say what was wrong with its head."""
        known: KnownHead | None = None
        if isinstance(message, KnownHead):
            known, message = message, message.message
        elif not isinstance(message, RawRequestMessage):  # aiohttp's note of a head that it could not parse
            failed = Incoming(ERROR, payload, self, task)
            self.handle_error(failed, message.status, message.exc)
            self.answered += 1
            return failed
        elif self._known is not None and self._known.message is message:
            known = self._known
        incoming = Incoming(message, payload, self, task, known)
        self._request_in_progress = True
        self._current_request = incoming  # type: ignore[assignment]  # told of a lost connection
        try:
            await handle(incoming)
        finally:
            self._current_request = None
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        if self._upgraded:
            await self.finish_response(incoming, incoming, None)  # type: ignore[arg-type]
        else:
            self.answered += 1
        return incoming

    async def _linger(self, payload: StreamReader | Body) -> None:
        """Read and drop what still comes of an unwanted body, so that the client sees the answer and not a reset."""
        if not self._force_close and self._lingering_time:
            try:
                async with asyncio.timeout(self._lingering_time):
                    while not payload.is_eof():
                        await payload.readany()
            except TimeoutError:
                pass
        if not payload.is_eof() and not self._force_close:
            self.close()

    def data_received(self, data: bytes) -> None:
        body = self._body
        if body is not None:
            rest = body.feed(data)
            if body.is_eof():
                self._body = None
            if not rest:
                return
            data = bytes(rest)
        if self._ahead == 0 and self._known is not None and self._cut_short(data, self._known):
            return
        count = self._request_count
        super().data_received(data)
        if self._ahead > 0:
            self._ahead = max(self._ahead - len(data), _UNKNOWN)
        elif self._ahead == 0:
            self._remember(data, self._request_count - count)
        if self._request_count > self.answered:  # a whole head is here, and its request is being answered
            if self._head_handle is not None:
                self._stop_head_timer()
        elif data:
            self._partial = True
            if self._head_handle is None:
                self._head_handle = self._loop.call_later(self._head_s, self._head_late)

    def _cut_short(self, data: bytes, known: KnownHead) -> bool:
        """Take a request whose head is known, if this is one and its handler is free."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages or self._close or self._force_close:
            return False
        found = known.length_in(data)
        if found is None:
            return False
        length, begin = found
        body = Body(length, self)
        self._request_count += 1
        self._messages.append((known, body))  # type: ignore[arg-type]  # our own loop takes them out
        waiter.set_result(None)
        if self._head_handle is not None:
            self._stop_head_timer()
        rest = body.feed(data[begin:] if length < VIEW_BYTES else memoryview(data)[begin:])
        if not body.is_eof():
            self._body = body
        elif rest:  # sent without waiting for the answer: the parser queues and bounds such
            self.data_received(bytes(rest))
        return True

    def _remember(self, data: bytes, requests: int) -> None:
        """After the parser was given ``data`` from the beginning of a request on: learn the head, or give up knowing
        where it stands."""
        message = self._messages[-1][0] if requests == 1 and self._messages else None
        found = learn(data, message) if isinstance(message, RawRequestMessage) else None
        if found is None:
            self._known, self._ahead = None, _UNKNOWN
            return
        self._known, size = found
        self._ahead = max(size - len(data), _UNKNOWN)

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


def _whole_answer(refused: Refused, detail: str) -> bytes:
    request_id = uuid7()
    said = say(refused, request_id, detail=detail)
    lines = [f"HTTP/1.1 {said.status} {REASONS[said.status]}\r\n".encode()]
    lines += [name + b": " + value + b"\r\n" for name, value in (*said.headers, *answer_headers(request_id))]
    return b"".join([*lines, b"content-length: %d\r\nconnection: close\r\n\r\n" % len(said.body), said.body])


class ClientServer(web.Server):
    """Makes a connection object per client."""

    def __init__(self, handler: HandlerFunction, *, head_s: float, **options: Any) -> None:
        super().__init__(handler, handler_cancellation=True, **options)  # type: ignore[arg-type]
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
