"""Closed months and allocations from the governance topic, corrections from theirs, into ClickHouse.

Above the follower everything is pure. What it does is a comparison, as with names of people: what the log says now
against the rows of the tables; what is missing or older is inserted, and the engine keeps the highest version. So the
effect is repeatable, several replicas may do it at once, and tables that were lost are filled again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from typing import Any, Final

import msgspec
import structlog

from bursar_aggregator.governance_reading import GovernanceReading
from bursar_aggregator.stored_books import StoredBooks, store_books
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.events import CORRECTIONS_TOPIC, GOVERNANCE_TOPIC, decode_envelope
from bursar_common.finance import (
    ALLOCATION,
    PERIOD_CLOSE,
    USAGE_CORRECTED,
    Allocation,
    Correction,
    CorrectionFold,
    PeriodClose,
)
from bursar_common.governance import read_document

log = structlog.get_logger()

BOOKS_GROUP: Final = "bursar-usage-aggregator-books"
"""Group whose committed offset says how far corrections are in. Reading starts at the topic's beginning anyway."""
LOOK_EVERY_S: Final = 1.0
"""Seconds between looks for new events: whoever closes a month waits for its row."""
CORRECTIONS_AT_ONCE: Final = 500
"""Corrections of one statement: their ids are in its text."""
READ_WAIT_S: Final = 1.0
"""Seconds to wait for an event that is known to be there."""
COMPARE_EVERY_S: Final = 600.0
"""Seconds after which the tables are compared although nothing happened: a restored copy is put right by then."""

Columns = tuple[tuple[str, str], ...]
CLOSED: Final[Columns] = (
    ("month", "Date"), ("closed_at", "DateTime('UTC')"), ("closed_by", "String"), ("log_topics", "Array(String)"),
    ("log_partitions", "Array(UInt32)"), ("next_offsets", "Array(UInt64)"), ("price_books", "Array(String)"),
    ("rows", "UInt64"), ("requests", "Int64"), ("billed_nusd", "Int64"), ("list_nusd", "Int64"),
    ("allocated_nusd", "Int64"), ("checksum", "String"), ("version", "UInt64"),
)  # fmt: skip
ALLOCATIONS: Final[Columns] = (
    ("allocation_id", "String"), ("name", "String"), ("kind", "LowCardinality(String)"), ("from_month", "Date"),
    ("to_month", "Nullable(Date)"), ("virtual_key_id", "String"), ("provider", "LowCardinality(String)"),
    ("part_customer_ids", "Array(String)"), ("part_customers", "Array(String)"), ("part_team_ids", "Array(String)"),
    ("part_teams", "Array(String)"), ("part_cost_centers", "Array(String)"), ("part_weights", "Array(UInt64)"),
    ("part_amounts_nusd", "Array(Int64)"), ("deleted", "Bool"), ("version", "UInt64"),
)  # fmt: skip
CORRECTIONS: Final[Columns] = (
    ("correction_id", "String"), ("request_id", "String"), ("corrected_at", "DateTime64(3, 'UTC')"),
    ("reason", "String"), ("cost_nusd", "Int64"), ("list_cost_nusd", "Int64"), ("log_offset", "UInt64"),
)  # fmt: skip

Row = tuple[Any, ...]


class Books:
    """Rows of both tables by their key, as far as the governance topic was read, in its order from its beginning."""

    def __init__(self) -> None:
        self._reading = GovernanceReading()
        self.closed: dict[date, Row] = {}
        self.closes: dict[str, PeriodClose] = {}
        self.allocations: dict[str, Row] = {}

    def take(self, value: bytes) -> bool:
        """Whether the record changed the books. What the projector rejects, or nobody can read, changes nothing."""
        applied = self._reading.take(value)
        if applied is None:
            return False
        if applied.entity not in (PERIOD_CLOSE, ALLOCATION):
            return False
        version = applied.versions[applied.entity_id]
        try:
            document = read_document(applied.entity, applied.document) if applied.document is not None else None
            if isinstance(document, PeriodClose):
                self.closed[first_day(document.name)] = closed_row(document, version)
                self.closes[document.name] = document
            elif isinstance(document, Allocation):
                self.allocations[document.id] = allocation_row(document, version)
            elif applied.entity == ALLOCATION and applied.entity_id in self.allocations:
                gone = self.allocations[applied.entity_id]
                self.allocations[applied.entity_id] = (*gone[:-2], True, version)
        except (msgspec.ValidationError, ValueError):
            return False  # of a newer release: its version counts, its content is not ours
        return True


