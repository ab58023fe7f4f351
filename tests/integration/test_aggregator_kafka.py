"""The Faust job on a real broker, with chDB's HTTP front as its ClickHouse server."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from bursar_aggregator.dead_letters import POSITION_HEADER, REASON_HEADER
from bursar_aggregator.log_worker import GROUP
from bursar_aggregator.people import PEOPLE_GROUP
from bursar_common.analytics import Analytics
from bursar_common.eventlog.kafka import KafkaEventLog
from bursar_common.eventlog.port import LogRecord, NewRecord
from bursar_common.events import GOVERNANCE_TOPIC, USAGE_TOPIC
from bursar_common.settings import Settings
from bursar_common.topics import apply_topics
from tests.harness.aggregator_people import user_record
from tests.harness.kafka_server import KafkaServer
from tests.harness.processes import ServiceProcess, eventually, free_port
from tests.harness.usage_events import usage, usage_record, usage_records

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]
"""Seconds: a worker that is killed or started takes its time to be in the group, more where the machine has other
work."""

TOKEN = "token-of-the-tests"
WAIT_S = 120.0


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        yield server


class Cluster:
    def __init__(self, kafka: KafkaServer, folder: Path) -> None:
        self.kafka = kafka
        self.folder = folder
        self.settings = Settings(kafka_bootstrap=kafka.bootstrap, single_broker=True)
        self.log = KafkaEventLog(self.settings)
        clickhouse = f"127.0.0.1:{free_port()}"
        self.clickhouse_url = f"http://bursar:{TOKEN}@{clickhouse}/bursar"
        self.front = ServiceProcess(
            "bursar_aggregator.clickhouse_front",
            env={
                "BURSAR_HOME": str(folder / "clickhouse-home"),
                "BURSAR_CLICKHOUSE_LISTEN": clickhouse,
                "BURSAR_INTERNAL_TOKEN": TOKEN,
            },
            address=clickhouse,
            folder=folder,
        )
        self.analytics = Analytics(self.clickhouse_url)
        self.job = self.new_job("aggregator")

    def new_job(self, name: str) -> ServiceProcess:
        address = f"unix:{self.folder}/{name}.sock"
        return ServiceProcess(
            "bursar_aggregator",
            env={
                "BURSAR_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
                "BURSAR_SINGLE_BROKER": "true",
                "BURSAR_CLICKHOUSE_URL": self.clickhouse_url,
                "BURSAR_AGGREGATOR_LISTEN": address,
            },
            address=address,
            folder=self.folder,
            name=name,
        )

    async def figures(self) -> dict[str, Any]:
        rows = await self.analytics.query(
            "SELECT count() AS requests, uniqExact(request_id) AS ids, sum(toInt128(cost_nusd)) AS cost"
            " FROM bursar.usage"
        )
        return rows[0]

    async def until_requests(self, count: int) -> None:
        async def there() -> bool:
            return bool((await self.figures())["requests"] >= count)

        await eventually(there, WAIT_S)

    async def until_taken_care_of(self, count: int) -> None:
        """The job has written or set aside so many records since it started."""

        async def there() -> bool:
            status, page = await self.job.get("/metrics")
            found = re.search(r"^bursar_aggregator_records_total(?:\{.*\})? (\S+)$", page, re.MULTILINE)
            return status == 200 and found is not None and float(found[1]) >= count

        await eventually(there, WAIT_S)

    async def until_committed(self, total: int) -> None:
        """The group's committed offsets sum up to ``total``."""

        async def committed() -> bool:
            partitions = await self.log.partitions(USAGE_TOPIC)
            offsets = [await self.log.committed(GROUP, USAGE_TOPIC, number) for number in range(partitions)]
            return sum(offset or 0 for offset in offsets) == total

        await eventually(committed, WAIT_S)

    async def dead_letters(self) -> list[LogRecord]:
        topic = f"{USAGE_TOPIC}.dlq"
        found: list[LogRecord] = []
        for number in range(await self.log.partitions(topic)):
            found += await self.log.read(topic, number, 0)
        return found


