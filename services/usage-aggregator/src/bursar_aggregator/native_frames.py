"""ClickHouse's own compressed blocks (``compress=1``), which its JDBC driver, hence DBeaver, asks for by default.

A frame is: CityHash128 (version 1.0.2) of what follows, one byte of method (0x82: LZ4), the frame's size without the
hash, the size of the data, the data. Source: ClickHouse, ``src/Compression/CompressedReadBufferBase.cpp``.
"""

from __future__ import annotations

import struct
from typing import Final

import lz4.block  # type: ignore[import-untyped]
from clickhouse_cityhash.cityhash import CityHash128  # type: ignore[import-untyped]

FRAME_BYTES: Final = 1 << 20
"""Data of one frame; ClickHouse's own is 1 MiB."""
_LZ4: Final = 0x82
_HEAD: Final = struct.Struct("<BII")
_HASH: Final = struct.Struct("<QQ")


def compress_frames(data: bytes) -> bytes:
    """``data`` as a sequence of frames; nothing for nothing."""
    out: list[bytes] = []
    for start in range(0, len(data), FRAME_BYTES):
        plain = data[start : start + FRAME_BYTES]
        packed = lz4.block.compress(plain, store_size=False)
        frame = _HEAD.pack(_LZ4, _HEAD.size + len(packed), len(plain)) + packed
        out.append(frame_hash(frame) + frame)
    return b"".join(out)


def frame_hash(frame: bytes) -> bytes:
    """The 16 bytes before a frame: the higher word of the hash first, each little-endian."""
    value: int = CityHash128(frame)
    return _HASH.pack(value >> 64, value & 0xFFFFFFFFFFFFFFFF)
