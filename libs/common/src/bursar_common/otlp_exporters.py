"""OpenTelemetry's own OTLP exporters (package ``opentelemetry-exporter-otlp``), set up from our reading of its
variables. Imported only where something is exported: it costs 10 to 15 MB (gRPC 10 more) and half a second.

The exporters send. Spans are put straight into the message they send: the package's own encoding copies every attribute
once for each message around it, four times the work. The exporters tell no more than whether it worked, so the HTTP
session and the gRPC channel they send through are watched: for the status of a failure, for what a receiver rejected,
and so that one call is one attempt (``Delivery`` tries again, and stops in time). What they write to the log quotes
receivers and headers; it goes nowhere.
"""

from __future__ import annotations

import logging
import os
import ssl
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import requests
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from urllib3.exceptions import HTTPError

from bursar_common.delivery import NotSent
from bursar_common.metrics import Metric
from bursar_common.otlp import Destination
from bursar_common.otlp_points import Buckets, Points
from bursar_common.spans import Span, Value

logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
logging.getLogger("opentelemetry").propagate = False

MAX_ANSWER_BYTES = 64 * 1024
"""Of a receiver's answer: it says how many were rejected, if any."""
_RETRYABLE_STATUS = frozenset((429, 502, 503, 504))
"""As the OTLP specification lists them."""
_RETRYABLE_CODES = frozenset(
    ("CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS")
)
_PACKAGES_OWN = frozenset(("content-type", "content-encoding", "user-agent"))
"""Headers the package sets; all others are ours, as ``otlp.destination`` read them."""
_MOST = (1 << 63) - 1


class Watch:
    """What became of the last attempt."""

    def __init__(self) -> None:
        self.problem = NotSent("", retryable=False)
        self.rejected = 0

    def begin(self) -> None:
        self.problem, self.rejected = NotSent("not encoded", retryable=False), 0

    def failed(self, why: str, *, retryable: bool, after_s: float = 0.0) -> NotSent:
        self.problem = NotSent(why, retryable=retryable, after_s=after_s)
        return self.problem


class OtlpExporter:
    """An exporter of the package for one signal: of an ExportTraceServiceRequest, or of MetricsData."""

    def __init__(self, to: Destination) -> None:
        """Raises OSError, ssl.SSLError where a certificate file cannot be used."""
        self._watch = Watch()
        self._exporter = (_grpc_exporter if to.kind == "grpc" else _http_exporter)(to, self._watch)

    def send(self, batch: object) -> int:
        self._watch.begin()
        try:
            result = self._exporter.export(batch)
        except Exception as error:  # a telemetry library's trouble is never a request's
            raise NotSent(type(error).__name__, retryable=False) from None
        if result.name != "SUCCESS":
            raise self._watch.problem
        return self._watch.rejected

    def close(self) -> None:
        self._exporter.shutdown()


# ---- over HTTP


def _http_exporter(to: Destination, watch: Watch) -> Any:
    if to.secure and (to.certificate or to.client_certificate):  # requests would find out with the first batch
        context = ssl.create_default_context(cafile=to.certificate or None)
        if to.client_certificate:
            context.load_cert_chain(to.client_certificate, to.client_key or None)
    system = ssl.get_default_verify_paths()
    parts = urlsplit(to.endpoint)
    headers = dict(to.headers)
    if parts.username is not None and "authorization" not in headers:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["authorization"] = f"Basic {b64encode(credentials.encode()).decode()}"
    exporter = _HttpSpans if to.signal == "traces" else OTLPMetricExporter
    return exporter(
        endpoint=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        certificate_file=to.certificate or system.cafile or system.capath,
        client_key_file=to.client_key or None,
        client_certificate_file=to.client_certificate or None,
        timeout=to.timeout_s,
        compression=Compression.Gzip if to.compress else Compression.NoCompression,
        session=_Session(headers, watch, traces=to.signal == "traces"),
    )