@asynccontextmanager
async def running(kafka: KafkaServer, folder: Path) -> AsyncIterator[Cluster]:
    await kafka.wipe()
    cluster = Cluster(kafka, folder)
    await apply_topics(cluster.settings)
    await cluster.log.start()
    try:
        with cluster.front, cluster.job:
            await cluster.front.ready()
            await cluster.job.ready()
            yield cluster
    finally:
        await cluster.analytics.close()
        await cluster.log.close()


def expected(count: int) -> dict[str, Any]:
    return {"requests": count, "ids": count, "cost": sum(1_000_000_001 + number for number in range(count))}


async def test_events_arrive_once_poison_is_set_aside_and_a_clean_stop_commits(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    async with running(kafka, tmp_path) as cluster:
        records = usage_records(300)
        await cluster.log.append(records[:150])
        await cluster.log.append([NewRecord(USAGE_TOPIC, "key-1", b"not json", (("bursar-outbox", b"a:1"),))])
        await cluster.log.append([*records[150:], *records[100:120]])
        await cluster.until_taken_care_of(len(records) + 21)

        assert cluster.job.terminate() == 0
        assert await cluster.figures() == expected(300)
        (letter,) = await cluster.dead_letters()
        headers = dict(letter.headers)
        assert letter.value == b"not json"
        assert letter.key == "key-1"
        assert headers["bursar-outbox"] == b"a:1"
        assert b"not a CloudEvents envelope" in headers[REASON_HEADER]
        topic, partition, offset = headers[POSITION_HEADER].decode().split(":")
        original = await cluster.log.read(topic, int(partition), int(offset), max_records=1)
        assert original[0].value == b"not json"
        await cluster.until_committed(len(records) + 21)


async def test_kill9_in_the_middle_loses_and_doubles_nothing(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        # Keys spread over partitions, so that several are half-way when the process dies.
        records = [usage_record(usage(number, virtual_key_id=f"key-{number % 7}")) for number in range(6_000)]
        await cluster.log.append(records[:2_000])
        for round_ in range(3):
            await cluster.until_requests(1 + 700 * round_)
            cluster.job.kill9()
            start = 2_000 + round_ * 1_000
            await cluster.log.append(records[start : start + 1_000])
            cluster.job.start()
        await cluster.job.ready()
        await cluster.log.append(records[5_000:])
        await cluster.until_requests(6_000)
        assert await cluster.figures() == expected(6_000)
        await cluster.until_committed(6_000)


async def test_nothing_is_acknowledged_while_clickhouse_is_away(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        await cluster.log.append(usage_records(50))
        await cluster.until_requests(50)
        await cluster.until_committed(50)
        cluster.front.kill9()
        await cluster.log.append(usage_records(50, first=50))

        async def unready() -> bool:
            status, text = await cluster.job.get("/readyz")
            return status == 503 and "ClickHouse" in text

        await eventually(unready, WAIT_S)
        # A stop while it waits does not wait for ClickHouse, and acknowledges nothing.
        assert cluster.job.terminate() == 0
        await cluster.until_committed(50)
        cluster.front.start()
        cluster.job.start()
        await cluster.until_requests(100)
        assert await cluster.figures() == expected(100)
        await cluster.until_committed(100)


async def test_two_workers_share_the_partitions_and_one_takes_over(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        records = [usage_record(usage(number, virtual_key_id=f"key-{number % 11}")) for number in range(900)]
        with cluster.new_job("second") as second:
            await second.ready()
            await cluster.log.append(records[:600])
            await cluster.until_requests(600)
            cluster.job.kill9()
            await cluster.log.append(records[600:])
            await cluster.until_requests(900)
            assert await cluster.figures() == expected(900)
            assert second.terminate() == 0


async def test_records_without_a_value_or_key_are_poison_too(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
        await producer.start()
        await producer.send_and_wait(USAGE_TOPIC, None, key=b"key-1", partition=0)
        await producer.send_and_wait(USAGE_TOPIC, b"?", key=None, partition=0)
        await producer.stop()
        await cluster.log.append(usage_records(3))
        await cluster.until_requests(3)
        await cluster.until_committed(5)
        letters = await cluster.dead_letters()
        assert sorted((letter.key, letter.value) for letter in letters) == [("", b"?"), ("key-1", b"")]


async def test_a_lost_database_is_filled_again_from_the_log(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        records = [usage_record(usage(number, virtual_key_id=f"key-{number % 5}")) for number in range(200)]
        await cluster.log.append(records)
        await cluster.until_requests(200)
        assert cluster.job.terminate() == 0
        await cluster.until_committed(200)
        cluster.front.kill9()
        shutil.rmtree(tmp_path / "clickhouse-home")
        cluster.front.start()
        cluster.job.start()
        await cluster.until_requests(200)
        assert await cluster.figures() == expected(200)


async def test_rebuild_beside_the_running_job(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        records = [usage_record(usage(number, virtual_key_id=f"key-{number % 5}")) for number in range(400)]
        await cluster.log.append(records[:300])
        await cluster.until_requests(300)
        inner = Analytics(cluster.clickhouse_url)
        await inner.command("ALTER TABLE bursar.usage_events DELETE WHERE log_offset % 2 SETTINGS mutations_sync = 2")
        await inner.close()
        assert await cluster.figures() != expected(300)
        rebuild = cluster.new_job("rebuild")
        rebuild.command[-1] = "bursar_aggregator.rebuild"
        rebuild.start()
        await cluster.log.append(records[300:])
        assert rebuild.wait(WAIT_S) == 0, rebuild.output()
        await cluster.until_requests(400)
        assert await cluster.figures() == expected(400)


async def test_names_of_people_come_once_and_go(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        await cluster.log.append([usage_record(usage(number, user_id=f"u{number}")) for number in (1, 2)])
        await cluster.log.append([user_record("u1", "Ann", seen=0), user_record("u2", "Bob", seen=0)])
        await eventually(lambda: shown_as(cluster, ["Ann", "Bob"]), WAIT_S)
        with cluster.new_job("second") as second:
            await second.ready()
            await cluster.log.append([user_record("u1", None, seen=1), user_record("u2", "Rob", seen=1)])
            # Both replicas write the row of version 2; twins merge, and the view shows one.
            await eventually(lambda: shown_as(cluster, ["", "Rob"]), WAIT_S)
            await eventually(lambda: stored_names(cluster, {"Rob"}), WAIT_S)

        async def committed() -> bool:
            return await cluster.log.committed(PEOPLE_GROUP, GOVERNANCE_TOPIC, 0) == 4

        await eventually(committed, WAIT_S)


async def shown_as(cluster: Cluster, users: list[str]) -> bool:
    rows = await cluster.analytics.query('SELECT "user" FROM bursar.usage ORDER BY user_id')
    return [row["user"] for row in rows] == users


async def stored_names(cluster: Cluster, names: set[str]) -> bool:
    return {row["name"] for row in await cluster.analytics.query("SELECT name FROM bursar.people")} == names


async def test_the_broker_going_away_and_coming_back(kafka: KafkaServer, tmp_path: Path) -> None:
    async with running(kafka, tmp_path) as cluster:
        await cluster.log.append(usage_records(20))
        await cluster.until_requests(20)
        kafka.kill9()

        async def unready() -> bool:
            status, _ = await cluster.job.get("/readyz")
            return status == 503

        await eventually(lambda: not cluster.job.running or unready(), WAIT_S)
        kafka.start()
        await eventually(lambda: cluster.log.append(usage_records(20, first=20)), WAIT_S)

        async def all_there() -> bool:
            # What a supervisor does: Faust gives up on some errors, and the job then ends rather than idles.
            if not cluster.job.running:
                cluster.job.start()
            return bool((await cluster.figures())["ids"] >= 40)

        await eventually(all_there, WAIT_S)
        assert await cluster.figures() == expected(40)
