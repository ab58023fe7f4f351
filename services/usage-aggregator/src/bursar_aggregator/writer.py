"""Takes a batch into ClickHouse, however long that takes. What it has returned for is in, and may be acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import structlog

from bursar_aggregator.batch import Batch, SetAside, batch_of
from bursar_aggregator.dead_letters import bury
from bursar_aggregator.left import REASON, place_of
from bursar_aggregator.metrics import WRITE
from bursar_aggregator.rows import COLUMN_TYPES, COLUMNS, TABLE
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable
from bursar_common.metrics import Histogram

log = structlog.get_logger()
T = TypeVar("T")

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 5.0
"""Waits between tries double from the first to the longest: a server that comes back is noticed within 5 s."""
MAX_REFUSED_TRIES = 5
"""Tries of an insert that ClickHouse answers with an error of its own (not: is away). An error may pass while a schema
is being changed; after some 3 s it is taken as final and the process stops, with nothing acknowledged."""


Rows = Sequence[tuple[Any, ...]]


class InsertRefused(Exception):
    """Fatal: ClickHouse refuses the rows. Nothing of the batch is acknowledged."""


class Written:
    """What was taken care of since start."""

    def __init__(self) -> None:
        self.records = self.rows = self.set_aside = 0
        self.took = Histogram(WRITE.buckets)

    def add(self, batch: Batch, took_s: float) -> None:
        """A batch is in."""
        self.records += len(batch.rows) + len(batch.set_aside)
        self.rows += len(batch.rows)
        self.set_aside += len(batch.set_aside)
        self.took.observe(took_s)


class UsageWriter:
    """Writes batches one at a time.

    A crash before the insert: the batch is read again. Between insert and acknowledgement: it is read and inserted
    again, and the rows merge with their twins. ``why_waiting`` says what it waits for, empty when it does not.
    ``touch`` is told of rows right before they are inserted (see :mod:`bursar_aggregator.hours`); ``keep`` answers
    which of them to insert (see :mod:`bursar_aggregator.arrivals`), ``part`` which of them come too late for their
    month and are set aside (see :mod:`bursar_aggregator.left`)."""

    def __init__(
        self,
        analytics: Analytics,
        event_log: EventLog,
        *,
        bury_poison: bool = True,
        touch: Callable[[Sequence[tuple[Any, ...]]], Awaitable[None]] | None = None,
        keep: Callable[[Sequence[tuple[Any, ...]]], Awaitable[Sequence[tuple[Any, ...]]]] | None = None,
        part: Callable[[Rows], Awaitable[tuple[Rows, Rows]]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._analytics = analytics
        self._event_log = event_log
        self._bury_poison = bury_poison
        self._touch = touch
        self._keep = keep
        self._part = part
        self._sleep = sleep
        self.why_waiting = ""
        self.written = Written()

    async def write(self, records: Sequence[LogRecord]) -> Batch:
        """Insert the rows, bury the poison; returns when both are durable. While ClickHouse or the log is away it
        waits without end (the caller acknowledges nothing meanwhile). Raises InsertRefused."""
        began_s = asyncio.get_running_loop().time()
        batch = batch_of(records)
        if batch.rows:
            too_late: list[tuple[Any, ...]] = []
            await self._until_done(lambda: self._insert(batch, too_late))
            batch = _without(batch, too_late, records)
        if batch.set_aside and self._bury_poison:
            await self._until_done(lambda: bury(self._event_log, batch.set_aside))
        self.written.add(batch, asyncio.get_running_loop().time() - began_s)
        return batch

    async def _insert(self, batch: Batch, too_late: list[tuple[Any, ...]]) -> None:
        rows = batch.rows
        if self._part is not None:
            rows, too_late[:] = await self._part(rows)
            if not rows:
                return
        if self._keep is not None:
            rows = await self._keep(rows)
            if not rows:
                return
        if self._touch is not None:
            await self._touch(rows)  # at every try: an insert must follow its note soon
        columns = list(zip(*rows, strict=True))
        await self._analytics.insert_columns(TABLE, COLUMNS, COLUMN_TYPES, columns)

    async def _until_done(self, step: Callable[[], Awaitable[None]]) -> None:
        wait_s = FIRST_RETRY_S
        refused = 0
        while True:
            try:
                await step()
            except (AnalyticsUnavailable, LogUnavailable) as error:
                if not self.why_waiting:
                    log.warning("waiting, nothing is acknowledged meanwhile", why=str(error))
                self.why_waiting = str(error)
            except AnalyticsRefused as error:
                refused += 1
                if refused >= MAX_REFUSED_TRIES:
                    raise InsertRefused(f"ClickHouse refuses the rows: {error}") from error
                self.why_waiting = str(error)
            else:
                if self.why_waiting:
                    log.info("going on")
                self.why_waiting = ""
                return
            await self._sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_RETRY_S)


def _without(batch: Batch, too_late: Rows, records: Sequence[LogRecord]) -> Batch:
    """The batch with those rows among what is set aside."""
    if not too_late:
        return batch
    places = {place_of(row) for row in too_late}
    gone = [SetAside(each, REASON) for each in records if (each.topic, each.partition, each.offset) in places]
    rows = [row for row in batch.rows if place_of(row) not in places]
    return Batch(rows, [*batch.set_aside, *gone])
