"""How the simulator writes an answer: pace, silence, compression, odd cuts, dropped connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from typing import Any, Protocol

import msgspec
from aiohttp import web

from bursar import simulator_answer as answers
from bursar.simulator_plan import Plan
from bursar.simulator_served import Answering

FLUSH_WAIT_S = 5.0
"""How long written bytes may take to leave before a dropped connection is dropped all the same."""


class Dropped(Exception):
    """The plan drops the connection here."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self, mode: int = ..., /) -> bytes: ...


def _compressor(kind: str) -> tuple[_Compressor, int, int]:
    """A compressor with its modes for "flush this event" and "end"."""
    if kind == "zstd":
        import zstandard

        return (
            zstandard.ZstdCompressor().compressobj(),
            zstandard.COMPRESSOBJ_FLUSH_BLOCK,
            zstandard.COMPRESSOBJ_FLUSH_FINISH,
        )
    bits = 31 if kind == "gzip" else 15
    return zlib.compressobj(6, zlib.DEFLATED, bits), zlib.Z_SYNC_FLUSH, zlib.Z_FINISH


async def send_stream(
    request: web.Request,
    answering: Answering,
    plan: Plan,
    counts: answers.Counts,
    events: list[answers.Event],
    headers: dict[str, str],
    *,
    whole: bool = False,
) -> web.StreamResponse:
    """Write ``events`` as the plan says, keeping the record of what was sent. ``whole``: one JSON body, no stream.

    Raises Dropped where the plan drops the connection."""
    record = answering.record
    content_type = "application/json" if whole else "text/event-stream; charset=utf-8"
    head = {"content-type": content_type, "cache-control": "no-cache"} | headers
    if plan.compress:
        head["content-encoding"] = plan.compress
    response = web.StreamResponse(headers=head)
    if not whole or plan.compress:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(events[0].data)
    await response.prepare(request)
    kind, drop_event = plan.drop_at()
    if kind == "after-head":
        await _until_sent(request)
        raise Dropped
    writer = _Writer(response, answering, plan)
    if plan.flush == "all" and not (plan.pace_ms or plan.silence_ms or plan.drop or plan.error_after):
        await writer.write(b"".join(event.data for event in events), end=True)
        _book(record, plan, counts, events[-1], len(events))
        await _finish(response, answering)
        return response
    for number, event in enumerate(events, 1):
        if number > 1 and plan.pace_ms:
            await asyncio.sleep(plan.pace_ms / 1000)
        if plan.silence_ms and number == plan.silence_at:
            await asyncio.sleep(plan.silence_ms / 1000)
        if (kind == "mid-event" and number == drop_event) or kind == "mid-body":
            await writer.write(event.data[: max(1, len(event.data) // 2)])
            await _until_sent(request)
            raise Dropped
        await writer.write(event.data, end=number == len(events))
        _book(record, plan, counts, event, number)
        if number == plan.error_after:
            await writer.write(answers.error_event(plan), end=True)
            await response.write_eof()
            answering.close("cut")
            return response
        if kind == "after-event" and number == drop_event:
            await _until_sent(request)
            raise Dropped
    await _finish(response, answering)
    return response


async def _finish(response: web.StreamResponse, answering: Answering) -> None:
    await response.write_eof()
    answering.close("completed")


def _book(record: Any, plan: Plan, counts: answers.Counts, event: answers.Event, number: int) -> None:
    """What the provider bills once this event is out."""
    record.events_sent = number
    if plan.usage != "full":
        return
    if event.final:
        record.usage = answers.late_counts(plan, counts)
        record.iterations = answers.iterations_of(plan)
        return
    thinking = min(counts.thinking_tokens, event.output_tokens)
    record.usage = msgspec.structs.replace(
        counts, output_tokens=event.output_tokens, thinking_tokens=thinking, web_searches=0
    )


class _Writer:
    """Writes the body's bytes in the pieces that the plan wants."""

    def __init__(self, response: web.StreamResponse, answering: Answering, plan: Plan) -> None:
        self._response = response
        self._answering = answering
        self._chunk = plan.chunk_bytes
        self._cut = plan.cut_at
        self._written = 0
        self._pause_s = plan.pace_ms / 1000
        self._compress = _compressor(plan.compress) if plan.compress else None

    async def write(self, data: bytes, *, end: bool = False) -> None:
        if self._compress is not None:
            compressor, flush_mode, end_mode = self._compress
            data = compressor.compress(data) + compressor.flush(end_mode if end else flush_mode)
        for piece in self._pieces(data):
            await self._response.write(piece)
            self._answering.wrote(piece)
            if piece is not data:
                await asyncio.sleep(self._pause_s)
        self._written += len(data)

    def _pieces(self, data: bytes) -> list[bytes]:
        if self._chunk:
            return [data[at : at + self._chunk] for at in range(0, len(data), self._chunk)]
        at = self._cut - self._written
        return [data[:at], data[at:]] if 0 < at < len(data) else [data]


async def _until_sent(request: web.Request) -> None:
    """Wait until what was written has left for the network (bounded)."""
    for _ in range(int(FLUSH_WAIT_S / 0.005)):
        await asyncio.sleep(0.005)
        transport = request.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() == 0:
            return


async def drop(request: web.Request, plan: Plan) -> web.StreamResponse:
    """Drop the connection without ending the answer."""
    transport = request.transport
    if transport is not None:
        if plan.drop_reset:
            connection: socket.socket | None = transport.get_extra_info("socket")
            if connection is not None:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response(status=500)
