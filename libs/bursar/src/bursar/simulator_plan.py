"""What the simulator is asked to do with one request: a plan, read from ``x-sim-*`` headers or set as the default.

A gateway passes headers it does not know, so a test steers the upstream through the gateway with them. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

HEADER_PREFIX = "x-sim-"

GREETING = (
    "Hello from the simulator of Bursar. No model was asked and no provider billed anything; "
    "every part between you and a provider did its real work."
)
CHARACTERS_PER_TOKEN = 4
"""How much text the simulator sends for one output token, so that estimates from relayed text come out near."""
DEFAULT_OUTPUT_TOKENS = len(GREETING) // CHARACTERS_PER_TOKEN
MAX_OUTPUT_TOKENS = 8_000_000
"""Output tokens of one plan: about 32 MB of text, the largest answer a test asks for."""
MAX_EVENTS = 1_000_000
"""Content events of one stream; bounds what one plan can make the simulator build in memory."""
MAX_WAIT_MS = 3_600_000
"""Any single pause of a plan, in milliseconds: one hour is longer than every time-out under test."""

ODD_FORMS = frozenset({"spacing", "crlf", "comments", "unknown", "noevent", "nospace", "utf8"})
DROPS = ("before-head", "after-head", "mid-event:", "after-event:", "mid-body")


class PlanError(ValueError):
    """The plan cannot be carried out; the message names the field, what was given and what is allowed."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One answer. Each field is a header ``x-sim-<field with dashes>``; ``None`` means "as a provider would"."""

    input_tokens: int | None = None
    """None: one per four bytes of the request body."""
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int | None = None
    """Includes thinking tokens. None: as many as the greeting has."""
    thinking_tokens: int = 0
    web_searches: int = 0
    late_input_tokens: int | None = None
    """Counts that grow while the answer is made: the last ``message_delta`` carries these instead."""
    late_cache_read_tokens: int | None = None
    late_cache_write_5m_tokens: int | None = None
    late_cache_write_1h_tokens: int | None = None
    delta_counts: bool = True
    """``message_delta`` carries input and cache counts besides ``output_tokens``."""
    delta_split: bool = False
    """``message_delta`` carries the 5 m / 1 h split of cache writes, too."""
    iterations: str = ""
    """JSON list for ``usage.iterations``; counts left None are summed from its entries but ``compaction``."""
    usage: str = "full"
    """``full``, ``none`` (no usage anywhere) or ``garbage`` (usage that is no usage)."""
    model: str = ""
    """Model that served, where it is not the one requested."""
    service_tier: str = "standard"
    speed: str = ""
    inference_geo: str = "not_available"
    stop_reason: str = "end_turn"
    text: str = ""
    """Text of the answer; empty: the greeting, lengthened to the output tokens."""
    tool_name: str = ""
    """Ends the answer with a call of this tool."""
    tool_input: str = "{}"

    events: int = 4
    """Content delta events of a stream."""
    deltas: int = 1
    """``message_delta`` events of a stream, cumulative."""
    ping: bool = True
    pace_ms: float = 0
    """Pause before every event but the first, in milliseconds."""
    head_delay_ms: float = 0
    """Pause before the response head."""
    silence_ms: float = 0
    silence_at: int = 2
    """The event (from 1) before which the silence lies."""
    flush: str = "event"
    """``event``: one write an event; ``all``: the whole stream in one write."""
    chunk_bytes: int = 0
    """Write in pieces of this many bytes."""
    cut_at: int = 0
    """Write in two pieces, the first of this many bytes."""

    status: int = 200
    error_type: str = ""
    error_message: str = ""
    body: str = ""
    """Body of a non-200 answer, as it stands; empty: the provider's envelope."""
    headers: str = ""
    """JSON object of further response headers."""
    error_after: int = 0
    """End a stream with an ``error`` event after this many events."""
    drop: str = ""
    """``before-head``, ``after-head``, ``mid-event:<n>``, ``after-event:<n>``, ``mid-body`` (JSON answers)."""
    drop_reset: bool = False
    """Drop with a TCP reset instead of an end of file."""
    compress: str = ""
    """``gzip``, ``deflate`` or ``zstd``, whatever the client accepts."""
    odd: str = ""
    """Comma-separated odd but valid forms of the bytes, see :data:`ODD_FORMS`."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def odd_forms(self) -> frozenset[str]:
        return frozenset(form for form in self.odd.split(",") if form)

    def drop_at(self) -> tuple[str, int]:
        """Kind of the drop and the event it is about (0 where it is about none)."""
        kind, _, number = self.drop.partition(":")
        return kind, int(number) if number else 0


def check(plan: Plan) -> None:
    """Raises PlanError where a field is out of its range."""
    for name in plan.__struct_fields__:
        value = getattr(plan, name)
        if isinstance(value, (int, float)) and value < 0:
            raise PlanError(f"{name} is {value}; it must not be negative.")
    limits = {"output_tokens": MAX_OUTPUT_TOKENS, "events": MAX_EVENTS, "deltas": 1000, "web_searches": 1000}
    limits |= {"pace_ms": MAX_WAIT_MS, "head_delay_ms": MAX_WAIT_MS, "silence_ms": MAX_WAIT_MS}
    for name, most in limits.items():
        if (getattr(plan, name) or 0) > most:
            raise PlanError(f"{name} is {getattr(plan, name)}; at most {most} is possible.")
    choices = {"usage": ("full", "none", "garbage"), "flush": ("event", "all")}
    choices["compress"] = ("", "gzip", "deflate", "zstd")
    for name, allowed in choices.items():
        if getattr(plan, name) not in allowed:
            raise PlanError(f"{name} is {getattr(plan, name)!r}; allowed: {', '.join(filter(None, allowed))}.")
    if plan.odd_forms - ODD_FORMS:
        raise PlanError(f"odd is {plan.odd!r}; allowed: {', '.join(sorted(ODD_FORMS))}.")
    if plan.drop and not plan.drop.startswith(DROPS):
        raise PlanError(f"drop is {plan.drop!r}; allowed: {', '.join(DROPS)} with the number of an event.")
    if plan.drop.startswith(("mid-event:", "after-event:")) and not plan.drop.partition(":")[2].isdigit():
        raise PlanError(f"drop is {plan.drop!r}; the number of an event is missing.")
    if not 200 <= plan.status <= 599:
        raise PlanError(f"status is {plan.status}; allowed: 200 to 599.")
    for name, kind in (("iterations", list), ("headers", dict), ("tool_input", dict)):
        text = getattr(plan, name)
        if text and not isinstance(_json(name, text), kind):
            raise PlanError(f"{name} must be a JSON {'list' if kind is list else 'object'}.")


def _json(name: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise PlanError(f"{name} is not JSON: {error}.") from None


def plan_of(values: Mapping[str, Any], base: Plan | None = None) -> Plan:
    """The plan with these fields over ``base``'s. Numbers and booleans may be strings, JSON fields may be JSON.

    Raises PlanError naming an unknown field or an impossible value."""
    merged: dict[str, Any] = msgspec.structs.asdict(base) if base is not None else {}
    for name, value in values.items():
        if name in ("iterations", "headers", "tool_input") and not isinstance(value, str):
            value = msgspec.json.encode(value).decode()
        merged[name] = value
    try:
        return msgspec.convert(merged, Plan, strict=False)
    except msgspec.ValidationError as error:
        raise PlanError(f"{error}.") from None


@lru_cache(maxsize=1024)
def _plan_of_headers(base: Plan, steering: tuple[tuple[str, str], ...]) -> Plan:
    return plan_of(dict(steering), base)


def plan_of_headers(headers: Iterable[tuple[str, str]], base: Plan) -> Plan:
    """The plan that a request's ``x-sim-*`` headers ask for, over ``base``. Raises PlanError."""
    steering = tuple(
        (name[len(HEADER_PREFIX) :].lower().replace("-", "_"), value)
        for name, value in headers
        if name[: len(HEADER_PREFIX)].lower() == HEADER_PREFIX
    )
    return _plan_of_headers(base, steering) if steering else base
