"""The contract of the event log port, on both adapters: SQLite and Kafka."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import MAX_RECORD_BYTES, EventLog, LogRecord, NewRecord, OffsetLost, RecordTooLarge
from bursar_common.settings import Settings

WAIT_S = 60.0
"""Longest wait for what is there: a broker on a busy machine may take its time."""
OpenLog = Callable[[], Awaitable[EventLog]]


class Bench:
    """One topic of an empty log, opened as often as a test likes."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.settings = settings
        self.topic = topic
        self.opened: list[EventLog] = []

    async def open(self) -> EventLog:
        log = open_log(self.settings)
        self.opened.append(log)
        await log.start()
        return log

    def record(self, key: str, value: bytes | str, *headers: tuple[str, bytes]) -> NewRecord:
        return NewRecord(self.topic, key, value.encode() if isinstance(value, str) else value, headers)


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    topic = f"test.{uuid.uuid4().hex}"
    if request.param == "kafka":
        server = request.getfixturevalue("kafka_server")
        await server.create_topic(topic, max_message_bytes=str(MAX_RECORD_BYTES + (64 << 10)))
        settings = Settings(kafka_bootstrap=server.bootstrap, single_broker=True)
    else:
        settings = Settings(home=tmp_path)
    bench = Bench(settings, topic)
    yield bench
    for log in bench.opened:
        await log.close()


def values(records: list[LogRecord]) -> list[str]:
    return [record.value.decode() for record in records]


async def test_appended_records_are_read_back_as_they_were(bench: Bench) -> None:
    log = await bench.open()
    odd = bytes(range(256))
    positions = await log.append(
        [bench.record("clé", odd, ("ce_type", b"x"), ("bursar-outbox", b"\x00\xff")), bench.record("", b"")]
    )
    assert [(p.topic, p.partition, p.offset) for p in positions] == [(bench.topic, 0, 0), (bench.topic, 0, 1)]
    first, second = await log.read(bench.topic, 0, 0, wait_s=WAIT_S)
    assert (first.key, first.value, first.offset) == ("clé", odd, 0)
    assert first.headers == (("ce_type", b"x"), ("bursar-outbox", b"\x00\xff"))
    assert first.appended_at_ms > 1_700_000_000_000
    assert (second.key, second.value, second.headers, second.offset) == ("", b"", (), 1)


async def test_an_empty_topic(bench: Bench) -> None:
    log = await bench.open()
    assert await log.append([]) == []
    assert await log.partitions(bench.topic) == 1
    assert await log.end_offset(bench.topic, 0) == 0
    assert await log.begin_offset(bench.topic, 0) == 0
    assert await log.read(bench.topic, 0, 0) == []
    assert await log.committed("readers", bench.topic, 0) is None


async def test_records_of_a_key_keep_their_order_under_concurrency(bench: Bench) -> None:
    log = await bench.open()

    async def writer(key: str) -> None:
        for number in range(40):
            await log.append([bench.record(key, f"{key}:{number}")])

    await asyncio.gather(*[writer(f"k{n}") for n in range(8)])
    read: list[LogRecord] = []
    while len(read) < 320:  # one answer of a broker need not have them all
        more = await log.read(bench.topic, 0, len(read), max_records=1000, wait_s=WAIT_S)
        assert more
        read += more
    assert [record.offset for record in read] == list(range(320))
    for n in range(8):
        assert [v for v in values(read) if v.startswith(f"k{n}:")] == [f"k{n}:{number}" for number in range(40)]


async def test_what_was_acknowledged_is_there_after_reopening(bench: Bench) -> None:
    log = await bench.open()
    await log.append([bench.record("k", str(n)) for n in range(10)])
    await log.close()
    again = await bench.open()
    assert values(await again.read(bench.topic, 0, 0, wait_s=WAIT_S)) == [str(n) for n in range(10)]
    (position,) = await again.append([bench.record("k", "10")])
    assert position.offset == 10
    assert await again.end_offset(bench.topic, 0) == 11


