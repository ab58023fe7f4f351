"""A budget whose window is changed opens with what ClickHouse and the ledger know was spent in the new window."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bursar_aggregator.migrations import load_migrations, migrate
from bursar_common.analytics import Analytics
from bursar_common.wire import INTERNAL_TOKEN_HEADER, Balance
from tests.harness import ServiceProcess
from tests.harness.admin import Admin, running_admin
from tests.harness.processes import free_port

TOKEN = "a-token-of-this-test"
NOW_MS = 1_795_000_000_000  # 2026-11-18 11:06:40 UTC
DAY_START_S = 1_794_960_000
KEYS = "/api/governance/virtual-keys"


class StoppedClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        import time

        return time.monotonic()


class Front:
    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/bursar"
        self.process = ServiceProcess(
            "bursar_aggregator.clickhouse_front",
            env={
                "BURSAR_HOME": str(folder / "analytics"),
                "BURSAR_CLICKHOUSE_LISTEN": f"127.0.0.1:{port}",
                "BURSAR_INTERNAL_TOKEN": TOKEN,
            },
            address=f"127.0.0.1:{port}",
            folder=folder,
        )

    async def prepare(self) -> None:
        await self.process.ready()
        analytics = Analytics(self.url, internal_token=TOKEN)
        await migrate(analytics, load_migrations())
        await analytics.close()

    async def insert(self, *rows: dict[str, Any]) -> None:
        lines = "\n".join(json.dumps({"outcome": "completed", "rank": 2, **row}) for row in rows)
        async with aiohttp.ClientSession() as session:
            async with session.post(
                self.url.removesuffix("bursar"),
                params={"query": "INSERT INTO bursar.usage_events FORMAT JSONEachRow"},
                data=lines.encode(),
                headers={INTERNAL_TOKEN_HEADER: TOKEN},
            ) as response:
                assert response.status == 200, await response.text()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ClickHouse nor the ledger is given up because the machine is busy: either is there, or is not."""
    monkeypatch.setattr("bursar_admin.spending.QUERY_TIMEOUT_S", 60.0)
    monkeypatch.setattr("bursar_admin.enforcer.CALL_TIMEOUT_S", 60.0)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    front = Front(tmp_path)
    with front.process:
        await front.prepare()
        yield front


def row(number: int, started_at_s: int, cost_nusd: int, *counters: str) -> dict[str, Any]:
    return {
        "request_id": f"r{number}",
        "event_id": f"usage:r{number}",
        "started_at": started_at_s,
        "cost_nusd": cost_nusd,
        "charged_n": cost_nusd,
        "charged_to": list(counters),
    }


async def monthly_key(admin: Admin) -> tuple[str, str, str]:
    """(path, budget id, its counter)"""
    budget = {"max_limit": 100, "reset_duration": "1M", "calendar_aligned": True}
    key = (await admin.create("virtual-keys", name="k", budget=budget))["virtual_key"]
    (counter,) = {name for name in admin.enforcer.asked if name.startswith("n:")}
    return f"{KEYS}/{key['id']}", key["budgets"][0]["id"], counter


async def opening(admin: Admin, path: str, **budget: Any) -> int:
    """The opening balance in the event that a change of the window wrote."""
    status, answer, _ = await admin.call("PATCH", path, {"budget": budget})
    assert status == 200, answer
    key = admin.desk.projection.virtual_keys[answer["virtual_key"]["id"]]
    return key.budgets[0].opening_nusd


async def test_a_shorter_window_opens_with_what_clickhouse_counts_in_it(tmp_path: Path, front: Front) -> None:
    async with running_admin(tmp_path, clock=StoppedClock(), clickhouse_url=front.url) as admin:
        path, budget_id, counter = await monthly_key(admin)
        admin.enforcer.balances[counter] = Balance(counter, 900, 0, 0)
        await front.insert(
            row(1, DAY_START_S - 1, 500, counter),
            row(2, DAY_START_S, 30, counter),
            row(3, DAY_START_S + 60, 70, "n:another:1:2", counter),
            row(4, DAY_START_S + 60, 1000, f"n:not-{budget_id}:1:2"),
        )
        assert await opening(admin, path, reset_duration="1d") == 100


async def test_a_longer_window_opens_with_the_larger_of_both(tmp_path: Path, front: Front) -> None:
    async with running_admin(tmp_path, clock=StoppedClock(), clickhouse_url=front.url) as admin:
        path, budget_id, counter = await monthly_key(admin)
        admin.enforcer.balances[counter] = Balance(counter, 900, 0, 0)
        earlier = f"n:{budget_id}:1790812800:1793491200"
        await front.insert(row(1, DAY_START_S, 800, counter), row(2, 1_791_000_000, 400, earlier))
        assert await opening(admin, path, reset_duration="1Q") == 1200


@pytest.mark.parametrize(("window", "expected"), [("1Q", 900), ("1d", 0)])
async def test_without_clickhouse_the_ledger_is_asked(tmp_path: Path, window: str, expected: int) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/bursar"
    async with running_admin(tmp_path, clock=StoppedClock(), clickhouse_url=nobody) as admin:
        path, _, counter = await monthly_key(admin)
        admin.enforcer.balances[counter] = Balance(counter, 900, 0, 0)
        assert await opening(admin, path, reset_duration=window) == expected


async def test_the_same_window_asks_nobody_and_keeps_its_id(tmp_path: Path) -> None:
    async with running_admin(tmp_path, clock=StoppedClock()) as admin:
        path, budget_id, _ = await monthly_key(admin)
        assert await opening(admin, path, max_limit=7, enforcement="strict") == 0
        _, answer, _ = await admin.call("GET", path)
        assert answer["virtual_key"]["budgets"][0]["id"] == budget_id
