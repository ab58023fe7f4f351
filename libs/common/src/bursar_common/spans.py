"""Spans as they wait to be sent, the trace context they belong to (W3C's ``traceparent``), and sampling. Pure.

A span is made once, after what it tells of has ended. It is a plain tuple: what OpenTelemetry's exporter wants to have
is made of it on the thread that sends (``otlp_exporters``), never while a request waits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

Value = str | int | float | bool

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of span, by OTLP's numbers."""

MAX_VALUE_CHARS = 256
"""Characters of a text attribute; a longer one is cut. Names of ours are shorter, a client's model name need not be."""
MAX_TRACE_STATE_CHARS = 512
"""Characters of a ``tracestate`` that are taken over; a longer one is left out, as the specification allows."""
MAX_TRACE_STATE_MEMBERS = 32
"""Entries of a ``tracestate``, by the specification; with more it is malformed."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_MEMBER = re.compile(
    r"([a-z0-9][a-z0-9_\-*/@]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_SAMPLED = 1


class Context(NamedTuple):
    """The span something is a child of: hex ids, and whether its trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""
    """``tracestate``, passed on as it came; empty where it was malformed."""

    @property
    def header(self) -> str:
        """As a ``traceparent``."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def read_context(traceparent: str | None, tracestate: str | None = None) -> Context | None:
    """The context a caller sent; None if there is none, or it is malformed and counts as none."""
    found = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    state = (tracestate or "").strip(" \t")
    if len(state) > MAX_TRACE_STATE_CHARS or not well_formed_state(state):
        state = ""
    return Context(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), state)


def well_formed_state(state: str) -> bool:
    """Whether it is a ``tracestate`` by W3C's grammar: members ``key=value``, no key twice, at most 32 of them. One
    that is not is to be dropped whole, and has no bearing on the ``traceparent``."""
    keys: set[str] = set()
    for member in state.split(","):
        if not (stripped := member.strip(" \t")):
            continue
        found = _STATE_MEMBER.fullmatch(stripped)
        if found is None or found[1] in keys or len(keys) == MAX_TRACE_STATE_MEMBERS:
            return False
        keys.add(found[1])
    return True


class Sampler(NamedTuple):
    """Which traces are recorded: ``ratio`` of those that begin here; ``follow``: a caller's decision stands."""

    ratio: float = 1.0
    follow: bool = True

    def takes(self, trace_id: str, parent: Context | None) -> bool:
        """By the trace id's last 8 bytes, so that every service of a trace decides alike."""
        if self.follow and parent is not None:
            return parent.sampled
        return int(trace_id[16:], 16) < round(self.ratio * (1 << 64))


SamplerName = Literal[
    "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
    "parentbased_traceidratio",
]  # fmt: skip


def sampler_of(name: str, argument: str) -> Sampler:
    """The sampler ``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG`` name. Raises ValueError."""
    kind = name.strip().lower() or "parentbased_always_on"
    follow = kind.startswith("parentbased_")
    kind = kind.removeprefix("parentbased_")
    if kind == "always_on":
        return Sampler(1.0, follow)
    if kind == "always_off":
        return Sampler(0.0, follow)
    if kind != "traceidratio":
        raise ValueError("not a sampler")
    ratio = float(argument) if argument.strip() else 1.0
    if not 0.0 <= ratio <= 1.0:
        raise ValueError("the ratio is from 0 to 1")
    return Sampler(ratio, follow)


# ---- spans


class Span(NamedTuple):
    """One finished span, as cheap to make as a dictionary; its words for a receiver are made by the exporter."""

    context: Context
    """Its own ids."""
    parent_id: str
    """Hex; empty: the first of its trace."""
    name: str
    kind: int
    start_ns: int
    """Unix nanoseconds, as the end is."""
    end_ns: int
    attributes: Mapping[str, Value]
    error: bool = False
    parent_is_remote: bool = False


def told(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    """Those that say something: None and empty text are left out, long text is cut."""
    return {
        name: value[:MAX_VALUE_CHARS] if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None and value != ""
    }
