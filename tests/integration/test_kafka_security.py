"""The Kafka log over TLS with a password, on a real broker with a certificate of a private authority."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import LogUnavailable, NewRecord
from bursar_common.events import GOVERNANCE_TOPIC
from bursar_common.settings import Settings, SettingsError
from bursar_common.topics import apply_topics, check_topics
from tests.harness import KafkaServer
from tests.harness.certificates import make_broker_certificates
from tests.harness.kafka_server import secured_kafka

pytestmark = pytest.mark.kafka

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, Path]]:
    folder = tmp_path_factory.mktemp("secured")
    make_broker_certificates(folder)
    with secured_kafka(folder / "kafka", folder, user="bursar", password=PASSWORD) as server:
        yield server, folder / "ca.pem"


def settings_for(server: KafkaServer, ca_file: Path | None, password: str = PASSWORD) -> Settings:
    return Settings(
        kafka_bootstrap=server.bootstrap,
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="bursar",
        kafka_sasl_password=SecretStr(password),
        ca_file=ca_file,
        single_broker=True,
    )


async def test_everything_works_over_tls_with_a_password(secured: tuple[KafkaServer, Path]) -> None:
    settings = settings_for(*secured)
    await apply_topics(settings)
    assert await check_topics(settings) == []
    log = open_log(settings)
    await log.append([NewRecord(GOVERNANCE_TOPIC, "k", b"v")])
    assert [record.value for record in await log.read(GOVERNANCE_TOPIC, 0, 0, wait_s=60)] == [b"v"]
    await log.commit("g", GOVERNANCE_TOPIC, 0, 1)
    assert await log.committed("g", GOVERNANCE_TOPIC, 0) == 1
    await log.close()


async def test_a_wrong_password_is_refused_without_being_named(secured: tuple[KafkaServer, Path]) -> None:
    server, ca_file = secured
    with pytest.raises(LogUnavailable) as refused:
        await open_log(settings_for(server, ca_file, "wrong horse")).start()
    assert "wrong horse" not in str(refused.value)


async def test_an_unknown_authority_is_refused(secured: tuple[KafkaServer, Path]) -> None:
    with pytest.raises(LogUnavailable):
        await open_log(settings_for(secured[0], None)).start()


def test_an_unreadable_ca_file_is_a_wrong_setting(tmp_path: Path) -> None:
    settings = Settings(kafka_bootstrap="x:1", kafka_security_protocol="SSL", ca_file=tmp_path / "absent.pem")
    with pytest.raises(SettingsError, match="BURSAR_CA_FILE"):
        open_log(settings)


def test_neither_kafka_nor_a_home_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="BURSAR_KAFKA_BOOTSTRAP nor BURSAR_HOME"):
        open_log(Settings())
