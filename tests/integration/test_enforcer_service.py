"""The enforcer as a process: documents come from the governance topic, answers over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bursar_common.eventlog.port import NewRecord
from bursar_common.events import RETRY_HEADER
from bursar_common.wire import (
    INTERNAL_TOKEN_HEADER,
    Admitted,
    Amounts,
    Balances,
    GovernancePosition,
    Ok,
    Settle,
)
from tests.harness import RedisServer, ServiceProcess, eventually
from tests.harness.processes import READY_WAIT_S
from tests.integration.enforcer_world import TOKEN, WAIT_S, World, usage_event


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path) as world:
        yield world


async def test_admits_settles_and_shows_the_balance(world: World) -> None:
    await world.govern_default()
    admitted = await world.admit("r1")
    assert isinstance(admitted, Admitted), admitted
    assert [entry.counter.split(":")[0] for entry in admitted.hold] == ["n", "n", "n"]
    assert admitted.header == "x-api-key"
    assert admitted.owners.team == "platform"
    assert admitted.route.provider == "anthropic"
    counters = tuple(entry.counter for entry in admitted.hold)
    (held,) = await world.batch(Balances(counters))
    assert [(b.spent, b.held, b.open_holds) for b in held.balances] == [(0, admitted.expected_nusd, 1)] * 3
    (settled,) = await world.batch(Settle("r1", admitted.hold, Amounts(n=1234, t=5, T=6, r=1), "completed"))
    assert isinstance(settled, Ok)
    assert [(b.spent, b.held, b.open_holds) for b in settled.balances] == [(1234, 0, 0)] * 3
    (again,) = await world.batch(Settle("r1", admitted.hold, Amounts(n=99, r=1), "completed"))
    assert again == Ok()
    (after,) = await world.batch(Balances(counters))
    assert [b.spent for b in after.balances] == [1234] * 3


async def test_a_price_book_is_served_and_the_governance_position_moves(world: World) -> None:
    await world.govern_default()
    admitted = await world.admit("r1")
    assert isinstance(admitted, Admitted)
    status, body = await world.get(f"/internal/v1/price-books/{admitted.price_book_id}")
    assert status == 200
    assert b"claude" in body
    (position,) = await world.batch(GovernancePosition())
    assert position.next_offset == world.governance_events


async def test_only_the_internal_token_is_let_in(world: World) -> None:
    async with world.session.post("http://bursar/internal/v1/batch", data=b"[]") as response:
        assert response.status == 401
    async with world.session.get("http://bursar/internal/v1/price-books/x") as response:
        assert response.status == 401
    headers = {INTERNAL_TOKEN_HEADER: TOKEN}
    async with world.session.post("http://bursar/internal/v1/batch", data=b"[{}]", headers=headers) as response:
        assert response.status == 400
    too_many = b"[" + b",".join([b'{"op":"governance_position"}'] * 513) + b"]"
    async with world.session.post("http://bursar/internal/v1/batch", data=too_many, headers=headers) as response:
        assert response.status == 413
    status, _ = await world.get("/internal/v1/price-books/nothing")
    assert status == 404


async def test_debug_lines_show_the_state_after_each_script(world: World) -> None:
    await world.govern_default()
    admitted = await world.admit("r1")
    (entry,) = [entry for entry in admitted.hold if entry.counter.startswith("n:bk:")]
    await world.batch(Settle("r1", admitted.hold, Amounts(n=7, r=1), "completed"))
    lines = [line for line in world.script_replies() if line["counters"]]
    assert [line["script"] for line in lines] == ["admit", "close"]
    (after,) = [counter for counter in lines[0]["counters"] if counter[0] == entry.counter]
    assert after == [entry.counter, 0, entry.expected, entry.bound, 10_000_000_000]
    (after,) = [counter for counter in lines[1]["counters"] if counter[0] == entry.counter]
    assert after[1:4] == [7, 0, 0]


async def test_a_killed_enforcer_continues_and_a_stopped_one_exits_0(world: World) -> None:
    await world.govern_default()
    admitted = await world.admit("r1")
    world.process.kill9()
    await world.process.start_ready()
    # Redis knew all along: admission is open at once, the hold is there.
    assert (await world.admit("r1")).hold == admitted.hold
    (settled,) = await world.batch(Settle("r1", admitted.hold, Amounts(n=5, r=1), "completed"))
    assert {balance.spent for balance in settled.balances} == {5}
    assert world.process.terminate() == 0


def started(folder: Path, **env: str) -> tuple[int, str]:
    """Exit code and output of an enforcer that cannot start."""
    world = World(folder)
    process = world.service("refused", **env)
    process.start()
    code = process.wait(READY_WAIT_S)
    return code, process.output()


def test_it_refuses_to_start_with_one_sentence(tmp_path: Path) -> None:
    code, output = started(tmp_path / "a", BURSAR_KEY_SECRET="")
    assert code == 2
    assert output.strip() == "BURSAR_KEY_SECRET is not set, and this service cannot run without it."
    code, output = started(tmp_path / "b", BURSAR_REDIS_URL="http://user:hunter2@somewhere")
    assert code == 2
    assert "redis://host:port/0" in output
    assert "hunter2" not in output
    with RedisServer(tmp_path / "evicting", arguments=["--maxmemory-policy", "allkeys-lru"]) as redis:
        code, output = started(tmp_path / "c", BURSAR_REDIS_URL=redis.url)
    assert code == 2
    assert "noeviction" in output
    assert "Traceback" not in output


async def test_the_rebuild_command(world: World) -> None:
    await world.govern_default()
    admitted = await world.admit("r1")
    counters = tuple(entry.counter for entry in admitted.hold)
    await world.batch(Settle("r1", admitted.hold, Amounts(n=123, r=1), "completed"))
    await world.log.append([usage_event("r1", counters, Amounts(n=123, r=1))])
    process = ServiceProcess(
        "bursar_enforcer.rebuild",
        env={**world.env, "BURSAR_HOLD_TTL_S": "6"},
        address="127.0.0.1:1",
        folder=world.folder,
        name="rebuild",
    )
    process.start()
    assert await asyncio.to_thread(process.wait, READY_WAIT_S) == 0
    assert "admission is open" in process.output()
    assert {balance.spent for balance in await world.balances(*counters)} == {123}
    assert isinstance(await world.admit("r2"), Admitted)


async def test_its_state_is_told_and_a_retried_dead_letter_is_not_charged_twice(world: World) -> None:
    await world.govern_default()
    admitted = await world.admit("r1")
    assert isinstance(admitted, Admitted)
    status, body = await world.get("/internal/v1/state")
    assert status == 200
    state = json.loads(body)
    assert (state["status"], state["admission"], state["open_holds"]) == ("ok", "open", 1)
    assert state["positions"]["governance"] == world.governance_events
    counters = tuple(entry.counter for entry in admitted.hold)
    charged, retried = (usage_event(name, counters, Amounts(n=100, r=1)) for name in ("r2", "r3"))
    marked = NewRecord(
        retried.topic, retried.key, retried.value, ((RETRY_HEADER, b"bursar.usage.v1.dlq:0:0"), *retried.headers)
    )
    await world.log.append([charged, marked])

    async def applied() -> bool:
        return bool(json.loads((await world.get("/internal/v1/state"))[1])["positions"].get("usage:0") == 2)

    await eventually(applied, WAIT_S)
    (after,) = await world.batch(Balances(counters))
    assert [balance.spent for balance in after.balances] == [100] * 3
