"""Writing batches against fakes: what is retried, what is final, and in which order things happen."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import lz4.block
import pytest

from bursar_aggregator.log_worker import GROUP, LogWorker
from bursar_aggregator.migrations import Migration, SchemaMismatch, load_migrations, pending
from bursar_aggregator.native_frames import FRAME_BYTES, compress_frames, frame_hash
from bursar_aggregator.rows import COLUMNS
from bursar_aggregator.writer import LONGEST_RETRY_S, MAX_REFUSED_TRIES, InsertRefused, UsageWriter
from bursar_common.analytics import AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog.port import LogRecord, LogUnavailable, NewRecord
from bursar_common.events import USAGE_TOPIC
from tests.harness.usage_events import request_id, usage, usage_record


class FakeAnalytics:
    """Fails as told, then keeps rows; ``steps`` is shared with the log, to see the order."""

    def __init__(self, steps: list[str], failures: Sequence[Exception] = ()) -> None:
        self.steps = steps
        self.failures = list(failures)
        self.rows: list[dict[str, Any]] = []

    async def insert_columns(self, table: str, names: Any, types: Any, columns: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.steps.append("insert")
        self.rows += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


class FakeLog:
    def __init__(self, steps: list[str], records: Sequence[LogRecord] = (), failures: Sequence[Exception] = ()) -> None:
        self.steps = steps
        self.records = list(records)
        self.failures = list(failures)
        self.appended: list[NewRecord] = []
        self.position: int | None = None

    async def append(self, records: Sequence[NewRecord]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.steps.append("bury")
        self.appended += records

    async def read(self, topic: str, partition: int, offset: int, *, max_records: int, **_: Any) -> list[LogRecord]:
        await asyncio.sleep(0)
        return [record for record in self.records if record.offset >= offset][:max_records]

    async def begin_offset(self, topic: str, partition: int) -> int:
        return 0

    async def committed(self, group: str, topic: str, partition: int) -> int | None:
        assert group == GROUP
        return self.position

    async def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        self.steps.append(f"commit {offset}")
        self.position = offset


def records(*numbers: int | None) -> list[LogRecord]:
    """Usage events by number; None is poison."""
    return [
        LogRecord(USAGE_TOPIC, 0, offset, "key-1", b"?" if number is None else usage_record(usage(number)).value)
        for offset, number in enumerate(numbers)
    ]


def writer_of(analytics: FakeAnalytics, log: FakeLog, waits: list[float] | None = None) -> UsageWriter:
    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    return UsageWriter(analytics, log, sleep=sleep)  # type: ignore[arg-type]


async def test_rows_first_then_the_dead_letters() -> None:
    steps: list[str] = []
    analytics, log = FakeAnalytics(steps), FakeLog(steps)
    await writer_of(analytics, log).write(records(0, None, 1))
    assert steps == ["insert", "bury"]
    assert [row["request_id"] for row in analytics.rows] == [request_id(0), request_id(1)]
    assert set(analytics.rows[0]) == set(COLUMNS)
    assert [letter.value for letter in log.appended] == [b"?"]


async def test_poison_alone_inserts_nothing() -> None:
    steps: list[str] = []
    await writer_of(FakeAnalytics(steps), FakeLog(steps)).write(records(None))
    assert steps == ["bury"]


async def test_an_outage_is_waited_out_with_growing_waits() -> None:
    steps: list[str] = []
    waits: list[float] = []
    analytics = FakeAnalytics(steps, [AnalyticsUnavailable("gone")] * 12)
    log = FakeLog(steps, failures=[LogUnavailable("gone")] * 3)
    writer = writer_of(analytics, log, waits)
    await writer.write(records(0, None))
    assert steps == ["insert", "bury"]
    assert len(waits) == 15
    assert waits[:12] == sorted(waits[:12])
    assert max(waits) == LONGEST_RETRY_S
    assert writer.why_waiting == ""


async def test_a_refusal_that_passes_is_retried_one_that_stays_is_fatal() -> None:
    steps: list[str] = []
    refusal = AnalyticsRefused("no such column", 16)
    analytics = FakeAnalytics(steps, [refusal] * (MAX_REFUSED_TRIES - 1))
    await writer_of(analytics, FakeLog(steps)).write(records(0))
    assert steps == ["insert"]
    analytics = FakeAnalytics(steps, [refusal] * MAX_REFUSED_TRIES)
    with pytest.raises(InsertRefused, match="no such column"):
        await writer_of(analytics, FakeLog(steps)).write(records(0))
    assert steps == ["insert"]


async def run_worker(log: FakeLog, writer: UsageWriter, until: int) -> LogWorker:
    worker, stop = LogWorker(log, writer), asyncio.Event()  # type: ignore[arg-type]
    running = asyncio.ensure_future(worker.run(stop))
    while not running.done() and (log.position or 0) < until:
        await asyncio.sleep(0.01)
    stop.set()
    await running
    return worker


async def test_the_worker_commits_after_everything_else() -> None:
    steps: list[str] = []
    log = FakeLog(steps, records(0, None, 1))
    worker = await run_worker(log, writer_of(FakeAnalytics(steps), log), 3)
    assert steps == ["insert", "bury", "commit 3"]
    assert worker.why_unready == ""


async def test_the_worker_commits_nothing_of_a_refused_batch() -> None:
    steps: list[str] = []
    log = FakeLog(steps, records(0))
    analytics = FakeAnalytics(steps, [AnalyticsRefused("no", 16)] * MAX_REFUSED_TRIES)
    with pytest.raises(InsertRefused):
        await run_worker(log, writer_of(analytics, log), 1)
    assert steps == []


async def test_a_stop_while_clickhouse_is_away_commits_nothing() -> None:
    steps: list[str] = []
    log = FakeLog(steps, records(0))
    analytics = FakeAnalytics(steps, [AnalyticsUnavailable("gone")] * 1_000_000)
    writer = UsageWriter(analytics, log)  # type: ignore[arg-type]
    worker, stop = LogWorker(log, writer), asyncio.Event()  # type: ignore[arg-type]
    running = asyncio.ensure_future(worker.run(stop))
    while not writer.why_waiting:
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 20)
    assert steps == []


REPEATABLE = re.compile(
    r"CREATE TABLE IF NOT EXISTS bursar\.|CREATE OR REPLACE VIEW bursar\.|"
    r"CREATE MATERIALIZED VIEW IF NOT EXISTS bursar\.|INSERT INTO bursar\.expired_events SELECT|"  # a replacing table
    r"INSERT INTO bursar\.usage_(recent|names) \([a-z0-9_, ]+\)\s+SELECT|SELECT sleepEachRow\(|"  # likewise; a wait
    r"ALTER TABLE bursar\.\w+\s+"
    r"(ADD (COLUMN|INDEX) IF NOT EXISTS .+(,\n\s+ADD COLUMN IF NOT EXISTS .+)*|MODIFY COMMENT '[^']*'|"
    r"COMMENT COLUMN .+(,\n\s+COMMENT COLUMN .+)*)\Z"
)


def test_schema_files_are_numbered_and_hold_repeatable_statements() -> None:
    migrations = load_migrations()
    assert [migration.version for migration in migrations] == list(range(1, len(migrations) + 1))
    for migration in migrations:
        assert migration.statements()
        for statement in migration.statements():
            code = "\n".join(line for line in statement.splitlines() if not line.startswith("--")).strip()
            assert REPEATABLE.match(code), code[:80]


def test_pending_schema_files() -> None:
    one, two = Migration(1, "one", "CREATE 1;\n"), Migration(2, "two", "CREATE 2;\nCREATE 3;\n-- end\n")
    assert pending([one, two], {}) == [one, two]
    assert pending([one, two], {1: one.checksum}) == [two]
    assert pending([one, two], {1: one.checksum, 2: two.checksum}) == []
    assert two.statements() == ["CREATE 2", "CREATE 3"]
    with pytest.raises(SchemaMismatch, match="has schema 3, this release knows 2"):
        pending([one, two], {1: one.checksum, 2: two.checksum, 3: "x"})
    with pytest.raises(SchemaMismatch, match="001_one differs"):
        pending([one, two], {1: "other"})


ENGINES_OWN_FRAME = bytes.fromhex(
    "56121e552ba10b178e7026c8f47b54ad822e0000004000000013000100130108001302080013030800130408001305080013060800800700"
    "000000000000"
)
"""What ClickHouse 26.9 wrote as the column file of a table with the numbers 0 to 7."""


def test_compressed_frames_have_the_engines_own_form() -> None:
    plain = b"".join(number.to_bytes(8, "little") for number in range(8))
    assert frame_hash(ENGINES_OWN_FRAME[16:]) == ENGINES_OWN_FRAME[:16]
    assert lz4.block.decompress(ENGINES_OWN_FRAME[25:], uncompressed_size=64) == plain
    assert compress_frames(b"") == b""
    assert len(compress_frames(bytes(FRAME_BYTES + 1))) > len(compress_frames(bytes(FRAME_BYTES)))
    frame = compress_frames(plain)
    assert frame[:16] == frame_hash(frame[16:])
    assert frame[16:17] + frame[21:25] == ENGINES_OWN_FRAME[16:17] + ENGINES_OWN_FRAME[21:25]
