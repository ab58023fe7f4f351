"""What the aggregator tells on ``/metrics``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from bursar_aggregator import metrics
from bursar_aggregator.content_job import ContentWriter
from bursar_aggregator.health import Health
from bursar_aggregator.log_worker import GROUP
from bursar_aggregator.stored_books import StoredBooks
from bursar_aggregator.writer import UsageWriter
from bursar_common.clock import Clock
from bursar_common.eventlog.port import EventLog
from bursar_common.events import USAGE_TOPIC
from bursar_common.metrics import Family, one
from bursar_common.metrics_endpoint import METRICS_PATH, READY, Metrics, MetricsAccess, answer
from bursar_common.otlp_metrics import open_telemetry
from bursar_common.settings import Settings

log = structlog.get_logger()

SERVICE = "usage-aggregator"
ANSWER_S = 3.0
"""Longest wait for the log; what it does not tell is left out."""
KEPT_S = 5.0
"""How long the lag is kept: asking Kafka takes a round trip for each partition."""


class Figures:
    """The job's figures of now."""

    def __init__(
        self, event_log: EventLog, writer: UsageWriter, content: ContentWriter, health: Health, clock: Clock
    ) -> None:
        self._log = event_log
        self._writer = writer
        self._health = health
        self._clock = clock
        self._content = content
        self._looked_at_s = -KEPT_S
        self._lag: tuple[int, float] | None = None
        self._looking = asyncio.Lock()
        self.books: StoredBooks | None = None
        """Once it looks at closed months."""
        self.metrics = Metrics(SERVICE, version_of="bursar-aggregator")
        self.metrics.add(self._now)
        self.metrics.add_late(self._behind)

    def route(self, settings: Settings) -> web.RouteDef:
        access = MetricsAccess(settings, settings.aggregator_listen)

        async def handler(request: web.Request) -> web.StreamResponse:
            return await answer(self.metrics, access, request)

        return web.get(METRICS_PATH, handler)

    def export(self, stack: AsyncExitStack) -> None:
        """Push them, too, where the environment says so, until the stack is left. Raises SettingsError."""
        telemetry = open_telemetry(os.environ, self.metrics)
        telemetry.start()
        stack.push_async_callback(telemetry.stop)

    def _now(self) -> Iterator[Family]:
        written = self._writer.written
        yield one(READY, 0 if self._health.why() else 1)
        yield one(metrics.RECORDS, written.records)
        yield one(metrics.ROWS, written.rows)
        yield one(metrics.SET_ASIDE, written.set_aside)
        yield one(metrics.WRITE, written.took)
        yield one(metrics.WAITING, 1 if self._writer.why_waiting else 0)
        yield one(metrics.CONTENT_ROWS, self._content.rows)
        yield one(metrics.CONTENT_WAITING, 1 if self._content.why_waiting else 0)
        yield one(metrics.BOOKS_DIFFER, self.books.differing if self.books is not None else 0)

    async def _behind(self) -> Iterable[Family]:
        async with self._looking:
            if self._clock.monotonic_s() - self._looked_at_s >= KEPT_S:
                try:
                    async with asyncio.timeout(ANSWER_S):
                        self._lag = await self._look()
                except Exception as error:  # the log is away or not started: there is nothing to tell
                    log.info("log_lag_unknown", why=str(error)[:200])
                    self._lag = None
                self._looked_at_s = self._clock.monotonic_s()
        if self._lag is None:
            return [Family(metrics.LAG, ()), Family(metrics.LAG_SECONDS, ())]
        return [one(metrics.LAG, self._lag[0]), one(metrics.LAG_SECONDS, self._lag[1])]

    async def _look(self) -> tuple[int, float]:
        """Records behind, and the age of the oldest (s)."""
        behind, oldest_ms = 0, self._clock.now_ms()
        for partition in range(await self._log.partitions(USAGE_TOPIC)):
            end = await self._log.end_offset(USAGE_TOPIC, partition)
            at = await self._log.committed(GROUP, USAGE_TOPIC, partition)
            at = max(at or 0, await self._log.begin_offset(USAGE_TOPIC, partition))
            if at >= end:
                continue
            # Offsets may have gaps at the end (transaction markers): only a record that is there is late.
            waiting = await self._log.read(USAGE_TOPIC, partition, at, max_records=1, wait_s=0.1)
            if waiting:
                behind += end - at
                oldest_ms = min(oldest_ms, waiting[0].appended_at_ms)
        return behind, max(0.0, (self._clock.now_ms() - oldest_ms) / 1000) if behind else 0.0
