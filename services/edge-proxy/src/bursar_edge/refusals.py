"""Every sentence the gateway answers with, and how: status, type, whether to try again.

Pure. ``docs/refusals.md`` is made from :data:`REFUSALS`, and a test compares the two. Rules (from what Claude Code
does with answers): whatever waiting a minute cannot cure carries ``x-should-retry: false``, or the client repeats in
silence for minutes; a 403 sentence leads with the fix, since the client puts "Failed to authenticate" before it; one
line; the request id at the end.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from bursar_common import money
from bursar_common.windows import parse_window
from bursar_common.wire import Refused

LONGEST_CLIENT_WAIT_S = 60
"""A client waits out a ``retry-after`` of up to a minute; more is final."""
MAX_LISTED = 12
"""Allowed models named in a sentence; further ones are counted."""


class Refusal(NamedTuple):
    """One way to refuse."""

    status: int
    type: str
    retry: bool
    """Whether the client may try again by itself (no ``x-should-retry: false``)."""
    text: str
    """Template; the names in braces are filled in by :func:`sentence`."""
    when: str
    """For the document."""
    other_text: str = ""
    """Template for the case that ``text`` does not fit, see :func:`_is_other`."""
    other_when: str = ""


class Said(msgspec.Struct, frozen=True):
    """An answer ready to send."""

    status: int
    type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    reason: str


_INVALID = "invalid_request_error"
_AUTH = "authentication_error"
_PERMISSION = "permission_error"
_BILLING = "billing_error"
_RATE = "rate_limit_error"
_API = "api_error"

REFUSALS: dict[str, Refusal] = {
    "no_key": Refusal(
        401,
        _AUTH,
        False,
        "Set ANTHROPIC_AUTH_TOKEN to your virtual key (sk-bf-...) and start again: no key was sent, and /login will not"
        " help.",
        "no credential header",
    ),
    "unknown_key": Refusal(
        401,
        _AUTH,
        False,
        "Check ANTHROPIC_AUTH_TOKEN: this gateway does not know the key it was sent, and /login will not help. Ask"
        " whoever runs the gateway for a new virtual key.",
        "no presented value is a virtual key",
    ),
    "conflicting_keys": Refusal(
        401,
        _AUTH,
        False,
        "Unset ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN: two different virtual keys were sent, and /login will not"
        " help.",
        "two known keys, and different",
    ),
    "no_client_credential": Refusal(
        401,
        _AUTH,
        False,
        "Log in to Claude, or set ANTHROPIC_API_KEY to your own key, and send the virtual key in x-bf-vk: this key is"
        " set up to use the caller's own login, and none came with the request.",
        'provider config with `"credential": "client"`, no login beside the key',
    ),
    "inactive_key": Refusal(
        403,
        _PERMISSION,
        False,
        "Ask whoever runs the gateway to activate {owner}: it is switched off.",
        "key not active",
    ),
    "expired_key": Refusal(
        403,
        _PERMISSION,
        False,
        "Ask whoever runs the gateway for a new key: {owner} has expired.",
        "key past its end",
    ),
    "inactive_owner": Refusal(
        403,
        _PERMISSION,
        False,
        "Ask whoever runs the gateway: {owner}, which this key belongs to, is switched off.",
        "team or customer not active",
    ),
    "provider_not_allowed": Refusal(
        403,
        _PERMISSION,
        False,
        "Choose another model with /model: this key may not use provider {subject}. Allowed: {allowed}.",
        "provider not among the key's",
        "Ask whoever runs the gateway: this key may use no provider that is set up here.",
        "no provider is the key's at all",
    ),
    "unknown_provider": Refusal(
        403,
        _PERMISSION,
        False,
        "Choose another model with /model: no provider named {subject} is set up here. Allowed: {allowed}.",
        "a `provider/` prefix nobody configured",
    ),
    "model_not_allowed": Refusal(
        403,
        _PERMISSION,
        False,
        "Choose another model with /model: this key may not use {subject}. Allowed: {allowed}.",
        "model not among the key's",
    ),
    "unpriced_model": Refusal(
        403,
        _PERMISSION,
        False,
        "Choose another model with /model, or have a price set for {subject}: it has no price here, and unpriced usage"
        " is not allowed.",
        "no price in the catalogue nor among the overrides",
    ),
    "no_bound": Refusal(
        403,
        _PERMISSION,
        False,
        "Leave out {subject}, or set max_uses on it: under the strict budget of {owner} a request needs an upper bound,"
        " and this has none.",
        "strict budget, a server tool without an upper bound",
        "Leave out {subject}: under the strict budget of {owner} a request needs an upper bound, and this has none.",
        "strict budget, another feature without an upper bound",
    ),
    "budget_spent": Refusal(
        402,
        _BILLING,
        False,
        "Budget of {owner} is used up: {used} spent, resets {resets}. Ask whoever runs the gateway to raise it.",
        "budget spent",
    ),
    "budget_too_large": Refusal(
        402,
        _BILLING,
        False,
        "Budget of {owner} has too little left: this request {could} {needed}, {left} of {limit} is left"
        " until {resets}. Use /compact or a cheaper /model, or ask whoever runs the gateway to raise it.",
        "what is left is less than the request's expected cost (strict: than its bound)",
    ),
    "budget_reserved": Refusal(
        429,
        _RATE,
        False,
        "Budget of {owner} is held by requests still running: {used} spent, and none ended"
        " within the time this one could wait. Try again when they have finished.",
        "would fit without the requests in flight; waited `BURSAR_ADMISSION_WAIT_S`",
    ),
    "requests_limited": Refusal(
        429,
        _RATE,
        True,
        "Rate limit of {owner} reached: {limit} per {window}, resets {resets}.",
        "requests in the window",
    ),
    "tokens_limited": Refusal(
        429,
        _RATE,
        True,
        "Token limit of {owner} reached: {used} per {window}, resets {resets}.",
        "tokens in the window",
    ),
    "tokens_too_large": Refusal(
        429,
        _RATE,
        True,
        "Token limit of {owner} has too little left: this request is expected to take {needed}, {left_number} {are}"
        " left of {limit} per {window}, resets {resets}. Use /compact, or ask whoever runs the gateway to raise it.",
        "what is left of the tokens in the window is less than the request's expected tokens",
    ),
    "tokens_reserved": Refusal(
        429,
        _RATE,
        False,
        "Token limit of {owner} is held by requests still running, and none ended within the time this one"
        " could wait. Try again when they have finished.",
        "would fit without the requests in flight; waited `BURSAR_ADMISSION_WAIT_S`",
    ),
    "released": Refusal(
        503, _API, False, "Send the request again: its admission was withdrawn; nothing was charged.", "late admission"
    ),
    "bad_request": Refusal(400, _INVALID, False, "{detail}.", "request head, see the contract"),
    "bad_http": Refusal(
        400, _INVALID, False, "The HTTP request could not be read: {detail}.", "malformed or oversized head"
    ),
    "wrong_content_type": Refusal(
        415, _INVALID, False, "Send the body as application/json, uncompressed.", "other content type or encoding"
    ),
    "too_large": Refusal(
        413,
        "request_too_large",
        False,
        "The request body is larger than {detail}, the largest this gateway and its provider take. Use /compact.",
        "body above 32 MiB",
    ),
    "slow_request": Refusal(408, _INVALID, False, "The request did not arrive in time: {detail}.", "slow head or body"),
    "not_supported": Refusal(
        404,
        "not_found_error",
        False,
        "{detail} is not supported by this gateway; supported are POST /v1/messages, POST /v1/messages/count_tokens and"
        " GET /v1/models.",
        "any other path or method",
    ),
    "model_not_found": Refusal(404, "not_found_error", False, "model: {subject}.", "`GET /v1/models/<id>`"),
    "loop": Refusal(
        400,
        _INVALID,
        False,
        "Have the provider's base URL checked: this request already passed this gateway, which would forward it to"
        " itself.",
        "our own `via`",
    ),
    "memory_full": Refusal(
        503,
        "overloaded_error",
        True,
        "The gateway is holding as many request bodies as it can; try again in a moment.",
        "total body memory",
    ),
    "ledger_unreachable": Refusal(
        503,
        _API,
        False,
        "The gateway cannot reach its ledger; nothing was charged. Try again in a minute, or tell whoever runs it.",
        "enforcer or Redis down for 15 s",
    ),
    "outbox_full": Refusal(
        503,
        _API,
        False,
        "The gateway cannot record usage at the moment, so it forwards nothing; nothing was charged. Tell whoever runs"
        " it.",
        "outbox full or not writable",
    ),
    "stopping": Refusal(
        503, "overloaded_error", True, "The gateway is restarting; try again in a moment.", "after SIGTERM"
    ),
    "no_credential": Refusal(
        503,
        _API,
        False,
        "Tell whoever runs the gateway: it has no credential for provider {subject}; nothing was charged.",
        "no reference resolves",
    ),
    "upstream_refused": Refusal(
        502,
        _API,
        False,
        "Tell whoever runs the gateway: the address of provider {subject} is not one it may connect to ({detail});"
        " nothing was charged.",
        "address not https, private or link-local",
    ),
    "upstream_unreachable": Refusal(
        502,
        _API,
        True,
        "Provider {subject} could not be reached; nothing was charged.",
        "no connection; the request was not sent",
    ),
    "upstream_died": Refusal(
        502,
        _API,
        False,
        "Provider {subject} closed the connection without an answer; the request may have been processed, and what was"
        " held for it is charged until it is known better.",
        "sent, no response head",
    ),
    "upstream_silent": Refusal(
        504,
        "timeout_error",
        False,
        "Provider {subject} did not answer in time; the request may have been processed, and what was held for it is"
        " charged until it is known better.",
        "sent, no response head in time",
    ),
    "upstream_cut": Refusal(
        200,
        _API,
        False,
        "The provider's answer broke off; what was produced until then is charged.",
        "`error` event inside a stream",
    ),
    "admin_unreachable": Refusal(
        503, _API, False, "The management part of the gateway does not answer; look at /healthz.", "admin-api down"
    ),
    "internal": Refusal(500, _API, False, "The gateway failed on this request; tell whoever runs it.", "a defect"),
}

_KINDS = {
    "virtual_key": "virtual key",
    "team": "team",
    "customer": "customer",
}
_NOUNS = {"t": "token", "T": "token", "r": "request"}
_NOT_BOUND_BY_MAX_USES = ("mcp_servers", "compact", "advisor", "more than ")
"""Beginnings of what the enforcer names as unbounded that a ``max_uses`` would not bound."""
_SHORT_WINDOW_S = 3600
"""Up to this length, the end of a window is told to the second: a client waits for it."""


def _amount(number: int, unit: str) -> str:
    """``$0.40``, ``1 token``, ``200 requests``."""
    noun = _NOUNS.get(unit)
    if noun is None:
        return money.sentence(number)
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _number(number: int, unit: str) -> str:
    """An amount beside another one that names the unit."""
    return f"{number:,}" if unit in _NOUNS else money.sentence(number)


def _owner(refused: Refused) -> str:
    """``team "platform"``."""
    kind, name = refused.owner_kind, refused.owner
    if not name:
        return "this key"
    if kind == "provider_config":
        key, _, provider = name.rpartition("/")
        return f'provider "{provider}" of virtual key "{key}"'
    return f'{_KINDS.get(kind, kind)} "{name}"'


def _moment(at_s: int, window: str) -> str:
    """When a window ends, never too early: a request just after the moment told finds it open."""
    if not at_s:
        return "at the end of the window"
    if _is_short(window):
        return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return datetime.fromtimestamp(-(-at_s // 60) * 60, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _is_short(window: str) -> bool:
    number, seconds = window[:-1], {"s": 1, "m": 60, "h": 3600}.get(window[-1:])
    return seconds is not None and number.isdecimal() and int(number) * seconds <= _SHORT_WINDOW_S


def _window(text: str) -> str:
    """``hour``, ``90 minutes``."""
    try:
        return parse_window(text).words()
    except ValueError:
        return text or "window"


def _listed(names: tuple[str, ...]) -> str:
    if not names:
        return "none"
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _is_other(refused: Refused) -> bool:
    """Whether ``other_text`` is the one that fits."""
    if refused.reason == "provider_not_allowed":
        return not refused.subject
    return refused.reason == "no_bound" and refused.subject.startswith(_NOT_BOUND_BY_MAX_USES)


def sentence(refused: Refused, detail: str = "") -> str:
    """The sentence for a refusal, without the request id."""
    refusal, unit = REFUSALS[refused.reason], refused.unit
    limit, left = _amount(refused.limit, unit), max(refused.limit - refused.spent, 0)
    text = (refusal.other_text if _is_other(refused) else refusal.text).format(
        owner=_owner(refused),
        subject=refused.subject or "the provider",
        allowed=_listed(refused.allowed),
        used=f"{_number(refused.spent, unit)} of {limit}",
        limit=limit,
        needed=_amount(refused.needed, unit),
        left=_amount(left, unit),
        left_number=_number(left, unit),
        are="is" if left == 1 else "are",
        could="could cost up to" if refused.strict else "is expected to cost",
        window=_window(refused.window),
        resets=_moment(refused.resets_at_s, refused.window),
        detail=detail,
    )
    return " ".join(text.split())


def say(refused: Refused, request_id: str, *, detail: str = "") -> Said:
    """The whole answer. An unknown reason (a newer enforcer) is refused as 403 by its name."""
    known = REFUSALS.get(refused.reason)
    if known is None:
        known = Refusal(403, _PERMISSION, False, "", "")
        text = f"Ask whoever runs the gateway: it refuses this request ({refused.reason})."
    else:
        text = sentence(refused, detail)
    headers: list[tuple[bytes, bytes]] = []
    retry = known.retry
    if known.type == _RATE and refused.retry_after_s > 0:
        headers.append((b"retry-after", str(refused.retry_after_s).encode()))
        retry = retry and refused.retry_after_s <= LONGEST_CLIENT_WAIT_S
    elif known.type == _RATE:
        retry = False  # nothing says when
    elif retry:
        headers.append((b"retry-after", b"2"))
    if not retry:
        headers.append((b"x-should-retry", b"false"))
    return Said(known.status, known.type, envelope(known.type, text, request_id), tuple(headers), refused.reason)


def envelope(type: str, text: str, request_id: str) -> bytes:
    """The provider's error envelope."""
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {"type": type, "message": f"{text} (request {request_id})"},
            "request_id": request_id,
        }
    )


