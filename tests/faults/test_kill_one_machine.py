"""``kill -9`` of every part of one machine in the middle of traffic: the books agree afterwards, to the nano-dollar."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import eventually
from tests.harness.books import assert_books_agree
from tests.harness.one_machine import OneMachine
from tests.harness.traffic import Traffic, governed_keys

pytestmark = [pytest.mark.timeout(600)]

HOLD_TTL_S = "6"
"""The shortest allowed: orphaned holds expire within the test."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    with OneMachine(tmp_path_factory.mktemp("kill"), BURSAR_HOLD_TTL_S=HOLD_TTL_S) as machine:
        yield machine


@pytest.mark.parametrize("part", ["bursar_edge", "bursar_enforcer", "redis", "bursar_aggregator", "bursar_admin"])
async def test_books_agree_after_kill_9(machine: OneMachine, part: str) -> None:
    machine.wait_healthy()
    async with machine.gateway() as gateway:
        keys = await governed_keys(gateway, part)
        traffic = Traffic(gateway, [key.value for key in keys], clients=8, pace_ms=40)
        async with traffic.running():
            await eventually(lambda: traffic.answered >= 20, 90)
            machine.kill9(part)
            before = traffic.answered
            await asyncio.sleep(1)
            await asyncio.to_thread(machine.wait_healthy)
            await eventually(lambda: traffic.answered >= before + 20, 90)
        assert traffic.answered >= 40
        logged = await assert_books_agree(gateway)
        mine = [usage for usage in logged.values() if usage.virtual_key_id in {key.id for key in keys}]
        assert len(mine) >= traffic.answered
        assert {usage.outcome for usage in mine} >= {"completed"}
        for usage in mine:
            assert len([counter for counter in usage.charged_to if counter.startswith("n:")]) == 4


async def test_books_agree_after_kill_9_of_everything(tmp_path: Path) -> None:
    with OneMachine(tmp_path, BURSAR_HOLD_TTL_S=HOLD_TTL_S) as machine:
        async with machine.gateway() as gateway:
            keys = await governed_keys(gateway, "all")
            traffic = Traffic(gateway, [key.value for key in keys], clients=8, pace_ms=40)
            async with traffic.running():
                await eventually(lambda: traffic.answered >= 20, 90)
                machine.up.kill9()
                await asyncio.sleep(1)
                await asyncio.to_thread(machine.start)
                await eventually(lambda: traffic.answered >= 40, 90)
        async with machine.gateway() as gateway:
            logged = await assert_books_agree(gateway)
            assert len(logged) >= 40
