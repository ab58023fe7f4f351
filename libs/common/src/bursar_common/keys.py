"""Virtual keys: their values, and the two hashes they are known by.

The edge sends only the SHA-256 of what a client presented; enforcer and admin-api turn that into the keyed hash under
which a key is stored, so that neither the log nor Redis holds anything a value could be tried against without
``BURSAR_KEY_SECRET``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

KEY_PREFIX = "sk-bf-"
KEY_RANDOM_BYTES = 32
"""256 bits: beyond guessing, whatever the rate."""

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def new_key_value(random_bytes: bytes | None = None) -> str:
    """The value of a new virtual key, ``sk-bf-`` and 64 hex digits. ``random_bytes`` is 32 bytes, by default from the
    operating system. Raises ValueError on any other number of bytes."""
    if random_bytes is None:
        random_bytes = secrets.token_bytes(KEY_RANDOM_BYTES)
    if len(random_bytes) != KEY_RANDOM_BYTES:
        raise ValueError(f"a key is made of {KEY_RANDOM_BYTES} random bytes, {len(random_bytes)} were given")
    return KEY_PREFIX + random_bytes.hex()


def sha256_hex(value: str) -> str:
    """Lower-case hex SHA-256 of a presented credential (UTF-8; undecodable header bytes as they came)."""
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()


def is_sha256_hex(text: str) -> bool:
    """Whether ``text`` is what :func:`sha256_hex` gives: 64 lower-case hex digits."""
    return _SHA256_HEX.fullmatch(text) is not None


def key_hmac(secret: str, sha256_hex: str) -> str:
    """What a key is stored as: hex HMAC-SHA256 over the hex SHA-256 of its value, keyed with ``BURSAR_KEY_SECRET``."""
    return hmac.digest(secret.encode(), sha256_hex.encode("ascii"), "sha256").hex()
