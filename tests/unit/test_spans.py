"""Spans as they are sent, which is as OpenTelemetry's exporter would encode them; trace context; sampling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.trace import Status as SdkStatus

from bursar_common.otlp_exporters import Source
from bursar_common.spans import (
    CLIENT,
    INTERNAL,
    MAX_VALUE_CHARS,
    SERVER,
    Context,
    Sampler,
    Span,
    read_context,
    sampler_of,
    told,
    well_formed_state,
)

TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
CONTEXT = Context(TRACE, SPAN, True, "vendor=1")
ABOUT = {"service.name": "edge", "replicas": 3, "share": 0.5, "yes": True}
SOURCE = Source(ABOUT, "bursar", "0.1.0")


def read(*spans: Span) -> ExportTraceServiceRequest:
    """As a receiver reads them."""
    return ExportTraceServiceRequest.FromString(SOURCE.spans(spans).SerializeToString())


def encoded_by_the_package(*spans: Span) -> ExportTraceServiceRequest:
    resource, scope = Resource(ABOUT), InstrumentationScope("bursar", "0.1.0")
    sampled, kinds = TraceFlags(TraceFlags.SAMPLED), {1: SpanKind.INTERNAL, 2: SpanKind.SERVER, 3: SpanKind.CLIENT}
    made = []
    for span in spans:
        trace_id = int(span.context.trace_id, 16)
        parent = None
        if span.parent_id:
            parent = SpanContext(trace_id, int(span.parent_id, 16), span.parent_is_remote, sampled)
        state = TraceState.from_header([span.context.state]) if span.context.state else None
        made.append(
            ReadableSpan(
                name=span.name,
                context=SpanContext(trace_id, int(span.context.span_id, 16), False, sampled, state),
                parent=parent,
                resource=resource,
                attributes=dict(span.attributes),
                kind=kinds[span.kind],
                status=SdkStatus(StatusCode.ERROR if span.error else StatusCode.UNSET),
                start_time=span.start_ns,
                end_time=span.end_ns,
                instrumentation_scope=scope,
            )
        )
    return encode_spans(made)


def values(attributes):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def test_a_span_is_what_the_exporter_makes_of_it():
    attributes = {"text": "größe", "yes": True, "no": False, "count": 300, "below": -5, "ratio": 0.25}
    one = Span(CONTEXT, PARENT, "POST /v1/messages", SERVER, 10**18, 10**18 + 5, attributes, error=True)
    two = Span(Context(TRACE, PARENT, True), SPAN, "second", CLIENT, 7, 9, {}, parent_is_remote=True)
    got = read(one, two)
    (resource_spans,) = got.resource_spans
    assert values(resource_spans.resource.attributes) == ABOUT
    (scope,) = resource_spans.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("bursar", "0.1.0")
    first, second = scope.spans
    assert first.trace_id.hex() == TRACE
    assert first.span_id.hex() == SPAN
    assert first.parent_span_id.hex() == PARENT
    assert first.trace_state == "vendor=1"
    assert first.name == "POST /v1/messages"
    assert first.kind == PbSpan.SPAN_KIND_SERVER
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (10**18, 10**18 + 5)
    assert first.status.code == Status.STATUS_CODE_ERROR
    assert values(first.attributes) == attributes
    assert isinstance(values(first.attributes)["yes"], bool)
    remote = SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    assert (first.flags & remote, second.flags & remote) == (0, remote)
    assert (second.kind, second.trace_state) == (PbSpan.SPAN_KIND_CLIENT, "")
    assert second.status.code == Status.STATUS_CODE_UNSET


hexes = st.binary(min_size=8, max_size=8).filter(any).map(bytes.hex)
attributes_of_any_kind = st.dictionaries(
    st.text("abc.", min_size=1),
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False),
)


@given(
    st.lists(
        st.builds(
            lambda trace, span, parent, kind, start, took, attributes, error, state: Span(
                Context(trace * 2, span, True, state), parent, "größe", kind, start, start + took, attributes, error,
                bool(parent),
            ),
            hexes, hexes, st.just("") | hexes, st.sampled_from([INTERNAL, SERVER, CLIENT]), st.integers(0, 2**62),
            st.integers(0, 2**62), attributes_of_any_kind, st.booleans(), st.sampled_from(["", "a=1,b@c=x y"]),
        ),
        min_size=1,
        max_size=4,
    )
)  # fmt: skip
def test_spans_are_what_the_package_would_make_of_them(spans):
    assert read(*spans) == encoded_by_the_package(*spans)


def test_a_number_beyond_what_a_message_holds_is_the_nearest():
    (got,) = read(Span(CONTEXT, "", "n", SERVER, 7, 9, {"much": 1 << 80, "little": -(1 << 80)})).resource_spans
    assert values(got.scope_spans[0].spans[0].attributes) == {"much": 2**63 - 1, "little": -(2**63) + 1}


def test_the_first_of_a_trace_has_no_parent():
    (got,) = read(Span(CONTEXT, "", "first", INTERNAL, 7, 9, {})).resource_spans[0].scope_spans[0].spans
    assert (got.parent_span_id, got.kind) == (b"", PbSpan.SPAN_KIND_INTERNAL)


def test_what_says_nothing_is_left_out_and_long_text_is_cut():
    attributes = told({"none": None, "empty": "", "no": False, "zero": 0, "long": "x" * 10_000})
    assert attributes == {"no": False, "zero": 0, "long": "x" * MAX_VALUE_CHARS}


def test_a_clock_set_back_is_no_negative_duration_and_half_a_character_no_trouble():
    (got,) = read(Span(CONTEXT, "", "n\ud800", SERVER, 9, 3, {"odd": "a\ud800"})).resource_spans
    (only,) = got.scope_spans[0].spans
    assert only.end_time_unix_nano == only.start_time_unix_nano == 9
    assert (only.name, values(only.attributes)) == ("n?", {"odd": "a?"})


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
    for malformed in ("a=\n1", "a=é", "a", "a=1,a=2"):
        assert read_context(header, malformed) == Context(TRACE, SPAN, True)
    assert Context(TRACE, SPAN, False).header == f"00-{TRACE}-{SPAN}-00"


@pytest.mark.parametrize(
    "state",
    [
        "", " ", ",", "a=1", "a=1,b=2", " a=1 ,\t, b=2 ", "0tenant@vendor=x", "a_-*/1=!\"#$%&'()*+-./:;<>?@[]^`{|}~",
        "a= x", "k" * 256 + "=" + "v" * 256, ",".join(f"k{n}=v" for n in range(32)),
        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    ],
)  # fmt: skip
def test_a_well_formed_tracestate(state):
    assert well_formed_state(state)


@pytest.mark.parametrize(
    "state",
    [
        "a", "=1", "a=", "A=1", "a =1", "a=1=2", "a=1,b", "a=1;b=2", "a=1,a=2", "_a=1", "a=é", "a=\x7f", "a=\x00",
        "a=1\n", "k" * 257 + "=v", "k=" + "v" * 257, ",".join(f"k{n}=v" for n in range(33)),
    ],
)  # fmt: skip
def test_a_malformed_tracestate(state):
    assert not well_formed_state(state)


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
