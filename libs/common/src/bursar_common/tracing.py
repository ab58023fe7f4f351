"""OTLP traces of one service: set-up from the environment, ids, and the queue that spans leave by.

Off (no endpoint in the environment), :func:`open_tracing` returns None and nothing of OpenTelemetry is imported. On,
a span is made when what it tells of is over, and waits as a tuple in a bounded queue; a thread takes batches from it
and has OpenTelemetry's exporter encode and send them. Whatever happens to the receiver, requests do not notice: a full
queue drops, and counts.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

import structlog

from bursar_common.delivery import Courier, Delivery, Exporter
from bursar_common.otlp import Destination, destination, number_of, resource_attributes
from bursar_common.settings import SettingsError
from bursar_common.spans import Context, Sampler, Span, Value, sampler_of

if TYPE_CHECKING:
    from bursar_common.otlp_exporters import Source

log = structlog.get_logger()

QUEUE_SPANS = 8192
"""Spans that may wait, unless ``OTEL_BSP_MAX_QUEUE_SIZE`` says otherwise: about 15 MB, seconds of a busy edge."""
BATCH_SPANS = 512
"""Spans of one export (``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``)."""
DELAY_S = 5.0
"""Longest wait of a span for company (``OTEL_BSP_SCHEDULE_DELAY``, in milliseconds)."""
SCOPE = "bursar"


_random = random.Random(os.urandom(32))  # noqa: S311 - ids are no secrets


def new_id(size: int) -> str:
    """A random id of ``size`` bytes, in hex; not all zero, which means none."""
    while not (made := _random.getrandbits(8 * size)):
        continue
    return f"{made:0{2 * size}x}"


def own_version() -> str:
    try:
        return version_of("bursar-common")
    except PackageNotFoundError:
        return "0"


class SpanExport:
    """The queue, and the thread that empties it. Spans are added on the service's event loop only."""

    def __init__(
        self,
        delivery: Delivery,
        converted: Callable[[Sequence[Span]], object],
        *,
        queue_spans: int = QUEUE_SPANS,
        batch_spans: int = BATCH_SPANS,
        delay_s: float = DELAY_S,
    ) -> None:
        """``converted`` makes of spans what ``delivery`` takes, on the thread."""
        self._delivery = delivery
        self._converted = converted
        self._queue_spans = queue_spans
        self._batch_spans = batch_spans
        self._delay_s = delay_s
        self._queue: deque[Span] = deque()
        self._courier = Courier(delivery, self._run, "otlp-traces")
        self.sent = 0
        """Spans that a receiver took."""
        self._left_out = 0
        self._lost = 0
        """Each written by one thread only."""

    @property
    def dropped(self) -> int:
        """Spans that found the queue full, or whose batch was given up, or that the receiver rejected."""
        return self._left_out + self._lost

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def failures(self) -> int:
        """Attempts to send that failed."""
        return self._delivery.failures

    def start(self) -> None:
        self._courier.start()

    def add(self, *spans: Span) -> None:
        """Queue spans of one request; all of them or none."""
        queue = self._queue
        if len(queue) + len(spans) > self._queue_spans:
            self._left_out += len(spans)
            return
        queue.extend(spans)
        if len(queue) >= self._batch_spans and not self._courier.wake.is_set():
            self._courier.wake.set()

    def _run(self) -> None:
        stopping, wake = self._delivery.stopping, self._courier.wake
        while True:
            wake.wait(self._delay_s)
            wake.clear()
            self._send_batch()
            while len(self._queue) >= self._batch_spans or (self._queue and stopping.is_set()):
                self._send_batch()
            if stopping.is_set():
                return

    def _send_batch(self) -> None:
        queue = self._queue
        batch: list[Span] = []
        while queue and len(batch) < self._batch_spans:
            batch.append(queue.popleft())
        if not batch:
            return
        taken = 0
        try:
            rejected = self._delivery.deliver(self._converted(batch))
            taken = 0 if rejected is None else max(len(batch) - rejected, 0)
        except Exception:  # whatever it is: the next batch may be better
            log.exception("spans_not_written")
        finally:
            self.sent += taken
            self._lost += len(batch) - taken

    async def stop(self) -> None:
        """Send what waits, within bounds; then close."""
        await self._courier.stop()
        if self.dropped or self._queue:
            log.info("spans_dropped", count=self.dropped + len(self._queue), sent=self.sent)


class Tracing:
    """What a service needs to write spans."""

    def __init__(self, sampler: Sampler, export: SpanExport) -> None:
        self._sampler = sampler
        self.export = export

    def start(self) -> None:
        """On the service's event loop."""
        self.export.start()

    async def stop(self) -> None:
        await self.export.stop()

    def begin(self, parent: Context | None) -> Context | None:
        """The context of a new span below ``parent`` (None: of a new trace); None: this trace is not recorded."""
        trace_id = parent.trace_id if parent is not None else new_id(16)
        if not self._sampler.takes(trace_id, parent):
            return None
        return Context(trace_id, new_id(8), True, parent.state if parent is not None else "")


def open_tracing(environ: Mapping[str, str], service: str) -> Tracing | None:
    """A service's tracing as the environment wants it; None: off. Raises SettingsError where a certificate's file
    cannot be read: to send without it, or not at all, would be a surprise either way."""
    ignored: list[str] = []
    to = destination(environ, "traces", ignored)
    if to is None:
        tell_ignored(ignored)
        return None
    try:
        sampler = sampler_of(environ.get("OTEL_TRACES_SAMPLER", ""), environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
    except ValueError:
        ignored.append("OTEL_TRACES_SAMPLER")
        sampler = Sampler()
    exporter, source = open_exporter(to, environ, service, ignored)
    export = SpanExport(
        Delivery(exporter, to),
        source.spans,
        queue_spans=int(number_of(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS, ignored)),
        batch_spans=int(number_of(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS, ignored)),
        delay_s=number_of(environ, "OTEL_BSP_SCHEDULE_DELAY", DELAY_S * 1000, ignored) / 1000,
    )
    tell_ignored(ignored)
    log.info("traces_exported", to=to.where, protocol=to.kind, ratio=sampler.ratio)
    return Tracing(sampler, export)


def open_exporter(
    to: Destination, environ: Mapping[str, str], service: str, ignored: list[str]
) -> tuple[Exporter, Source]:
    """OpenTelemetry's exporter for a destination, and what makes of our figures what it takes. Here it is first
    imported. Raises SettingsError."""
    try:
        from bursar_common.otlp_exporters import OtlpExporter, Source
    except ImportError as error:
        raise SettingsError(f"The package opentelemetry-exporter-otlp cannot be used: {error}.") from None
    version = own_version()
    about: dict[str, Value] = resource_attributes(environ, service, version, instance_id(), ignored)
    try:
        return OtlpExporter(to), Source(about, SCOPE, version)
    except (OSError, ValueError) as error:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_KEY or _CLIENT_CERTIFICATE: {error}.") from None


_instance_id = ""


def instance_id() -> str:
    """One id for this process, the same in its traces and its metrics."""
    global _instance_id
    _instance_id = _instance_id or new_id(16)
    return _instance_id


def tell_ignored(names: list[str]) -> None:
    """Log variables whose values were not understood, by name: the values may be secrets."""
    for name in dict.fromkeys(names):
        log.warning("otel_variable_ignored", variable=name)