async def test_reading_from_an_offset_and_bounds_of_a_read(bench: Bench) -> None:
    log = await bench.open()
    await log.append([bench.record("k", f"{n:0100d}") for n in range(20)])

    async def offsets(offset: int, **bounds: int) -> list[int]:
        return [record.offset for record in await log.read(bench.topic, 0, offset, **bounds)]

    assert await offsets(17) == [17, 18, 19]
    assert await offsets(5, max_records=3) == [5, 6, 7]
    assert await offsets(8, max_records=3) == [8, 9, 10]
    assert await offsets(5, max_records=3) == [5, 6, 7]  # going back is allowed
    assert await offsets(0, max_bytes=350) == [0, 1, 2]
    assert await offsets(3, max_bytes=350) == [3, 4, 5]
    assert await offsets(6, max_bytes=10) == [6]  # at least one, whatever its size
    assert await offsets(20) == []


async def test_a_large_record(bench: Bench) -> None:
    log = await bench.open()
    value = os.urandom(1 << 20)
    await log.append([bench.record("k", value), bench.record("k", "small")])
    first = await log.read(bench.topic, 0, 0, max_bytes=1000, wait_s=WAIT_S)
    assert [record.value == value for record in first] == [True]
    assert values(await log.read(bench.topic, 0, 1, wait_s=WAIT_S)) == ["small"]


async def test_the_largest_record_and_one_too_large(bench: Bench) -> None:
    log = await bench.open()
    largest = os.urandom(MAX_RECORD_BYTES - 1)
    await log.append([bench.record("k", largest)])
    with pytest.raises(RecordTooLarge):
        await log.append([bench.record("k", "fine"), bench.record("k", largest + b"12")])
    assert await log.end_offset(bench.topic, 0) == 1
    assert (await log.read(bench.topic, 0, 0, wait_s=WAIT_S))[0].value == largest


async def test_a_waiting_read_wakes_on_an_append(bench: Bench) -> None:
    log, other = await bench.open(), await bench.open()
    await log.append([bench.record("k", "0")])
    waiting = asyncio.create_task(log.read(bench.topic, 0, 1, wait_s=60))
    also_waiting = asyncio.create_task(other.read(bench.topic, 0, 1, wait_s=60))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await log.append([bench.record("k", "1")])
    async with asyncio.timeout(30):  # far below the 60 s of the reads
        assert values(await waiting) == ["1"]
        assert values(await also_waiting) == ["1"]


async def test_a_waiting_read_ends_empty_and_a_cancelled_one_loses_nothing(bench: Bench) -> None:
    log = await bench.open()
    assert await log.read(bench.topic, 0, 0, wait_s=0.05) == []
    waiting = asyncio.create_task(log.read(bench.topic, 0, 0, wait_s=60))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await log.append([bench.record("k", "0")])
    assert values(await log.read(bench.topic, 0, 0, wait_s=WAIT_S)) == ["0"]


async def test_groups_remember_where_they_continue(bench: Bench) -> None:
    log = await bench.open()
    await log.append([bench.record("k", str(n)) for n in range(5)])
    await log.commit("readers", bench.topic, 0, 3)
    assert await log.committed("readers", bench.topic, 0) == 3
    assert await log.committed("others", bench.topic, 0) is None
    await log.commit("readers", bench.topic, 0, 4)
    await log.close()
    again = await bench.open()
    assert await again.committed("readers", bench.topic, 0) == 4


async def test_an_offset_behind_the_end_is_lost(bench: Bench) -> None:
    log = await bench.open()
    await log.append([bench.record("k", "0")])
    with pytest.raises(OffsetLost):
        await log.read(bench.topic, 0, 2, wait_s=5)
    with pytest.raises(OffsetLost):
        await log.read(bench.topic, 1, 0)
    assert values(await log.read(bench.topic, 0, 0, wait_s=WAIT_S)) == ["0"]


async def test_closing_is_idempotent(bench: Bench) -> None:
    log = await bench.open()
    await log.close()
    await log.close()
