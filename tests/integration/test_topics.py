"""Topics on a real broker: missing and wrong ones are found, `apply` makes them right and changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import LogUnavailable, NewRecord
from bursar_common.events import GOVERNANCE_TOPIC, USAGE_TOPIC
from bursar_common.settings import Settings, SettingsError
from bursar_common.topics import apply_topics, check_topics, refuse_wrong_topics
from tests.harness import KafkaServer, eventually, free_port

pytestmark = pytest.mark.kafka


def settings_for(server: KafkaServer, *, single_broker: bool = True) -> Settings:
    return Settings(kafka_bootstrap=server.bootstrap, single_broker=single_broker, usage_retention_days=30)


async def topic_config(server: KafkaServer, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=server.bootstrap)
    await admin.start()
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return {entry[0]: entry[1] for entry in answer.resources[0][4]}
    finally:
        await admin.close()


async def test_missing_topics_are_named_then_created_and_then_nothing_is_left_to_do(fresh_kafka: KafkaServer) -> None:
    settings = settings_for(fresh_kafka)
    problems = await check_topics(settings)
    assert len(problems) == 12
    assert {(problem.wrong, problem.fix) for problem in problems} == {("does not exist", "bursar topics apply")}
    with pytest.raises(SettingsError, match=r"bursar\.governance\.v1: does not exist.*bursar topics apply"):
        await refuse_wrong_topics(settings)

    assert len(await apply_topics(settings)) == 12
    assert await check_topics(settings) == []
    await refuse_wrong_topics(settings)
    assert await apply_topics(settings) == []
    config = await topic_config(fresh_kafka, USAGE_TOPIC)
    assert config["retention.ms"] == str(30 * 24 * 3600 * 1000)

    log = open_log(settings)
    await log.start()
    try:
        assert await log.partitions(USAGE_TOPIC) == 12
        assert await log.partitions(f"{USAGE_TOPIC}.dlq") == 12
        assert await log.partitions(GOVERNANCE_TOPIC) == 1
        await log.append([NewRecord(GOVERNANCE_TOPIC, "k", b"{}")])
    finally:
        await log.close()


async def test_wrong_settings_are_put_right_and_the_operators_own_are_kept(fresh_kafka: KafkaServer) -> None:
    settings = settings_for(fresh_kafka)
    await apply_topics(settings)
    admin = AIOKafkaAdminClient(bootstrap_servers=fresh_kafka.bootstrap)
    await admin.start()
    try:
        wrong = {"cleanup.policy": "compact", "retention.ms": "1000", "segment.bytes": "12345678"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, GOVERNANCE_TOPIC, wrong)])
    finally:
        await admin.close()
    problems = await eventually(lambda: check_topics(settings))  # brokers hear of it a moment later
    # Kafka took the other settings away with it: two set wrong, and max.message.bytes.
    assert [problem.topic for problem in problems] == [GOVERNANCE_TOPIC] * 3
    assert len(await apply_topics(settings)) == 3
    assert await check_topics(settings) == []
    config = await topic_config(fresh_kafka, GOVERNANCE_TOPIC)
    assert (config["cleanup.policy"], config["retention.ms"]) == ("delete", "-1")
    assert config["segment.bytes"] == "12345678"


async def test_partitions_are_added_where_there_are_too_few(fresh_kafka: KafkaServer) -> None:
    settings = settings_for(fresh_kafka)
    await fresh_kafka.create_topic(USAGE_TOPIC, 2)
    assert any("12 partitions instead of 2" in line for line in await apply_topics(settings))
    assert await check_topics(settings) == []


async def test_one_replica_is_refused_unless_a_single_broker_is_accepted(fresh_kafka: KafkaServer) -> None:
    await apply_topics(settings_for(fresh_kafka))
    problems = await check_topics(settings_for(fresh_kafka, single_broker=False))
    assert len(problems) == 12
    assert "BURSAR_SINGLE_BROKER" in problems[0].fix


async def test_a_cluster_too_small_for_three_replicas_says_so(fresh_kafka: KafkaServer) -> None:
    with pytest.raises(LogUnavailable, match=r"Kafka refused.*eplication factor"):
        await apply_topics(settings_for(fresh_kafka, single_broker=False))


async def test_no_broker_at_all() -> None:
    with pytest.raises(LogUnavailable):
        await check_topics(Settings(kafka_bootstrap=f"127.0.0.1:{free_port()}", single_broker=True))


async def test_the_sqlite_log_has_no_topics_to_look_after(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert await check_topics(settings) == []
    assert await apply_topics(settings) == []
