"""What was acknowledged is kept: processes and brokers killed, disks full, files locked, several writers at once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bursar_common.eventlog import sqlite_writer
from bursar_common.eventlog.kafka import KafkaEventLog
from bursar_common.eventlog.port import EventLog, LogIncompatible, LogRecord, LogUnavailable, NewRecord, OffsetLost
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.eventlog.sqlite_file import APPLICATION_ID
from bursar_common.settings import Settings
from tests.harness import KafkaServer, Process, eventually
from tests.harness.processes import PYTHON_PATH, READY_WAIT_S

TOPIC = "bursar.usage.v1"


class Appender(Process):
    """``tests.harness.appender`` on the SQLite log of ``home``."""

    def __init__(self, home: Path, name: str, writers: int, records: int = 0, file_limit_bytes: int = 0) -> None:
        numbers = [str(writers), str(records), str(file_limit_bytes)]
        super().__init__(
            [sys.executable, "-m", "tests.harness.appender", TOPIC, name, *numbers],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": PYTHON_PATH, "BURSAR_HOME": str(home)},
            cwd=home,
            log_path=home / f"{name}.out",
        )

    def acknowledged(self) -> list[str]:
        complete = self.output().rpartition("\n")[0].splitlines()
        return [line[4:] for line in complete if line.startswith("ack ")]


async def everything(log: EventLog, topic: str = TOPIC) -> list[LogRecord]:
    records: list[LogRecord] = []
    while batch := await log.read(topic, 0, records[-1].offset + 1 if records else 0):
        records += batch
    return records


def texts(records: list[LogRecord]) -> list[str]:
    return [record.value.decode().rstrip() for record in records]


# ---- SQLite


async def test_several_processes_append_at_once(tmp_path: Path) -> None:
    appenders = [Appender(tmp_path, f"p{number}", writers=4, records=50) for number in range(3)]
    for appender in appenders:
        appender.start()
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    followed: list[LogRecord] = []
    while len(followed) < 600:  # reads while they write
        batch = await log.read(TOPIC, 0, followed[-1].offset + 1 if followed else 0, wait_s=READY_WAIT_S)
        assert batch, [appender.output()[-2000:] for appender in appenders]
        followed += batch
    assert [record.offset for record in followed] == list(range(600))
    for appender in appenders:
        assert appender.wait(READY_WAIT_S) == 0
        for writer in range(4):
            mine = [text for text in texts(followed) if text.startswith(f"{appender.acknowledged()[0][:2]}:{writer}:")]
            assert [text.rpartition(":")[2] for text in mine] == [str(number) for number in range(50)]
    acknowledged = [text for appender in appenders for text in appender.acknowledged()]
    assert sorted(acknowledged) == sorted(texts(followed))
    await log.close()


async def test_what_a_killed_process_had_acknowledged_is_there_exactly_once(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for round_number in range(4):
        appender = Appender(tmp_path, f"r{round_number}", writers=16)
        appender.start()
        await eventually(
            lambda appender=appender: len(appender.acknowledged()) > 100 * (round_number + 1), READY_WAIT_S
        )
        appender.kill9()
        acknowledged += appender.acknowledged()
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    kept = Counter(texts(await everything(log)))
    assert set(kept.values()) == {1}
    assert set(acknowledged) <= set(kept)
    # At most what was in flight at each kill was written without its acknowledgement having been seen.
    assert len(kept) - len(acknowledged) <= 4 * 2 * 16
    records = await everything(log)
    assert [record.offset for record in records] == list(range(len(records)))
    await log.close()


async def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    appender = Appender(tmp_path, "full", writers=8, file_limit_bytes=300_000)
    appender.start()
    assert appender.wait(READY_WAIT_S) == 0, appender.output()
    assert "unavailable" in appender.output()
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    kept = Counter(texts(await everything(log)))
    assert set(kept.values()) == {1}
    assert set(appender.acknowledged()) <= set(kept)
    assert "afterwards" in kept
    await log.close()


async def test_a_locked_file_refuses_and_serves_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "LOCK_WAIT_S", 0.2)
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    holder = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailable, match="locked"):
        await log.append([NewRecord(TOPIC, "k", b"refused")])
    assert await log.read(TOPIC, 0, 0) == []  # reading goes on meanwhile
    holder.execute("ROLLBACK")
    holder.close()
    await log.append([NewRecord(TOPIC, "k", b"taken")])
    assert texts(await everything(log)) == ["taken"]
    await log.close()


async def test_deleting_the_oldest(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    for _ in range(3):
        await log.append([NewRecord(TOPIC, "k", b"x" * 1000) for _ in range(1000)])
    await log.append([NewRecord("other", "k", b"kept")])
    full = await log.size_bytes()
    assert full > 3_000_000
    assert await log.delete_before(TOPIC, 2995) == 2995
    assert await log.size_bytes() < full / 10
    assert (await log.begin_offset(TOPIC, 0), await log.end_offset(TOPIC, 0)) == (2995, 3000)
    with pytest.raises(OffsetLost):
        await log.read(TOPIC, 0, 2994)
    assert [record.offset for record in await log.read(TOPIC, 0, 2995)] == list(range(2995, 3000))
    # An emptied topic goes on counting, also after a restart.
    assert await log.delete_before(TOPIC, 10_000) == 5
    await log.close()
    again = SqliteEventLog(tmp_path / "log.db")
    await again.start()
    assert await again.end_offset(TOPIC, 0) == 3000
    assert [position.offset for position in await again.append([NewRecord(TOPIC, "k", b"")])] == [3000]
    assert texts(await everything(again, "other")) == ["kept"]
    assert await again.delete_before("unknown", 5) == 0
    await again.close()


async def test_a_newer_schema_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    before = path.read_bytes()
    with pytest.raises(LogIncompatible, match=r"schema 2.*newer release"):
        await SqliteEventLog(path).start()
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["text", "other database"])
async def test_a_file_that_is_no_log_is_refused_and_left_as_it_was(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log.db"
    if kind == "text":
        path.write_text("not a database" * 100)
    else:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE somebodys (x)")
        other.commit()
        other.close()
    before = path.read_bytes()
    with pytest.raises(LogIncompatible, match="not an event log of Bursar"):
        await SqliteEventLog(path).start()
    assert path.read_bytes() == before


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "new" / "log.db")
    await log.start()
    await log.append([NewRecord(TOPIC, "k", b"x")])
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o600}
    await log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        await log.append([NewRecord(TOPIC, "k", b"x")])
    with pytest.raises(LogUnavailable, match="closed"):
        await log.read(TOPIC, 0, 0)


async def test_a_standing_disk_fills_a_bounded_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar_common.eventlog.sqlite.MAX_QUEUED_RECORDS", 10)
    monkeypatch.setattr(sqlite_writer, "LOCK_WAIT_S", 60.0)  # what waits is taken, however late the lock goes
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    holder = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(log.append([NewRecord(TOPIC, "k", b"x")])) for _ in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable, match="not keeping up"):
        await log.append([NewRecord(TOPIC, "k", b"x")])
    holder.execute("ROLLBACK")
    holder.close()
    assert sorted(positions[0].offset for positions in await asyncio.gather(*waiting)) == list(range(10))
    await log.close()


# ---- Kafka


@pytest.mark.kafka
async def test_what_a_killed_broker_had_acknowledged_is_there_after_its_restart(tmp_path: Path) -> None:
    with KafkaServer(tmp_path / "kafka") as server:
        await server.create_topic(TOPIC)
        log = KafkaEventLog(Settings(kafka_bootstrap=server.bootstrap))
        await log.start()
        acknowledged: list[str] = []
        refused = 0
        stop = asyncio.Event()

        async def write(writer: int) -> None:
            nonlocal refused
            number = 0
            while not stop.is_set():
                number += 1
                value = f"{writer}:{number}"
                try:
                    await log.append([NewRecord(TOPIC, str(writer), value.encode())])
                    acknowledged.append(value)
                except LogUnavailable:
                    refused += 1
                    await asyncio.sleep(0.1)

        async def until_more(count: int) -> None:
            target = len(acknowledged) + count
            await eventually(lambda: len(acknowledged) >= target, 60)

        writers = [asyncio.create_task(write(number)) for number in range(8)]
        await until_more(500)
        server.kill9()
        before = len(acknowledged)
        await asyncio.sleep(1)
        assert len(acknowledged) - before <= 8  # nothing is acknowledged by nobody
        await asyncio.to_thread(server.start)
        await until_more(500)
        stop.set()
        await asyncio.gather(*writers)
        # A reader from before the crash goes on, and a new one agrees.
        again = KafkaEventLog(Settings(kafka_bootstrap=server.bootstrap))
        await again.start()
        kept = Counter(texts(await everything(log)))
        assert kept == Counter(texts(await everything(again)))
        assert set(acknowledged) <= set(kept)
        assert set(kept.values()) == {1}  # the client's own retries are deduplicated
        assert len(kept) - len(acknowledged) <= refused
        await log.close()
        await again.close()


@pytest.mark.kafka
async def test_a_broker_that_is_away_is_unavailable_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KafkaServer(tmp_path / "kafka") as server:
        await server.create_topic(TOPIC)
        log = KafkaEventLog(Settings(kafka_bootstrap=server.bootstrap))
        await log.append([NewRecord(TOPIC, "k", b"before")])
        assert texts(await log.read(TOPIC, 0, 0, wait_s=60)) == ["before"]
        server.kill9()
        # Given up soon only while nobody can answer: a broker that is there may be slow.
        with monkeypatch.context() as patched:
            for module in ("kafka_connection", "kafka", "kafka_reader"):
                patched.setattr(f"bursar_common.eventlog.{module}.CALL_TIMEOUT_S", 2.0)
            with pytest.raises(LogUnavailable):
                await log.append([NewRecord(TOPIC, "k", b"meanwhile")])
            with pytest.raises(LogUnavailable):
                await log.read(TOPIC, 0, 1)
            with pytest.raises(LogUnavailable):
                await log.commit("g", TOPIC, 0, 1)
        await asyncio.to_thread(server.start)

        async def append_again() -> bool:
            await log.append([NewRecord(TOPIC, "k", b"after")])
            return True

        async def read_again() -> bool:
            return "after" in texts(await log.read(TOPIC, 0, 1, wait_s=10))

        await eventually(append_again, 60)
        await eventually(read_again, 60)
        await log.close()


@pytest.mark.kafka
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_closing_while_the_broker_is_away_raises_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    with KafkaServer(tmp_path / "kafka") as server:
        await server.create_topic(TOPIC)
        log = KafkaEventLog(Settings(kafka_bootstrap=server.bootstrap))
        await log.append([NewRecord(TOPIC, "k", b"before")])
        assert texts(await log.read(TOPIC, 0, 0, wait_s=60)) == ["before"]
        await log.commit("g", TOPIC, 0, 1)
        monkeypatch.setattr("bursar_common.eventlog.kafka_connection.CALL_TIMEOUT_S", 3.0)
        mine = asyncio.all_tasks()
        server.kill9()
        calls: list[asyncio.Task[Any]] = []
        if busy:
            calls.append(asyncio.create_task(log.append([NewRecord(TOPIC, "k", b"meanwhile")])))
            calls.append(asyncio.create_task(log.read(TOPIC, 0, 1, wait_s=60)))
        await asyncio.sleep(1)  # the clients are in the middle of trying again
        await log.close()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, LogUnavailable), outcome

        def ended() -> bool:
            here = {asyncio.current_task()}
            left = [task for task in asyncio.all_tasks() - mine - here if "aiokafka" in repr(task.get_coro())]
            assert not left, left
            return True

        await eventually(ended, 30)


@pytest.mark.kafka
async def test_a_key_goes_to_the_partition_kafka_gives_it(kafka_server: KafkaServer) -> None:
    """Known values of Kafka's own default partitioner (murmur2, org.apache.kafka.common.utils.Utils): its unit test."""
    topic = "test.partitions"
    await kafka_server.create_topic(topic, 100)
    log = KafkaEventLog(Settings(kafka_bootstrap=kafka_server.bootstrap))
    known = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
    positions = await log.append([NewRecord(topic, key, b"x") for key in known])
    assert [position.partition for position in positions] == [(hash_ & 0x7FFFFFFF) % 100 for hash_ in known.values()]
    await log.close()


