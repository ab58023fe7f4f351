"""The enforcer's /metrics: what its ledger holds is what is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bursar_common.clock import SystemClock
from bursar_common.wire import INTERNAL_TOKEN_HEADER, Admitted, Amounts, Refused, Settle
from bursar_enforcer.metrics import METRICS
from bursar_enforcer.shown_limits import KEPT_S, ShownLimits
from tests.harness import eventually
from tests.harness.scraping import Scraped, as_figures, scrape
from tests.integration.enforcer_world import TOKEN, WAIT_S, Inside, World, budget, limits_of_now


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path) as world:
        yield world


async def read(world: World) -> Scraped:
    return await scrape(world.session, "http://bursar")


async def test_what_is_spent_and_held_is_told(world: World) -> None:
    await world.govern_default(
        rate_limit=limits_of_now(), team={"budgets": (budget("bt", 10**11, enforcement="observe"),)}
    )
    first, second = await world.admit("r1"), await world.admit("r2")
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    await world.batch(Settle("r1", first.hold, Amounts(n=2_500_000_000, t=5, T=6, r=1), "completed"))
    assert isinstance(await world.admit("r3", model="no-such-model"), Refused)
    found = await read(world)
    key = {"owner_kind": "virtual_key", "owner": "alice", "customer": "acme", "team": "platform", "key": "alice"}
    held = second.expected_nusd / 1e9
    assert held > 0
    assert found.one("bursar_enforcer_budget_limit_usd", **key, budget="bk", window="1M", enforcement="standard") == 10
    assert found.one("bursar_enforcer_budget_spent_usd", **key) == 2.5
    assert found.one("bursar_enforcer_budget_held_usd", **key) == held
    assert found.one("bursar_enforcer_budget_used_ratio", **key) == 0.25
    assert found.one("bursar_enforcer_budget_remaining_ratio", **key) == pytest.approx(1 - 0.25 - held / 10)
    assert found.one("bursar_enforcer_budget_reset_timestamp_seconds", **key) > SystemClock().now_ms() / 1000
    assert as_figures(found, "bursar_enforcer_budget_used_ratio", "budget") == {"bk": 0.25, "bt": 0.025, "bc": 0.0025}
    assert found.one("bursar_enforcer_budget_spent_usd", budget="bt", enforcement="observe", owner="platform") == 2.5
    assert found.one("bursar_enforcer_rate_limit_used_ratio", limit="rr", unit="requests") == 0.1
    assert found.one("bursar_enforcer_rate_limit_used_ratio", limit="rt", unit="tokens") == 5e-06
    assert found.one("bursar_enforcer_limits_not_shown") == 0
    assert found.one("bursar_enforcer_open_holds") == 1
    assert 0 <= found.one("bursar_enforcer_stalest_hold_seconds") < 60
    assert found.one("bursar_enforcer_admission_open") == 1
    assert found.one("bursar_ready", service="budget-enforcer") == 1
    assert found.one("bursar_enforcer_operations_total", operation="admit") == 3
    assert found.one("bursar_enforcer_operations_total", operation="settle") == 1
    answers = as_figures(found, "bursar_enforcer_answers_total", "answer")
    assert (answers["admitted"], answers["refused"], answers["ok"]) == (2, 1, 1)
    assert found.one("bursar_enforcer_batch_seconds_count") >= 4
    told = {family.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for family in found.names}
    assert {metric.name for metric in METRICS} <= told


async def test_the_log_is_followed_to_its_end(world: World) -> None:
    await world.govern_default()

    async def caught_up() -> bool:
        lag = as_figures(await read(world), "bursar_enforcer_log_lag_records", "topic")
        return lag == {"bursar.governance.v1": 0, "bursar.usage.v1": 0}

    await eventually(caught_up, WAIT_S)


async def test_without_redis_it_is_unready_and_still_answers(world: World) -> None:
    await world.govern_default()
    world.redis.kill9()

    async def unready() -> bool:
        found = await read(world)
        return found.one("bursar_ready") == 0 and not found.all("bursar_enforcer_open_holds")

    await eventually(unready, WAIT_S)


async def test_strangers_read_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.env["BURSAR_METRICS_TOKEN"] = "for-prometheus"
    world.process = world.service("enforcer")
    async with world:
        async with world.session.get("http://bursar/metrics") as answer:
            assert answer.status == 401
        for headers in ({"authorization": "Bearer for-prometheus"}, {INTERNAL_TOKEN_HEADER: TOKEN}):
            async with world.session.get("http://bursar/metrics", headers=headers) as answer:
                assert answer.status == 200
                assert TOKEN not in await answer.text()


class Later(SystemClock):
    """A clock that stands still, but for being put forward."""

    ahead_s = 0.0

    def __init__(self) -> None:
        self._began_ms, self._began_s = super().now_ms(), super().monotonic_s()

    def now_ms(self) -> int:
        return self._began_ms + int(self.ahead_s * 1000)

    def monotonic_s(self) -> float:
        return self._began_s + self.ahead_s


async def test_edits_show_and_windows_roll_and_only_the_nearest_to_their_end_are_shown(tmp_path: Path) -> None:
    async with Inside(tmp_path) as inside:
        clock = Later()
        begun: dict[str, Any] = {"anchored_at_s": clock.now_ms() // 1000}  # no window ends but by the clock
        hourly = {"window": "1h", **begun}
        await inside.govern_default(
            budgets=(budget("bk", 10**9, **hourly),),
            team={"budgets": (budget("bt", 10**11, **begun),)},
            customer={"budgets": (budget("bc", 10**12, **begun),)},
        )
        shown = ShownLimits(inside.main.ledger, clock, most=2)
        admitted = await inside.admit("r1")
        await inside.batch(Settle("r1", admitted.hold, Amounts(n=10**8, r=1), "completed"))

        async def used() -> dict[str, float]:
            families = {family.metric.name: family for family in await shown.families()}
            samples = families["bursar_enforcer_budget_used_ratio"].samples
            assert next(iter(families["bursar_enforcer_limits_not_shown"].samples))[1] == 1
            return {dict(labels.pairs)["budget"]: value for labels, value in samples}

        assert await used() == {"bk": 0.1, "bt": 0.001}
        await inside.govern("virtual_key", inside.key(budgets=(budget("bk", 2 * 10**9, **hourly),)))
        await inside.governed()
        assert await used() == {"bk": 0.1, "bt": 0.001}  # kept
        clock.ahead_s += KEPT_S
        assert await used() == {"bk": 0.05, "bt": 0.001}
        clock.ahead_s += 3600
        assert await used() == {"bt": 0.001, "bc": 0.0001}
