"""``/ws`` and ``/api/logs/stream``: new requests as they come, over a web socket or as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal
from bursar_admin.live import Watcher
from bursar_admin.routes import Route
from bursar_admin.routes.usage_query import LIVE_FILTERS, asked, shown

HEARTBEAT_S: Final = 20.0
"""Between pings, or comments of an event stream; a web socket that does not answer one is closed."""
SEND_TIMEOUT_S: Final = 30.0
"""A connection that has not taken all that waited for it, MAX_WAITING records at most, within this long is given up:
one that trickles must not hold a place for ever."""
LAST_TIMEOUT_S: Final = 5.0
"""For what still waits for a reader that is sent away, and how much it lost."""
CLOSE_TIMEOUT_S: Final = 2.0
SLOW: Final = "You read too slowly."
Send = Callable[[list[bytes]], Awaitable[None]]
"""Hands messages to a connection; returns when it has taken them."""
MAX_MESSAGES_IN: Final = 20
"""Messages a watcher may send: nothing is expected of it."""
MAX_MESSAGE_BYTES: Final = 4096


class Live:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        what = (
            "New requests under the filters, as they are recorded: `hello`, then `log` messages with what /api/logs "
            "shows, and `dropped` with a count where you read too slowly. A request may come twice (an expiry, then "
            "its record): the later one stands."
        )
        return [
            Route("GET", "/ws", self.socket, "watch_logs", f"Web socket. {what}", dict[str, Any], query=LIVE_FILTERS),
            Route(
                "GET", "/api/logs/stream", self.stream, "stream_logs", f"Server-Sent Events. {what}",
                media=("text/event-stream",),
                query=LIVE_FILTERS,
            ),
        ]  # fmt: skip

    def _filters(self, request: web.Request) -> Any:
        for name in ("from", "to"):
            if name in request.query:
                raise Refusal(
                    400, "invalid_request_error", f"{name}: what comes as it happens has no range; leave it out."
                )
        filters, _ = asked(request)
        return filters

    # -- web socket ----------------------------------------------------------------------------------------------

    async def socket(self, request: web.Request) -> web.StreamResponse:
        filters = self._filters(request)
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES, timeout=CLOSE_TIMEOUT_S, compress=False
        )
        if not socket.can_prepare(request).ok:
            raise Refusal(
                426, "upgrade_required_error", "This is a web socket; /api/logs/stream is the same as events.",
                headers={"Upgrade": "websocket", "Connection": "Upgrade"},
            )  # fmt: skip
        watcher = await self.desk.live.join(self.desk.usage.criteria(filters))
        try:
            await socket.prepare(request)
            sending = asyncio.create_task(self._send(request, socket, watcher, shown(filters)))
            try:
                await self._listen(socket)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        finally:
            self.desk.live.leave(watcher)
        return socket

    async def _listen(self, socket: web.WebSocketResponse) -> None:
        """Until the peer leaves; it has nothing to say, and may not say much."""
        count = 0
        async for message in socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                continue
            count += 1
            if count > MAX_MESSAGES_IN:
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many messages")

    async def _send(
        self, request: web.Request, socket: web.WebSocketResponse, watcher: Watcher, filters: dict[str, Any]
    ) -> None:
        async def send(messages: list[bytes]) -> None:
            for message in messages:
                await socket.send_str(message.decode())

        took = False
        try:
            await socket.send_str(hello(filters).decode())
            took = await hand_on(watcher, send)
        except ConnectionError:
            watcher.end(SLOW)
        if not took:
            cut(request)
        elif not socket.closed:
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=watcher.over.encode()[:120])

    # -- Server-Sent Events --------------------------------------------------------------------------------------

    async def stream(self, request: web.Request) -> web.StreamResponse:
        filters = self._filters(request)
        watcher = await self.desk.live.join(self.desk.usage.criteria(filters))
        try:
            response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
            response.content_type = "text/event-stream"
            if request.method == "HEAD":
                return response
            await response.prepare(request)
            await self._events(request, response, watcher, shown(filters))
        finally:
            self.desk.live.leave(watcher)
        return response

    async def _events(
        self, request: web.Request, response: web.StreamResponse, watcher: Watcher, filters: dict[str, Any]
    ) -> None:
        await response.write(b"retry: 3000\n" + event("hello", hello(filters)))

        async def send(messages: list[bytes]) -> None:
            parts = [event(kind_of(message), message) for message in messages] or [b": nothing new\n\n"]
            for part in parts:
                await response.write(part)

        took = False
        try:
            took = await hand_on(watcher, send)
            if took:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await response.write(event("bye", msgspec.json.encode({"type": "bye", "why": watcher.over})))
                    await response.write_eof()
        except (TimeoutError, ConnectionError):
            took = False
        if not took:
            cut(request)


async def hand_on(watcher: Watcher, send: Send) -> bool:
    """Hand what comes to a connection until the watcher is over, then what is left and how much was lost. False: the
    connection did not take it in time. Raises ConnectionError."""
    try:
        while not watcher.over:
            await _send_within(watcher, send, await watcher.next(HEARTBEAT_S))
        left = await watcher.next(0)
        if left:
            await _send_within(watcher, send, left)
    except TimeoutError:
        watcher.end(SLOW)
        return False
    return True


async def _send_within(watcher: Watcher, send: Send, messages: list[bytes]) -> None:
    """Raises TimeoutError, soon once the watcher is over."""
    now = asyncio.get_running_loop().time
    async with asyncio.timeout(LAST_TIMEOUT_S if watcher.over else SEND_TIMEOUT_S) as bound:

        def hurry() -> None:
            if not bound.expired():
                bound.reschedule(min(bound.when() or 0.0, now() + LAST_TIMEOUT_S))

        watcher.hurry = hurry
        try:
            await send(messages)
        finally:
            watcher.hurry = None
    watcher.taken()


def cut(request: web.Request) -> None:
    """End a connection that takes nothing: what is buffered for it would keep it open."""
    if request.transport is not None:
        request.transport.abort()


def hello(filters: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": "hello", "filters": filters})


def kind_of(message: bytes) -> str:
    return "dropped" if message.startswith(b'{"type":"dropped"') else "log"


def event(kind: str, data: bytes) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def routes(desk: Desk) -> list[Route]:
    return Live(desk).routes()
