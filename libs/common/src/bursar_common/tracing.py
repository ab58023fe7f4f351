"""OTLP traces of one service: set-up from the environment, ids, and the queue that spans leave by.

Off (no endpoint in the environment), :func:`open_tracing` returns None and nothing of OpenTelemetry is imported. On,
a span is written when what it tells of is over, and waits as bytes in a bounded queue; a task of the service's own
event loop sends batches. Whatever happens to the receiver, requests do not notice: a full queue drops, and counts.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import structlog

from bursar_common.otlp import (
    Destination,
    NotSent,
    Sender,
    destination,
    number_of,
    resource_attributes,
    sender_to,
)
from bursar_common.settings import SettingsError
from bursar_common.spans import Context, Sampler, export_request, resource, sampler_of

log = structlog.get_logger()

QUEUE_SPANS = 8192
"""Spans that may wait, unless ``OTEL_BSP_MAX_QUEUE_SIZE`` says otherwise: about 5 MB, seconds of a busy edge."""
BATCH_SPANS = 512
"""Spans of one export (``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``)."""
DELAY_S = 5.0
"""Longest wait of a span for company (``OTEL_BSP_SCHEDULE_DELAY``, in milliseconds)."""
BATCH_TRIES = 5
"""Attempts to send one batch, 1, 2, 4 and 8 s apart; then it is dropped, so that newer ones get their turn."""
RETRY_MAX_S = 30.0
"""Longest pause a receiver may ask for."""
STOP_S = 5.0
"""For what waits at the end of the process."""
COMPLAINT_S = 60.0
"""Between two log lines about the same trouble."""
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


class Delivery:
    """Sends what it is given, tries again within bounds, and says in the log when it fails and when it works again."""

    def __init__(self, sender: Sender, to: Destination) -> None:
        self._sender = sender
        self._to = to
        self._failing = False
        self._told_s = -COMPLAINT_S
        self.stopping = asyncio.Event()
        """Set at the end of the process: nothing waits any more, what is in hand has one attempt left."""
        self.failures = 0
        """Attempts that failed."""

    async def deliver(self, body: bytes, *, tries: int = BATCH_TRIES) -> bytes | None:
        """The receiver's answer; None: given up."""
        for attempt in range(tries):
            try:
                answer = await self._sender.send(body)
            except NotSent as problem:
                self.failures += 1
                self._complain(str(problem))
                if not problem.retryable or attempt + 1 == tries or self.stopping.is_set():
                    return None
                await self.pause(min(max(2.0**attempt, problem.after_s), RETRY_MAX_S))
            except Exception as problem:  # a telemetry library's trouble is never a request's
                self.failures += 1
                self._complain(type(problem).__name__)
                return None
            else:
                if self._failing:
                    self._failing = False
                    log.info("telemetry_delivered_again", signal=self._to.signal)
                return answer
        return None

    async def pause(self, for_s: float) -> None:
        """Wait, but not beyond the beginning of the stop."""
        try:
            async with asyncio.timeout(for_s):
                await self.stopping.wait()
        except TimeoutError:
            pass

    def _complain(self, why: str) -> None:
        now_s = time.monotonic()
        if not self._failing or now_s - self._told_s >= COMPLAINT_S:
            self._told_s = now_s
            log.warning(
                "telemetry_not_delivered", signal=self._to.signal, to=self._to.where, why=why, failures=self.failures
            )
        self._failing = True

    async def close(self) -> None:
        await self._sender.close()


class SpanExport:
    """The queue, and the task that empties it."""

    def __init__(
        self,
        delivery: Delivery,
        resource_content: bytes,
        scope_version: str,
        *,
        queue_spans: int = QUEUE_SPANS,
        batch_spans: int = BATCH_SPANS,
        delay_s: float = DELAY_S,
    ) -> None:
        self._delivery = delivery
        self._resource = resource_content
        self._version = scope_version
        self._queue_spans = queue_spans
        self._batch_spans = batch_spans
        self._delay_s = delay_s
        self._queue: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.sent = 0
        """Spans that a receiver took."""
        self.dropped = 0
        """Spans that found the queue full, or whose batch was given up, or that the receiver rejected."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def add(self, *spans: bytes) -> None:
        """Queue spans of one request; all of them or none."""
        queue = self._queue
        if len(queue) + len(spans) > self._queue_spans:
            self.dropped += len(spans)
            return
        queue.extend(spans)
        if len(queue) >= self._batch_spans:
            self._news.set()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def failures(self) -> int:
        """Attempts to send that failed."""
        return self._delivery.failures

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._delay_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            await self._send_batch()
            stopping = self._delivery.stopping
            while len(self._queue) >= self._batch_spans or (self._queue and stopping.is_set()):
                await self._send_batch()
            if stopping.is_set():
                return

    async def _send_batch(self) -> None:
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(len(queue), self._batch_spans))]
        if not batch:
            return
        body = export_request(self._resource, SCOPE, self._version, batch)
        taken = 0
        try:
            answer = await self._delivery.deliver(body)
            taken = 0 if answer is None else max(len(batch) - rejected(answer), 0)
        finally:
            self.sent += taken
            self.dropped += len(batch) - taken

    async def stop(self) -> None:
        """Send what waits, within STOP_S; then close."""
        self._delivery.stopping.set()
        self._news.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.dropped += len(self._queue)
        self._queue.clear()
        if self.dropped:
            log.info("spans_dropped", count=self.dropped, sent=self.sent)
        await self._delivery.close()


def rejected(answer: bytes) -> int:
    """How many spans a receiver's answer (an ``ExportTraceServiceResponse``) says it did not take."""
    if not answer:
        return 0
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        return int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans)
    except DecodeError:
        return 0


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
    version = own_version()
    attributes = resource_attributes(environ, service, version, instance_id(), ignored)
    export = SpanExport(
        Delivery(open_sender(to), to),
        resource(attributes),
        version,
        queue_spans=int(number_of(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS, ignored)),
        batch_spans=int(number_of(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS, ignored)),
        delay_s=number_of(environ, "OTEL_BSP_SCHEDULE_DELAY", DELAY_S * 1000, ignored) / 1000,
    )
    tell_ignored(ignored)
    log.info("traces_exported", to=to.where, protocol=to.kind, ratio=sampler.ratio)
    return Tracing(sampler, export)


def open_sender(to: Destination) -> Sender:
    """Raises SettingsError."""
    try:
        return sender_to(to)
    except ImportError:
        raise SettingsError("OTEL_EXPORTER_OTLP_PROTOCOL is grpc, and the package grpcio is not installed.") from None
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
