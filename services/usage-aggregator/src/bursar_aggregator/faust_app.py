"""The job of a cluster: a Faust agent on the usage topic.

How acknowledging is made safe (read in faust-streaming 0.15.3, ``faust/streams.py``): an agent's own acknowledgement,
and ``stream.take``'s, happen in a ``finally``, so also when the body raised or was cancelled half-way through an
insert. ``noack_take`` acknowledges nothing; the agent does it by itself after the rows are in. The stream's
``enable_acks`` is turned off beforehand, because ``noack_take`` puts back on leaving what it found. Values are taken
raw, since Faust also acknowledges what its decoder refuses.

No tables, hence no changelog topics; no leader topic; no web server of Faust's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import AsyncExitStack
from typing import Any, Final

import faust
import structlog
from faust.types import EventT

from bursar_aggregator.arrivals import FirstArrivals
from bursar_aggregator.batch import MAX_BATCH_BYTES, MAX_BATCH_WAIT_S, in_chunks
from bursar_aggregator.books import follow_books
from bursar_aggregator.content_job import ContentJob, ContentWriter
from bursar_aggregator.destination import open_analytics, until_migrated
from bursar_aggregator.faust_consumer import stop_without_kafka
from bursar_aggregator.figures import Figures
from bursar_aggregator.health import Health, serve_health
from bursar_aggregator.hours import HourNotes, sum_up_hours
from bursar_aggregator.left import LeftMonths
from bursar_aggregator.log_worker import GROUP
from bursar_aggregator.people import follow_people
from bursar_aggregator.rows_retention import keep_rows
from bursar_aggregator.tiering import set_tiering
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S, UsageWriter
from bursar_common.clock import SystemClock
from bursar_common.eventlog import open_log
from bursar_common.eventlog.kafka_connection import client_options
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable
from bursar_common.events import CONTENT_TOPIC, USAGE_TOPIC
from bursar_common.service import run, until_signalled
from bursar_common.settings import Settings, SettingsError
from bursar_common.topics import refuse_wrong_topics

log = structlog.get_logger()

MAX_TAKEN_CONTENT: Final = 16
"""Records of the content topic that wait in memory, and are taken at once: each can have 8 MiB."""
MAX_TAKEN_RECORDS: Final = 2_000
"""Records taken off the stream at once; inserted in blocks of at most MAX_BATCH_BYTES."""
COMMIT_INTERVAL_S: Final = 1.0
"""Seconds between commits of what was acknowledged: what a crash reads again."""
COMMIT_EVERY_RECORDS: Final = 10_000
"""Acknowledged records that are committed at once: Faust commits at either bound."""
SESSION_S: Final = 10.0
"""Seconds without a heartbeat after which a worker counts as dead and its partitions go to others (Faust's default is
60). Heartbeats are sent while an insert waits, so a slow ClickHouse does not cost a worker its partitions."""
PROBE_S: Final = 5.0
"""Seconds between looks whether Kafka answers, for /readyz."""
FINISH_S: Final = 20.0
"""Seconds the batch at hand gets to be finished when the process is to stop; then it is left to be read again."""


class FaustJob:
    """Faust's application with its one agent, and the state of its work."""

    def __init__(self, settings: Settings, writer: UsageWriter, content: ContentWriter) -> None:
        self._writer = writer
        self._at_work = asyncio.Lock()
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.joined = False
        self.app = faust.App(
            GROUP,
            broker=[f"kafka://{address.strip()}" for address in settings.kafka_bootstrap.split(",")],
            broker_credentials=faust_credentials(settings),
            broker_commit_interval=COMMIT_INTERVAL_S,
            broker_commit_every=COMMIT_EVERY_RECORDS,
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=SESSION_S / 3,
            consumer_auto_offset_reset="earliest",
            processing_guarantee="at_least_once",
            store="memory://",
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            # Waiting for what is in flight would wait for ClickHouse; what was not acknowledged is read again.
            stream_wait_empty=False,
            # Tells workers apart; nothing connects to it.
            canonical_url=f"http://{socket.gethostname()}:{os.getpid()}",
        )
        stop_without_kafka(self.app)
        topic = self.app.topic(
            USAGE_TOPIC, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        self.app.agent(topic, name="usage-to-clickhouse", concurrency=1)(self._agent)
        self._content = content
        prompts = self.app.topic(
            CONTENT_TOPIC,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            maxsize=MAX_TAKEN_CONTENT,
        )
        self.app.agent(prompts, name="content-to-clickhouse", concurrency=1)(self._content_agent)
        self.app.on_partitions_assigned.connect(self._on_assigned, weak=False)

    async def _on_assigned(self, *_: Any, **__: Any) -> None:
        self.joined = True

    async def _agent(self, stream: Any) -> None:
        stream.enable_acks = False
        async for events in stream.noack_take(MAX_TAKEN_RECORDS, within=MAX_BATCH_WAIT_S):
            async with self._at_work:
                try:
                    await self._write(stream, events)
                except Exception as error:
                    # Raising here would have Faust restart the agent and go on behind the batch: stop it all instead.
                    self.failure = error
                    self.failed.set()
                    await asyncio.Event().wait()

    async def _content_agent(self, stream: Any) -> None:
        stream.enable_acks = False
        async for events in stream.noack_take(MAX_TAKEN_CONTENT, within=MAX_BATCH_WAIT_S):
            done = 0
            for chunk in in_chunks([_record(event) for event in events], MAX_BATCH_BYTES):
                await self._content.write(chunk)  # waits rather than fails
                for event in events[done : done + len(chunk)]:
                    await stream.ack(event)
                done += len(chunk)

    async def _write(self, stream: Any, events: list[EventT[bytes]]) -> None:
        done = 0
        for chunk in in_chunks([_record(event) for event in events], MAX_BATCH_BYTES):
            await self._writer.write(chunk)
            for event in events[done : done + len(chunk)]:
                await stream.ack(event)
            done += len(chunk)

    async def finish(self) -> None:
        """Let the batch at hand end, start no other. A batch that waits for ClickHouse is left."""
        deadline = asyncio.get_running_loop().time() + FINISH_S
        while self._at_work.locked() and not self._writer.why_waiting and self.failure is None:
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.02)
        if not self._at_work.locked():
            await self._at_work.acquire()


