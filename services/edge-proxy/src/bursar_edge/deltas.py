"""Text deltas, which most of a stream is made of, relayed in one step.

A delta that came as one whole chunk needs no chunk parser, no framing of its own and no usage reader: looking at its
beginning, its end and its line ends says all of that. What is not exactly that goes the long way.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bursar_edge.direct import Quick, Sink, frames
from bursar_edge.usage_reader import SseReader

_DELTA = b"event: content_block_delta\n"
_deltas: dict[int, tuple[bytes, int, int]] = {}
"""By the length of a whole chunk in its framing: what it begins with if it is a delta, how long that is, and the size
of the event. As many as ``frames`` has."""


def delta_relay(sink: Sink, stream: SseReader, watch: Any, transport: asyncio.Transport, protocol: Any) -> Quick:
    """What to ask first for a chunked stream, between two chunks and two events. ``watch`` learns of the bytes,
    ``protocol`` (the client's) tells whether it takes more."""
    write, now_s = transport.write, asyncio.get_running_loop().time

    def quick(frame: bytes) -> bool:
        known = _deltas.get(len(frame)) or _delta_of(len(frame))
        if (
            known is None
            or frame[: known[1]] != known[0]
            or frame[-4:] != b"\n\n\r\n"
            or frame[-5] == 10  # a third line end: not of the event
            or frame.count(b"\n") != 5  # two end the chunk's lines, two the event's, one the event
            or frame.count(b"\r") != 2
        ):
            return False
        try:
            write(frame)
        except (OSError, RuntimeError):
            return True  # the client has left; the handler is told by its cancellation
        watch.last_s = now_s()
        watch.tail = b""
        stream.delta_events += 1
        stream.delta_bytes += known[2]
        if protocol._paused:
            sink.pause()
        return True

    return quick


def _delta_of(length: int) -> tuple[bytes, int, int] | None:
    framing = frames.get(length)
    if framing is None:
        return None
    begins = framing[0] + _DELTA
    found = _deltas[length] = (begins, len(begins), framing[1])
    return found
