"""The chunked body as read once aiohttp's parser is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_edge.direct import Chunks


class Payload:
    def __init__(self):
        self.ended = False
        self.error = None

    def feed_eof(self):
        self.ended = True

    def set_exception(self, exc):
        self.error = exc


class Taker:
    def __init__(self):
        self.data = b""

    def feed(self, data):
        self.data += data

    def quick(self):
        return None


class Connection:
    closing = False

    def force_close(self):
        self.closing = True

    abort = force_close


def read(*pieces: bytes) -> tuple[bytes, Payload, Connection]:
    payload, taker, connection = Payload(), Taker(), Connection()
    chunks = Chunks(payload, taker, connection)
    for piece in pieces:
        chunks.feed(piece)
    return taker.data, payload, connection


def encode(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 200), max_size=8))
def test_any_cut_gives_the_same_bytes(parts, cuts):
    whole = encode(parts)
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    data, payload, connection = read(*(whole[a:b] for a, b in zip(places, places[1:], strict=False)))
    assert (data, payload.ended, payload.error, connection.closing) == (b"".join(parts), True, None, False)


def test_every_single_byte():
    whole = b"5;ext=1\r\nhello\r\n00003\r\n\r\n!\r\n0\r\nTrailer: x\r\n\r\n"
    data, payload, connection = read(*(whole[at : at + 1] for at in range(len(whole))))
    assert (data, payload.ended, connection.closing) == (b"hello\r\n!", True, False)


@pytest.mark.parametrize(
    "broken",
    [
        b"xyz\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"1_0\r\n" + b"a" * 16 + b"\r\n",
        b"5\r\nhelloXX\r\n",
        b"5\nhello\r\n",
        b"\r\n",
        b"f" * 300,
        b"0\r\n" + b"a" * 9000,
    ],
)
def test_broken_framing_is_an_error(broken):
    _, payload, connection = read(broken)
    assert payload.error is not None
    assert connection.closing


def test_bytes_after_the_end_close_the_connection():
    _, payload, connection = read(encode([b"a"]) + b"HTTP/1.1 200 OK")
    assert payload.ended
    assert connection.closing


def test_unfinished_is_unfinished():
    data, payload, _ = read(b"5\r\nhel")
    assert (data, payload.ended, payload.error) == (b"hel", False, None)