class _HttpSpans(OTLPSpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        """Send a message that is encoded already, as the package sends those it encoded."""
        sent = self._client.export(spans.SerializeToString())
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE


class _Session(requests.Session):
    """What the package sends through. Proxies are the environment's, redirects are not followed, and a failure is told
    to the package as one that is not to be tried again: that is for ``Delivery``."""

    def __init__(self, headers: dict[str, str], watch: Watch, *, traces: bool) -> None:
        super().__init__()
        self.auth = _as_it_is
        self._own_headers = {name: value.encode() for name, value in headers.items()}
        self._watch = watch
        self._traces = traces

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """As requests does, but a certificate of our settings goes before one of its own variables."""
        return super().merge_environment_settings(url, proxies, stream, self.verify, cert)

    def request(self, method: Any, url: Any, *, headers: Any = None, **more: Any) -> requests.Response:  # type: ignore[override]
        kept = {name: value for name, value in headers.items() if name.lower() in _PACKAGES_OWN}
        try:
            with super().request(method, url, headers=kept | self._own_headers, stream=True, **more) as answer:
                body = answer.raw.read(MAX_ANSWER_BYTES, decode_content=True)
        except Exception as error:
            retryable = isinstance(error, OSError | HTTPError) and not isinstance(error, ValueError)
            raise self._watch.failed(type(error).__name__, retryable=retryable) from None
        if answer.status_code // 100 != 2:
            after = answer.headers.get("retry-after", "")
            raise self._watch.failed(
                f"status {answer.status_code}",
                retryable=answer.status_code in _RETRYABLE_STATUS,
                after_s=float(after) if after.isdecimal() else 0.0,
            )
        if self._traces and body:
            try:
                self._watch.rejected = ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans
            except DecodeError:
                pass
        return answer


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """No credentials of ``~/.netrc`` in place of the header that was set."""
    return request


# ---- over gRPC


def _grpc_exporter(to: Destination, watch: Watch) -> Any:
    import grpc  # type: ignore[import-untyped]
    from opentelemetry.exporter.otlp.proto.grpc import metric_exporter, trace_exporter

    class Watching(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
            call = continuation(details, request)
            code = call.code().name
            if code != "OK":
                watch.failed(f"gRPC {code}", retryable=code in _RETRYABLE_CODES, after_s=_retry_after_s(call))
            elif to.signal == "traces":
                watch.rejected = call.result().partial_success.rejected_spans
            return call

    exporter: type[Any] = (
        trace_exporter.OTLPSpanExporter if to.signal == "traces" else metric_exporter.OTLPMetricExporter
    )

    class Watched(exporter):  # type: ignore[misc]
        def _initialize_channel_and_stub(self) -> None:  # called again when a connection is made anew
            super()._initialize_channel_and_stub()
            self._headers = to.headers
            self._client = self._stub(grpc.intercept_channel(self._channel, Watching()))

        def _translate_data(self, data: Any) -> Any:
            return data if to.signal == "traces" else super()._translate_data(data)

        def _count_data(self, data: Any) -> int:
            return 0 if to.signal == "traces" else int(super()._count_data(data))  # for figures nobody asked for

    # The package reads this one as seconds even where it is given another, and fails on what is no number.
    unread = f"OTEL_EXPORTER_OTLP_{to.signal.upper()}_TIMEOUT"
    try:
        float(os.environ.get(unread, "0"))
    except ValueError:
        del os.environ[unread]
    credentials = None
    if to.secure:
        credentials = grpc.ssl_channel_credentials(
            _content(to.certificate), _content(to.client_key), _content(to.client_certificate)
        )
    return Watched(
        endpoint=to.endpoint,
        insecure=not to.secure,
        credentials=credentials,
        headers=to.headers,
        timeout=to.timeout_s,
        compression=grpc.Compression.Gzip if to.compress else grpc.Compression.NoCompression,
        retryable_error_codes=(grpc.StatusCode.OK,),  # none that is an error
    )


def _retry_after_s(call: Any) -> float:
    """How long a receiver asked to be left alone (``RetryInfo``)."""
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]

    for name, value in call.trailing_metadata() or ():
        if name == "google.rpc.retryinfo-bin":
            try:
                delay = RetryInfo.FromString(value).retry_delay
            except DecodeError:
                return 0.0
            return float(delay.seconds + delay.nanos / 1e9)
    return 0.0


def _content(path: str) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()


# ---- what is sent


class Source:
    """Whose telemetry it is: makes of our figures what the exporters take."""

    def __init__(self, about: dict[str, Value], scope: str, version: str) -> None:
        self._resource = Resource(about)
        self._scope = InstrumentationScope(scope, version)
        self._empty = ExportTraceServiceRequest()
        of = self._empty.resource_spans.add()
        for name, value in about.items():
            _put(of.resource.attributes.add(key=name).value, value)
        scoped = of.scope_spans.add()
        scoped.scope.name, scoped.scope.version = scope, version

    def spans(self, spans: Sequence[Span]) -> ExportTraceServiceRequest:
        """In the order given."""
        request = ExportTraceServiceRequest()
        request.CopyFrom(self._empty)
        add = request.resource_spans[0].scope_spans[0].spans.add
        unhex = bytes.fromhex
        for span in spans:
            context = span.context
            made = add(
                trace_id=unhex(context.trace_id),
                span_id=unhex(context.span_id),
                parent_span_id=unhex(span.parent_id),
                trace_state=context.state,
                name=_clean(span.name),
                kind=span.kind,
                start_time_unix_nano=span.start_ns,
                end_time_unix_nano=max(span.start_ns, span.end_ns),  # a clock may be set back
                flags=_REMOTE if span.parent_is_remote else _LOCAL,
            )
            made.status.code = _ERROR if span.error else _UNSET
            attribute = made.attributes.add
            for name, value in span.attributes.items():
                _put(attribute(key=name).value, value)
        return request

    def metrics(self, metrics: Sequence[Points], *, delta: bool) -> MetricsData:
        """One request's worth of points."""
        temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        told = [_metric(each, temporality) for each in metrics]
        return MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(self._scope, told, "")], "")])


