"""Spans as OTLP's protobuf bytes, and the trace context they belong to. Pure.

A span is written once, after what it tells of has ended, so there are no span objects: attributes become bytes at once,
and those that come again with most requests (model, key, team, outcome) are remembered as bytes. Field numbers are
those of ``opentelemetry/proto/trace/v1/trace.proto`` and ``common/v1/common.proto``; the tests read what is written
here with the protobuf library. The context is W3C Trace Context's ``traceparent``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

Value = str | int | float | bool

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of span."""

MAX_VALUE_CHARS = 256
"""Characters of a text attribute; a longer one is cut. Names of ours are shorter, a client's model name need not be."""
MAX_TRACE_STATE_CHARS = 512
"""Characters of a ``tracestate`` that are taken over; a longer one is left out, as the specification allows."""
REMEMBERED = 8192
"""Attributes remembered as bytes: keys, teams, models, sessions of an hour; about 200 bytes each."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_ERROR = b"\x7a\x02\x18\x02"
"""Field 15, status: code (3) = STATUS_CODE_ERROR (2)."""
_TIMES = struct.Struct("<cQcQ")


class Context(NamedTuple):
    """The span something is a child of: hex ids, and whether its trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""
    """``tracestate``, passed on as it came."""

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
    state = (tracestate or "").strip()
    if len(state) > MAX_TRACE_STATE_CHARS or not (state.isascii() and state.isprintable()):
        state = ""
    return Context(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), state)


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


# ---- bytes


def varint(number: int) -> bytes:
    if number < 0x80:
        return b"%c" % number
    if number < 0x4000:
        return b"%c%c" % (number & 0x7F | 0x80, number >> 7)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def framed(field: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def _any_value(value: Value) -> bytes:
    kind = value.__class__
    if kind is str:
        text = value[:MAX_VALUE_CHARS].encode("utf-8", "replace")  # type: ignore[index]
        size = len(text)
        return b"\x0a%c%b" % (size, text) if size < 0x80 else b"\x0a" + varint(size) + text
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is int:
        return b"\x18" + varint(int(value) & 0xFFFF_FFFF_FFFF_FFFF)
    return b"\x21" + struct.pack("<d", value)


@lru_cache(maxsize=512)
def _key(name: str) -> bytes:
    return framed(1, name.encode())


def key_value(name: str, value: Value) -> bytes:
    """A ``KeyValue`` message."""
    return _key(name) + framed(2, _any_value(value))


def attribute(name: str, value: Value) -> bytes:
    """One attribute of a span whose value does not come again."""
    content, key = _any_value(value), _key(name)
    size = len(content)
    whole = size + len(key) + 2
    if whole < 0x80:  # every length is one byte
        return b"\x4a%c%b\x12%c%b" % (whole, key, size, content)
    return framed(9, key + framed(2, content))


@lru_cache(maxsize=REMEMBERED, typed=True)
def known_attribute(name: str, value: Value) -> bytes:
    """The same for one that comes again and again."""
    return framed(9, key_value(name, value))


@lru_cache(maxsize=1024)
def _name(name: str, kind: int) -> bytes:
    return framed(5, name[:MAX_VALUE_CHARS].encode("utf-8", "replace")) + b"\x30%c" % kind


def span(
    context: Context,
    parent_id: str,
    name: str,
    kind: int,
    start_ns: int,
    end_ns: int,
    attributes: Iterable[bytes],
    *,
    error: bool = False,
    parent_is_remote: bool = False,
) -> bytes:
    """One span as an entry of ``ScopeSpans.spans``: entries and scopes' entries may be joined as they are.

    Times are Unix nanoseconds; an end before its start is the start (a clock may be set back)."""
    parent = b"\x22\x08%b" % bytes.fromhex(parent_id) if parent_id else b""
    parts = [
        b"\x0a\x10%b\x12\x08%b%b" % (bytes.fromhex(context.trace_id), bytes.fromhex(context.span_id), parent),
        _name(name, kind),
        _TIMES.pack(b"\x39", start_ns, b"\x41", max(start_ns, end_ns)),
        *attributes,
    ]
    if context.state:
        parts.append(framed(3, context.state.encode()))
    if error:
        parts.append(_ERROR)
    parts.append(b"\x85\x01\x01\x03\0\0" if parent_is_remote else b"\x85\x01\x01\x01\0\0")
    return framed(2, b"".join(parts))


def resource(attributes: Mapping[str, Value]) -> bytes:
    """The content of a ``Resource`` message."""
    return b"".join(framed(1, key_value(name, value)) for name, value in attributes.items())


def export_request(resource_content: bytes, scope_name: str, scope_version: str, spans: Iterable[bytes]) -> bytes:
    """An ``ExportTraceServiceRequest`` of spans of one resource and scope."""
    scope = framed(1, scope_name.encode()) + framed(2, scope_version.encode())
    return framed(1, framed(1, resource_content) + framed(2, framed(1, scope) + b"".join(spans)))