def run_faust(settings: Settings) -> int:
    """Run the job until SIGTERM. Raises what ``app.main`` turns into a sentence."""
    if settings.log_level != "debug":
        # While a broker is away the client writes some fifty lines a second; LogProbe says it once.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    return run(lambda: serve_faust(settings))


async def serve_faust(settings: Settings) -> int:
    """The Faust job with its health listener; with ``BURSAR_CLICKHOUSE_URL`` empty or ``chdb:`` also the engine."""
    async with AsyncExitStack() as stack:
        stop = asyncio.Event()
        signalled = asyncio.ensure_future(until_signalled())
        signalled.add_done_callback(lambda _: stop.set())
        stack.callback(signalled.cancel)
        analytics = await open_analytics(settings, stack)
        event_log = open_log(settings)
        stack.push_async_callback(event_log.close)
        keep, part = FirstArrivals(analytics, time.time).keep, LeftMonths(analytics, time.time).part
        writer = UsageWriter(analytics, event_log, touch=HourNotes(analytics).touch, keep=keep, part=part)
        content = ContentJob(analytics, event_log, settings)
        job = FaustJob(settings, writer, content.writer)
        probe = LogProbe(event_log)
        health = Health(lambda: writer.why_waiting or probe.why or ("" if job.joined else "joining the consumer group"))
        figures = Figures(event_log, writer, content.writer, health, SystemClock())
        await serve_health(health, settings.aggregator_listen, stack, figures.route(settings))
        figures.export(stack)
        await _until_log(settings, event_log, probe, stop)
        await until_migrated(analytics, event_log, health, stop)
        if stop.is_set():
            return 0
        await set_tiering(analytics, settings)
        probing = asyncio.ensure_future(probe.run())
        stack.callback(probing.cancel)
        follow_people(analytics, event_log, stack)
        figures.books = follow_books(analytics, event_log, stack)
        sum_up_hours(analytics, stack)
        keep_rows(analytics, event_log, settings, SystemClock().now_ms, stack)
        content.start(stack, read_topic=False)
        await _work(job, stop)
        if job.failure is not None:
            raise job.failure
    return 0


async def _work(job: FaustJob, stop: asyncio.Event) -> None:
    """Run Faust until told to stop, or until it or the job fails (then ``job.failure`` says why)."""
    ends: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(stop.wait()),
        asyncio.ensure_future(job.failed.wait()),
    ]
    try:
        await job.app.start()
        ends.append(asyncio.ensure_future(job.app.wait_until_stopped()))
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if job.app.crashed and job.failure is None:
            job.failure = LogUnavailable(f"Faust stopped working: {job.app.crash_reason!r}")
        await job.finish()
    finally:
        for end in ends:
            end.cancel()
        await job.app.stop()


class LogProbe:
    """Whether Kafka answers, looked at from time to time."""

    def __init__(self, event_log: EventLog) -> None:
        self._event_log = event_log
        self.why = "not connected to the log yet"

    async def look(self) -> None:
        try:
            await self._event_log.end_offset(USAGE_TOPIC, 0)
        except LogUnavailable as error:
            if not self.why:
                log.warning("the log does not answer", why=str(error))
            self.why = str(error)
        else:
            self.why = ""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            await self.look()


async def _until_log(settings: Settings, event_log: EventLog, probe: LogProbe, stop: asyncio.Event) -> None:
    """Connect, waiting while Kafka is away. Raises SettingsError for topics that are not as they must be."""
    wait_s = FIRST_RETRY_S
    while not stop.is_set():
        try:
            await event_log.start()
            await refuse_wrong_topics(settings)
            await probe.look()
            return
        except LogUnavailable as error:
            probe.why = str(error)
            log.warning("waiting for the log", why=str(error))
            try:
                await asyncio.wait_for(stop.wait(), wait_s)
            except TimeoutError:
                wait_s = min(wait_s * 2, LONGEST_RETRY_S)


def _record(event: EventT[bytes]) -> LogRecord:
    message: Any = event.message
    headers = message.headers.items() if isinstance(message.headers, dict) else message.headers or ()
    return LogRecord(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=(message.key or b"").decode(errors="replace"),
        value=message.value or b"",
        headers=tuple((name, value or b"") for name, value in headers),
        appended_at_ms=int((message.timestamp or 0) * 1000),
    )


def faust_credentials(settings: Settings) -> Any:
    """Faust's form of the Kafka settings; None for plain connections without a login. Raises SettingsError."""
    options = client_options(settings)
    context = options.get("ssl_context")
    if "sasl_mechanism" in options:
        try:
            return faust.SASLCredentials(
                username=options["sasl_plain_username"],
                password=options["sasl_plain_password"],
                mechanism=options["sasl_mechanism"],
                ssl_context=context,
            )
        except ValueError:
            raise SettingsError("BURSAR_KAFKA_SASL_MECHANISM must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.") from None
    return faust.SSLCredentials(context) if context is not None else None
