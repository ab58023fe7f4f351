"""The followers on Kafka: several partitions, several enforcers, a relay that repeats itself, Kafka gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bursar_common.eventlog.kafka import KafkaEventLog
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import GOVERNANCE_TOPIC, OUTBOX_HEADER, USAGE_TOPIC
from bursar_common.wire import Admitted, Amounts
from bursar_enforcer import redis_names
from tests.harness import KafkaServer, eventually
from tests.integration.enforcer_world import Inside, usage_event

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

PARTITIONS = 4


@pytest.fixture
def kafka(tmp_path: Path) -> KafkaServer:
    return KafkaServer(tmp_path / "kafka")


@pytest.fixture
async def inside(tmp_path: Path, kafka: KafkaServer) -> AsyncIterator[Inside]:
    with kafka:
        await kafka.create_topic(GOVERNANCE_TOPIC, 1)
        await kafka.create_topic(USAGE_TOPIC, PARTITIONS)
        world = Inside(tmp_path, hold_ttl_s=60, BURSAR_KAFKA_BOOTSTRAP=kafka.bootstrap, BURSAR_SINGLE_BROKER="true")
        world.use_log(lambda: KafkaEventLog(world.settings))
        async with world:
            await world.govern_default()
            yield world


def of_key(record: NewRecord, key: str, sequence: int | None = None) -> NewRecord:
    headers = () if sequence is None else ((OUTBOX_HEADER, f"outbox-1:{sequence}".encode()),)
    return NewRecord(record.topic, key, record.value, headers)


async def test_every_partition_is_followed_once_by_several_enforcers(inside: Inside, kafka: KafkaServer) -> None:
    other = inside.enforcer()
    other.start()
    admitted = await inside.admit("r")
    counters = tuple(entry.counter for entry in admitted.hold)
    records = [
        of_key(usage_event(f"u{number}", counters, Amounts(n=1, r=1)), f"key{number % 16}", number)
        for number in range(200)
    ]
    await inside.log.append(records)
    await eventually(lambda: _spent(inside, counters[0], 200), timeout_s=60)
    # The relay died before it noted its progress and sends the last of them again, long after they were forgotten.
    for number in range(150, 200):
        await inside.main.ledger.commands([("DEL", redis_names.HOLD + f"u{number}")])
    await inside.log.append(records[150:])
    last = await inside.log.append([of_key(usage_event("last", counters, Amounts(n=1_000, r=1)), "key0", 200)])
    await eventually(lambda: _spent(inside, counters[0], 1_200), timeout_s=60)
    await eventually(lambda: _applied(inside), timeout_s=60)
    assert await _spent(inside, counters[0], 1_200)
    assert last[0].topic == USAGE_TOPIC
    # Kafka goes: decisions go on.
    kafka.kill9()
    assert isinstance(await inside.admit("without-kafka"), Admitted)
    await inside.main.stop()
    kafka.start()


async def _spent(world: Inside, counter: str, amount: int) -> bool:
    (balance,) = await world.balances(counter)
    assert balance.spent <= amount, balance
    return bool(balance.spent == amount)


async def _applied(world: Inside) -> bool:
    positions = (await world.main.ledger.commands([("HGETALL", redis_names.POSITIONS)]))[0]
    known = {positions[i].decode(): int(positions[i + 1]) for i in range(0, len(positions), 2)}
    ends = {p: await world.log.end_offset(USAGE_TOPIC, p) for p in range(PARTITIONS)}
    return all(known.get(redis_names.usage_field(p), 0) == end for p, end in ends.items())
