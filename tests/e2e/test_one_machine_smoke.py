"""One request all the way on one machine: gateway, ledger, log, ClickHouse, the simulator's own count, and rebuilds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import eventually
from tests.harness.gateway import CreatedKey, Gateway
from tests.harness.one_machine import OneMachine

pytestmark = pytest.mark.timeout(400)

MODEL = "claude-opus-4-8"
NUSD_PER_TOKEN = {"input_tokens": 5000, "cache_read_tokens": 500, "cache_write_5m_tokens": 6250, "output_tokens": 25000}
"""List prices of the model, nano-dollars a token."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    with OneMachine(tmp_path_factory.mktemp("smoke")) as machine:
        yield machine


@pytest.fixture
async def gateway(machine: OneMachine) -> AsyncIterator[Gateway]:
    machine.wait_healthy()
    async with machine.gateway() as gateway:
        await gateway.reset_simulator()
        yield gateway


def cost_nusd(usage: dict[str, int]) -> int:
    return sum(usage[name] * price for name, price in NUSD_PER_TOKEN.items())


async def spent_nusd(gateway: Gateway, key: CreatedKey) -> int:
    budget: dict[str, Any] = (await gateway.key(key.id))["budgets"][0]
    return int(budget["spent_nusd"]) if budget["held_nusd"] == 0 else -1


async def paid(gateway: Gateway, name: str) -> CreatedKey:
    """A key that made a JSON, a streamed and a cut request."""
    key = await gateway.create_key(name, budget={"max_limit": 100, "reset_duration": "1M"})
    counts = {"input-tokens": 12, "cache-read-tokens": 15000, "cache-write-5m-tokens": 5000, "output-tokens": 70}
    assert (await gateway.message(key.value, model=MODEL, sim=counts)).status == 200
    streamed = await gateway.message(key.value, model=MODEL, stream=True, sim=counts | {"events": 7})
    assert streamed.body.endswith(b'{"type":"message_stop"}\n\n')
    await gateway.message(key.value, model=MODEL, stream=True, sim=counts | {"drop": "after-event:5"})
    return key


async def test_the_books_agree_with_what_the_provider_served(gateway: Gateway) -> None:
    key = await paid(gateway, "books")
    rows = await gateway.usage_rows(key.id, at_least=3)
    outcomes = sorted(row["outcome"] for row in rows)
    assert outcomes == ["completed", "completed", "interrupted"]
    whole = [row for row in rows if not row["estimated"]]
    served = [record for record in await gateway.provider.served() if record["outcome"] == "completed"]
    assert [row["outcome"] for row in whole] == ["completed"] * 2
    assert sum(row["cost_nusd"] for row in whole) == sum(cost_nusd(record["usage"]) for record in served)
    assert {row["upstream_request_id"] for row in whole} == {record["request_id"] for record in served}
    assert {row["provider"] for row in rows} == {"anthropic"}
    total = sum(row["cost_nusd"] for row in rows)

    async def ledger_agrees() -> bool:
        return await spent_nusd(gateway, key) == total

    await eventually(ledger_agrees)


async def test_keys_stay_here_and_the_credential_goes_up(gateway: Gateway) -> None:
    key = await gateway.create_key("upstream-headers")
    await gateway.message(key.value, model=MODEL, headers={"x-bursar-project": "p", "x-future-header": "kept"})
    [record] = await gateway.provider.served()
    sent = {name.lower(): value for name, value in record["headers"]}
    assert sent["x-api-key"] == "sk-ant-test-credential"
    assert sent["x-future-header"] == "kept"
    assert not any(key.value in value for value in sent.values())
    assert "x-bursar-project" not in sent


def rebuild(machine: OneMachine, store: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "bursar", "rebuild", store, "--home", str(machine.home)],
        env={name: os.environ[name] for name in ("PATH",)} | {"HOME": str(machine.folder)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


async def figures(gateway: Gateway, key: CreatedKey) -> tuple[int, int, int]:
    """Ledger, number of rows and their sum in ClickHouse."""
    rows = await gateway.query(
        f"SELECT count() AS n, sum(cost_nusd) AS c FROM bursar.usage WHERE virtual_key_id = '{key.id}'"
    )
    return await spent_nusd(gateway, key), int(rows[0]["n"]), int(rows[0]["c"])


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_both_stores_are_rebuilt_to_equal_figures(machine: OneMachine, running: bool) -> None:
    machine.wait_healthy()
    async with machine.gateway() as gateway:
        await gateway.reset_simulator()
        key = await paid(gateway, f"rebuild {running}")

        async def settled() -> tuple[int, int, int] | None:
            now = await figures(gateway, key)
            return now if now[1] == 3 and now[0] == now[2] else None

        before = await eventually(settled, 120)
        assert before[0] > 0
        if not running:
            assert machine.stop() == 0
        assert "Rebuilt the ledger" in rebuild(machine, "ledger")
        assert "Analytics rebuilt" in rebuild(machine, "analytics")
        if not running:
            machine.start()

        async def same() -> bool:
            return await figures(gateway, key) == before

        await eventually(same, 120)
        assert (await gateway.message(key.value, model=MODEL)).status == 200


async def test_the_machine_without_credentials_marks_its_traffic(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path / "bare")
    for name in ("BURSAR_ANTHROPIC_BASE_URL", "BURSAR_ANTHROPIC_API_KEY"):
        del machine.up.env[name]
    with machine:
        async with machine.gateway() as gateway:
            key = await gateway.create_key("bare")
            answer = await gateway.message(key.value, model=MODEL, sim={"output-tokens": 9})
            assert json.loads(answer.body)["usage"]["output_tokens"] == 9
            [row] = await gateway.usage_rows(key.id, at_least=1)
            assert row["provider"] == "simulator"
            assert await gateway.query("SELECT * FROM bursar.chargeback_monthly") == []
            assert await gateway.provider.served() == []
