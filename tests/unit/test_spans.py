"""Spans as bytes, read back with the protobuf library; trace context; sampling."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bursar_common.spans import (
    CLIENT,
    MAX_VALUE_CHARS,
    SERVER,
    Context,
    Sampler,
    attribute,
    export_request,
    known_attribute,
    read_context,
    resource,
    sampler_of,
    span,
    varint,
)

TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
CONTEXT = Context(TRACE, SPAN, True, "vendor=1")


def read(*spans: bytes) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(
        export_request(resource({"service.name": "edge"}), "bursar", "0.1.0", spans)
    )


def value_of(attributes, key):
    found = [each.value for each in attributes if each.key == key]
    assert len(found) == 1
    return getattr(found[0], found[0].WhichOneof("value"))


def test_a_span_is_what_the_protobuf_library_reads():
    attributes = [
        attribute("text", "größe"),
        attribute("yes", True),
        attribute("no", False),
        attribute("count", 300),
        attribute("below", -5),
        attribute("ratio", 0.25),
        known_attribute("model", "claude-sonnet-4-6"),
    ]
    one = span(CONTEXT, PARENT, "POST /v1/messages", SERVER, 10**18, 10**18 + 5, attributes, error=True)
    got = read(one, span(CONTEXT, "", "second", CLIENT, 7, 9, [], parent_is_remote=True))
    (resource_spans,) = got.resource_spans
    assert value_of(resource_spans.resource.attributes, "service.name") == "edge"
    (scope,) = resource_spans.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("bursar", "0.1.0")
    first, second = scope.spans
    assert first.trace_id.hex() == TRACE
    assert first.span_id.hex() == SPAN
    assert first.parent_span_id.hex() == PARENT
    assert first.trace_state == "vendor=1"
    assert first.name == "POST /v1/messages"
    assert first.kind == Span.SPAN_KIND_SERVER
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (10**18, 10**18 + 5)
    assert first.status.code == Status.STATUS_CODE_ERROR
    expected = {"text": "größe", "yes": True, "no": False, "count": 300, "below": -5, "ratio": 0.25}
    assert {name: value_of(first.attributes, name) for name in expected} == expected
    assert value_of(first.attributes, "model") == "claude-sonnet-4-6"
    assert first.flags == 0x101  # sampled; the parent is here
    assert (second.parent_span_id, second.kind, second.flags) == (b"", Span.SPAN_KIND_CLIENT, 0x301)
    assert second.status.code == Status.STATUS_CODE_UNSET


def test_a_remembered_attribute_keeps_true_and_one_apart():
    got = read(span(CONTEXT, "", "x", SERVER, 1, 2, [known_attribute("a", 1), known_attribute("b", True)]))
    one, true = got.resource_spans[0].scope_spans[0].spans[0].attributes
    assert (one.value.WhichOneof("value"), true.value.WhichOneof("value")) == ("int_value", "bool_value")
    assert known_attribute("same", 1) != known_attribute("same", True)


def test_long_text_is_cut_and_a_clock_set_back_is_no_negative_duration():
    (got,) = read(span(CONTEXT, "", "n", SERVER, 9, 3, [attribute("long", "x" * 10_000)])).resource_spans
    (only,) = got.scope_spans[0].spans
    assert len(value_of(only.attributes, "long")) == MAX_VALUE_CHARS
    assert only.end_time_unix_nano == only.start_time_unix_nano == 9


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16383, 16384, 2**32, 2**64 - 1])
def test_varint(number):
    got, shift = 0, 0
    for byte in varint(number):
        got |= (byte & 0x7F) << shift
        shift += 7
    assert got == number


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f" 00-{TRACE}-{SPAN}-03 ", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_traceparent_is_read(header, sampled):
    assert read_context(header) == Context(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
    ],
)
def test_a_malformed_traceparent_counts_as_none(header):
    assert read_context(header) is None


def test_tracestate_is_taken_over_within_bounds():
    header = f"00-{TRACE}-{SPAN}-01"
    assert read_context(header, "a=1,b=2").state == "a=1,b=2"
    assert read_context(header, "a=" + "x" * 600).state == ""
    assert read_context(header, "a=\n1").state == ""
    assert read_context(header, "a=é").state == ""
    assert Context(TRACE, SPAN, False).header == f"00-{TRACE}-{SPAN}-00"


LOW, HIGH = "0" * 16 + "0" * 15 + "1", "0" * 16 + "f" * 16


@pytest.mark.parametrize(
    ("name", "argument", "low", "high", "taken_parent", "left_parent"),
    [
        ("", "", True, True, True, False),
        ("always_on", "", True, True, True, True),
        ("always_off", "", False, False, False, False),
        ("parentbased_always_off", "", False, False, True, False),
        ("traceidratio", "0.5", True, False, True, True),
        ("parentbased_traceidratio", "0.5", True, False, True, False),
        ("ParentBased_TraceIdRatio", "0", False, False, True, False),
        ("traceidratio", "1", True, True, True, True),
    ],
)
def test_samplers(name, argument, low, high, taken_parent, left_parent):
    sampler = sampler_of(name, argument)
    assert sampler.takes(LOW, None) is low
    assert sampler.takes(HIGH, None) is high
    assert sampler.takes(LOW, Context(LOW, SPAN, True)) is taken_parent
    assert sampler.takes(LOW, Context(LOW, SPAN, False)) is left_parent


@pytest.mark.parametrize(("name", "argument"), [("sometimes", ""), ("traceidratio", "2"), ("traceidratio", "x")])
def test_an_unknown_sampler_is_said(name, argument):
    with pytest.raises(ValueError):
        sampler_of(name, argument)


def test_the_ratio_takes_that_share():
    sampler = Sampler(0.25)
    taken = sum(sampler.takes("0" * 16 + f"{number << 56:016x}", None) for number in range(256))
    assert taken == 64
