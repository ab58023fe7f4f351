"""A cheap load generator: keep-alive connections on a raw protocol, a fixed number of requests, one figure file.

Connects, prints ``ready``, waits for a line on standard input, runs, prints one line of JSON: requests, failures, wall
time, latencies and times to the first body byte in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import uvloop

from bench import payloads

MAX_RUN_S = 120.0
"""A run that hangs is given up after this and counted as failed."""


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the values lie; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def dechunk(body: bytes) -> bytes:
    """The content of a complete chunked body. Raises ValueError if it is not one."""
    parts, at = [], 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


class Exchange(asyncio.Protocol):
    """One connection that sends the request again as soon as the answer is whole."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.lost(self)

    def send(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.head: bytes | None = None
        self.whole: int | None = None
        self.first_at = 0.0
        self.sent_at = time.perf_counter()
        self.transport.write(self.run.request)

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)
        if self.head is None:
            joined = b"".join(self.parts)
            end = joined.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head = joined[:end]
            self.parts = [joined[end + 4 :]]
            self.size = len(self.parts[0])
            lower = self.head.lower()
            at = lower.find(b"\r\ncontent-length:")
            self.whole = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else None
        if not self.first_at and self.size:
            self.first_at = time.perf_counter()
        if self.whole is not None:
            if self.size >= self.whole:
                self.answered()
        elif data.endswith(b"0\r\n\r\n") or (len(data) < 5 and b"".join(self.parts).endswith(b"0\r\n\r\n")):
            self.answered()

    def answered(self) -> None:
        now = time.perf_counter()
        self.run.answered(self, now - self.sent_at, self.first_at - self.sent_at)


class Run:
    """One measured run."""

    def __init__(self, request: bytes, requests: int, events: int, answer: bytes) -> None:
        self.request = request
        self.left_to_send = requests
        self.left_to_come = requests
        self.events = events
        self.answer = answer
        self.latencies: list[float] = []
        self.first_bytes: list[float] = []
        self.failures: list[str] = []
        self.done = asyncio.Event()

    def start(self, exchange: Exchange) -> None:
        if self.left_to_send > 0:
            self.left_to_send -= 1
            exchange.send()

    def answered(self, exchange: Exchange, latency_s: float, first_byte_s: float) -> None:
        self.latencies.append(latency_s)
        self.first_bytes.append(first_byte_s)
        body = b"".join(exchange.parts)
        if exchange.head is None or b" 200 " not in exchange.head[:16]:
            self.failures.append((exchange.head or b"")[:200].decode("latin-1") + body[:300].decode("latin-1"))
        elif self.events:
            if (body if exchange.whole is not None else dechunk(body)) != self.answer:
                self.failures.append(f"not the stream that was sent: {body[:200]!r}")
        elif body != self.answer:
            self.failures.append(f"not the answer that was sent: {body[:200]!r}")
        self.left_to_come -= 1
        if self.left_to_come == 0:
            self.done.set()
        else:
            self.start(exchange)

    def lost(self, exchange: Exchange) -> None:
        if not self.done.is_set():
            self.failures.append("connection lost")
            self.done.set()


def request_bytes(host: str, path: str, body: bytes, headers: list[str]) -> bytes:
    """The request as it goes on the wire: the headers Claude Code sends, and the ones asked for."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        "Accept: application/json",
        "anthropic-version: 2023-06-01",
        "anthropic-beta: claude-code-20250219,interleaved-thinking-2025-05-14",
        "User-Agent: claude-cli/2.1.197 (external, cli)",
        "x-claude-code-session-id: 0d7b6f5e-6a55-4c43-9b8e-6a1f0a1c2b3d",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/messages")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--body", choices=("small", "large"), default="small")
    parser.add_argument("--events", type=int, default=0, help="deltas per stream; 0: a JSON answer")
    parser.add_argument("--every-us", type=int, default=5000, help="pace of the deltas of one stream")
    parser.add_argument("--stagger-ms", type=float, default=0.0, help="pause between the first requests")
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()

    stream = options.events > 0
    body = payloads.small_body(stream=stream) if options.body == "small" else payloads.large_body(stream=stream)
    path = options.path + (f"?events={options.events}&every_us={options.every_us}" if stream else "")
    answer = (
        payloads.sse_start() + payloads.sse_delta() * options.events + payloads.sse_end(options.events)
        if stream
        else payloads.json_answer()
    )
    run = Run(
        request_bytes(f"127.0.0.1:{options.port}", path, body, options.header), options.requests, options.events, answer
    )
    loop = asyncio.get_running_loop()
    exchanges = []
    for _ in range(options.connections):
        _, exchange = await loop.create_connection(lambda: Exchange(run), "127.0.0.1", options.port)
        exchanges.append(exchange)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    began = time.perf_counter()
    for exchange in exchanges:
        run.start(exchange)
        if options.stagger_ms:
            await asyncio.sleep(options.stagger_ms / 1000)
    try:
        await asyncio.wait_for(run.done.wait(), MAX_RUN_S)
    except TimeoutError:
        run.failures.append(f"{run.left_to_come} answers missing after {MAX_RUN_S:.0f} s")
    wall_s = time.perf_counter() - began
    run.done.set()
    for exchange in exchanges:
        exchange.transport.close()
    return {
        "requests": len(run.latencies),
        "failures": len(run.failures),
        "first_failure": run.failures[0] if run.failures else "",
        "wall_s": wall_s,
        "latency_p50_ms": statistics.median(run.latencies or [0.0]) * 1000,
        "latency_p95_ms": percentile(run.latencies, 0.95) * 1000,
        "first_byte_p50_ms": statistics.median(run.first_bytes or [0.0]) * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main())), flush=True)
