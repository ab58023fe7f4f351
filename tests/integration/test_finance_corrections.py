"""Corrections over REST: an event of the log, once, booked in the request's month or in the next open one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bursar_admin.correcting import Correcting
from bursar_admin.errors import Refusal
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import CORRECTIONS_TOPIC, encode_event
from bursar_common.finance import USAGE_CORRECTED, Correction
from tests.harness.admin import running_admin
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.patience import patient_admin
from tests.harness.usage_events import STARTED_AT_MS, request_id, usage

PATH = "/api/finance/corrections"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


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
    # Sent again it is not recorded again.
    assert {each["topic"]: each["next_offset"] for each in closed["close"]["log_positions"]} == {
        "bursar.usage.v1": 2, CORRECTIONS_TOPIC: 1,
    }  # fmt: skip
    status, answer = await correct(finance, request_id=request_id(2), cost_nusd=5)
    assert (status, answer["correction"]["booked_month"]) == (200, "2026-12")
    # The same request once more: each month lists what is booked in it, with who, when and why.
    again = {"request_id": request_id(1), "cost_nusd": -7, "correction_id": "later", "reason": "goodwill"}
    assert (await correct(finance, **again))[0] == 200
    await finance.written(CORRECTIONS_TOPIC, "bursar-usage-aggregator-books")
    for month, wanted in (
        ("2026-11", [("mine", -400, "wrong price", "local")]), ("2026-12", [("later", -7, "goodwill", "local")]),
    ):  # fmt: skip
        page: Any = await finance.get(f"{PATH}?month={month}")
        (row,) = [each for each in page["corrections"] if each["request_id"] == request_id(1)]
        names = ("correction_id", "cost_nusd", "reason", "actor")
        assert [tuple(each[name] for name in names) for each in row["made"]] == wanted
        assert row["cost_nusd"] == sum(each["cost_nusd"] for each in row["made"])
    one: Any = await finance.get("/api/finance/closes/2026-11")
    assert one["verified"] is True
    listed: Any = await finance.get(f"{PATH}?month=2026-12")
    assert [(row["request_id"], row["cost_nusd"], row["of_month"]) for row in listed["corrections"]] == [
        (request_id(2), 5, "2026-11"), (request_id(1), -7, "2026-11"),
    ]  # fmt: skip


async def test_corrections_that_are_wrong(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000), usage(2, provider="simulator"))
    for status, field, body in (
        (404, "", {"request_id": "nobody", "cost_nusd": 1}),
        (404, "", {"request_id": "x') OR 1=1 --", "cost_nusd": 1}),
        (404, "", {"request_id": request_id(2), "cost_nusd": 1}),
        (409, "cost_nusd", {"request_id": request_id(1), "cost_nusd": -1_001}),
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


async def cost_of(finance: Finance, number: int) -> tuple[int, int]:
    """(billed, list) as everybody is shown it, once the aggregator has read the log."""
    await finance.written(CORRECTIONS_TOPIC, "bursar-usage-aggregator-books")
    sql = "SELECT cost_nusd, list_cost_nusd FROM bursar.usage WHERE request_id = {id:String}"
    (row,) = await finance.admin.desk.analytics.rows(sql, {"id": request_id(number)})
    return row["cost_nusd"], row["list_cost_nusd"]


async def test_many_corrections_at_once_never_take_more_than_there_is(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000))
    body = {"request_id": request_id(1), "cost_nusd": -700}
    answers = await asyncio.gather(*(correct(finance, **body) for _ in range(3)))
    assert sorted(status for status, _ in answers) == [200, 409, 409], answers
    # One after the other is faster than ClickHouse hears of the first.
    assert (await correct(finance, **body))[0] == 409
    assert (await correct(finance, request_id=request_id(1), cost_nusd=-300))[0] == 200
    assert (await correct(finance, request_id=request_id(1), cost_nusd=-1))[0] == 409
    assert await cost_of(finance, 1) == (0, 0)


def wanted_of_first(at_ms: int, correction_id: str, cost: int) -> Correction:
    """Of request 1."""
    return Correction(
        correction_id=correction_id, request_id=request_id(1), corrected_at_ms=at_ms, reason="r", actor="a",
        cost_nusd=cost, list_cost_nusd=cost,
    )  # fmt: skip


async def test_replicas_that_correct_at_once_are_told_apart_by_the_log(finance: Finance) -> None:
    desk = finance.admin.desk
    await finance.append(usage(1, cost_nusd=1_000))

    wanted = partial(wanted_of_first, finance.clock.at_ms)
    faster = Correcting(desk.journal, desk.analytics, finance.clock)

    class Slower(Correcting):
        """The other replica corrects between its judgement and its append."""

        between: ClassVar[list[Correction]] = [wanted("b", -100), wanted("c", -700)]
        overtaken = 0

        async def _append(self, correction: Correction, known: Any) -> bool:
            if self.between:
                await faster.correct(self.between.pop(0))
            counts = await super()._append(correction, known)
            self.overtaken += not counts
            return counts

    slower = Slower(desk.journal, desk.analytics, finance.clock)
    with pytest.raises(Refusal) as refused:
        await slower.correct(wanted("a", -700))
    assert (refused.value.status, refused.value.extra["cost_nusd"], slower.overtaken) == (409, 200, 2)
    # What was overtaken has an effect for nobody, however far it stands in the log.
    assert await cost_of(finance, 1) == (200, 200)
    assert [each.id for each in (await desk.corrected.newest_first())[0]] == ["c", "b"]
    # With the same id it may be tried again, with what is left.
    assert (await slower.correct(wanted("a", -200)))[0].correction_id == "a"
    assert await cost_of(finance, 1) == (0, 0)


async def test_a_correction_of_another_cost_than_was_seen_is_refused(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000))
    first = {"request_id": request_id(1), "cost_nusd": -400, "expected_cost_nusd": 1_000, "correction_id": "mine"}
    assert (await correct(finance, **first))[0] == 200
    # ClickHouse has not heard of it: the log has.
    status, answer = await correct(finance, **{**first, "correction_id": "other"})
    error = answer["error"]
    assert (status, error["field"], error["given"], error["cost_nusd"]) == (409, "expected_cost_nusd", 1_000, 600)
    assert "600 nano-dollars" in error["message"]
    assert "1000" in error["message"]
    # Sent again under its id it is what was recorded, whatever the request costs since.
    assert (await correct(finance, **first))[0] == 200
    assert (await correct(finance, request_id=request_id(1), cost_nusd=-100, expected_cost_nusd=600))[0] == 200
    assert await finance.log.end_offset(CORRECTIONS_TOPIC, 0) == 2
    assert await cost_of(finance, 1) == (500, 500)
    for wrong in (1.5, "600", 1 << 63):
        body = {"request_id": request_id(1), "cost_nusd": 1, "expected_cost_nusd": wrong}
        status, answer = await correct(finance, **body)
        assert (status, answer["error"]["field"]) == (400, "expected_cost_nusd"), answer


async def test_many_that_saw_the_same_cost_have_one_effect(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000))
    body = {"request_id": request_id(1), "cost_nusd": -10, "expected_cost_nusd": 1_000}
    answers = await asyncio.gather(*(correct(finance, **body) for _ in range(4)))
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409], answers
    assert await cost_of(finance, 1) == (990, 990)


async def test_one_that_lost_against_another_replica_is_held_against_what_that_one_left(finance: Finance) -> None:
    desk = finance.admin.desk
    await finance.append(usage(1, cost_nusd=1_000))

    wanted = partial(wanted_of_first, finance.clock.at_ms)
    faster = Correcting(desk.journal, desk.analytics, finance.clock)

    class Slower(Correcting):
        """The other replica corrects between its judgement and its append."""

        async def _append(self, correction: Correction, known: Any) -> bool:
            await faster.correct(wanted("theirs", -100), 1_000)
            counts = await super()._append(correction, known)
            assert not counts
            return counts

    with pytest.raises(Refusal) as refused:
        await Slower(desk.journal, desk.analytics, finance.clock).correct(wanted("mine", -500), 1_000)
    extra = refused.value.extra
    assert (refused.value.status, extra["field"], extra["cost_nusd"]) == (409, "expected_cost_nusd", 900)
    # Both stand in the log; the one that lost has an effect for nobody.
    assert await finance.log.end_offset(CORRECTIONS_TOPIC, 0) == 2
    assert await cost_of(finance, 1) == (900, 900)
    assert [each.id for each in (await desk.corrected.newest_first())[0]] == ["theirs"]


async def test_a_refusal_names_the_amount_that_is_too_much(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000, list_cost_nusd=1_500))
    status, answer = await correct(finance, request_id=request_id(1), cost_nusd=-1, list_cost_nusd=-1_501)
    error = answer["error"]
    assert (status, error["field"], error["given"]) == (409, "list_cost_nusd", -1_501)
    assert (error["cost_nusd"], error["list_cost_nusd"], error["allowed"]) == (1_000, 1_500, "at least -1500")
    assert error["message"].startswith("list_cost_nusd: ")


async def test_an_id_stands_for_one_correction(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000), usage(2, cost_nusd=1_000))
    first = {"request_id": request_id(1), "cost_nusd": -400, "correction_id": "mine"}
    assert (await correct(finance, **first))[0] == 200
    for other in ({"cost_nusd": -401}, {"request_id": request_id(2)}, {"list_cost_nusd": 0}):
        status, answer = await correct(finance, **{**first, **other})
        assert (status, answer["error"]["field"]) == (409, "correction_id"), answer


async def test_a_guess_is_not_lowered_while_its_truth_may_come(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000, outcome="expired"))
    body = {"request_id": request_id(1), "cost_nusd": -900}
    finance.clock.at_ms = STARTED_AT_MS + 86_400_000
    status, answer = await correct(finance, **body)
    assert (status, "guess" in answer["error"]["message"]) == (409, True)
    finance.clock.at_ms = STARTED_AT_MS + 9 * 86_400_000
    assert (await correct(finance, **body))[0] == 200


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


async def test_a_request_whose_month_is_leaving_cannot_be_corrected(finance: Finance) -> None:
    await finance.append(usage(1, cost_nusd=1_000))
    analytics = finance.front.inner()
    await analytics.command("INSERT INTO bursar.usage_left (month, step) VALUES ('2026-11-01', 'leaving')")
    status, answer = await correct(finance, request_id=request_id(1), cost_nusd=-400)
    assert status == 409
    assert "month are leaving ClickHouse" in str(answer)
    await asyncio.sleep(0.01)  # the step that takes it back is of a later millisecond
    await analytics.command("INSERT INTO bursar.usage_left (month, step) VALUES ('2026-11-01', 'stays')")
    await analytics.close()
    assert (await correct(finance, request_id=request_id(1), cost_nusd=-400))[0] == 200
