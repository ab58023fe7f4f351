"""admin-api on Kafka: the same commands, lists and restart as on one machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bursar_common.settings import SettingsError
from bursar_common.topics import apply_topics
from tests.harness import KafkaServer
from tests.harness.admin import admin_settings, running_admin

KEYS = "/api/governance/virtual-keys"

pytestmark = pytest.mark.kafka


async def test_commands_go_through_kafka_and_come_back(tmp_path: Path, fresh_kafka: KafkaServer) -> None:
    kafka = {"kafka_bootstrap": fresh_kafka.bootstrap, "single_broker": "true"}
    await apply_topics(admin_settings(tmp_path, **kafka))
    async with running_admin(tmp_path, **kafka) as admin:
        answers = await asyncio.gather(*(admin.call("POST", KEYS, {"name": f"k{number % 10}"}) for number in range(20)))
        assert sorted(status for status, _, _ in answers) == [200] * 10 + [409] * 10
    async with running_admin(tmp_path, **kafka) as admin:
        _, answer, _ = await admin.call("GET", KEYS)
        assert {key["name"] for key in answer["virtual_keys"]} == {f"k{number}" for number in range(10)}
        _, answer, _ = await admin.call("GET", "/api/providers")
        assert answer["total_count"] == 1


async def test_wrong_topics_refuse_to_start(tmp_path: Path, fresh_kafka: KafkaServer) -> None:
    with pytest.raises(SettingsError, match="bursar topics apply"):
        async with running_admin(tmp_path, kafka_bootstrap=fresh_kafka.bootstrap, single_broker="true"):
            pass
