"""UUIDv7: ids that sort by the time they were made (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def uuid7_from(now_ms: int, random_bytes: bytes) -> str:
    """A UUIDv7 made of a time (Unix ms, 48 bits) and ten random bytes."""
    value = (now_ms & ((1 << 48) - 1)) << 80 | int.from_bytes(random_bytes, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid7() -> str:
    """A UUIDv7 of now."""
    return uuid7_from(time.time_ns() // 1_000_000, os.urandom(10))


IdMinter = Callable[[], str]


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None
