"""Content in ClickHouse: once per request, gone when deleted, and not brought back by anything."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar_aggregator.content_job import DAY_MS, forget_before
from bursar_aggregator.dead_letters import REASON_HEADER
from bursar_aggregator.log_worker import GROUP
from bursar_common.clock import SystemClock
from bursar_common.eventlog.port import EventLog, NewRecord
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import CONTENT_TOPIC
from tests.harness.content_events import content, content_record, deletion_record
from tests.harness.kafka_server import KafkaServer
from tests.harness.processes import eventually
from tests.harness.usage_events import usage
from tests.integration.test_aggregator_kafka import Cluster, running
from tests.integration.test_aggregator_one_machine import Machine

pytestmark = pytest.mark.timeout(600)
"""Seconds: some start processes several times, which takes 15 s each where the machine has other work."""
WAIT_S = 90.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class ClockAt(SystemClock):
    """A clock that stands."""

    def __init__(self, time_ms: int) -> None:
        self.time_ms = time_ms

    def now_ms(self) -> int:
        return self.time_ms


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path)
    await machine.log.start()
    with machine.process:
        await machine.process.ready()
        yield machine
    await machine.analytics.close()
    await machine.inner.close()
    await machine.log.close()


async def stored(where: Machine | Cluster) -> list[str]:
    rows = await where.analytics.query("SELECT request_id FROM bursar.content FINAL ORDER BY request_id")
    return [row["request_id"] for row in rows]


async def until_stored(where: Machine | Cluster, *expected: str) -> None:
    async def there() -> bool:
        return await stored(where) == sorted(expected)

    await eventually(there, WAIT_S)


async def letters(log: EventLog) -> list[Any]:
    topic = f"{CONTENT_TOPIC}.dlq"
    found: list[Any] = []
    for number in range(await log.partitions(topic)):
        found += await log.read(topic, number, await log.begin_offset(topic, number))
    return found


async def journey(where: Machine | Cluster) -> None:
    """The same in both shapes: rows once, poison aside, deletions by whom, also of what comes later."""
    log = where.log
    alice = {"user_id": "alice"}
    await log.append([content_record(content(1, **alice)), content_record(content(2, user_id="bob"))])
    await log.append([NewRecord(CONTENT_TOPIC, "bad", b"very private")])
    await log.append([content_record(content(1, **alice)), content_record(content(3, session_id="s-9"))])
    await until_stored(where, "request-1", "request-2", "request-3")
    (row,) = await where.analytics.query(
        "SELECT prompt_parts, roles, kinds, texts, user_id FROM bursar.content FINAL WHERE request_id = 'request-1'"
    )
    assert row == {
        "prompt_parts": 2,
        "roles": ["system", "user", "assistant"],
        "kinds": ["text", "text", "text"],
        "texts": ["be good", "question", "answer"],
        "user_id": "alice",
    }

    async def aside() -> bool:
        return len(await letters(log)) == 1

    await eventually(aside, WAIT_S)
    (letter,) = await letters(log)
    assert letter.value == b"very private"
    assert b"private" not in dict(letter.headers)[REASON_HEADER]

    deleted_ms = now_ms() + 1
    await log.append([deletion_record(deleted_ms, **alice)])
    await until_stored(where, "request-2", "request-3")
    await log.append([deletion_record(now_ms() + 1, session_id="s-9")])
    await until_stored(where, "request-2")
    late = content(4, started_at_ms=deleted_ms - 60_000, **alice)
    await log.append([content_record(late), content_record(content(5, started_at_ms=deleted_ms + 60_000, **alice))])
    await until_stored(where, "request-2", "request-5")


async def test_one_machine(machine: Machine) -> None:
    await journey(machine)
    assert "very private" not in machine.process.output()
    assert "question" not in machine.process.output()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.mark.kafka
async def test_a_cluster(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        await journey(cluster)
        big = content(6, prompt="\u00e4" * (1 << 20), answer='"' * (1 << 20), user_id="bob")
        await cluster.log.append([content_record(big)] * 3)
        await until_stored(cluster, "request-2", "request-5", "request-6")
        (row,) = await cluster.analytics.query(
            "SELECT length(texts[2]) AS bytes FROM bursar.content FINAL WHERE request_id = 'request-6'"
        )
        assert row["bytes"] == 2 << 20
        cluster.job.terminate()
        with cluster.new_job("again") as again:
            await again.ready()
            await cluster.log.append([content_record(content(7))])
            await until_stored(cluster, "request-2", "request-5", "request-6", "request-7")


async def test_a_rebuild_does_not_bring_back_what_was_deleted(machine: Machine) -> None:
    await machine.record(usage(1))
    await machine.log.append([content_record(content(number, user_id=f"u{number % 2}")) for number in range(6)])
    await until_stored(machine, *(f"request-{number}" for number in range(6)))
    await machine.log.append([deletion_record(now_ms() + 1, user_id="u1")])
    await until_stored(machine, "request-0", "request-2", "request-4")
    await machine.inner.command("ALTER TABLE bursar.content DELETE WHERE request_id = 'request-2'"
                                " SETTINGS mutations_sync = 2")  # fmt: skip
    rebuild = machine.program("bursar_aggregator.rebuild")
    rebuild.start()
    assert await asyncio.to_thread(rebuild.wait, WAIT_S) == 0, rebuild.output()
    assert "Analytics rebuilt from 1 events." in rebuild.output()
    assert "Prompts and answers of 3 requests written again." in rebuild.output()
    assert await stored(machine) == ["request-0", "request-2", "request-4"]


async def test_a_lost_or_restored_database_has_nothing_that_was_deleted(machine: Machine) -> None:
    await machine.log.append([content_record(content(1, user_id="alice")), content_record(content(2))])
    await until_stored(machine, "request-1", "request-2")
    deleted_ms = now_ms() + 1
    await machine.log.append([deletion_record(deleted_ms, user_id="alice")])
    await until_stored(machine, "request-2")
    assert machine.process.terminate() == 0
    shutil.rmtree(machine.home / "clickhouse")
    with machine.process:
        await machine.process.ready()
        await until_stored(machine, "request-2")
        # As from a copy of before: put in behind the job's back, taken out when it next starts.
        await machine.inner.command(
            "INSERT INTO bursar.content (request_id, started_at, virtual_key_id, user_id)"
            f" VALUES ('old', fromUnixTimestamp64Milli({deleted_ms - 60_000}), 'key-1', 'alice')"
        )
        assert await stored(machine) == ["old", "request-2"]
    with machine.process:
        await machine.process.ready()
        await until_stored(machine, "request-2")


async def test_rows_and_records_go_after_their_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.process.env["BURSAR_CONTENT_RETENTION_DAYS"] = "5"
    old = SqliteEventLog(machine.home / "log.db", clock=ClockAt(now_ms() - 8 * DAY_MS))
    await old.start()
    gone = content(1, started_at_ms=now_ms() - 8 * DAY_MS)
    await old.append([content_record(gone), NewRecord(f"{CONTENT_TOPIC}.dlq", "k", b"old")])
    await old.close()
    await machine.log.start()
    await machine.log.append(
        [content_record(content(2)), content_record(content(3, started_at_ms=now_ms() - 6 * DAY_MS))]
    )
    with machine.process:
        await machine.process.ready()

        async def retained() -> bool:
            (row,) = await machine.rows("SELECT engine_full FROM system.tables WHERE name = 'content'")
            forgotten = [await machine.log.begin_offset(topic, 0) for topic in (CONTENT_TOPIC, f"{CONTENT_TOPIC}.dlq")]
            return "toIntervalDay(5)" in row["engine_full"] and forgotten == [1, 1]

        await eventually(retained, WAIT_S)
        end = await machine.log.end_offset(CONTENT_TOPIC, 0)

        async def read() -> bool:
            return await machine.log.committed(GROUP, CONTENT_TOPIC, 0) == end

        await eventually(read, WAIT_S)
        await machine.inner.command("OPTIMIZE TABLE bursar.content FINAL")
        assert await stored(machine) == ["request-2"]
    await machine.analytics.close()
    await machine.inner.close()
    await machine.log.close()


async def test_forgetting_stops_at_the_first_record_that_may_stay(tmp_path: Path) -> None:
    clock = ClockAt(1000)
    log = SqliteEventLog(tmp_path / "log.db", clock=clock)
    await log.start()
    for number in range(50):
        clock.time_ms = 1000 + number
        await log.append([NewRecord(CONTENT_TOPIC, "k", b"x")])
    await forget_before(log, CONTENT_TOPIC, 1030)
    assert await log.begin_offset(CONTENT_TOPIC, 0) == 30
    await forget_before(log, CONTENT_TOPIC, 1030)
    await forget_before(log, CONTENT_TOPIC, 9999)
    assert await log.begin_offset(CONTENT_TOPIC, 0) == 50
    # A clock that was set back: what is old behind something young stays until that is old too.
    for moment in (2000, 5000, 2001):
        clock.time_ms = moment
        await log.append([NewRecord(CONTENT_TOPIC, "k", b"x")])
    await forget_before(log, CONTENT_TOPIC, 3000)
    assert await log.begin_offset(CONTENT_TOPIC, 0) == 51
    await log.close()


async def test_what_usage_needs_is_not_held_up_by_content(machine: Machine) -> None:
    await machine.inner.command("RENAME TABLE bursar.content TO bursar.content_away")
    await machine.log.append([content_record(content(1))])
    await machine.record(usage(1))
    await machine.until_committed()
    assert (await machine.figures())[0] == 1
    assert (await machine.process.get("/readyz"))[0] == 200
    await machine.inner.command("RENAME TABLE bursar.content_away TO bursar.content")
    await until_stored(machine, "request-1")