def error_event(reason: str, request_id: str) -> bytes:
    """A refusal as the last event of a stream."""
    known = REFUSALS[reason]
    return b"event: error\ndata: " + envelope(known.type, sentence(Refused(reason)), request_id) + b"\n\n"


PING = b'event: ping\ndata: {"type": "ping"}\n\n'
"""What the gateway sends into a silent stream."""


def document() -> str:
    """``docs/refusals.md``."""
    lines = [
        "# Refusals",
        "",
        "Every answer the gateway gives by itself. The body is the provider's envelope,",
        '`{"type":"error","error":{"type","message"},"request_id"}`; each message ends with the request id, which is',
        "also in the headers `request-id` and `x-bursar-request-id`. `x-should-retry: false` is sent where waiting a",
        "minute cannot help; 429 carries an honest `retry-after`, and above 60 seconds `x-should-retry: false` too.",
        "The provider's own errors are relayed as they came. Names in braces are filled in; `{owner}` is the likes of",
        '`virtual key "alice"`.',
        "",
        "| reason | status | type | client retries | when | message |",
        "|---|---|---|---|---|---|",
    ]
    for reason, refusal in REFUSALS.items():
        retry = "yes" if refusal.retry else "no"
        for when, text in ((refusal.when, refusal.text), (refusal.other_when, refusal.other_text)):
            if text:
                text = text.replace("|", "\\|")
                lines.append(f"| `{reason}` | {refusal.status} | `{refusal.type}` | {retry} | {when} | {text} |")
    return "\n".join(lines) + "\n"
