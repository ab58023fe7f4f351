"""The cluster shape as separate processes here, each with the environment that docker-compose.yml gives it."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness.compose_file import compose_environment
from tests.harness.kafka_server import KafkaServer
from tests.harness.processes import PYTHON_PATH, READY_WAIT_S, Process, ServiceProcess, free_port
from tests.harness.redis_server import RedisServer

SERVICES = ("enforcer", "aggregator", "admin", "edge")
MODULES = {
    "enforcer": "bursar_enforcer",
    "aggregator": "bursar_aggregator",
    "admin": "bursar_admin",
    "edge": "bursar_edge",
}
_PORTS = {"edge": 8080, "enforcer": 8081, "aggregator": 8082, "admin": 8083}


class Cluster:
    """Kafka, Redis, ClickHouse's interface over chDB, and the four services. ``folder`` takes all state and logs.

    ``variables`` are those of the compose file (``BURSAR_ANTHROPIC_BASE_URL``, …) beside the secrets, which are made
    here; ``overrides`` are put on top of every service's environment. ``kafka``: a running broker to use (it is neither
    stopped nor wiped here), else one of its own. ``redis``: one to start instead of ``redis_kind``. Stop and kill
    parts through ``services``, ``kafka``, ``redis``, ``clickhouse``; ``start_service`` returns once one is ready."""

    def __init__(
        self,
        folder: Path,
        *,
        variables: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
        kafka: KafkaServer | None = None,
        redis_kind: str = "valkey",
        redis: RedisServer | None = None,
    ) -> None:
        self.folder = folder
        self._own_kafka = kafka is None
        self.kafka = kafka or KafkaServer(folder / "kafka")
        self.redis = redis or RedisServer(folder / "redis", redis_kind)
        self.variables = {
            "BURSAR_INTERNAL_TOKEN": secrets.token_hex(32),
            "BURSAR_ADMIN_TOKEN": secrets.token_hex(32),
            "BURSAR_KEY_SECRET": secrets.token_hex(32),
            "CLICKHOUSE_PASSWORD": "",
            **(variables or {}),
        }
        # The front over chDB lets schema and inserts in for the internal token, given as the password.
        self.variables["CLICKHOUSE_PASSWORD"] = self.internal_token
        self._overrides = dict(overrides or {})
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in (*SERVICES, "clickhouse")}
        self.clickhouse = ServiceProcess(
            "bursar_aggregator.clickhouse_front",
            env={
                "BURSAR_HOME": str(folder / "clickhouse"),
                "BURSAR_CLICKHOUSE_LISTEN": self.addresses["clickhouse"],
                "BURSAR_INTERNAL_TOKEN": self.internal_token,
            },
            address=self.addresses["clickhouse"],
            folder=folder,
            cwd=folder / "clickhouse",
            name="clickhouse",
        )
        self.services = {
            name: ServiceProcess(
                MODULES[name],
                env=self.environment(name),
                address=self.addresses[name],
                folder=folder,
                cwd=folder / name,
                name=name,
            )
            for name in SERVICES
        }

    @property
    def internal_token(self) -> str:
        return self.variables["BURSAR_INTERNAL_TOKEN"]

    @property
    def admin_token(self) -> str:
        return self.variables["BURSAR_ADMIN_TOKEN"]

    @property
    def admin_headers(self) -> dict[str, str]:
        """What a call of the admin API carries."""
        return {"Authorization": f"Bearer {self.admin_token}"}

    @property
    def url(self) -> str:
        """The edge, as clients reach it."""
        return f"http://{self.addresses['edge']}"

    @property
    def admin_url(self) -> str:
        return f"http://{self.addresses['admin']}"

    @property
    def enforcer_url(self) -> str:
        return f"http://{self.addresses['enforcer']}"

    @property
    def clickhouse_url(self) -> str:
        """For ClickHouse clients, with the user and password that may do everything."""
        return f"http://bursar:{self.internal_token}@{self.addresses['clickhouse']}/bursar"

    def environment(self, service: str) -> dict[str, str]:
        """What docker-compose.yml gives ``service``, with this cluster's addresses and folders."""
        replacements = {
            "kafka:9092": self.kafka.bootstrap,
            "redis://redis:6379/0": self.redis.url,
            "clickhouse:8123": self.addresses["clickhouse"],
            "enforcer:8081": self.addresses["enforcer"],
            "/var/lib/bursar": str(self.folder / service),
            **{f"0.0.0.0:{port}": self.addresses[name] for name, port in _PORTS.items()},
        }
        return compose_environment(service, replacements, self.variables) | self._overrides

    def settings(self, service: str) -> Any:
        """The ``Settings`` of a service, for tests that open its log themselves."""
        from bursar_common.settings import load_settings

        return load_settings(self.environment(service))

    async def start(self) -> Cluster:
        """Start everything in the order of the compose file's ``depends_on``; returns once all are ready."""
        if self._own_kafka:
            self.kafka.start()
        self.redis.start()
        self.clickhouse.start()
        self.apply_topics()
        await self._clickhouse_ready()
        await self.start_service("enforcer")
        for name in ("aggregator", "admin", "edge"):
            self.services[name].start()
        for name in ("aggregator", "admin", "edge"):
            await self.services[name].ready()
        return self

    async def start_service(self, name: str) -> None:
        await self.services[name].start_ready()

    async def start_clickhouse(self) -> None:
        """Again, after it was killed; returns once it answers."""
        self.clickhouse.start()
        await self._clickhouse_ready()

    def apply_topics(self) -> None:
        """The one-shot service ``topics``."""
        inherited = {name: value for name, value in self.services["edge"].env.items() if not name.startswith("BURSAR_")}
        one_shot = Process(
            [sys.executable, "-m", "bursar", "topics", "apply"],
            env={**inherited, "PYTHONPATH": PYTHON_PATH, **self.environment("topics")},
            cwd=self.folder,
            log_path=self.folder / "topics.log",
        )
        one_shot.start()
        assert one_shot.wait(READY_WAIT_S) == 0, one_shot.output()

    def stop(self) -> None:
        """End everything. Never raises."""
        for name in reversed(SERVICES):
            self.services[name].kill9()
        self.clickhouse.kill9()
        self.redis.kill9()
        if self._own_kafka:
            self.kafka.kill9()

    async def _clickhouse_ready(self) -> None:
        from tests.harness.waiting import eventually

        async def answers() -> bool:
            assert self.clickhouse.running, self.clickhouse.output()[-4000:]
            return (await self.clickhouse.get("/ping"))[0] == 200

        await eventually(answers, READY_WAIT_S)

    async def __aenter__(self) -> Cluster:
        try:
            return await self.start()
        except BaseException:
            self.stop()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.stop()
