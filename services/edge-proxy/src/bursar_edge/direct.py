"""Bytes of an answer handed on in the very callback they arrive in.

aiohttp's StreamReader queues chunks and wakes a task for each, which costs more than relaying an event does. Once an
answer is being relayed, its reader becomes a DirectReader: the parser's calls go straight to a :class:`Sink`, and the
waiting task is woken only by the end, by an error, and by a client that reads slower than the upstream writes.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from aiohttp.streams import StreamReader


class Takes(Protocol):
    def __call__(self, data: bytes) -> bool:
        """Take bytes; True: no more for now. Must not raise."""
        ...


class Sink:
    """Where a DirectReader's bytes go, and what its waiting task waits on."""

    __slots__ = ("_loop", "_payload", "_stirred", "paused", "take")

    def __init__(self, payload: StreamReader, take: Takes) -> None:
        self._loop = asyncio.get_running_loop()
        self._payload = payload
        self._stirred: asyncio.Future[None] | None = None
        self.take = take
        self.paused = False

    def attach(self) -> None:
        """Take over: what the reader has queued, then all that comes."""
        payload = self._payload
        queued = payload.read_nowait(-1) if not payload.at_eof() else b""
        payload._timer = self  # type: ignore[assignment]  # a slot that only the reading methods use
        payload.__class__ = DirectReader
        if queued:
            self.feed(queued)

    def feed(self, data: bytes) -> None:
        if self.take(data) and not self.paused:
            self.paused = True
            self._payload._protocol.pause_reading()
            self.stir()

    def go_on(self) -> None:
        """The taker may be given more."""
        self.paused = False
        self._payload._protocol.resume_reading()

    def stir(self) -> None:
        if self._stirred is not None and not self._stirred.done():
            self._stirred.set_result(None)

    async def news(self) -> None:
        """Return when the answer has ended, broken, or the taker asked for a pause."""
        payload = self._payload
        if self.paused or payload.is_eof() or payload.exception() is not None:
            return
        self._stirred = self._loop.create_future()
        try:
            await self._stirred
        finally:
            self._stirred = None


class DirectReader(StreamReader):
    """A StreamReader that does not queue. Made by changing a reader's class, so it has no fields of its own."""

    __slots__ = ()

    _timer: Any

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        if data:
            self._timer.feed(data)
        return False

    def begin_http_chunk_receiving(self) -> None:
        """Chunks of the transfer encoding mean nothing here."""

    def end_http_chunk_receiving(self) -> None:
        """Likewise."""

    def feed_eof(self) -> None:
        super().feed_eof()
        self._timer.stir()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        super().set_exception(exc, *(() if exc_cause is None else (exc_cause,)))
        self._timer.stir()
