"""Connections to providers, kept at hand for the next request.

aiohttp's connector makes them (names, TLS, tunnels, limits). Its own way of keeping idle ones costs a request as much
as parsing an answer does, so a connection that may serve again stays taken from the connector's point of view, and is
handed on here, the last used first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from aiohttp import ClientTimeout, TCPConnector
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection


class _Idle(NamedTuple):
    connection: Connection
    protocol: Any
    since_s: float


class Lent:
    """A connection in use, with as much of aiohttp's Connection as its user needs."""

    __slots__ = ("_connection", "_pool", "_request", "protocol")

    def __init__(self, pool: Pool, request: ClientRequest, connection: Connection, protocol: Any) -> None:
        self._pool = pool
        self._request = request
        self._connection = connection
        self.protocol = protocol

    def release(self) -> None:
        """It may serve again, if it still can. Idempotent."""
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            self._pool.take_back(self._request, self._connection, protocol)

    def close(self) -> None:
        """It may not. Idempotent."""
        if self.protocol is not None:
            self.protocol = None
            self._pool.forget(self._connection)


class Pool(TCPConnector):
    """A connector whose connections are lent; of one event loop. ``connect`` is always asked with the same request
    object for the same address."""

    def __init__(self, *, limit: int, keepalive_s: float, **options: Any) -> None:
        super().__init__(limit=limit, keepalive_timeout=keepalive_s, **options)
        self._most = limit
        self._keep_s = keepalive_s
        self._clock = asyncio.get_running_loop()
        self._idle: dict[ClientRequest, deque[_Idle]] = {}
        self._taken = 0
        """Connections taken from the connector: lent and idle ones."""
        self._asking = 0
        """Requests that the connector has not given one yet."""
        self._sweep: asyncio.TimerHandle | None = None

    async def connect(  # type: ignore[override]
        self,
        req: ClientRequest,
        traces: Any,
        timeout: ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Lent:
        """An idle connection, else a new one. Raises what aiohttp's connector raises."""
        idle = self._idle.get(req)
        if idle:
            oldest_s = self._clock.time() - self._keep_s
            while idle:
                found = idle.pop()
                # One that said something unasked is not to be trusted with the next answer.
                if found.since_s >= oldest_s and found.protocol.is_connected() and not found.protocol.should_close:
                    return Lent(self, req, found.connection, found.protocol)
                self.forget(found.connection)
        if self._taken >= self._most:
            self._make_room()
        self._asking += 1
        try:
            connection = await super().connect(req, traces, timeout)
        finally:
            self._asking -= 1
        self._taken += 1
        return Lent(self, req, connection, connection.protocol)

    def take_back(self, request: ClientRequest, connection: Connection, protocol: Any) -> None:
        """Keep a connection whose answer was read, if it may serve again and nobody waits at the connector."""
        if self.closed or self._asking or protocol.should_close or not protocol.is_connected():
            self._taken -= 1
            connection.release()
            return
        idle = self._idle.get(request)
        if idle is None:
            idle = self._idle[request] = deque()
        idle.append(_Idle(connection, protocol, self._clock.time()))
        if self._sweep is None:
            self._sweep = self._clock.call_later(self._keep_s, self._close_old)

    def forget(self, connection: Connection) -> None:
        """Close a connection."""
        self._taken -= 1
        connection.close()

    def _make_room(self) -> None:
        """All connections are taken: give up the one that has been idle longest for whoever needs a new one."""
        lines = [idle for idle in self._idle.values() if idle]
        if lines:
            self.forget(min(lines, key=lambda idle: idle[0].since_s).popleft().connection)

    def _close_old(self) -> None:
        self._sweep = None
        oldest_s = self._clock.time() - self._keep_s
        for request, idle in list(self._idle.items()):
            while idle and (idle[0].since_s <= oldest_s or not idle[0].protocol.is_connected()):
                self.forget(idle.popleft().connection)
            if not idle:
                del self._idle[request]
        if self._idle:
            self._sweep = self._clock.call_later(self._keep_s / 2, self._close_old)

    async def close(self, *, abort_ssl: bool = False) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for idle in self._idle.values():
            for each in idle:
                self.forget(each.connection)
        self._idle.clear()
        await super().close(abort_ssl=abort_ssl)
