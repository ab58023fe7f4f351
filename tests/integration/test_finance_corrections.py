"""Corrections over REST: an event of the log, once, booked in the request's month or in the next open one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bursar_common.eventlog.port import NewRecord
from bursar_common.events import CORRECTIONS_TOPIC, encode_event
from bursar_common.finance import USAGE_CORRECTED, Correction
from tests.harness.admin import running_admin
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


async def test_corrections_are_events_of_whom_they_are_about(finance: Finance) -> None:
    admin = finance.admin
    customer = (await admin.create("customers", name="Northwind"))["customer"]["id"]
    team = (await admin.create("teams", name="platform", customer_id=customer))["team"]["id"]
    key = (await admin.create("virtual-keys", name="alice-laptop", team_id=team))["virtual_key"]["id"]
    whose = {"customer_id": customer, "team_id": team, "virtual_key_id": key, "virtual_key": "alice-laptop"}
    await finance.append(usage(1, cost_nusd=1_000, **whose), usage(2, cost_nusd=2_000))
    for number, reason in ((1, "Credited by the provider"), (2, "wrong price")):
        body = {"request_id": request_id(number), "cost_nusd": -400, "reason": reason, "correction_id": f"c-{number}"}
        finance.clock.at_ms += 1_000
        for _ in range(2):  # sent again, it counts and is told once
            assert (await correct(finance, **body))[0] == 200
    finance.clock.at_ms += 1_000
    await admin.create("teams", name="later")

    async def told(query: str = "") -> list[tuple[str, str]]:
        answer: Any = await finance.get(f"/api/events?limit=500{query}")
        assert answer["corrections_known"] is True
        return [(each["action"], each["name"]) for each in answer["events"]]

    first, second = ("corrected", request_id(1)), ("corrected", request_id(2))
    assert (await told())[:4] == [("created", "later"), second, first, ("created", "alice-laptop")]
    assert await told("&entity=request") == [second, first]
    for owner in (f"team={team}", "team=platform", f"customer={customer}", "key=alice-laptop"):
        assert first in await told(f"&{owner}"), owner
        assert second not in await told(f"&{owner}"), owner
    assert await told(f"&id={request_id(2)}") == [second]
    assert await told("&text=credited") == [first]
    assert await told("&actor=local&action=corrected&order=asc") == [first, second]

    # Page by page it is the same list, in every order.
    for order in ("", "&sort_by=name", "&sort_by=actor&order=asc", "&sort_by=time&order=asc"):
        whole, pages, cursor = await told(order), [], ""
        while True:
            answer: Any = await finance.get(f"/api/events?limit=2{order}{cursor}")
            pages += [(each["action"], each["name"]) for each in answer["events"]]
            if answer["next_cursor"] is None:
                break
            cursor = f"&cursor={answer['next_cursor']}"
        assert pages == whole, order

    one: Any = await finance.get("/api/events/c-1")
    event = one["event"]
    assert (event["type"], event["actor"], event["entity_id"]) == ("bursar.usage.corrected.v1", "local", request_id(1))
    assert event["document"]["virtual_key"] == "alice-laptop"
    assert {each["field"]: each["after"] for each in event["changes"]} == {
        "reason": "Credited by the provider", "cost_nusd": -400,
    }  # fmt: skip


async def test_without_analytics_corrections_are_told_but_not_whose_they_are(tmp_path: Path) -> None:
    correction = Correction(
        correction_id="c", request_id=request_id(1), corrected_at_ms=0, reason="r", actor="local", cost_nusd=-1
    )
    value = encode_event(
        id="c",
        source="bursar/admin",
        type=USAGE_CORRECTED,
        time="2026-12-01T00:00:00.000Z",
        subject="",
        data=correction,
    )
    async with running_admin(tmp_path) as admin:
        broken = NewRecord(CORRECTIONS_TOPIC, "x", b"not an event")
        await admin.desk.journal.event_log.append([broken, NewRecord(CORRECTIONS_TOPIC, request_id(1), value)])
        for query, known, count in (("", True, 1), ("&team=platform", False, 0), (f"&id={request_id(1)}", True, 1)):
            status, answer, _ = await admin.call("GET", f"/api/events?action=corrected{query}")
            assert (status, answer["corrections_known"], answer["count"]) == (200, known, count), query
