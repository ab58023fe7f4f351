"""The cluster shape on engines that want a password and speak TLS alone, with certificates of a private authority."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ServiceProcess, eventually
from tests.harness.certificates import make_broker_certificates
from tests.harness.kafka_server import secured_kafka
from tests.harness.redis_server import SecuredRedis
from tests.harness.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.kafka, pytest.mark.redis7, pytest.mark.timeout(400)]

USER = "bursar"
PASSWORD = "correct-horse"
MODEL = "claude-opus-4-8"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("secured_cluster")
    make_broker_certificates(folder)
    overrides = {
        "BURSAR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "BURSAR_KAFKA_SASL_MECHANISM": "PLAIN",
        "BURSAR_KAFKA_SASL_USERNAME": USER,
        "BURSAR_KAFKA_SASL_PASSWORD": PASSWORD,
        "BURSAR_CA_FILE": str(folder / "ca.pem"),
    }
    redis = SecuredRedis(folder / "redis", folder, user=USER, password=PASSWORD)
    with secured_kafka(folder / "kafka", folder, user=USER, password=PASSWORD) as kafka:
        with SimulatedCluster(folder, kafka=kafka, redis=redis, overrides=overrides) as cluster:
            yield cluster


async def test_a_request_is_held_settled_and_recorded(secured: SimulatedCluster) -> None:
    async with secured.gateway() as gateway:
        await gateway.reset_simulator()
        key = await gateway.create_key("guarded", budget={"max_limit": 100, "reset_duration": "1M"})
        assert (await gateway.message(key.value, model=MODEL)).status == 200
        (row,) = await gateway.usage_rows(key.id, at_least=1)  # through Faust
        assert row["cost_nusd"] > 0

        async def settled() -> bool:
            (budget,) = (await gateway.key(key.id))["budgets"]
            return (budget["spent_nusd"], budget["held_nusd"]) == (row["cost_nusd"], 0)

        await eventually(settled)


async def test_the_ledger_comes_back_with_redis(secured: SimulatedCluster) -> None:
    async with secured.gateway() as gateway:
        key = await gateway.create_key("again", budget={"max_limit": 100, "reset_duration": "1M"})
        secured.redis.restart()

        async def answered() -> bool:
            return (await gateway.message(key.value, model=MODEL)).status == 200

        await eventually(answered, 60)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"BURSAR_REDIS_URL": "rediss://bursar:wrong-horse@127.0.0.1:{port}/0"}, "Redis refused the connection"),
        ({"BURSAR_REDIS_URL": "redis://bursar:correct-horse@127.0.0.1:{port}/0"}, "Redis"),
        ({"BURSAR_CA_FILE": "/etc/ssl/certs/ca-certificates.crt"}, "SSLCertVerificationError"),
    ],
    ids=["password", "no TLS", "authority"],
)
async def test_an_enforcer_that_may_not_in_is_unready_and_names_no_secret(
    secured: SimulatedCluster, tmp_path: Path, wrong: dict[str, str], why: str
) -> None:
    environment = secured.environment("enforcer") | {
        name: value.format(port=secured.redis.port) for name, value in wrong.items()
    }
    environment["BURSAR_ENFORCER_LISTEN"] = address = f"unix:{tmp_path}/enforcer.sock"
    service = ServiceProcess("bursar_enforcer", env=environment, address=address, folder=tmp_path, cwd=tmp_path)
    service.start()
    try:

        async def told() -> bool:
            assert service.running, service.output()[-4000:]
            return why in service.output() and (tmp_path / "enforcer.sock").exists()

        await eventually(told, 60)
        status, _ = await eventually(lambda: service.get("/readyz"))  # whatever it answers, as soon as it does
        assert status == 503
        assert "wrong-horse" not in service.output()
        assert PASSWORD not in service.output()
    finally:
        service.kill9()
