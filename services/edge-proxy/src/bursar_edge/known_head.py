"""Heads that a connection has sent before, and the bodies behind them.

Why a head may go unparsed: it is byte for byte one that the parser accepted on this connection, but for the digits of
its one ``Content-Length``; these are digits again, so the parser would say the same of it, with another length.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11

MAX_KNOWN_BYTES = 16 * 1024
"""Bytes of a head that a connection remembers; a longer one is parsed each time."""
MAX_LENGTH_DIGITS = 9
"""Digits of a body's length: above the largest body by an order."""
VIEW_BYTES = 32 * 1024
"""Bytes from which on a body that came with its head is looked at where it is; shorter ones are copied out."""
READ_AHEAD_BYTES = 512 * 1024
"""Bytes of a body taken in before somebody asked for it; then the client is not read."""

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?(\d{1,9})(?=\r\n)")
_PATH = "/v1/messages"


class KnownHead:
    """One head: what stands before and after the digits of its length, and what the parser made of it. ``facts`` is for
    what is worked out from the head alone; it lives as long as the connection sends this head."""

    __slots__ = ("after", "before", "facts", "message")

    def __init__(self, before: bytes, after: bytes, message: RawRequestMessage) -> None:
        self.before = before
        self.after = after
        self.message = message
        self.facts: Any = None

    def length_in(self, data: bytes) -> tuple[int, int] | None:
        """The body's length and where the body begins, if ``data`` begins with this head."""
        before = self.before
        if not data.startswith(before):
            return None
        at = len(before)
        end = data.find(self.after, at, at + MAX_LENGTH_DIGITS + len(self.after))
        if end <= at or not (digits := data[at:end]).isdigit():
            return None
        return int(digits), end + len(self.after)


def learn(data: bytes, message: RawRequestMessage) -> tuple[KnownHead, int] | None:
    """The head at the beginning of ``data``, which the parser read as ``message``, and the length of the whole request
    in bytes; None if it is not one to remember."""
    end = data.find(b"\r\n\r\n", 0, MAX_KNOWN_BYTES)
    if (
        end < 0
        or message.method != "POST"
        or message.version != HttpVersion11
        or message.should_close
        or message.chunked
        or message.upgrade
        or _PATH not in message.path
        or "expect" in message.headers
        or data[:2] == b"\r\n"
    ):
        return None
    found = list(_LENGTH.finditer(data, 0, end + 2))
    if len(found) != 1 or message.headers.getall("content-length", ()) != [found[0][1].decode()]:
        return None
    first, last = found[0].span(1)
    return KnownHead(data[:first], data[last : end + 4], message), end + 4 + int(found[0][1])


class Body:
    """The body behind a known head: bytes counted, not parsed. Stands where aiohttp puts its StreamReader."""

    __slots__ = (
        "_chunks",
        "_dropping",
        "_error",
        "_missing",
        "_paused",
        "_protocol",
        "_waiter",
        "_wanted",
        "length",
        "received",
    )

    def __init__(self, length: int, protocol: Any) -> None:
        self.length = length
        self.received = 0
        self._missing = length
        self._chunks: list[bytes | memoryview] = []
        self._protocol = protocol
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._wanted = self._paused = self._dropping = False

    def is_eof(self) -> bool:
        return not self._missing

    def feed(self, data: bytes | memoryview) -> bytes | memoryview:
        """Take bytes; what is left of them belongs to the next request."""
        rest: bytes | memoryview = b""
        if len(data) > self._missing:
            data, rest = data[: self._missing], data[self._missing :]
        if not self._dropping:
            self._chunks.append(data)
        self.received += len(data)
        self._missing -= len(data)
        if not self._missing:
            self._wake()
        elif not self._wanted and self.received > READ_AHEAD_BYTES and not self._paused:
            self._paused = True
            self._protocol._pause_transport_reading()
        return rest

    def take(self) -> bytes | memoryview:
        """All that has come; a view where that spares a copy."""
        chunks, self._chunks = self._chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def whole(self) -> bytes | memoryview:
        """Wait for all of it. Raises what ``set_exception`` was given."""
        self._wanted = True
        self._go_on()
        if self._error is not None:
            raise self._error
        if self._missing:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.take()

    async def readany(self) -> bytes:
        """To drop a body nobody wants: wait for its end (the caller's time for that is bounded)."""
        self._dropping = True
        self._chunks.clear()
        await self.whole()
        return b""

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def _wake(self) -> None:
        self._go_on()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _go_on(self) -> None:
        if self._paused:
            self._paused = False
            self._protocol._resume_transport_reading()
