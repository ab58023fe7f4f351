"""A copy of an answer that came compressed although it was asked not to, decoded for the usage reader."""

from __future__ import annotations

import zlib
from typing import Any, Protocol

MAX_DECODED_BYTES = 64 << 20
"""Bytes a compressed answer may decode to for reading; beyond it the usage is ``unreadable``."""


class Feeds(Protocol):
    def feed(self, chunk: bytes) -> None: ...

    def end(self) -> None: ...


class Decoded:
    """Decodes a copy of a compressed answer. What it cannot decode it leaves unread."""

    def __init__(self, reader: Feeds, encoding: str) -> None:
        self._reader = reader
        self._decoder = _decoder(encoding)
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        if self._decoder is None:
            return
        try:
            data = self._decoder(chunk)
        except Exception:
            self._decoder = None
            return
        self._size += len(data)
        if self._size > MAX_DECODED_BYTES:
            self._decoder = None
        elif data:
            self._reader.feed(data)

    def end(self) -> None:
        self._reader.end()


def _decoder(encoding: str) -> Any:
    if encoding in ("gzip", "x-gzip"):
        gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return lambda chunk: gzip.decompress(chunk, MAX_DECODED_BYTES)
    if encoding == "deflate":
        return _Deflate().decompress
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj().decompress
    if encoding == "br":
        try:
            import brotli  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            return None
        return brotli.Decompressor().process
    return None


class _Deflate:
    """``deflate`` means zlib's format, and some servers send it without the header."""

    def __init__(self) -> None:
        self._inflate: Any = None

    def decompress(self, chunk: bytes) -> bytes:
        if self._inflate is None:
            self._inflate = zlib.decompressobj()
            try:
                return bytes(self._inflate.decompress(chunk, MAX_DECODED_BYTES))
            except zlib.error:
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        return bytes(self._inflate.decompress(chunk, MAX_DECODED_BYTES))


class _Gathered:
    """Decoded bytes up to a limit."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self._limit = limit

    def feed(self, chunk: bytes) -> None:
        self.data += chunk[: self._limit - len(self.data)]

    def end(self) -> None: ...


DECODE_AT_ONCE = 64 << 10
"""Compressed bytes decoded in one step: bounds what a step can swell to."""


def decoded(data: bytes, encoding: str, limit: int) -> bytes | None:
    """What an answer decodes to, as far as it came and up to ``limit`` bytes; None where that cannot be undone."""
    gathered = _Gathered(limit)
    decoder = Decoded(gathered, encoding)
    for start in range(0, len(data), DECODE_AT_ONCE):
        decoder.feed(data[start : start + DECODE_AT_ONCE])
        if len(gathered.data) >= limit:
            break
    return bytes(gathered.data) if gathered.data or not data else None
