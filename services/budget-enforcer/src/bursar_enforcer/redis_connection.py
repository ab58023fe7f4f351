"""One pipelined connection to Redis: bytes out in order, replies back in order.

Written on an asyncio protocol and hiredis because the ledger sends a few large writes and reads many small replies;
a command costs about a microsecond here. Several batches may be in flight; their replies come back first in, first
out. A lost connection fails every reply still outstanding: the caller does not know whether Redis acted, which is why
every script of the ledger is idempotent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
import msgspec

from bursar_enforcer.calls import CommandLine, pack

CONNECT_TIMEOUT_S = 3.0
"""Longest wait for a connection and its greeting; a lost Redis is tried again by the caller."""
REPLY_TIMEOUT_S = 5.0
"""A batch without an answer for once to twice this long breaks the connection. A script takes
microseconds; a Redis that is silent this long is treated as lost."""


class RedisUnavailable(Exception):
    """Redis cannot be reached, or the connection broke. Retryable; what was sent may or may not have happened."""


class RedisAddress(msgspec.Struct, frozen=True):
    """Where Redis is. ``path`` is set for a Unix socket, else host and port."""

    host: str = ""
    port: int = 6379
    path: str = ""
    tls: bool = False
    username: str = ""
    password: str = ""
    database: int = 0

    def __repr__(self) -> str:  # never the password
        where = f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
        return f"RedisAddress({where})"


def parse_address(url: str) -> RedisAddress:
    """``redis://[user:password@]host[:port][/database]``, ``rediss://`` likewise, ``unix:<path>``.

    Raises ValueError naming what is allowed, without the URL itself (it may hold a password)."""
    if url.startswith("unix:"):
        path, _, query = url[5:].partition("?")
        password = ""
        for part in query.split("&"):
            if part.startswith("password="):
                password = unquote(part[9:])
        return RedisAddress(path=path.removeprefix("//"), password=password)
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        database = int(parts.path.strip("/") or "0")
    except ValueError:
        raise ValueError("allowed are redis://host:port/0, rediss://host:port/0 and unix:<path>") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("allowed are redis://host:port/0, rediss://host:port/0 and unix:<path>")
    return RedisAddress(
        host=parts.hostname,
        port=port,
        tls=parts.scheme == "rediss",
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=database,
    )


class RedisConnection(asyncio.Protocol):
    """Open with :meth:`open`; use from the event loop that opened it."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[int, list[Any], asyncio.Future[list[Any]]]] = deque()
        self._transport: asyncio.Transport | None = None
        self._lost: Exception | None = None
        self._oldest: asyncio.Future[list[Any]] | None = None
        self._watch: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, address: RedisAddress, *, ca_file: Path | None = None) -> RedisConnection:
        """Connect, authenticate and select the database. Raises RedisUnavailable."""
        loop = asyncio.get_running_loop()
        tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None) if address.tls else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection: RedisConnection
                if address.path:
                    _, connection = await loop.create_unix_connection(cls, address.path)
                else:
                    _, connection = await loop.create_connection(cls, address.host, address.port, ssl=tls)
                greeting: list[CommandLine] = []
                if address.password:
                    user = (address.username,) if address.username else ()
                    greeting.append(("AUTH", *user, address.password))
                if address.database:
                    greeting.append(("SELECT", address.database))
                greeting.append(("PING",))
                replies = await connection.call(greeting)
        except (OSError, TimeoutError) as error:
            raise RedisUnavailable(f"cannot connect to Redis: {type(error).__name__}") from error
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                connection.close()
                raise RedisUnavailable(f"Redis refused the connection: {reply}")
        return connection

    @property
    def lost(self) -> bool:
        return self._lost is not None

    async def call(self, commands: Sequence[CommandLine]) -> list[Any]:
        """Replies of several commands, in order; an error reply is returned as hiredis.ReplyError, not raised.

        Raises RedisUnavailable when the connection breaks before the last reply."""
        return await self.send(b"".join([pack(command) for command in commands]), len(commands))

    async def send(self, data: bytes, count: int) -> list[Any]:
        """As :meth:`call`, for ``count`` commands that are packed already."""
        if self._lost is not None or self._transport is None:
            raise RedisUnavailable(f"the connection to Redis is lost: {self._lost}")
        if count == 0:
            return []
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, [], future))
        self._transport.write(data)
        if self._watch is None:
            self._look()
        return await future

    def _look(self) -> None:
        """Once per REPLY_TIMEOUT_S while something is outstanding: the same oldest batch twice means a dead server."""
        oldest = self._waiting[0][2] if self._waiting else None
        if oldest is not None and oldest is self._oldest:
            self.close()
        self._oldest = oldest
        self._watch = None
        if oldest is not None and self._lost is None:
            self._watch = asyncio.get_running_loop().call_later(REPLY_TIMEOUT_S, self._look)

    def close(self) -> None:
        """Break the connection. Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while self._waiting:
                count, replies, future = self._waiting[0]
                while len(replies) < count:
                    reply = self._reader.gets()
                    if reply is False:
                        return
                    replies.append(reply)
                self._waiting.popleft()
                if not future.done():
                    future.set_result(replies)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost is None:
            self._lost = exc or ConnectionResetError("closed")
        while self._waiting:
            _, _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(RedisUnavailable("the connection to Redis was lost"))
