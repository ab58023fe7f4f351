"""Fixtures of all tests: real engines, started for the test run and killed with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.harness")

from tests.harness import KafkaServer, RedisServer
from tests.harness.gateway import Gateway
from tests.harness.one_machine import OneMachine
from tests.harness.redis_server import KINDS
from tests.harness.simulated_cluster import SimulatedCluster


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One broker for the whole run; topics stay from test to test. Do not stop or kill it: make a KafkaServer of your
    own for that."""
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
async def fresh_kafka(kafka_server: KafkaServer) -> KafkaServer:
    """The run's broker without any topic."""
    await kafka_server.wipe()
    return kafka_server


@pytest.fixture(params=[pytest.param(kind, marks=[pytest.mark.redis7] if kind == "redis7" else []) for kind in KINDS])
def redis_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own; the test runs once on the embedded Valkey and once on Redis 7."""
    with RedisServer(tmp_path / "redis", request.param) as server:
        yield server


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own: the embedded Valkey only."""
    with RedisServer(tmp_path / "redis", "valkey") as server:
        yield server


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    """``bursar up`` with a simulated provider, for all tests of a file."""
    with OneMachine(tmp_path_factory.mktemp("one_machine")) as machine:
        yield machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedCluster]:
    """Kafka, Redis, ClickHouse's interface and the four services as docker-compose.yml configures them, with a
    simulated provider, for all tests of a file."""
    with SimulatedCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(params=["one_machine", pytest.param("cluster", marks=pytest.mark.kafka)])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    """A whole Bursar, from outside; the test runs on one machine and on the cluster shape."""
    shape = request.getfixturevalue(request.param)
    async with shape.gateway() as found:
        yield found
