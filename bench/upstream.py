"""A provider that costs next to nothing: fixed answers from a raw protocol, so that the proxies are what is measured.

``POST <any path>`` answers the fixed JSON message; with ``?events=<n>&every_us=<microseconds>`` in the query it answers
an event stream of ``n`` deltas, one write each, at that pace. Prints its port on the first line.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import uvloop

from bench import payloads

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb"[?&]events=(\d+)&every_us=(\d+)")
MAX_HEAD_BYTES = 64 * 1024


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_BODY = payloads.json_answer()
_JSON = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_011BenchBenchBench\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)
_START = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"request-id: req_011BenchBenchBench\r\ntransfer-encoding: chunked\r\n\r\n" + _chunk(payloads.sse_start())
)
_DELTA = _chunk(payloads.sse_delta())


class Answer(asyncio.Protocol):
    """One connection: requests one after the other (no pipelining)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.head = b""
        self.missing = 0
        self.left = 0
        self.deltas = 0
        self.every_s = 0.0
        self.closed = False
        self.loop = asyncio.get_running_loop()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self.missing -= len(data)
        else:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                if len(self.head) > MAX_HEAD_BYTES:
                    self.transport.close()
                return
            length = _LENGTH.search(self.head, 0, end + 2)
            self.missing = end + 4 + (int(length[1]) if length else 0) - len(self.head)
            self.head = self.head[:end]
        if self.missing <= 0:
            self.missing = 0
            self.answer()

    def answer(self) -> None:
        stream = _STREAM.search(self.head, 0, self.head.find(b"\r\n"))
        self.head = b""
        if stream is None:
            self.transport.write(_JSON)
            return
        self.deltas = self.left = int(stream[1])
        self.every_s = int(stream[2]) / 1e6
        self.transport.write(_START)
        self.loop.call_later(self.every_s, self.next_event)

    def next_event(self) -> None:
        if self.closed:
            return
        if self.left:
            self.left -= 1
            self.transport.write(_DELTA)
            self.loop.call_later(self.every_s, self.next_event)
        else:
            self.transport.write(_chunk(payloads.sse_end(self.deltas)) + b"0\r\n\r\n")


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    server = await asyncio.get_running_loop().create_server(Answer, sock=listener)
    print(listener.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except KeyboardInterrupt:
        pass
