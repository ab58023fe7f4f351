"""The cluster shape from outside: separate processes with docker-compose.yml's environment, on Kafka and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bursar_common.events import USAGE_TOPIC
from bursar_common.wire import INTERNAL_TOKEN_HEADER
from tests.harness import eventually
from tests.harness.gateway import Gateway
from tests.harness.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

MODEL = "claude-opus-4-8"


@pytest.fixture
async def gateway(cluster: SimulatedCluster) -> AsyncIterator[Gateway]:
    async with cluster.gateway() as gateway:
        await gateway.reset_simulator()
        yield gateway


async def spent_nusd(gateway: Gateway, key_id: str) -> int:
    """What the ledger has charged to the key's budget, -1 while something is held."""
    budget = (await gateway.key(key_id))["budgets"][0]
    return int(budget["spent_nusd"]) if budget["held_nusd"] == 0 else -1


async def test_ledger_log_and_clickhouse_agree_with_what_the_provider_served(gateway: Gateway) -> None:
    keys = [
        await gateway.create_key(f"books {number}", budget={"max_limit": 100, "reset_duration": "1M"})
        for number in range(5)
    ]
    counts = {"input-tokens": 12, "cache-read-tokens": 15000, "cache-write-5m-tokens": 5000, "output-tokens": 70}
    for key in keys:
        assert (await gateway.message(key.value, model=MODEL, sim=counts)).status == 200
        assert (await gateway.message(key.value, model=MODEL, stream=True, sim=counts)).status == 200
    served = await gateway.provider.served()
    assert len(served) == 10
    # 12 x $5 + 15,000 x $0.50 + 5,000 x $6.25 + 70 x $25 a million tokens, in nano-dollars.
    cost_nusd = 12 * 5000 + 15_000 * 500 + 5000 * 6250 + 70 * 25_000
    for key in keys:
        rows = await gateway.usage_rows(key.id, at_least=2)
        assert [row["cost_nusd"] for row in rows] == [cost_nusd] * 2
        assert {row["upstream_request_id"] for row in rows} <= {record["request_id"] for record in served}

        async def settled(key_id: str = key.id) -> bool:
            return await spent_nusd(gateway, key_id) == 2 * cost_nusd

        await eventually(settled)
        # The ledger's usage consumer reads every event again; it must not charge it twice.
        assert await spent_nusd(gateway, key.id) == 2 * cost_nusd
    logged = await gateway.logged_usage()
    assert len(logged) == 10
    assert await gateway.log.partitions(USAGE_TOPIC) == 12


async def test_a_spent_budget_is_refused_before_the_provider_is_asked(gateway: Gateway) -> None:
    key = await gateway.create_key("spent", budget={"max_limit": 0.05, "reset_duration": "1M"})
    counts = {"input-tokens": 10, "output-tokens": 2000}
    assert (await gateway.message(key.value, model=MODEL, max_tokens=2000, sim=counts)).status in (200, 402)
    await gateway.reset_simulator()
    refused = await gateway.message(key.value, model=MODEL, max_tokens=64_000, prompt="x" * 40_000)
    assert refused.status == 402, refused.body
    assert refused.json()["type"] == "error"
    assert await gateway.provider.served() == []


async def test_a_service_that_was_killed_goes_on_where_it_stopped(cluster: SimulatedCluster, gateway: Gateway) -> None:
    key = await gateway.create_key("killed", budget={"max_limit": 100, "reset_duration": "1M"})

    async def nothing_is_held() -> bool:
        return await spent_nusd(gateway, key.id) >= 0

    for round_number, name in enumerate(("aggregator", "admin", "edge"), start=1):
        assert (await gateway.message(key.value, model=MODEL)).status == 200
        if name == "edge":
            # A client has its answer before the event is in the outbox, so the edge could die without it (then the
            # hold expires: tests/faults). It is there once the ledger is told: nothing is held any more.
            await eventually(nothing_is_held, 60)
        cluster.services[name].kill9()
        await cluster.start_service(name)
        assert len(await gateway.usage_rows(key.id, at_least=round_number)) == round_number
    assert (await gateway.message(key.value, model=MODEL)).status == 200
    rows = await gateway.usage_rows(key.id, at_least=4)
    assert [row["outcome"] for row in rows] == ["completed"] * 4

    async def agree() -> bool:
        return await spent_nusd(gateway, key.id) == sum(row["cost_nusd"] for row in rows)

    await eventually(agree, 60)


async def test_internal_endpoints_ask_for_the_internal_token(cluster: SimulatedCluster, gateway: Gateway) -> None:
    from aiohttp import ClientSession

    async with ClientSession() as session:
        for headers in ({}, {INTERNAL_TOKEN_HEADER: "wrong"}):
            async with session.post(f"{cluster.enforcer_url}/internal/v1/batch", data=b"", headers=headers) as answer:
                assert answer.status in (401, 403)
        async with session.get(f"{cluster.admin_url}/api/governance/virtual-keys") as answer:
            assert answer.status == 401
