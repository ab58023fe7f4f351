"""A service's metrics, pushed over OTLP: the same figures under the same names as on ``/metrics``.

Counters and histograms go as cumulative sums since the process began, or, where
``OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`` is ``delta`` or ``lowmemory``, as what came since the last push
that arrived: what could not be delivered is in the next one. Off (no endpoint), nothing here runs.

Field numbers are those of ``opentelemetry/proto/metrics/v1/metrics.proto``.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice

import structlog

from bursar_common.metrics import Family, Histogram, Labels, Metric, one
from bursar_common.metrics import Value as Figure
from bursar_common.metrics_endpoint import Metrics
from bursar_common.otlp import destination, number_of, resource_attributes
from bursar_common.spans import framed, key_value, resource
from bursar_common.tracing import SCOPE, Delivery, Tracing, instance_id, open_sender, own_version, tell_ignored

log = structlog.get_logger()

INTERVAL_S = 60.0
"""Between two pushes (``OTEL_METRIC_EXPORT_INTERVAL``, in milliseconds)."""
TRIES = 2
"""Attempts per push: the next push is never far."""
STOP_S = 5.0
"""For the last push of a process."""
POINTS_AT_ONCE = 200
"""Points encoded before others get their turn: about a millisecond."""
REQUEST_BYTES = 400_000
"""Of one export; more goes in several. The smallest limit of a well-known receiver is 500 kB, uncompressed."""
REMEMBERED = 50_000
"""Label sets remembered as bytes; the metrics themselves are bounded by less."""

_DELTA, _CUMULATIVE = b"\x10\x01", b"\x10\x02"
"""Field 2, aggregation_temporality, of Sum and Histogram."""
_MONOTONIC = b"\x18\x01"
_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "usd": "{USD}"}
_TIMES = struct.Struct("<cQcQ")

Key = tuple[str, tuple[tuple[str, str], ...]]
Seen = int | float | tuple[tuple[int, ...], float]


@lru_cache(maxsize=REMEMBERED)
def _attributes(field: int, pairs: tuple[tuple[str, str], ...]) -> bytes:
    return b"".join([framed(field, key_value(name, value)) for name, value in pairs])


class Encoder:
    """Families to bytes; under ``delta`` it remembers what was delivered. Pure but for that memory."""

    def __init__(self, *, delta: bool, start_ns: int) -> None:
        self._delta = delta
        self._start_ns = start_ns
        self._delivered: dict[Key, Seen] = {}
        self._pending: dict[Key, Seen] = {}

    def delivered(self) -> None:
        """What was encoded since the last call of this or of ``lost`` has arrived."""
        self._delivered.update(self._pending)
        self._pending.clear()

    def lost(self) -> None:
        """It has not: the next figures contain it."""
        self._pending.clear()

    def begin_interval(self, now_ns: int) -> None:
        """All that was encoded has arrived: what comes next came after ``now_ns``."""
        if self._delta:
            self._start_ns = now_ns

    def points(self, metric: Metric, samples: Iterable[tuple[Labels, Figure]], now_ns: int) -> list[bytes]:
        """The data points of samples; under ``delta`` without those where nothing came."""
        return [point for labels, value in samples if (point := self._point(metric, labels, value, now_ns))]

    def metric(self, metric: Metric, points: Iterable[bytes]) -> bytes:
        """A ``Metric`` with its points as an entry of ``ScopeMetrics.metrics``."""
        content = b"".join(points)
        temporality = _DELTA if self._delta else _CUMULATIVE
        if metric.kind == "gauge":
            data = framed(5, content)
        elif metric.kind == "counter":
            data = framed(7, content + temporality + _MONOTONIC)
        else:
            data = framed(9, content + temporality)
        unit = _UNITS.get(metric.unit, "")
        return framed(
            2, framed(1, metric.name.encode()) + framed(2, metric.help.encode()) + framed(3, unit.encode()) + data
        )

    def _point(self, metric: Metric, labels: Labels, value: Figure, now_ns: int) -> bytes:
        if metric.kind == "gauge":
            if isinstance(value, Histogram):
                return b""
            times = b"\x19" + struct.pack("<Q", now_ns)
            return framed(1, times + _number(value) + _attributes(7, labels.pairs))
        key = (metric.name, labels.pairs)
        start_ns = self._start_ns
        times = _TIMES.pack(b"\x11", start_ns, b"\x19", now_ns)
        if isinstance(value, Histogram):
            counts, total = tuple(value.counts), value.sum
            if self._delta:
                self._pending[key] = (counts, total)
                before = self._delivered.get(key)
                if isinstance(before, tuple):
                    counts = tuple([now - then for now, then in zip(counts, before[0], strict=True)])
                    total -= before[1]
                if not any(counts):
                    return b""
            packed = struct.pack(f"<{len(counts)}Q", *counts)
            bounds = struct.pack(f"<{len(value.bounds)}d", *value.bounds)
            figures = b"\x21" + struct.pack("<Q", sum(counts)) + b"\x29" + struct.pack("<d", total)
            return framed(1, times + figures + framed(6, packed) + framed(7, bounds) + _attributes(9, labels.pairs))
        if self._delta:
            self._pending[key] = value
            before = self._delivered.get(key, 0)
            if not isinstance(before, tuple):
                value -= before
            if not value:
                return b""
        return framed(1, times + _number(value) + _attributes(7, labels.pairs))


def _number(value: int | float) -> bytes:
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    return b"\x31" + struct.pack("<q", max(min(int(value), (1 << 63) - 1), -(1 << 63)))


def metrics_request(resource_content: bytes, version: str, metrics: Iterable[bytes]) -> bytes:
    """An ``ExportMetricsServiceRequest``."""
    scope = framed(1, SCOPE.encode()) + framed(2, version.encode())
    return framed(1, framed(1, resource_content) + framed(2, framed(1, scope) + b"".join(metrics)))


class MetricsPush:
    """Pushes a service's metrics every so often, from a task of its own event loop."""

    def __init__(
        self, metrics: Metrics, delivery: Delivery, encoder: Encoder, resource_content: bytes, *, interval_s: float
    ) -> None:
        self._metrics = metrics
        self._delivery = delivery
        self._encoder = encoder
        self._resource = resource_content
        self._version = own_version()
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    @property
    def failures(self) -> int:
        """Attempts to send that failed."""
        return self._delivery.failures

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        last = False
        while not last:
            await self._delivery.pause(self._interval_s)
            last = self._delivery.stopping.is_set()
            try:
                await self.push()
            except Exception:  # a source may end before us
                log.exception("metrics_not_pushed")

    async def push(self) -> None:
        """Collect, encode, send. Others get their turn every POINTS_AT_ONCE points."""
        now_ns = time.time_ns()
        entries: list[bytes] = []
        size = 0
        arrived = True
        for metric, samples in await self._metrics.families():
            points: list[bytes] = []
            rest = iter(samples)
            while some := list(islice(rest, POINTS_AT_ONCE)):
                encoded = self._encoder.points(metric, some, now_ns)
                points += encoded
                size += sum(map(len, encoded))
                await asyncio.sleep(0)
                if size >= REQUEST_BYTES:
                    if points:
                        entries.append(self._encoder.metric(metric, points))
                    arrived = await self._send(entries) and arrived
                    entries, points, size = [], [], 0
            if points:
                entries.append(self._encoder.metric(metric, points))
        if entries:
            arrived = await self._send(entries) and arrived
        if arrived:
            self._encoder.begin_interval(now_ns)

    async def _send(self, entries: list[bytes]) -> bool:
        body = metrics_request(self._resource, self._version, entries)
        arrived = await self._delivery.deliver(body, tries=TRIES) is not None
        if arrived:
            self._encoder.delivered()
        else:
            self._encoder.lost()
        return arrived

    async def stop(self) -> None:
        """Push once more, within STOP_S, and close."""
        self._delivery.stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._delivery.close()


