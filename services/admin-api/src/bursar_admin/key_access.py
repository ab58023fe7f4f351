"""Who asks with a virtual key instead of the admin token: the key itself, about its own affairs."""

from __future__ import annotations

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal, unauthorized
from bursar_common.clock import rfc3339
from bursar_common.governance import VirtualKey
from bursar_common.keys import key_hmac, sha256_hex


def presented_key(desk: Desk, request: web.Request) -> VirtualKey | None:
    """The key whose value came with the request, in any of the headers the edge reads it from; None: none that is
    known here, or two different ones."""
    found = _known(desk, request)
    return found[0] if len(found) == 1 else None


def _known(desk: Desk, request: web.Request) -> list[VirtualKey]:
    """By the edge's rule: what is not known here beside a key, such as the client's own login, is passed over."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    presented = {
        request.headers.get("x-bf-vk", ""),
        request.headers.get("x-api-key", ""),
        bearer.strip() if scheme.lower() == "bearer" else "",
    } - {""}
    found = {desk.projection.with_hmac(key_hmac(desk.key_secret, sha256_hex(value))) for value in presented} - {None}
    keys = (desk.projection.virtual_keys.get(key_id or "") for key_id in found)
    return [key for key in keys if key is not None]


def asking_key(desk: Desk, request: web.Request) -> VirtualKey:
    """The key that asks. Every value that is not known here is answered alike, whatever it looks like.

    Raises Refusal (401, 403)."""
    found = _known(desk, request)
    if len(found) > 1:
        raise unauthorized("Two different virtual keys came with this request; send one of them.")
    if not found:
        raise unauthorized(
            "No virtual key that is known here came with this request: send yours as Authorization: Bearer, or "
            "x-api-key."
        )
    return check_usable(found[0], desk.now_s())


def check_usable(key: VirtualKey, now_s: int) -> VirtualKey:
    """Raises Refusal (403) for a key that the gateway would refuse, too."""
    if not key.is_active:
        raise Refusal(403, "permission_error", "This virtual key is not active.")
    if key.expires_at_s is not None and key.expires_at_s <= now_s:
        raise Refusal(403, "permission_error", f"This virtual key expired at {rfc3339(key.expires_at_s * 1000)}.")
    return key
