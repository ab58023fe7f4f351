"""A Kafka broker of the test run's own: one KRaft node from plain jars, on free ports, with its data in a folder."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.harness.processes import READY_WAIT_S, Process, free_port
from tests.harness.require import require

_JVM = ("-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_STARTED = "Kafka Server started"


class KafkaServer:
    """``bootstrap`` is what ``BURSAR_KAFKA_BOOTSTRAP`` takes; the same after a restart. No automatic topic creation."""

    def __init__(self, folder: Path, *, protocol: str = "PLAINTEXT", extra: Mapping[str, str] | None = None) -> None:
        """``protocol`` of the listener for clients (``SASL_SSL``, …) and the broker's own ``extra`` settings for it."""
        jars = require("kafka")
        self.folder = folder
        self.port, controller_port = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._classpath = f"{jars}/*"
        self._config = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": f"{protocol}://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"{protocol}://127.0.0.1:{self.port}",
            "inter.broker.listener.name": protocol,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": f"{protocol}:{protocol},CONTROLLER:PLAINTEXT",
            "log.dirs": str(folder / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "num.io.threads": "2",
            "num.network.threads": "2",
            "log.cleaner.dedupe.buffer.size": str(4 << 20),
            "delete.topic.enable": "true",
            # A killed broker must be let back in at once, not after its session has timed out.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            **(extra or {}),
        }
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.process = Process(
            [require("java"), *_JVM, "-cp", self._classpath, "kafka.Kafka", self._config],
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C"},
            cwd=folder,
            log_path=folder / "kafka.log",
        )

    def start(self) -> KafkaServer:
        """Start (again) on the same data; returns once it serves."""
        if not (self.folder / "data" / "meta.properties").exists():
            self._format()
        self.process.start()
        deadline = time.monotonic() + READY_WAIT_S
        while _STARTED not in self.process.output():
            if not self.process.running or time.monotonic() > deadline:
                raise AssertionError(f"Kafka did not start:\n{self.process.output()[-4000:]}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """Clean stop. Idempotent."""
        self.process.stop()

    def kill9(self) -> None:
        self.process.kill9()

    def restart(self) -> None:
        self.stop()
        self.start()

    async def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        """A topic with one replica; ``config`` with ``_`` for the dots of Kafka's names. Returns once it serves."""
        options = {key.replace("_", "."): value for key, value in config.items()}
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            answer = await admin.create_topics(
                [NewTopic(name, partitions, 1, topic_configs=options)], timeout_ms=30_000
            )
            for topic, code, *why in answer.topic_errors:
                assert code == 0, (topic, code, why)
            await self._until_topics(admin, lambda names: name in names)
        finally:
            await admin.close()

    async def wipe(self) -> None:
        """Delete all topics (and with them what groups committed), so that a test starts as on a new cluster."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            names = [name for name in await admin.list_topics() if not name.startswith("__consumer")]
            if names:
                await admin.delete_topics(names, timeout_ms=30_000)
                await self._until_topics(admin, lambda left: not set(names) & left)
        finally:
            await admin.close()

    async def _until_topics(self, admin: AIOKafkaAdminClient, condition) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + READY_WAIT_S
        while not condition(set(await admin.list_topics())):
            assert time.monotonic() < deadline, "Kafka's topics did not become as asked for"
            await asyncio.sleep(0.05)

    def _format(self) -> None:
        cluster_id = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=").replace("-", "A")
        command = ["java", *_JVM, "-cp", self._classpath, "kafka.tools.StorageTool"]
        subprocess.run(
            [*command, "format", "-t", cluster_id, "-c", str(self._config)],
            check=True, capture_output=True, timeout=READY_WAIT_S,
        )  # fmt: skip

    def __enter__(self) -> KafkaServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def secured_kafka(folder: Path, certificates: Path, *, user: str, password: str) -> KafkaServer:
    """A broker that speaks SASL_SSL alone, with the certificates of that folder, and lets one user in."""
    jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    return KafkaServer(
        folder,
        protocol="SASL_SSL",
        extra={
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(certificates / "ca.pem"),
            "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                f'{jaas} username="broker" password="b" user_broker="b" user_{user}="{password}";'
            ),
        },
    )
