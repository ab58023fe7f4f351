"""The cluster shape with the simulated provider behind it, as tests from outside use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from bursar_common.eventlog import open_log
from bursar_common.settings import load_settings
from tests.harness.cluster import Cluster
from tests.harness.gateway import Gateway
from tests.harness.kafka_server import KafkaServer
from tests.harness.redis_server import RedisServer
from tests.harness.simulated import SimulatedProvider


class SimulatedCluster(Cluster):
    """A Cluster whose provider ``anthropic`` is the simulator of this test. To be used with ``with``: it starts and
    ends outside of any event loop."""

    def __init__(
        self,
        folder: Path,
        *,
        kafka: KafkaServer | None = None,
        redis_kind: str = "valkey",
        redis: RedisServer | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.provider = SimulatedProvider(folder)
        variables = {
            "BURSAR_ANTHROPIC_BASE_URL": self.provider.url,
            "BURSAR_ANTHROPIC_API_KEY": "sk-ant-test-credential",
        }
        super().__init__(
            folder, variables=variables, kafka=kafka, redis_kind=redis_kind, redis=redis, overrides=overrides
        )

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Gateway]:
        log = open_log(load_settings(self.environment("enforcer")))
        await log.start()
        try:
            yield Gateway(
                shape="cluster",
                folder=self.folder,
                url=self.url,
                admin_url=self.admin_url,
                clickhouse_url=self.clickhouse_url.removesuffix("bursar"),
                enforcer_url=self.enforcer_url,
                internal_token=self.internal_token,
                provider=self.provider,
                log=log,
                admin_headers=self.admin_headers,
            )
        finally:
            await log.close()

    async def _start_all(self) -> None:
        await self.provider.start_ready()
        await self.start()

    def __enter__(self) -> SimulatedCluster:
        try:
            # A thread of its own: the fixture may be asked for while the test's event loop runs.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(lambda: asyncio.run(self._start_all())).result()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.provider.kill9()