def first_day(month: str) -> date:
    """Raises ValueError."""
    return date(int(month[:4]), int(month[5:]), 1)


def closed_row(close: PeriodClose, version: int) -> Row:
    return (
        first_day(close.name),
        datetime.fromtimestamp(close.created_at_s, UTC),
        close.closed_by,
        [bound.topic for bound in close.bounds],
        [bound.partition for bound in close.bounds],
        [bound.next_offset for bound in close.bounds],
        list(close.price_books),
        close.rows,
        close.requests,
        close.billed_nusd,
        close.list_nusd,
        close.allocated_nusd,
        close.checksum,
        version,
    )


def allocation_row(allocation: Allocation, version: int) -> Row:
    parts = allocation.parts
    return (
        allocation.id,
        allocation.name,
        allocation.kind,
        first_day(allocation.from_month),
        first_day(allocation.to_month) if allocation.to_month else None,
        allocation.virtual_key_id,
        allocation.provider,
        [part.customer_id for part in parts],
        [part.customer for part in parts],
        [part.team_id for part in parts],
        [part.team for part in parts],
        [part.cost_center for part in parts],
        [part.weight for part in parts],
        [part.amount_nusd for part in parts],
        False,
        version,
    )


def correction_row(value: bytes, offset: int, fold: CorrectionFold) -> Row | None:
    """None for what nobody can read, and for what does not count."""
    try:
        envelope = decode_envelope(value)
        if envelope.type != USAGE_CORRECTED:
            return None
        correction = msgspec.json.decode(envelope.data, type=Correction)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not correction.request_id or not correction.correction_id:
        return None
    if fold.take(offset, correction) != "counts":
        return None
    at = datetime.fromtimestamp(correction.corrected_at_ms / 1000, UTC)
    return (
        correction.correction_id,
        correction.request_id,
        at,
        correction.reason,
        correction.cost_nusd,
        correction.list_cost_nusd,
        offset,
    )


def outdated(rows: Mapping[Any, Row], there: Mapping[Any, int]) -> list[Row]:
    """Rows that a table lacks, given the version it has of each key."""
    return [row for key, row in rows.items() if there.get(key, 0) < row[-1]]


