"""Deltas relayed in one step: the same bytes and the same counts as by the long way."""

from __future__ import annotations

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st

from bursar_edge import direct
from bursar_edge.deltas import delta_relay
from bursar_edge.direct import Chunks
from bursar_edge.usage_reader import SseReader

DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"%b"}}\n\n'
USAGE = b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":77}}\n\n'
PIECES = [
    *(DELTA % text for text in (b"", b"a", b"a few words", b"x" * 300)),
    USAGE,
    USAGE.replace(b"\n", b"\r"),
    USAGE.replace(b"\n", b"\r\n"),
    b"event: ping\ndata: {}\n\n",
    b"event: content_block_delta\n",
    b"event: content_block_delta\n\n",
    b"data: {}\n",
    b": a comment\n",
    b"\n",
    b"\r",
    b"\n\n",
    b"\r\n",
]


class Client:
    """Transport, protocol, watch, payload and connection at once."""

    def __init__(self) -> None:
        self.data = b""
        self.pauses = 0
        self.took = 0
        self._paused = False
        self._protocol = self
        self.last_s, self.tail, self.quick = 0.0, b"", None

    def write(self, data):
        self.data += data

    def pause_reading(self):
        self.pauses += 1

    def feed_eof(self):
        pass


async def relayed(parts: list[bytes], *, quickly: bool, client: Client | None = None) -> tuple[bytes, SseReader, int]:
    """Each part in a chunk of its own, each chunk in a read of its own: (what the client got, what was read, how many
    parts were taken in one step)."""
    client, reader, took = client or Client(), SseReader(), 0

    def take(data: bytes) -> bool:
        client.write(b"%x\r\n%b\r\n" % (len(data), data))
        reader.feed(data)
        return False

    sink = direct.Sink(client, take, lambda: quick if quickly and reader.at_rest else None)
    quick = delta_relay(sink, reader, client, client, client)
    chunks = Chunks(client, sink, client)
    for part in parts:
        frame = b"%x\r\n%b\r\n" % (len(part), part)
        if client.quick is not None and client.quick(frame):
            took += 1
        else:
            chunks.feed(frame)
    return client.data, reader, took


def seen(reader: SseReader) -> tuple[int, int, int]:
    reader.end()
    return reader.delta_events, reader.delta_bytes, reader.counts().output_tokens


@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(b"".join), max_size=12))
@example([DELTA % b"", b"event: content_block_delta\n" + b"\n" * 2])
def test_any_chunks_give_the_same_either_way(parts):
    long_way, reader, _ = asyncio.run(relayed(parts, quickly=False))
    one_step, other, _ = asyncio.run(relayed(parts, quickly=True))
    assert one_step == long_way
    assert seen(other) == seen(reader)


async def test_deltas_of_a_length_seen_before_take_one_step():
    parts = [DELTA % b"hello", DELTA % b"again", DELTA % b"twice", USAGE]
    data, reader, took = await relayed(parts, quickly=True)
    assert took >= 2
    assert data == b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    assert seen(reader) == (3, sum(map(len, parts[:3])), 77)


async def test_what_only_looks_like_a_delta_goes_the_long_way():
    first = DELTA % b"hello"
    for other in (
        first[:-2] + b"\r\r",
        first[:-1] + b"\r",
        first.replace(b"hello", b"he\rlo"),
        first.replace(b"hello", b"he\nlo"),
        first.replace(b"hello", b"h\n\nlo"),
        first.replace(b"_delta\n", b"_delta\r", 1),
        first.replace(b"event: c", b"evend: c"),
    ):
        assert len(other) == len(first)
        _, _, took = await relayed([first, other], quickly=True)
        assert took == 0


async def test_a_client_that_takes_no_more_pauses_the_provider():
    client = Client()
    client._paused = True
    _, _, took = await relayed([DELTA % b"hello", DELTA % b"again"], quickly=True, client=client)
    assert (took, client.pauses) == (1, 1)


async def test_a_client_that_left_is_not_counted():
    class Left(Client):
        def write(self, data):
            if self.data:
                raise RuntimeError
            super().write(data)

    data, reader, took = await relayed([DELTA % b"hello", DELTA % b"again"], quickly=True, client=Left())
    assert (took, reader.delta_events) == (1, 1)
    assert data.count(b"event:") == 1
