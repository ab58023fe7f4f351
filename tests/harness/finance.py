"""admin-api, a real ClickHouse and the aggregator's own loops on one log: for tests of what finance is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from bursar_aggregator.arrivals import FirstArrivals
from bursar_aggregator.books import follow_books
from bursar_aggregator.log_worker import GROUP, LogWorker
from bursar_aggregator.writer import UsageWriter
from bursar_common.clock import SystemClock
from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import EventLog, NewRecord
from bursar_common.events import CORRECTIONS_TOPIC, USAGE_TOPIC, Usage
from tests.harness.admin import Admin, running_admin
from tests.harness.clickhouse_front import TOKEN, ClickHouseFront
from tests.harness.patience import patient_statements
from tests.harness.usage_events import STARTED_AT_MS, usage_record

DAY_MS = 86_400_000
WRITTEN_WITHIN_S = 120.0


class MovableClock(SystemClock):
    """The wall clock of a test; it begins ten days after the month of the events."""

    def __init__(self) -> None:
        self.at_ms = STARTED_AT_MS + 20 * DAY_MS

    def now_ms(self) -> int:
        return self.at_ms


class Finance:
    """A running installation as far as finance sees it."""

    def __init__(self, admin: Admin, log: EventLog, clock: MovableClock, front: ClickHouseFront) -> None:
        self.admin = admin
        self.log = log
        self.clock = clock
        self.front = front

    async def append(self, *events: Usage) -> None:
        """Append and wait until the aggregator has written them."""
        await self.log.append([usage_record(event) for event in events])
        await self.written(USAGE_TOPIC, GROUP)

    async def append_correction(self, record: NewRecord) -> None:
        await self.log.append([record])
        await self.written(CORRECTIONS_TOPIC, "bursar-usage-aggregator-books")

    async def written(self, topic: str, group: str) -> None:
        """Wait until the aggregator has written the topic to its end."""
        end = await self.log.end_offset(topic, 0)
        async with asyncio.timeout(WRITTEN_WITHIN_S):
            while (await self.log.committed(group, topic, 0) or 0) < end:
                await asyncio.sleep(0.05)

    async def close(self, month: str) -> tuple[int, dict[str, object]]:
        status, answer, _ = await self.admin.call("POST", "/api/finance/closes", {"month": month})
        return status, answer

    async def get(self, path: str) -> object:
        status, answer, _ = await self.admin.call("GET", path)
        assert status == 200, answer
        return answer


def asked_patiently(front: ClickHouseFront, monkeypatch: pytest.MonkeyPatch) -> None:
    """For pages whose statements may take minutes, on a machine with other work. They are asked as a cluster asks them,
    by a user that may do everything: the engine stops those of readers after half a minute, whoever waits."""
    front.url = f"http://bursar:{TOKEN}@{front.address}/bursar"
    patient_statements(monkeypatch)


@asynccontextmanager
async def running_finance(home: Path, front: ClickHouseFront) -> AsyncIterator[Finance]:
    """On ``home``, with a ClickHouse to which the schema was applied."""
    clock = MovableClock()
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(running_admin(home, clickhouse_url=front.url, clock=clock))
        analytics = front.inner()
        stack.push_async_callback(analytics.close)
        log = open_log(admin.desk_settings)
        await log.start()
        stack.push_async_callback(log.close)
        writer = UsageWriter(analytics, log, keep=FirstArrivals(analytics, lambda: clock.now_ms() / 1000).keep)
        stop = asyncio.Event()
        working = asyncio.create_task(LogWorker(log, writer).run(stop))
        follow_books(analytics, log, stack)
        try:
            yield Finance(admin, log, clock, front)
        finally:
            stop.set()
            await asyncio.gather(working, return_exceptions=True)