@pytest.mark.kafka
async def test_partitions_are_read_side_by_side(kafka_server: KafkaServer) -> None:
    topic = "test.side.by.side"
    await kafka_server.create_topic(topic, 12)
    log = KafkaEventLog(Settings(kafka_bootstrap=kafka_server.bootstrap))
    await log.start()
    read: dict[int, list[str]] = {}

    async def follow(partition: int) -> None:
        mine = read[partition] = []
        offset = 0
        while True:
            for record in await log.read(topic, partition, offset, max_records=7, wait_s=1):
                assert record.offset == offset
                offset += 1
                mine.append(record.key)

    followers = [asyncio.create_task(follow(partition)) for partition in range(12)]
    keys = [f"key-{number % 40}" for number in range(2000)]
    for start in range(0, 2000, 100):
        await log.append([NewRecord(topic, key, b"x") for key in keys[start : start + 100]])
    await eventually(lambda: sum(map(len, read.values())) == 2000, 60)
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    assert Counter(key for partition in read.values() for key in partition) == Counter(keys)
    for mine in read.values():
        assert not any(set(mine) & set(other) for other in read.values() if other is not mine)
    await log.close()


@pytest.mark.kafka
async def test_an_offset_that_kafka_deleted_is_lost(kafka_server: KafkaServer) -> None:
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    topic = "test.deleted"
    await kafka_server.create_topic(topic)
    log = KafkaEventLog(Settings(kafka_bootstrap=kafka_server.bootstrap))
    await log.append([NewRecord(topic, "k", str(number).encode()) for number in range(10)])
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=6)})
    await admin.close()
    assert await log.begin_offset(topic, 0) == 6
    with pytest.raises(OffsetLost):
        await log.read(topic, 0, 5, wait_s=5)
    assert texts(await log.read(topic, 0, 6, wait_s=60)) == ["6", "7", "8", "9"]
    await log.close()


@pytest.mark.kafka
async def test_a_topic_that_does_not_exist_is_not_created(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar_common.eventlog.kafka_connection.REQUEST_TIMEOUT_MS", 1000)
    log = KafkaEventLog(Settings(kafka_bootstrap=kafka_server.bootstrap))

    async def refused(call: Callable[[], Awaitable[object]]) -> bool:
        """Every time, and with these words unless the broker did not answer within that second."""
        try:
            await call()
        except LogUnavailable as problem:
            return "bursar topics apply" in str(problem)
        pytest.fail("the topic was created")

    await eventually(lambda: refused(lambda: log.append([NewRecord("bursar.absent.v1", "k", b"x")])), 60)
    await eventually(lambda: refused(lambda: log.partitions("bursar.absent.v1")), 60)
    await log.close()
