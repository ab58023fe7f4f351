"""UUIDv7: ids that sort by the time they were made (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


_VARIANT = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}
"""A hex digit with its upper two bits replaced by the variant's, 10."""


def uuid7_from(now_ms: int, random_bytes: bytes) -> str:
    """A UUIDv7 made of a time (Unix ms, 48 bits) and ten random bytes."""
    time = f"{now_ms & ((1 << 48) - 1):012x}"
    rest = random_bytes.hex()
    return f"{time[:8]}-{time[8:]}-7{rest[1:4]}-{_VARIANT[rest[4]]}{rest[5:8]}-{rest[8:]}"


def uuid7() -> str:
    """A UUIDv7 of now."""
    return uuid7_from(time.time_ns() // 1_000_000, os.urandom(10))


IdMinter = Callable[[], str]


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None
