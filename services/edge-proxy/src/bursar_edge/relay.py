"""An answer's way to the client: bytes as they come, while the usage reader looks on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog
from aiohttp.client_exceptions import ClientError

from bursar_edge.decoding import Decoded, Feeds
from bursar_edge.deltas import delta_relay
from bursar_edge.direct import Quick, Sink
from bursar_edge.incoming import ClientGone, Incoming, whole
from bursar_edge.keeping import Keeping
from bursar_edge.link import Header, Reply
from bursar_edge.refusals import PING, error_event
from bursar_edge.usage_event import Facts
from bursar_edge.usage_reader import JsonReader, SseReader, UsageReader

log = structlog.get_logger()


class UpstreamCut(Exception):
    """The provider's answer broke off."""


class Times(NamedTuple):
    """Waits of a relay, in seconds, and the clock (Unix milliseconds)."""

    ping_s: float
    """Silence after which the gateway sends a ping of its own; the client gives up after 300 s without a byte."""
    silence_s: float
    """Silence after which the upstream counts as dead."""
    now_ms: Callable[[], int]


def reader_for(reply: Reply) -> tuple[UsageReader, Feeds]:
    """The reader of a successful answer, and what to feed with its bytes (a decoder in between, if it came
    compressed all the same)."""
    content_type = reply.headers.get("content-type", "")
    reader: SseReader | JsonReader = SseReader() if is_stream(content_type) else JsonReader()
    encoding = reply.headers.get("content-encoding", "").strip().lower()
    if not encoding or encoding == "identity":
        return reader, reader
    return reader, Decoded(reader, encoding)


def is_stream(content_type: str) -> bool:
    return content_type[:17].lower() == "text/event-stream"


class Watch:
    """Pings a silent event stream, and gives up on an upstream that stays silent too long.

    One timer that looks when the last bytes came, so that an event costs no timer."""

    __slots__ = (
        "_every_s",
        "_handle",
        "_incoming",
        "_loop",
        "_pings",
        "_reply",
        "_silence_s",
        "last_s",
        "pinged_s",
        "tail",
    )

    def __init__(self, incoming: Incoming, reply: Reply, times: Times, *, pings: bool) -> None:
        self._incoming = incoming
        self._reply = reply
        self._every_s = min(times.ping_s, times.silence_s)
        self._silence_s = times.silence_s
        self._pings = pings
        self._loop = asyncio.get_running_loop()
        self.last_s = self.pinged_s = self._loop.time()
        self.tail = b""
        self._handle = self._loop.call_later(self._every_s, self._tick)

    def at_boundary(self) -> bool:
        """Whether an event of our own may be written now."""
        return not self.tail or self.tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))

    def _tick(self) -> None:
        now_s = self._loop.time()
        if now_s - self.last_s >= self._silence_s:
            self._reply.cut()
            return
        quiet_s = now_s - max(self.last_s, self.pinged_s)
        if quiet_s >= self._every_s:
            self.pinged_s = now_s
            quiet_s = 0.0
            incoming = self._incoming
            if self._pings and self.at_boundary() and not incoming.protocol.writing_paused:
                try:
                    incoming.write(PING)
                except ClientGone:
                    return  # the handler is told by its cancellation
        self._handle = self._loop.call_later(self._every_s - quiet_s, self._tick)

    def stop(self) -> None:
        self._handle.cancel()


async def relay(
    incoming: Incoming, reply: Reply, headers: list[Header], facts: Facts, feeds: Feeds | None, times: Times
) -> None:
    """Relay an answer to its end. Raises UpstreamCut after telling the client (an ``error`` event at an event boundary,
    else an unfinished answer), ClientGone and CancelledError when the client left. The upstream connection is closed on
    every way out but the good one."""
    body = reply.body
    length = reply.headers.get("content-length")
    try:
        if body.is_eof():  # it came whole, with its head
            content = whole(body)
            incoming.answer(reply.status, headers, content, reply.reason, length_known=length is not None)
            facts.first_byte_ms = times.now_ms()
            if feeds is not None:
                feeds.feed(content)
                _end([feeds], facts)
            reply.release()
            return
        incoming.start(reply.status, reply.reason, headers, length=int(length) if length else None)
    except ClientGone:
        reply.close()
        raise
    events = reply.status == 200 and is_stream(reply.headers.get("content-type", ""))
    ours = events and length is None and reply.headers.get("content-encoding", "identity").lower() == "identity"
    watch = Watch(incoming, reply, times, pings=ours)
    try:
        await _pump(incoming, body, facts, feeds, watch, times)
        if reply.until_close and events and isinstance(feeds, SseReader | Keeping) and not feeds.stopped:
            raise UpstreamCut("the connection ended")
        incoming.end()
    except UpstreamCut:
        reply.close()
        _tell_cut(incoming, ours and watch.at_boundary(), facts.request_id)
        raise
    except BaseException:
        reply.close()
        raise
    finally:
        watch.stop()
    reply.release()


async def _pump(incoming: Incoming, body: Any, facts: Facts, feeds: Feeds | None, watch: Watch, times: Times) -> None:
    reading = [feeds] if feeds is not None else []
    feed = feeds.feed if feeds is not None else _ignore
    protocol, now_s, chunked = incoming.protocol, asyncio.get_running_loop().time, incoming.chunked
    transport = incoming.transport
    if transport is None or transport.is_closing():
        raise ClientGone("the client closed the connection")
    write = transport.write
    reader = feeds.reader if isinstance(feeds, Keeping) else feeds
    stream: Any = reader if reader.__class__ is SseReader else None

    def take(data: bytes) -> bool:
        try:
            write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        except (OSError, RuntimeError):
            return False  # the client has left; the handler is told by its cancellation
        watch.last_s = now_s()
        watch.tail = data if len(data) > 3 else watch.tail[-4:] + data
        if reading:
            try:
                feed(data)
            except Exception:
                reading.clear()
                log.exception("usage_reader_failed", request_id=facts.request_id)
        return protocol._paused is True

    def first(data: bytes) -> bool:
        facts.first_byte_ms = times.now_ms()
        sink.take = take
        return take(data)

    def quickly() -> Quick | None:
        return quick if chunked and reading and stream is not None and stream.at_rest else None

    sink = Sink(body, first, quickly)
    quick = delta_relay(sink, stream, watch, transport, protocol)
    if isinstance(feeds, Keeping):
        quick = feeds.over(quick)
    try:
        sink.attach()
        while True:
            await sink.news()
            if sink.paused:
                try:
                    await incoming.drain()
                except (ClientError, OSError):
                    raise ClientGone("the client closed the connection") from None
                watch.last_s = now_s()
                sink.go_on()
                continue
            error = body.exception()
            if error is not None:
                raise UpstreamCut(type(error).__name__)
            return
    finally:
        _end(reading, facts)


def _ignore(_data: bytes) -> None:
    """Nobody reads this answer."""


def _end(reading: list[Feeds], facts: Facts) -> None:
    for feeds in reading:
        try:
            feeds.end()
        except Exception:
            log.exception("usage_reader_failed", request_id=facts.request_id)


def _tell_cut(incoming: Incoming, with_event: bool, request_id: str) -> None:
    try:
        if with_event:
            incoming.write(error_event("upstream_cut", request_id))
            incoming.end()
        else:
            incoming.abort()
    except ClientGone:
        pass
