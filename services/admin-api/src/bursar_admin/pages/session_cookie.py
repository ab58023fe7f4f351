"""The cookie of a signed-in browser, where an admin token is set. Pure.

``v1.<expiry, Unix s>.<HMAC>`` under a key made of the admin token: nothing is stored, and another token ends all
sessions. HttpOnly and SameSite=Strict: no script reads it, no other site sends it."""

from __future__ import annotations

import hashlib
import hmac

NAME = "bursar_session"
LASTS_S = 12 * 3600
_VERSION = "v1"


def _signature(admin_token: str, expires_s: int) -> str:
    key = hmac.new(admin_token.encode(), b"bursar page session", hashlib.sha256).digest()
    return hmac.new(key, f"{_VERSION}.{expires_s}".encode(), hashlib.sha256).hexdigest()


def make(admin_token: str, now_s: int) -> str:
    expires_s = now_s + LASTS_S
    return f"{_VERSION}.{expires_s}.{_signature(admin_token, expires_s)}"


def valid(admin_token: str, value: str, now_s: int) -> bool:
    """Whether this process (or one with the same token) made it, and it is not over."""
    version, _, rest = value.partition(".")
    expires, _, signature = rest.partition(".")
    if version != _VERSION or not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
        return False
    good = hmac.compare_digest(
        signature.encode("utf-8", "surrogateescape"), _signature(admin_token, int(expires)).encode()
    )
    return good and int(expires) > now_s
