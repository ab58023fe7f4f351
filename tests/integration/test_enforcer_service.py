"""The enforcer as a process: documents come from the governance topic, answers over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bursar_common.wire import (
    Admitted,
    Amounts,
    Balances,
    GovernancePosition,
    Ok,
    Settle,
)
from tests.integration.enforcer_world import World


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
