"""Requests leave once the readers have what was in the log: how far those are, on both adapters of the event log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from bursar_aggregator.books import BOOKS_GROUP
from bursar_aggregator.log_worker import GROUP
from bursar_aggregator.rows_retention import RowsRetention
from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import EventLog, NewRecord
from bursar_common.events import CORRECTIONS_TOPIC, USAGE_TOPIC
from bursar_common.settings import Settings

PARTITIONS = 3
"""Of the usage topic on Kafka; SQLite has one."""


class Bench:
    """An empty log, open as one process sees it; ``settings`` to open it as another."""

    def __init__(self, settings: Settings, log: EventLog) -> None:
        self.settings = settings
        self.log = log
        self.retention = RowsRetention(None, log, settings, lambda: 0)  # type: ignore[arg-type]

    async def append(self, topic: str, count: int) -> None:
        await self.log.append([NewRecord(topic, f"key {number}", b"{}") for number in range(count)])

    async def ends(self, topic: str) -> dict[int, int]:
        return {each: await self.log.end_offset(topic, each) for each in range(await self.log.partitions(topic))}

    async def unread(self, leaving: str) -> str:
        return await self.retention._unread(leaving)

    async def commit(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        """As the reader itself does: over Kafka a member of the consumer group, in a process of its own."""
        if not self.settings.kafka_bootstrap:
            other = open_log(self.settings)
            await other.start()
            for partition, offset in offsets.items():
                await other.commit(group, topic, partition, offset)
            await other.close()
            return
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_bootstrap, group_id=group, enable_auto_commit=False
        )
        consumer.assign([TopicPartition(topic, partition) for partition in offsets])
        await consumer.start()
        await consumer.commit({TopicPartition(topic, partition): offset for partition, offset in offsets.items()})
        await consumer.stop()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "kafka":
        server = request.getfixturevalue("kafka_server")
        await server.wipe()
        await server.create_topic(USAGE_TOPIC, partitions=PARTITIONS)
        await server.create_topic(CORRECTIONS_TOPIC)
        settings = Settings(kafka_bootstrap=server.bootstrap, single_broker=True)
    else:
        settings = Settings(home=tmp_path)
    log = open_log(settings)
    await log.start()
    yield Bench(settings, log)
    await log.close()


async def test_an_empty_log_has_nothing_unread(bench: Bench) -> None:
    assert await bench.unread("2026-10 a") == ""


async def test_every_partition_has_to_be_read_to_where_it_ended(bench: Bench) -> None:
    await bench.append(USAGE_TOPIC, 40)
    ends = await bench.ends(USAGE_TOPIC)
    assert all(ends.values())
    assert f"of {USAGE_TOPIC}, partition 0, {ends[0]} records are not in yet" == await bench.unread("2026-10 a")
    for partition, end in ends.items():
        assert f"partition {partition}, {end} records" in await bench.unread("2026-10 a")
        await bench.commit(GROUP, USAGE_TOPIC, {partition: end - 1})
        assert f"partition {partition}, 1 records" in await bench.unread("2026-10 a")
        await bench.commit(GROUP, USAGE_TOPIC, {partition: end})
    assert await bench.unread("2026-10 a") == ""
    # What comes later was refused already: it does not keep this month, but the next one that leaves.
    await bench.append(USAGE_TOPIC, 40)
    assert await bench.unread("2026-10 a") == ""
    assert "records are not in yet" in await bench.unread("2026-10 b")
    await bench.commit(GROUP, USAGE_TOPIC, await bench.ends(USAGE_TOPIC))
    assert await bench.unread("2026-10 b") == ""


async def test_corrections_have_a_reader_of_their_own(bench: Bench) -> None:
    await bench.append(CORRECTIONS_TOPIC, 3)
    await bench.commit(GROUP, CORRECTIONS_TOPIC, {0: 3})  # somebody else's position
    assert await bench.unread("2026-10 a") == f"of {CORRECTIONS_TOPIC}, partition 0, 3 records are not in yet"
    await bench.commit(BOOKS_GROUP, CORRECTIONS_TOPIC, {0: 3})
    assert await bench.unread("2026-10 a") == ""


async def test_what_the_log_has_forgotten_is_not_waited_for(
    bench: Bench, forgetting: Callable[[Bench, int], Awaitable[None]]
) -> None:
    await bench.append(CORRECTIONS_TOPIC, 5)
    await forgetting(bench, 4)
    assert "1 records are not in yet" in await bench.unread("2026-10 a")
    await bench.commit(BOOKS_GROUP, CORRECTIONS_TOPIC, {0: 2})  # it was there, and has been away since
    assert "1 records are not in yet" in await bench.unread("2026-10 a")
    await forgetting(bench, 5)
    assert await bench.unread("2026-10 a") == ""


@pytest.fixture
def forgetting() -> Callable[[Bench, int], Awaitable[None]]:
    """Corrections below an offset are deleted, as their retention does it."""

    async def forget(bench: Bench, below: int) -> None:
        if not bench.settings.kafka_bootstrap:
            await bench.log.delete_before(CORRECTIONS_TOPIC, below)  # type: ignore[attr-defined]
            return
        admin = AIOKafkaAdminClient(bootstrap_servers=bench.settings.kafka_bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(CORRECTIONS_TOPIC, 0): RecordsToDelete(before_offset=below)})
        await admin.close()

    return forget
