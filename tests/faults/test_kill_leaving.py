"""kill -9 right before every thing that is done while a month leaves: no request is lost, none drops unarchived."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from bursar_aggregator.archive import Archive
from tests.harness.clickhouse_front import TOKEN
from tests.harness.leaving import october_is_due

pytestmark = pytest.mark.timeout(900)
"""Seconds: views of many parts take the engine long to analyse where the machine has other work."""
STEPS_AT_MOST = 60


async def test_killed_before_every_step_nothing_is_lost(tmp_path: Path) -> None:
    async with october_is_due(tmp_path) as world:
        before = await world.shown()
        url = f"http://bursar:{TOKEN}@{world.front.address}/bursar"
        archive = Archive(world.archive, world.analytics)
        killed = 0
        before_the_last = 2
        for step in range(1, STEPS_AT_MOST):
            noted = await world.one("SELECT countIf(step = 'archived') AS n FROM bursar.usage_left")
            if noted["n"]:  # to be dropped, and the drop to be noted: once killed between the two
                step, before_the_last = before_the_last, STEPS_AT_MOST
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.harness.leaving_step", url, str(tmp_path), str(step)
            )
            code = await child.wait()
            killed += code == -9
            rows = await world.rows()
            if rows == 2:
                assert archive.check("2026-10").rows == 5
            else:
                assert rows == 7
            if code == 0:
                break
        assert await world.rows() == 2
        assert killed > 10
        kept = await world.one("SELECT toString(kept_from) AS day FROM bursar.usage_kept")
        assert kept == {"day": "2026-11-01"}
        assert await archive.restore(["2026-10"]) == 5
        assert (await world.one("SELECT toInt64(sum(cost_nusd)) AS c FROM bursar.usage_restored"))["c"] == 15
        assert await world.shown() == before
