"""Corrections over REST: an event of the log, once, booked in the request's month or in the next open one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bursar_common.events import CORRECTIONS_TOPIC
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.usage_events import request_id, usage

PATH = "/api/finance/corrections"


@pytest.fixture
async def finance(tmp_path: Path) -> AsyncIterator[Finance]:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path, front) as finance:
            yield finance


async def correct(finance: Finance, **body: Any) -> tuple[int, Any]:
    status, answer, _ = await finance.admin.call("POST", PATH, {"reason": "wrong price", **body})
    return status, answer


async def test_a_correction_counts_once_and_is_booked_where_it_belongs(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000), usage(2, cost_nusd=2_000))
    status, answer = await correct(finance, request_id=request_id(1), cost_nusd=-400, correction_id="mine")
    assert status == 200, answer
    made = answer["correction"]
    assert (made["booked_month"], made["list_cost_nusd"], made["cost_usd"]) == ("2026-11", -400, "-0.000000400")
    assert (await correct(finance, request_id=request_id(1), cost_nusd=-400, correction_id="mine"))[0] == 200
    await finance.written(CORRECTIONS_TOPIC, "bursar-usage-aggregator-books")
    closed: Any = (await finance.close("2026-11"))[1]
    assert (closed["close"]["billed_nusd"], closed["close"]["corrections_nusd"]) == (2_600, -400)
    assert {each["next_offset"] for each in closed["close"]["log_positions"]} == {2}
    status, answer = await correct(finance, request_id=request_id(2), cost_nusd=5)
    assert (status, answer["correction"]["booked_month"]) == (200, "2026-12")
    await finance.written(CORRECTIONS_TOPIC, "bursar-usage-aggregator-books")
    one: Any = await finance.get("/api/finance/closes/2026-11")
    assert one["verified"] is True
    listed: Any = await finance.get(f"{PATH}?month=2026-12")
    assert [(row["request_id"], row["cost_nusd"], row["of_month"]) for row in listed["corrections"]] == [
        (request_id(2), 5, "2026-11")
    ]


async def test_corrections_that_are_wrong(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000), usage(2, provider="simulator"))
    for status, field, body in (
        (404, "", {"request_id": "nobody", "cost_nusd": 1}),
        (404, "", {"request_id": "x') OR 1=1 --", "cost_nusd": 1}),
        (404, "", {"request_id": request_id(2), "cost_nusd": 1}),
        (409, "", {"request_id": request_id(1), "cost_nusd": -1_001}),
        (400, "cost_nusd", {"request_id": request_id(1), "cost_nusd": 0}),
        (400, "cost_nusd", {"request_id": request_id(1), "cost_nusd": 1.5}),
        (400, "cost_nusd", {"request_id": request_id(1), "cost_nusd": 10**18}),
        (400, "reason", {"request_id": request_id(1), "cost_nusd": 1, "reason": ""}),
        (400, "cost", {"request_id": request_id(1), "cost_nusd": 1, "cost": 3}),
        (400, "request_id", {"cost_nusd": 1}),
    ):
        found, answer = await correct(finance, **body)
        assert (found, answer["error"]["field"]) == (status, field), answer
    assert await finance.log.end_offset(CORRECTIONS_TOPIC, 0) == 0
