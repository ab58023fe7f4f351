"""A service's metrics, pushed over OTLP: the same figures under the same names as on ``/metrics``.

Counters and histograms go as cumulative sums since the process began, or, where
``OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`` is ``delta`` or ``lowmemory``, as what came since the last push
that arrived: what could not be delivered is in the next one. Off (no endpoint), nothing here runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import structlog

from bursar_common.delivery import Courier, Delivery
from bursar_common.metrics import Family, Labels, Metric, one
from bursar_common.metrics_endpoint import Metrics
from bursar_common.otlp import destination, number_of
from bursar_common.otlp_points import Point, Points, Since, in_requests, of_now
from bursar_common.tracing import Tracing, open_exporter, tell_ignored

log = structlog.get_logger()

INTERVAL_S = 60.0
"""Between two pushes (``OTEL_METRIC_EXPORT_INTERVAL``, in milliseconds)."""
TRIES = 2
"""Attempts per push: the next push is never far."""
POINTS_AT_ONCE = 1000
"""Figures read on the event loop before others get their turn: about a millisecond."""
READ_S = 30.0
"""For reading all figures: some sources ask others."""

Read = list[tuple[Metric, list[Point]]]


class MetricsPush:
    """Pushes a service's metrics every so often: read on its event loop, encoded and sent from a thread."""

    def __init__(
        self,
        metrics: Metrics,
        delivery: Delivery,
        since: Since,
        converted: Callable[[Sequence[Points]], object],
        *,
        interval_s: float,
    ) -> None:
        """``converted`` makes of points what ``delivery`` takes, on the thread."""
        self._metrics = metrics
        self._delivery = delivery
        self._since = since
        self._converted = converted
        self._interval_s = interval_s
        self._courier = Courier(delivery, self._run, "otlp-metrics")
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def failures(self) -> int:
        """Attempts to send that failed."""
        return self._delivery.failures

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._courier.start()

    def _run(self) -> None:
        assert self._loop is not None
        last = False
        while not last:
            last = self._delivery.stopping.wait(self._interval_s)
            reading = self._read()
            try:
                future = asyncio.run_coroutine_threadsafe(reading, self._loop)
            except RuntimeError:  # the service ended without stopping us
                reading.close()
                return
            try:
                self.push(time.time_ns(), future.result(READ_S))
            except Exception:  # a source may end before us
                future.cancel()
                log.exception("metrics_not_pushed")

    async def _read(self) -> Read:
        """All figures of now. Others get their turn every POINTS_AT_ONCE points."""
        read: Read = []
        for metric, samples in await self._metrics.families():
            points: list[Point] = []
            rest = iter(samples)
            while some := [(labels, of_now(value)) for labels, value in islice(rest, POINTS_AT_ONCE)]:
                points += some
                await asyncio.sleep(0)
            read.append((metric, points))
        return read

    def push(self, now_ns: int, read: Read) -> None:
        """Send figures of ``now_ns``. Blocks."""
        arrived = True
        for portion in in_requests(read):
            points = [self._since.points(metric, some, now_ns) for metric, some in portion]
            said = [each for each in points if each.points]
            if said and self._delivery.deliver(self._converted(said), tries=TRIES) is None:
                self._since.lost()
                arrived = False
            else:
                self._since.delivered()
        if arrived:
            self._since.begin_interval(now_ns)

    async def stop(self) -> None:
        """Push once more, within bounds, and close."""
        await self._courier.stop()


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
    exporter, source = open_exporter(to, environ, service, ignored)
    push = MetricsPush(
        metrics,
        Delivery(exporter, to),
        Since(delta=delta, start_ns=time.time_ns()),
        lambda points: source.metrics(points, delta=delta),
        interval_s=interval_s,
    )
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
        both = (self.tracing, self._push)
        await asyncio.gather(*[each.stop() for each in both if each is not None])

    def families(self) -> Iterable[Family]:
        """How the export itself goes."""
        failures: list[tuple[Labels, int]] = []
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