class BooksFollower:
    """A task beside the usage job, which never depends on it: whatever fails here is tried again."""

    def __init__(self, analytics: Analytics, event_log: EventLog) -> None:
        self._analytics = analytics
        self._event_log = event_log
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._begin_again()

    def _begin_again(self) -> None:
        self._books = Books()
        self._fold = CorrectionFold()
        self._offsets: dict[str, int] = {}
        self._committed: int | None = None
        self._changed = True
        self._compare_at = 0.0

    def closes(self) -> Mapping[str, PeriodClose]:
        """Closed months by name, as far as the log was read."""
        return self._books.closes

    def start(self) -> None:
        """Begin, once the schema is applied and the log is connected."""
        self._task = asyncio.create_task(self._run(), name="books-follower")

    async def close(self) -> None:
        """Idempotent. An insert that was begun is repeated at the next start, to the same effect."""
        self._closing = True  # a client library may swallow a cancellation that meets an arriving record
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        pause_s = FIRST_RETRY_S
        waiting = False
        while not self._closing:
            try:
                await self.step()
            except (AnalyticsUnavailable, AnalyticsRefused, LogUnavailable) as error:
                why = str(error)[:300]
            except Exception as error:
                # OffsetLost (another log than before), or what nobody thought of: the usage job goes on in any case.
                why = type(error).__name__
                self._begin_again()
            else:
                pause_s, waiting = FIRST_RETRY_S, False
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            if not waiting:
                log.warning("closed months and allocations: waiting", why=why)
            waiting = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_RETRY_S)

    async def step(self) -> None:
        """Read both topics to their ends; insert what the tables lack."""
        async for value, _ in self._new(GOVERNANCE_TOPIC):
            self._changed = self._books.take(value) or self._changed
        now = asyncio.get_running_loop().time()
        if self._changed or now >= self._compare_at:
            await self._compare()
            self._changed, self._compare_at = False, now + COMPARE_EVERY_S
        try:
            corrections = [
                row
                async for value, offset in self._new(CORRECTIONS_TOPIC)
                if (row := correction_row(value, offset, self._fold)) is not None
            ]
            for first in range(0, len(corrections), CORRECTIONS_AT_ONCE):
                await self._correct(corrections[first : first + CORRECTIONS_AT_ONCE])
        except BaseException:
            self._offsets.pop(CORRECTIONS_TOPIC, None)  # from the beginning: the same ids count once
            self._fold = CorrectionFold()
            raise
        offset = self._offsets[CORRECTIONS_TOPIC]
        if self._committed != offset:
            await self._event_log.commit(BOOKS_GROUP, CORRECTIONS_TOPIC, 0, offset)
            self._committed = offset

    async def _correct(self, corrections: Sequence[Row]) -> None:
        """Insert those that are new, after noting the hours of their requests: these are read by request until they are
        summed up again, so that a correction is in every answer at once."""
        there = await self._analytics.query(
            "SELECT correction_id FROM bursar.corrections FINAL WHERE correction_id IN {ids:Array(String)}",
            {"ids": [row[0] for row in corrections]},
        )
        known = {row["correction_id"] for row in there}
        new = [row for row in corrections if row[0] not in known]
        if not new:
            return
        hours = await self._analytics.query(
            "SELECT DISTINCT toUnixTimestamp(toStartOfHour(toDateTime(started_at, 'UTC'))) AS hour"
            " FROM bursar.usage_events WHERE request_id IN {ids:Array(String)}",
            {"ids": [row[1] for row in new]},
        )
        if hours:
            await self._insert("usage_hours_touched", (("hour", "DateTime('UTC')"),), [(row["hour"],) for row in hours])
        await self._insert("corrections", CORRECTIONS, new)

    async def _new(self, topic: str) -> Any:
        """(value, offset) of what was appended since the last look."""
        offset = self._offsets.get(topic)
        if offset is None:
            offset = await self._event_log.begin_offset(topic, 0)
        end = await self._event_log.end_offset(topic, 0)
        while offset < end:
            records = await self._event_log.read(topic, 0, offset, wait_s=READ_WAIT_S)
            if not records:
                break  # nothing but gaps up to the end
            for record in records:
                yield record.value, record.offset
            offset = records[-1].offset + 1
            await asyncio.sleep(0)  # SQLite reads without waiting: others get their turn
        self._offsets[topic] = offset

    async def _compare(self) -> None:
        months = await self._analytics.query("SELECT month, version FROM bursar.closed_months FINAL")
        rows = outdated(self._books.closed, {row["month"]: row["version"] for row in months})
        if rows:
            await self._insert("closed_months", CLOSED, rows)
        there = await self._analytics.query("SELECT allocation_id, version FROM bursar.allocations FINAL")
        rows = outdated(self._books.allocations, {row["allocation_id"]: row["version"] for row in there})
        if rows:
            await self._insert("allocations", ALLOCATIONS, rows)

    async def _insert(self, table: str, columns: Columns, rows: Iterable[Sequence[Any]]) -> None:
        await self._analytics.insert_columns(
            table,
            [name for name, _ in columns],
            [type_ for _, type_ in columns],
            [list(column) for column in zip(*rows, strict=True)],
        )


def follow_books(analytics: Analytics, event_log: EventLog, stack: AsyncExitStack) -> StoredBooks:
    """Follow, and store closed months, until ``stack`` is left.

    The schema is applied and the log is connected; /readyz does not depend on it."""
    follower = BooksFollower(analytics, event_log)
    stack.push_async_callback(follower.close)
    follower.start()
    return store_books(analytics, follower.closes, stack)
