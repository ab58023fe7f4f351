"""An upgraded connection (a web socket) between client and admin-api: bytes both ways until either side closes."""

from __future__ import annotations

import asyncio
from typing import Any

from bursar_edge.incoming import Incoming
from bursar_edge.link import Reply

BUFFERED_BYTES = 256 * 1024
"""Bytes waiting for one side; then the other is not read."""
LOOK_AGAIN_S = 0.05
"""How often a side that was not read looks whether its peer has caught up."""


class _Way:
    """One direction; stands where aiohttp puts its web socket parser."""

    def __init__(self, source: asyncio.Transport, target: asyncio.Transport, over: asyncio.Future[None]) -> None:
        self._source = source
        self._target = target
        self._over = over

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if data and not self._target.is_closing():
            self._target.write(data)
            if self._target.get_write_buffer_size() > BUFFERED_BYTES:
                self._source.pause_reading()
                asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look)
        return False, b""

    def feed_eof(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _look(self) -> None:
        if self._source.is_closing():
            return
        if self._target.is_closing() or self._target.get_write_buffer_size() <= BUFFERED_BYTES // 2:
            self._source.resume_reading()
        else:
            asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look)


async def tunnel(incoming: Incoming, reply: Reply) -> None:
    """Answer ``101`` as the upstream did, then pass bytes until either side closes, and close both."""
    upstream: Any = reply.protocol
    client: Any = incoming.protocol
    near, far = incoming.transport, upstream.transport
    incoming.keep_alive = False
    incoming.started = True
    try:
        if near is None or far is None:
            return
        lines = [f"HTTP/1.1 101 {reply.reason}\r\n".encode()]
        lines += [name + b": " + value + b"\r\n" for name, value in reply.raw_headers]
        incoming.write_raw(b"".join([*lines, b"\r\n"]))
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        upstream.set_parser(_Way(far, near, over), None)
        client.set_parser(_Way(near, far, over))
        await over
    finally:
        if far is not None:
            far.close()
        if near is not None:
            near.close()
        reply.close()