_ERROR, _UNSET = Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET
_LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "usd": "{USD}"}


def _put(into: Any, value: Value) -> None:
    """An attribute's value; a number beyond what the message can hold is the nearest it can."""
    if isinstance(value, str):
        into.string_value = _clean(value)
    elif isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, float):
        into.double_value = value
    else:
        into.int_value = max(min(value, _MOST), -_MOST)


def _clean(text: str) -> str:
    """What UTF-8 can say of it: the package would drop the attribute, or the whole batch."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _metric(points: Points, temporality: AggregationTemporality) -> MetricData:
    metric: Metric = points.metric
    data: Sum | Gauge | HistogramData
    if metric.kind == "histogram":
        data = HistogramData(
            [
                HistogramDataPoint(
                    attributes={name: _clean(text) for name, text in labels.pairs},
                    start_time_unix_nano=points.start_ns,
                    time_unix_nano=points.now_ns,
                    count=sum(value.counts),
                    sum=value.sum,
                    bucket_counts=value.counts,
                    explicit_bounds=metric.buckets,
                    min=cast(float, None),  # not known; the package leaves it out
                    max=cast(float, None),
                )
                for labels, value in points.points
                if isinstance(value, Buckets)
            ],
            temporality,
        )
    else:
        numbers = [
            NumberDataPoint(
                attributes={name: _clean(text) for name, text in labels.pairs},
                start_time_unix_nano=points.start_ns,
                time_unix_nano=points.now_ns,
                value=value if isinstance(value, float) else max(min(value, _MOST), -_MOST - 1),
            )
            for labels, value in points.points
            if not isinstance(value, Buckets)
        ]
        data = Gauge(numbers) if metric.kind == "gauge" else Sum(numbers, temporality, is_monotonic=True)
    return MetricData(metric.name, metric.help, _UNITS.get(metric.unit, ""), data)
