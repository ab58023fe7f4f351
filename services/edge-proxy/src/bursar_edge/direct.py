"""Bytes of an answer handed on in the very callback they arrive in.

aiohttp's StreamReader queues chunks and wakes a task for each, which costs more than relaying an event does. Once an
answer is being relayed, its reader becomes a DirectReader: the parser's calls go straight to a :class:`Sink`, and the
waiting task is woken only by the end, by an error, and by a client that reads slower than the upstream writes.

From the first chunk boundary on, a chunked answer leaves aiohttp's parser too: what is left of the transfer encoding
(a length, the bytes, a line end) is read here, strictly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import StreamReader

from bursar_edge.whole_answer import read_whole

MAX_CHUNK_LINE_BYTES = 256
"""A chunk's length and its extensions."""
MAX_TRAILER_BYTES = 8 * 1024
"""Trailers after the last chunk; they are dropped."""


class Takes(Protocol):
    def __call__(self, data: bytes) -> bool:
        """Take bytes; True: no more for now. Must not raise."""
        ...


class Quick(Protocol):
    def __call__(self, frame: bytes) -> bool:
        """Take what was read, at a chunk boundary, if it is one whole chunk of the most frequent kind; False: it is
        not, and nothing was done. Must not raise."""
        ...


class Sink:
    """Where a DirectReader's bytes go, and what its waiting task waits on. ``quick`` names who may be asked first with
    what is read at a chunk boundary, if anybody may right now."""

    __slots__ = ("_loop", "_payload", "_stirred", "at_chunk_end", "paused", "quick", "take")

    def __init__(self, payload: StreamReader, take: Takes, quick: Callable[[], Quick | None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._payload = payload
        self._stirred: asyncio.Future[None] | None = None
        self.take = take
        self.quick = quick
        self.paused = False
        self.at_chunk_end = False

    def attach(self) -> None:
        """Take over: what the reader has queued, then all that comes."""
        payload = self._payload
        queued = payload.read_nowait(-1) if not payload.at_eof() else b""
        payload._timer = self  # type: ignore[assignment]  # a slot that only the reading methods use
        payload.__class__ = DirectReader
        if isinstance(payload._protocol, ProviderConnection):
            payload._protocol.sink = self
        if queued:
            self.feed(queued)

    def feed(self, data: bytes) -> None:
        if self.take(data):
            self.pause()

    def pause(self) -> None:
        """The taker can take no more for now."""
        if not self.paused:
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
        self._timer.at_chunk_end = False

    def end_http_chunk_receiving(self) -> None:
        self._timer.at_chunk_end = True

    def feed_eof(self) -> None:
        super().feed_eof()
        self._timer.stir()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        super().set_exception(exc, *(() if exc_cause is None else (exc_cause,)))
        self._timer.stir()


class ProviderConnection(ResponseHandler):
    """aiohttp's client connection, whose parser is left out for an ordinary answer in one piece, and once a chunked
    answer's body is on its way."""

    sink: Sink | None = None
    """Set while an answer is relayed."""
    quick: Quick | None = None
    """Asked first with what is read: an event is relayed in one call then."""
    _chunks: Chunks | None = None
    _expected: dict[str, Any] | None = None
    """While an answer is awaited of which nothing has come: what its parser will be made with."""

    def set_response_params(self, **params: Any) -> None:
        self.sink = self._chunks = self.quick = None
        if params.get("skip_payload") or self._tail:
            self._expected = None
            super().set_response_params(**params)
        else:  # its parser is made when it is needed
            self._parser = None
            self._expected = params

    def data_received(self, data: bytes) -> None:
        quick = self.quick
        if quick is not None and quick(data):
            return
        chunks = self._chunks
        if chunks is not None:
            chunks.feed(data)
            return
        expected = self._expected
        if expected is not None:
            self._expected = None
            answer = read_whole(data)
            if answer is not None:
                self.feed_data((answer, answer.body), 0)  # type: ignore[arg-type]
                return
            super().set_response_params(**expected)
        super().data_received(data)
        sink = self.sink
        # A boundary for certain: the last chunk is complete, and no part of the next one's length came with it.
        if sink is not None and sink.at_chunk_end and data.endswith(b"\r\n") and not sink._payload.is_eof():
            self._chunks = Chunks(sink._payload, sink, self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.sink = self._chunks = self._expected = self.quick = None
        super().connection_lost(exc)


class Chunks:
    """Reads a chunked body from a chunk boundary on."""

    __slots__ = ("_connection", "_left", "_line", "_payload", "_sink", "_state")

    def __init__(self, payload: StreamReader, sink: Sink, connection: ProviderConnection) -> None:
        self._payload = payload
        self._sink = sink
        self._connection = connection
        self._line = b""
        self._left = 0
        self._state = "length"

    def feed(self, data: bytes) -> None:
        """Take bytes cut anywhere."""
        while data and self._state != "over":
            if self._state == "data":
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                self._sink.feed(part)
                if not self._left:
                    self._state = "line end"
                continue
            line, found, data = (self._line + data).partition(b"\n")
            if not found:
                self._line = line
                if len(line) > (MAX_TRAILER_BYTES if self._state == "trailer" else MAX_CHUNK_LINE_BYTES):
                    self._broken()
                break
            self._line = b""
            if not line.endswith(b"\r"):
                self._broken()
                break
            self._line_read(line[:-1])
        at_boundary = self._state == "length" and not self._line
        self._connection.quick = self._sink.quick() if at_boundary else None
        if data and self._state == "over":
            self._connection.abort()  # bytes nobody asked for

    def _line_read(self, line: bytes) -> None:
        if self._state == "line end":
            self._state = "length"
            if line:
                self._broken()
        elif self._state == "length":
            size = _hex(line.partition(b";")[0].rstrip(b" \t"))
            if size is None:
                self._broken()
            elif size:
                if len(frames) < MAX_FRAMES and _HEX.issuperset(line):
                    frames.setdefault(len(line) + size + 4, (line + b"\r\n", size))
                self._left, self._state = size, "data"
            else:
                self._state = "trailer"
        elif not line:
            self._state = "over"
            self._payload.feed_eof()

    def _broken(self) -> None:
        self._state = "over"
        self._connection.force_close()
        self._payload.set_exception(ClientPayloadError("broken transfer encoding"))


MAX_FRAMES = 4096
"""Lengths of whole chunks remembered: events of a stream have a few hundred."""
frames: dict[int, tuple[bytes, int]] = {}
"""By the length of a whole chunk in its framing: the line it begins with, as providers write it, and its size."""
_HEX = frozenset(b"0123456789abcdefABCDEF")


def _hex(digits: bytes) -> int | None:
    """A chunk's length; None if it is none (``int`` would take signs, spaces and underscores)."""
    if 0 < len(digits) <= 15 and _HEX.issuperset(digits):
        return int(digits, 16)
    return None
