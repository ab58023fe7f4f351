"""Connections to the enforcer that carry batches and nothing else.

A batch is written, and its answer read, in the very calls they come in: between a request and its admission stand
neither a task, nor a pool, nor a parser that makes objects of headers. Of an answer's head the status and the length
are read; an answer without a length ends the connection.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from pathlib import Path

from yarl import URL

from bursar_common.wire import MAX_BATCH_BYTES, batch_head

CONNECT_S = 5.0
"""Time to get a connection. The batch is tried again for as long as its operations may wait."""
MAX_HEAD_BYTES = 16 * 1024
"""Head of an answer."""

Answered = Callable[[int, bytes, str], None]
"""Status and body, or what went wrong."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_LAST = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)


class NoConnection(Exception):
    """The enforcer cannot be reached; nothing was sent."""


class BatchLink:
    """To one enforcer address, of one event loop: ``unix:<path>``, ``http://…`` or ``https://…``."""

    def __init__(self, url: str, token: str, *, ca_file: Path | None = None) -> None:
        self._path = url[5:] if url.startswith("unix:") else ""
        self._url = URL("http://bursar" if self._path else url)
        self._tls: ssl.SSLContext | None = None
        if self._url.scheme == "https":
            self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        self._head = batch_head(token, self._url.host_port_subcomponent or "")
        self._idle: list[BatchConnection] = []
        self._open: set[BatchConnection] = set()

    def idle(self) -> BatchConnection | None:
        """A connection that waits for a batch, if there is one."""
        return self._idle.pop() if self._idle else None

    async def connect(self) -> BatchConnection:
        """A new connection. Raises NoConnection."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                if self._path:
                    _, connection = await loop.create_unix_connection(lambda: BatchConnection(self), self._path)
                else:
                    _, connection = await loop.create_connection(
                        lambda: BatchConnection(self), self._url.host or "", self._url.port or 80, ssl=self._tls
                    )
        except (OSError, TimeoutError) as error:
            raise NoConnection(type(error).__name__) from None
        return connection

    def request(self, body: bytes) -> bytes:
        """A batch as it goes over the wire."""
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    def close(self) -> None:
        """Close all connections; batches on their way are answered with the problem."""
        for connection in list(self._open):
            connection.abort()

    def opened(self, connection: BatchConnection) -> None:
        self._open.add(connection)

    def free(self, connection: BatchConnection) -> None:
        self._idle.append(connection)

    def lost(self, connection: BatchConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class BatchConnection(asyncio.Protocol):
    """One batch at a time."""

    __slots__ = ("_answered", "_chunks", "_head", "_last", "_late", "_link", "_missing", "_status", "_transport")

    def __init__(self, link: BatchLink) -> None:
        self._link = link
        self._transport: asyncio.Transport | None = None
        self._answered: Answered | None = None
        self._late: asyncio.TimerHandle | None = None
        self._head = b""
        """The beginning of an answer's head, while it is incomplete."""
        self._status = 0
        self._chunks: list[bytes] = []
        self._missing = -1
        """Bytes of the answer's body still to come; below 0: its head is not read yet."""
        self._last = False

    def post(self, body: bytes, answered: Answered, within_s: float) -> None:
        """Send a batch. ``answered`` is called once, later: with the answer, or with a problem after ``within_s``."""
        assert self._transport is not None
        self._answered = answered
        self._late = asyncio.get_running_loop().call_later(within_s, self._too_late)
        self._transport.write(self._link.request(body))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of uvloop: not a subclass
        self._link.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost(self)
        self._finish(0, b"", "the connection was lost")

    def data_received(self, data: bytes) -> None:
        if self._answered is None:  # nobody asked
            self.abort()
            return
        if self._missing < 0:
            if self._head:
                data = self._head + data
            end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
            if end < 0:
                self._head = data
                if len(data) >= MAX_HEAD_BYTES:
                    self._broken("its answer's head is too long")
                return
            self._head = b""
            status, length = _STATUS.match(data), _LENGTH.search(data, 0, end + 2)
            if status is None or length is None or int(length[1]) > MAX_BATCH_BYTES:
                self._broken("its answer has no status or length, or is too long")
                return
            self._status, self._missing = int(status[1]), int(length[1])
            self._last = _LAST.search(data, 0, end + 2) is not None
            data = data[end + 4 :]
        self._missing -= len(data)
        self._chunks.append(data)
        if self._missing > 0:
            return
        if self._missing < 0:
            self._broken("more came than its answer")
            return
        chunks, self._chunks = self._chunks, []
        self._missing = -1
        if self._last and self._transport is not None:
            self._transport.abort()
        else:
            self._link.free(self)
        self._finish(self._status, chunks[0] if len(chunks) == 1 else b"".join(chunks), "")

    def _finish(self, status: int, content: bytes, problem: str) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(status, content, problem)

    def _broken(self, problem: str) -> None:
        self._finish(0, b"", problem)
        self.abort()

    def _too_late(self) -> None:
        self._late = None
        self._broken("no answer in time")

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
