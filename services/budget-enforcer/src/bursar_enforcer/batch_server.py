"""The server's way for batches: an edge's connection, read without aiohttp's parser while it sends nothing else.

An edge sends the same head before every batch (``wire.batch_head``), on connections it uses for nothing else. So a
connection begins here: a head that is this one to the byte, but for host and length, is a batch. Anything else hands
the connection over to aiohttp, for good and with the bytes that came. One batch at a time and connection: the edge
waits for the answer.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.tcp_helpers import tcp_keepalive

from bursar_common.wire import MAX_BATCH_BYTES, batch_answer, batch_head_start

log = structlog.get_logger()

Batch = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""Body in, status and body out."""

_REST = re.compile(rb"[A-Za-z0-9.:\[\]_-]{1,255}\r\ncontent-length: (\d{1,8})\r\n\r\n")
"""Host and length: what may differ between two batches' heads."""


class BatchServer(web.Server):
    """aiohttp's server, whose connections begin as :class:`BatchConnection`."""

    def __init__(self, handler: Any, batch: Batch, token: str, **options: Any) -> None:
        super().__init__(handler, **options)
        self.batch = batch
        self.head_start = batch_head_start(token) if token else b""
        self.batch_connections: set[BatchConnection] = set()

    def __call__(self) -> BatchConnection:  # type: ignore[override]  # hands over to what this returns
        return BatchConnection(self, super().__call__)

    def pre_shutdown(self) -> None:
        for connection in self.batch_connections:
            connection.end()
        super().pre_shutdown()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's signature
        running = [each.task for each in self.batch_connections if each.task is not None]
        if running:
            await asyncio.wait(running, timeout=timeout)
        for connection in list(self.batch_connections):
            connection.abort()
        await super().shutdown(timeout)


class BatchConnection(asyncio.Protocol):
    __slots__ = ("_chunks", "_ending", "_hand_over", "_missing", "_server", "_transport", "task")

    def __init__(self, server: BatchServer, hand_over: Callable[[], asyncio.Protocol]) -> None:
        self._server = server
        self._hand_over = hand_over
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._missing = 0
        """Bytes of the batch in hand that are still to come."""
        self._ending = False
        self.task: asyncio.Task[None] | None = None
        """Answers the batch in hand."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of uvloop: not a subclass
        self._server.batch_connections.add(self)
        tcp_keepalive(transport)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.batch_connections.discard(self)
        self._transport = None  # a batch that is being decided goes on: its holds are made or closed

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._take(data)
            return
        if self.task is not None:  # a second batch before the first one's answer
            self.abort()
            return
        start = self._server.head_start
        size = len(start)
        found = _REST.match(data, size) if size and hmac.compare_digest(data[:size], start) else None
        if found is None or not 0 < (length := int(found[1])) <= MAX_BATCH_BYTES:
            self._to_aiohttp(data)
            return
        self._missing = length
        self._take(data[found.end() :])

    def _take(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing < 0:
            self.abort()
            return
        self._chunks.append(data)
        if not self._missing:
            chunks, self._chunks = self._chunks, []
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self.task = asyncio.get_running_loop().create_task(self._answer(body))

    async def _answer(self, body: bytes) -> None:
        try:
            status, content = await self._server.batch(body)
        except Exception:
            log.exception("batch_failed")
            self.abort()
            return
        finally:
            self.task = None
        transport = self._transport
        if transport is not None:
            transport.write(batch_answer(status, content))
            if self._ending:
                transport.close()

    def _to_aiohttp(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._server.batch_connections.discard(self)
        protocol = self._hand_over()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def end(self) -> None:
        """Take no further batch: close after the answer, or now."""
        self._ending = True
        if self.task is None and not self._missing and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