def open_metrics_push(environ: Mapping[str, str], service: str, metrics: Metrics) -> MetricsPush | None:
    """A service's push as the environment wants it; None: off. Raises SettingsError as ``open_tracing`` does."""
    ignored: list[str] = []
    to = destination(environ, "metrics", ignored)
    if to is None:
        tell_ignored(ignored)
        return None
    preference = environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().lower()
    if preference not in ("", "cumulative", "delta", "lowmemory"):
        ignored.append("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")
    delta = preference in ("delta", "lowmemory")
    interval_s = number_of(environ, "OTEL_METRIC_EXPORT_INTERVAL", INTERVAL_S * 1000, ignored) / 1000
    about = resource_attributes(environ, service, own_version(), instance_id(), ignored)
    encoder = Encoder(delta=delta, start_ns=time.time_ns())
    push = MetricsPush(metrics, Delivery(open_sender(to), to), encoder, resource(about), interval_s=interval_s)
    tell_ignored(ignored)
    log.info("metrics_exported", to=to.where, protocol=to.kind, every_s=interval_s, delta=delta)
    return push


SPANS_SENT = Metric(
    name="bursar_otlp_spans_sent_total", kind="counter", help="Spans that the OTLP receiver took; only with traces on."
)
SPANS_DROPPED = Metric(
    name="bursar_otlp_spans_dropped_total",
    kind="counter",
    help="Spans that found the queue full, were given up, or rejected by the OTLP receiver; only with traces on.",
)
FAILURES = Metric(
    name="bursar_otlp_failures_total",
    kind="counter",
    help="Attempts to send to the OTLP receiver that failed; only for signals that are on.",
    labels=("signal",),
)
METRICS = (SPANS_SENT, SPANS_DROPPED, FAILURES)
"""Of every service that exports, for the document."""
_TRACES, _METRICS = Labels((("signal", "traces"),)), Labels((("signal", "metrics"),))


class Telemetry:
    """What a service exports, to be started and stopped with it. Off, both do nothing."""

    def __init__(self, tracing: Tracing | None, push: MetricsPush | None) -> None:
        self.tracing = tracing
        self._push = push

    def start(self) -> None:
        """On the service's event loop."""
        if self.tracing is not None:
            self.tracing.start()
        if self._push is not None:
            self._push.start()

    async def stop(self) -> None:
        """Send what waits, within bounds."""
        if self.tracing is not None:
            await self.tracing.stop()
        if self._push is not None:
            await self._push.stop()

    def families(self) -> Iterable[Family]:
        """How the export itself goes."""
        failures: list[tuple[Labels, Figure]] = []
        if self.tracing is not None:
            export = self.tracing.export
            yield one(SPANS_SENT, export.sent)
            yield one(SPANS_DROPPED, export.dropped)
            failures.append((_TRACES, export.failures))
        if self._push is not None:
            failures.append((_METRICS, self._push.failures))
        if failures:
            yield Family(FAILURES, failures)


def open_telemetry(environ: Mapping[str, str], metrics: Metrics, tracing: Tracing | None = None) -> Telemetry:
    """A service's exports as the environment wants them; its metrics tell of them, too. Raises SettingsError."""
    telemetry = Telemetry(tracing, open_metrics_push(environ, metrics.service, metrics))
    metrics.add(telemetry.families)
    return telemetry
