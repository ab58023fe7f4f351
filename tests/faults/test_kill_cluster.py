"""``kill -9`` of every process of the cluster shape, engines among them, in the middle of traffic; and of the edge at
the two steps where a crash could cost or forget money."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from bursar_common import wire
from bursar_edge.outbox import OUTBOX_FILE
from tests.harness import eventually
from tests.harness.books import assert_books_agree
from tests.harness.enforcer_tap import EnforcerTap
from tests.harness.scraping import scrape
from tests.harness.simulated_cluster import SimulatedCluster
from tests.harness.traffic import Traffic, governed_keys

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

HOLD_TTL_S = 6


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis7", marks=pytest.mark.redis7)])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("kill_cluster")
    overrides = {"BURSAR_HOLD_TTL_S": str(HOLD_TTL_S)}
    with SimulatedCluster(folder, redis_kind=request.param, overrides=overrides) as cluster:
        yield cluster


async def kill_and_restart(cluster: SimulatedCluster, part: str) -> None:
    if part in cluster.services:
        cluster.services[part].kill9()
        await asyncio.sleep(0.5)
        await cluster.start_service(part)
        return
    if part == "clickhouse":
        cluster.clickhouse.kill9()
        await asyncio.sleep(1)
        await cluster.start_clickhouse()
        return
    server = cluster.redis if part == "redis" else cluster.kafka
    server.kill9()
    await asyncio.sleep(1)
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize("part", ["edge", "enforcer", "aggregator", "admin", "redis", "kafka", "clickhouse"])
async def test_books_agree_after_kill_9(cluster: SimulatedCluster, part: str) -> None:
    async with cluster.gateway() as gateway:
        keys = await governed_keys(gateway, part)
        traffic = Traffic(gateway, [key.value for key in keys], clients=8, pace_ms=40)
        async with traffic.running():
            await eventually(lambda: traffic.answered >= 20, 90)
            await kill_and_restart(cluster, part)
            before = traffic.answered
            await eventually(lambda: traffic.answered >= before + 20, 90)
        if part in ("kafka", "clickhouse"):
            # Requests are served while the log or the analytics are away, and get there later.
            assert traffic.statuses[503] == 0
        logged = await assert_books_agree(gateway)
        mine = [usage for usage in logged.values() if usage.virtual_key_id in {key.id for key in keys}]
        assert len(mine) >= traffic.answered


def is_admitted(operation: wire.Operation, reply: wire.Reply | None) -> bool:
    """Admitted, and the edge does not know it yet: nothing was forwarded."""
    return isinstance(operation, wire.Admit) and isinstance(reply, wire.Admitted)


def is_settling(operation: wire.Operation, reply: wire.Reply | None) -> bool:
    """The event is in the outbox, the settlement on its way."""
    return isinstance(operation, wire.Settle) and reply is None


@pytest.mark.parametrize(
    ("step", "outcome", "served"), [(is_admitted, "expired", 0), (is_settling, "completed", 1)], ids=["admit", "settle"]
)
async def test_the_edge_dies_at_the_worst_step(
    cluster: SimulatedCluster,
    step: Callable[[wire.Operation, wire.Reply | None], bool],
    outcome: str,
    served: int,
) -> None:
    edge = cluster.services["edge"]
    async with cluster.gateway() as gateway:
        (key, *_) = await governed_keys(gateway, f"step {outcome}")
        before = len(await gateway.provider.served())
        own_url = edge.env["BURSAR_ENFORCER_URL"]
        async with EnforcerTap(own_url, step, edge.kill9) as tap:
            edge.kill9()
            edge.env["BURSAR_ENFORCER_URL"] = tap.url
            await cluster.start_service("edge")
            sim = {"input-tokens": 1000, "output-tokens": 200}
            answer = await gateway.message(key.value, sim=sim)
            assert await eventually(lambda: tap.broken, 60)
            assert (answer.status == 200 and answer.complete) == bool(served)
        edge.env["BURSAR_ENFORCER_URL"] = own_url
        await cluster.start_service("edge")

        async def closed() -> bool:
            ends = {
                usage.outcome for usage in (await gateway.logged_usage()).values() if usage.virtual_key_id == key.id
            }
            return outcome in ends

        # Nobody renews the hold of a request that was never sent: it expires, charged at what it held. One that was
        # answered may expire as well while the edge starts, until its event is shipped.
        await eventually(closed, 90)
        logged = await assert_books_agree(gateway)
        (usage,) = [usage for usage in logged.values() if usage.virtual_key_id == key.id]
        assert usage.outcome == outcome
        assert len(await gateway.provider.served()) == before + served
        if served:
            assert usage.cost_nusd == 1000 * 3_000 + 200 * 15_000
        else:
            assert usage.estimated
            assert usage.cost_nusd == usage.amounts.n > 0


async def test_the_edge_dies_with_the_answer_sent_and_its_event_not_in_the_outbox(cluster: SimulatedCluster) -> None:
    """The one step at which a served request leaves no event of the edge's: its hold must account for it."""
    edge = cluster.services["edge"]
    outbox = sqlite3.connect(Path(edge.env["BURSAR_OUTBOX_DIR"]) / OUTBOX_FILE, timeout=60, isolation_level=None)
    async with cluster.gateway() as gateway:
        (key, *_) = await governed_keys(gateway, "no event")
        before = len(await gateway.provider.served())
        try:
            outbox.execute("BEGIN IMMEDIATE")  # the edge's own writing waits for this lock
            answer = await gateway.message(key.value, sim={"input-tokens": 1000, "output-tokens": 200})
            assert answer.status == 200
            assert answer.complete
            edge.kill9()
            outbox.execute("ROLLBACK")
        finally:
            outbox.close()
        await cluster.start_service("edge")
        assert len(await gateway.provider.served()) == before + 1

        async def closed() -> bool:
            return any(usage.virtual_key_id == key.id for usage in (await gateway.logged_usage()).values())

        await eventually(closed, 90)
        logged = await assert_books_agree(gateway)
        (usage,) = [usage for usage in logged.values() if usage.virtual_key_id == key.id]
        assert (usage.outcome, usage.estimated) == ("expired", True)
        assert usage.cost_nusd >= 1000 * 3_000 + 200 * 15_000


async def test_a_clean_stop_needs_no_kafka(cluster: SimulatedCluster) -> None:
    """The last test of this file: afterwards nothing runs any more."""
    async with cluster.gateway() as gateway:
        (key, *_) = await governed_keys(gateway, "stop")
        assert (await gateway.message(key.value)).status == 200
        await assert_books_agree(gateway)

    async def shipped() -> bool:
        async with ClientSession() as session:
            token = {wire.INTERNAL_TOKEN_HEADER: cluster.internal_token}
            return (await scrape(session, cluster.url, **token)).one("bursar_edge_outbox_events") == 0

    # What is in every book already may not have been acknowledged to the edge yet.
    await eventually(shipped)
    cluster.kafka.kill9()
    await asyncio.sleep(1)  # the clients notice and are in the middle of trying again
    for name in ("edge", "admin", "aggregator", "enforcer"):
        service = cluster.services[name]
        assert await asyncio.to_thread(service.terminate, 60) == 0, f"{name}: {service.output()[-4000:]}"
        assert "CancelledError" not in service.output(), f"{name}: {service.output()[-4000:]}"
        assert "Traceback" not in service.output(), f"{name}: {service.output()[-4000:]}"
