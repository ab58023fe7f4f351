"""Closing months, and what is charged beside requests, over the REST API and a real ClickHouse."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar_admin import month_books
from bursar_aggregator.books import BOOKS_GROUP
from bursar_aggregator.log_worker import GROUP
from bursar_common.events import decode_envelope, decode_governance
from tests.harness.admin import running_admin
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import DAY_MS, Finance, running_finance
from tests.harness.patience import patient_admin
from tests.harness.usage_events import STARTED_AT_MS, usage

BOOK = "book-of-the-tests"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


@pytest.fixture
async def finance(tmp_path: Path) -> AsyncIterator[Finance]:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path, front) as finance:
            yield finance


def hold(number: int, **fields: Any) -> Any:
    return usage(number, outcome="expired", estimated=True, input_tokens=None, output_tokens=None, **fields)


def rows_of(text: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


async def test_a_closed_months_exports_are_the_same_bytes_whatever_comes_later(finance: Finance) -> None:
    assert (month_books.AGGREGATOR_GROUP, month_books.BOOKS_GROUP) == (GROUP, BOOKS_GROUP)
    month, manifest = "/api/exports/focus?month=2026-11", "/api/exports/focus/manifest?month=2026-11"
    await finance.append(usage(1, price_book_id=BOOK), usage(2, project="p"), hold(3, cost_nusd=5_000))
    before = await finance.get(month)
    status, answer = await finance.close("2026-11")
    assert status == 200, answer
    close: Any = answer["close"]
    billed = usage(1).cost_nusd + usage(2).cost_nusd + 5_000
    assert (close["billed_nusd"], close["expired_nusd"], close["requests"], close["price_books"]) == (
        billed, 5_000, 3, [BOOK],
    )  # fmt: skip
    assert {(each["topic"], each["next_offset"]) for each in close["log_positions"]} == {
        ("bursar.usage.v1", 3), ("bursar.corrections.v1", 0),
    }  # fmt: skip
    assert await finance.get(month) == before
    made_from = await finance.get(manifest)
    # What comes later: a request, the truth of the hold, a copy; and prices that changed.
    await finance.append(usage(4, cost_nusd=70), usage(3, cost_nusd=3_000), usage(1, price_book_id=BOOK))
    (provider,) = finance.admin.desk.projection.providers.values()
    override = {"model": "claude-sonnet-4-6", "input": "100", "output": "1"}
    status, said, _ = await finance.admin.call(
        "PATCH", f"/api/providers/{provider.id}", {"price_overrides": [override]}
    )
    assert status == 200, said
    assert await finance.get(month) == before
    assert await finance.get(manifest) == made_from
    one: Any = await finance.get("/api/finance/closes/2026-11")
    assert one == {"close": close, "verified": True}
    # It is booked in the month after, marked as what it is.
    rows = rows_of(await finance.get("/api/exports/focus?month=2026-12"))
    assert {row["ChargeClass"] for row in rows} == {"Correction"}
    assert {row["x_BelongsToMonth"] for row in rows} == {"2026-11"}
    assert {row["BillingPeriodStart"] for row in rows} == {"2026-12-01T00:00:00Z"}
    assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal(70 + 3_000 - 5_000).scaleb(-9)
    assert sum(int(row["x_Requests"]) for row in rows) == 1
    said_of: Any = await finance.get("/api/exports/focus/manifest?month=2026-12")
    assert (said_of["billed_nusd"], said_of["state"]) == (-1_930, "open")


async def test_months_that_cannot_be_closed(finance: Finance) -> None:
    async def refused(month: Any) -> tuple[int, str]:
        status, answer, _ = await finance.admin.call("POST", "/api/finance/closes", {"month": month})
        return status, answer["error"]["message"]

    assert await refused("2026-13") == (400, "month: is not a month")
    assert (await refused("2026-11'; DROP TABLE x"))[0] == 400
    assert (await refused(202611))[0] == 400
    assert await refused("2027-03") == (400, "month: has not begun")
    status, message = await refused("2026-12")
    assert (status, "2027-01-01T00:00:00" in message) == (400, True)
    status, answer, _ = await finance.admin.call("POST", "/api/finance/closes", {})
    assert (status, answer["error"]["field"]) == (400, "month")
    await finance.append(usage(1, started_at_ms=STARTED_AT_MS - 40 * DAY_MS), usage(2))
    status, message = await refused("2026-11")
    assert (status, "2026-10 comes first" in message) == (409, True)
    assert (await finance.close("2026-10"))[0] == 200
    assert (await finance.close("2026-11"))[0] == 200
    status, message = await refused("2026-11")
    assert (status, "stays closed" in message) == (409, True)
    assert (await refused("2026-09"))[0] == 409
    status, _, _ = await finance.admin.call("GET", "/api/finance/closes/2026-12")
    assert status == 404
    listed: Any = await finance.get("/api/finance/closes")
    assert [each["month"] for each in listed["closes"]] == ["2026-10", "2026-11"]
    for method in ("DELETE", "PATCH", "PUT"):
        status, _, _ = await finance.admin.call(method, "/api/finance/closes/2026-11")
        assert status == 405


async def test_the_list_of_closed_months_names_those_that_do_not_come_to_their_checksum(finance: Finance) -> None:
    await finance.append(usage(1))
    assert (await finance.close("2026-11"))[0] == 200
    listed: Any = await finance.get("/api/finance/closes")
    assert (listed["differing"], listed["notice"]) == ([], "")
    async with asyncio.timeout(60):
        while not await finance.front.query("SELECT month FROM bursar.booked_months"):
            await asyncio.sleep(0.2)
    inner = finance.front.inner()
    await inner.command(
        "INSERT INTO bursar.booked_differences (month, checksum, tried_at)"
        " VALUES ('2026-11-01', 'x', now64(3)), ('2026-08-01', 'x', now64(3))"
    )
    listed = await finance.get("/api/finance/closes")
    assert listed["differing"] == []  # November was stored since
    await inner.command("INSERT INTO bursar.closed_months (month) VALUES ('2026-08-01')")
    await inner.close()
    listed = await finance.get("/api/finance/closes")
    assert listed["differing"] == ["2026-08"]
    assert listed["notice"].startswith("2026-08 does not come to its checksum: ")
    status, page, _ = await finance.admin.call("GET", "/finance/closes", headers={"Accept": "text/html"})
    assert (status, "2026-08 does not come to its checksum" in page) == (200, True)


async def test_a_close_is_an_event_of_the_log(finance: Finance) -> None:
    await finance.append(usage(1))
    await finance.close("2026-11")
    envelope = decode_envelope((await finance.admin.events())[-1])
    event = decode_governance(envelope)
    assert envelope.type == "bursar.period_close.created.v1"
    assert (event.entity, event.entity_id, event.actor) == ("period_close", "close:2026-11", "local")
    assert event.document is not None
    assert event.document["billed_nusd"] == usage(1).cost_nusd
    assert event.seen == {"close:2026-11": 0, "root:allocation": 0, "root:period_close": 0}


async def test_nothing_is_closed_while_clickhouse_is_behind(finance: Finance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(month_books, "CATCH_UP_S", 0.0)
    monkeypatch.setattr(month_books, "AGGREGATOR_GROUP", "one-that-has-read-nothing")
    await finance.append(usage(1))
    status, answer = await finance.close("2026-11")
    assert (status, "1 events behind the log" in answer["error"]["message"]) == (503, True)  # type: ignore[index]
    assert finance.admin.desk.projection.closes == {}


async def make_owners(finance: Finance) -> tuple[str, str, str]:
    first = (await finance.admin.create("teams", name="First"))["team"]["id"]
    second = (await finance.admin.create("teams", name="Second"))["team"]["id"]
    key = (await finance.admin.create("virtual-keys", name="shared"))["virtual_key"]["id"]
    return first, second, key


async def allocate(finance: Finance, **body: Any) -> tuple[int, Any]:
    status, answer, _ = await finance.admin.call("POST", "/api/finance/allocations", body)
    return status, answer


async def test_splits_fees_and_commitments_stand_in_the_export_and_the_sum_is_kept(finance: Finance) -> None:
    first, second, key = await make_owners(finance)
    thirds = [{"team_id": first, "percent": "33.3333"}, {"team_id": second, "percent": 33.3333, "cost_center": "cc"}]
    status, answer = await allocate(
        finance, name="shared", kind="split", virtual_key_id=key, from_month="2026-11", parts=thirds
    )
    assert status == 200, answer
    assert answer["allocation"]["parts"][0] | {"team_id": ""} == {
        "team_id": "", "team": "First", "customer_id": None, "customer": "", "cost_center": None, "percent": "33.3333",
        "seats": None, "amount_nusd": None, "amount_usd": None,
    }  # fmt: skip
    fee = [{"team_id": first, "seats": 3}, {"team_id": second, "seats": 1}]
    status, answer = await allocate(
        finance, name="seats", kind="fee", amount=30.01, from_month="2026-11", to_month="2026-11", parts=fee
    )
    assert status == 200, answer
    shares = [{"team_id": first, "percent": "66.6667"}, {"team_id": second, "percent": "33.3333"}]
    status, answer = await allocate(
        finance, name="commitment", kind="commitment", amount=0.000000001, from_month="2026-11", parts=shares
    )
    assert [part["amount_nusd"] for part in answer["allocation"]["parts"]] == [1, 0]
    await finance.append(usage(1, virtual_key_id=key, cost_nusd=100), usage(2, cost_nusd=7))
    status, closed = await finance.close("2026-11")
    assert status == 200, closed
    assert closed["close"]["allocated_nusd"] == 120_040_000_001  # type: ignore[index]
    assert closed["close"]["billed_nusd"] == 107  # type: ignore[index]
    rows = rows_of(await finance.get("/api/exports/focus?month=2026-11"))
    assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal(120_040_000_108).scaleb(-9)
    kinds = {row["x_ChargeKind"]: row for row in rows}
    assert set(kinds) == {"usage", "split", "fee", "commitment"}
    bought = kinds["fee"]
    assert (bought["ChargeCategory"], bought["ChargeFrequency"], bought["PricingUnit"]) == (
        "Purchase", "Recurring", "Months",
    )  # fmt: skip
    for name in ("SkuId", "SkuPriceId", "PricingQuantity", "ListUnitPrice", "ContractedUnitPrice", "PricingCategory"):
        assert bought[name], name
    assert (bought["ChargePeriodStart"], bought["ChargePeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    moved = [row for row in rows if row["x_ChargeKind"] == "split"]
    assert sum(Decimal(row["BilledCost"]) for row in moved) == 0
    assert {row["SubAccountName"]: Decimal(row["BilledCost"]).scaleb(9) for row in moved} == {
        "First": 33, "Second": 33, "platform-engineering": -66,
    }  # fmt: skip
    assert {row["x_CostCenter"] for row in moved if row["SubAccountName"] == "Second"} == {"cc"}
    parquet, text, _ = await finance.admin.call("GET", "/api/exports/focus?month=2026-11&version=1.3")
    assert (parquet, "ServiceProviderName" in text) == (200, True)


async def test_a_closed_months_allocations_stay_as_they_were(finance: Finance) -> None:
    first, _, key = await make_owners(finance)
    parts = [{"team_id": first, "percent": 50}]
    status, answer = await allocate(
        finance, name="s", kind="split", virtual_key_id=key, from_month="2026-11", parts=parts
    )
    path = f"/api/finance/allocations/{answer['allocation']['id']}"
    await finance.append(usage(1, virtual_key_id=key))
    assert (await finance.close("2026-11"))[0] == 200
    call = finance.admin.call
    status, said, _ = await call("PATCH", path, {"parts": [{"team_id": first, "percent": 60}]})
    assert (status, "2026-11" in said["error"]["message"]) == (409, True)
    assert (await call("DELETE", path))[0] == 409
    assert (await call("PATCH", path, {"to_month": "2026-10"}))[0] == 400
    assert (await call("PATCH", path, {"to_month": "2026-11", "name": "ended"}))[0] == 200
    status, said = await allocate(
        finance, name="t", kind="split", virtual_key_id=key, from_month="2026-11", parts=parts
    )
    assert (status, said["error"]["field"]) == (400, "from_month")
    status, said = await allocate(
        finance, name="t", kind="split", virtual_key_id=key, from_month="2026-12", parts=parts
    )
    assert status == 200, said
    status, said, _ = await call(
        "DELETE", f"/api/finance/allocations/{said['allocation']['id']}", headers={"If-Match": '"1"'}
    )
    assert (status, said["message"]) == (200, "Allocation deleted.")
    one: Any = await finance.get("/api/finance/closes/2026-11")
    assert one["verified"] is True


PART = {"team_id": "TEAM", "percent": 10}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"parts": [{"team_id": "TEAM", "percent": 60}, {"team_id": "TEAM", "percent": "40.0001"}]}, "parts"),
        ({"parts": [{"team_id": "TEAM", "percent": "0.00001"}]}, "parts[0].percent"),
        ({"parts": [{"team_id": "TEAM", "percent": 0}]}, "parts[0].percent"),
        ({"parts": [{"team_id": "TEAM"}]}, "parts[0].percent"),
        ({"parts": [{"team_id": "TEAM", "seats": 3}]}, "parts[0].seats"),
        ({"parts": [{"percent": 3}]}, "parts[0]"),
        ({"parts": [{"team_id": "nobody", "percent": 3}]}, "parts[0].team_id"),
        ({"parts": []}, "parts"),
        ({"from_month": "2026-13"}, "from_month"),
        ({"from_month": "2026-11' OR 1=1"}, "from_month"),
        ({"to_month": "2026-10"}, "to_month"),
        ({"virtual_key_id": None}, "virtual_key_id"),
        ({"amount": 3}, "amount"),
        ({"kind": "gift"}, "kind"),
        ({"colour": "red"}, "colour"),
        ({"kind": "fee"}, "virtual_key_id"),
        ({"kind": "fee", "virtual_key_id": None}, "amount"),
        ({"kind": "fee", "virtual_key_id": None, "amount": 1}, "parts[0].percent"),
        ({"kind": "commitment", "virtual_key_id": None, "amount": 1}, "parts"),
    ],
)  # fmt: skip
async def test_allocations_that_are_wrong(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name="T"))["team"]["id"]
        key = (await admin.create("virtual-keys", name="K"))["virtual_key"]["id"]
        body = {"name": "a", "kind": "split", "virtual_key_id": key, "from_month": "2026-11", "parts": [PART], **change}
        body["parts"] = [part | ({"team_id": team} if part.get("team_id") == "TEAM" else {}) for part in body["parts"]]
        status, answer, _ = await admin.call("POST", "/api/finance/allocations", body)
        assert (status, answer["error"]["field"]) == (400, field), answer
