"""admin-api on Kafka: the same commands, lists and restart as on one machine."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bursar_admin import journal
from bursar_admin.chronicle import Chronicle
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import USAGE_TOPIC
from bursar_common.settings import SettingsError
from bursar_common.topics import apply_topics
from tests.harness import KafkaServer
from tests.harness.admin import admin_settings, running_admin

KEYS = "/api/governance/virtual-keys"
LETTERS = "/api/events/dead-letters"

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]
"""Seconds: the broker is started within the first of these, which takes minutes where the machine has other work."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the broker nor the ledger is given up because the machine is busy."""
    monkeypatch.setattr(journal, "APPEND_TIMEOUT_S", 60.0)
    monkeypatch.setattr(journal, "APPLIED_TIMEOUT_S", 60.0)
    monkeypatch.setattr("bursar_admin.enforcer.CALL_TIMEOUT_S", 60.0)


async def test_commands_go_through_kafka_and_come_back(tmp_path: Path, fresh_kafka: KafkaServer) -> None:
    kafka: dict[str, Any] = {"kafka_bootstrap": fresh_kafka.bootstrap, "single_broker": "true"}
    await apply_topics(admin_settings(tmp_path, **kafka))
    async with running_admin(tmp_path, **kafka) as admin:
        answers = await asyncio.gather(*(admin.call("POST", KEYS, {"name": f"k{number % 10}"}) for number in range(20)))
        assert sorted(status for status, _, _ in answers) == [200] * 10 + [409] * 10
    async with running_admin(tmp_path, **kafka) as admin:
        _, answer, _ = await admin.call("GET", KEYS)
        assert {key["name"] for key in answer["virtual_keys"]} == {f"k{number}" for number in range(10)}
        _, answer, _ = await admin.call("GET", "/api/providers")
        assert answer["total_count"] == 1


async def test_events_that_are_not_kept_are_read_from_kafka(
    tmp_path: Path, fresh_kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka: dict[str, Any] = {"kafka_bootstrap": fresh_kafka.bootstrap, "single_broker": "true"}
    await apply_topics(admin_settings(tmp_path, **kafka))
    async with running_admin(tmp_path, **kafka) as admin:
        team = (await admin.create("teams", name="one", budget={"max_limit": 5, "reset_duration": "1d"}))["team"]["id"]
        for number in range(6):
            await admin.call("PATCH", f"/api/governance/teams/{team}", {"name": f"team {number}"})
        whole = (await admin.call("GET", "/api/events"))[1]["events"]
    monkeypatch.setattr(journal, "Chronicle", partial(Chronicle, 2))
    async with running_admin(tmp_path, **kafka) as admin:
        assert (await admin.call("GET", "/api/events"))[1]["events"] == whole
        status, answer, _ = await admin.call("GET", f"/api/events/{whole[-1]['id']}")
        assert (status, answer["event"]["name"]) == (200, whole[-1]["name"])
        # Whoever follows the topic was not moved about.
        await admin.call("PATCH", f"/api/governance/teams/{team}", {"name": "last"})
        assert (await admin.call("GET", "/api/events?limit=1"))[1]["events"][0]["name"] == "last"


async def test_wrong_topics_refuse_to_start(tmp_path: Path, fresh_kafka: KafkaServer) -> None:
    with pytest.raises(SettingsError, match="bursar topics apply"):
        async with running_admin(tmp_path, kafka_bootstrap=fresh_kafka.bootstrap, single_broker="true"):
            pass


async def test_dead_letters_of_all_partitions_are_listed_and_retried_once(
    tmp_path: Path, fresh_kafka: KafkaServer
) -> None:
    kafka: dict[str, Any] = {"kafka_bootstrap": fresh_kafka.bootstrap, "single_broker": "true"}
    await apply_topics(admin_settings(tmp_path, **kafka))
    async with running_admin(tmp_path, **kafka) as admin:
        log = admin.desk.journal.event_log
        for number in range(25):
            await log.append([NewRecord(f"{USAGE_TOPIC}.dlq", f"key{number}", b"broken %d" % number)])
            await asyncio.sleep(0.002)  # over partitions, only their milliseconds tell which of two is newer
        seen: list[str] = []
        cursor = ""
        while True:
            _, answer, _ = await admin.call("GET", f"{LETTERS}?limit=7{cursor}")
            seen += [each["content"] for each in answer["dead_letters"]]
            assert answer["total_count"] == 25
            if answer["next_cursor"] is None:
                break
            cursor = f"&cursor={answer['next_cursor']}"
        assert seen == [f"broken {number}" for number in range(24, -1, -1)]
        letter = answer["dead_letters"][-1]["id"]
        status, answer, _ = await admin.call("POST", f"{LETTERS}/{letter}/retry", {})
        assert (status, answer["appended"]) == (200, True)
    async with running_admin(tmp_path, **kafka) as admin:
        _, answer, _ = await admin.call("POST", f"{LETTERS}/{letter}/retry", {})
        assert answer["appended"] is False
        log = admin.desk.journal.event_log
        ends = [await log.end_offset(USAGE_TOPIC, number) for number in range(await log.partitions(USAGE_TOPIC))]
        assert (len(ends), sum(ends)) == (12, 1)
        status, answer, _ = await admin.call("GET", "/api/health/system")
        assert (status, answer["dead_letters_waiting"]) == (200, 24)
        assert answer["lags"][0]["behind"] == 0
