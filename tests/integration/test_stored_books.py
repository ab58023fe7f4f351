"""Books of closed months, stored: whatever is asked of them says the same before and after, to the nano-dollar."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar_admin.queries import books, focus, month_pages
from bursar_admin.queries.token_costs import priced_alike
from bursar_aggregator.books import ALLOCATIONS, allocation_row
from bursar_aggregator.stored_books import StoredBooks
from bursar_common.events import Usage
from bursar_common.finance import Allocation, AllocationPart
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.patience import patient_admin
from tests.harness.stored_books import BooksWorld
from tests.harness.usage_events import STARTED_AT_MS, usage

pytestmark = pytest.mark.timeout(900)
"""Seconds: views of many parts take the engine long to analyse where the machine has other work."""
VIEWS = (
    "booked_monthly", "booked_lines", "month_checksums", "allocated_charges", "chargeback_monthly",
    "chargeback_monthly_by_model", "chargeback_monthly_by_token_kind", "unattributed_monthly", "expired_holds_monthly",
    "corrections_monthly", "provider_bill_daily",
)  # fmt: skip
TIERS = (200_000,)
MONTHS = ("2026-09", "2026-11", "2026-12")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BooksWorld]:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        analytics = front.inner()
        yield BooksWorld(analytics)
        await analytics.close()


def shared_key() -> Allocation:
    parts = (AllocationPart(team_id="t0", team="Team 0", weight=333_333),)
    return Allocation(
        id="a1", name="shared", kind="split", created_at_s=1, from_month="2026-09", virtual_key_id="key-1", parts=parts
    )


def some_events(chance: random.Random, first: int, count: int) -> list[Usage]:
    found = []
    for number in range(first, first + count):
        at_ms = int(datetime(2026, chance.randrange(9, 13), chance.randrange(1, 29), 5, tzinfo=UTC).timestamp() * 1000)
        fields: dict[str, Any] = {
            "started_at_ms": at_ms + number, "cost_nusd": chance.randrange(0, 10**9), "project": chance.choice("ab "),
            "virtual_key_id": chance.choice(("key-1", "key-2")), "team": chance.choice(("Old name", "New name")),
            "model": chance.choice(("claude-opus-4-8", "claude-sonnet-4-6")), "cost_center": chance.choice(("", "cc")),
            "input_tokens": chance.choice((None, 7, 300_000)), "estimated": chance.random() < 0.2,
            "billing": chance.choice(("metered", "metered", "subscription")),
            "outcome": chance.choice(("completed", "completed", "expired", "upstream_error", "refused", "not_sent")),
            "provider": chance.choice(("anthropic",) * 9 + ("simulator",)),
        }  # fmt: skip
        fields["list_cost_nusd"] = fields["cost_nusd"]
        if fields["outcome"] == "expired":
            fields |= {"estimated": True, "input_tokens": None, "output_tokens": None}
        found.append(usage(number, **fields))
    return found


def truth_of(hold: Usage) -> Usage:
    return msgspec.structs.replace(
        hold, outcome="completed", estimated=False, input_tokens=11, output_tokens=5, cost_nusd=hold.cost_nusd // 2,
        model="claude-haiku-4-5",
    )  # fmt: skip


async def everything(world: BooksWorld) -> dict[str, Any]:
    """What all views and exports say."""
    found: dict[str, Any] = {}
    for view in VIEWS:
        rows = await world.analytics.query(f"SELECT * FROM bursar.{view}")
        found[view] = sorted(repr(row) for row in rows)
    for month in MONTHS:
        (summed,) = await world.analytics.query(*books.summed(month))
        checked = await world.analytics.query(*books.checksum(month))
        assert summed["checksum"] == (checked[0]["checksum"] if checked else "")
        found[f"summed {month}"] = summed
        condition, bound = books.metered(month)
        alike = await world.analytics.query(*priced_alike(condition, bound, TIERS, books.CHARGES))
        found[f"rates {month}"] = alike
        rates = {
            "\n".join((r["provider"], r["model"], r["speed"], r["inference_geo"], str(r["tier"]))): (3, 1, 4, 6, 15, 9)
            for r in alike
        }
        sql, parameters = focus.export(month, None, 4_000_000_000_000, "1.3", "csv", TIERS, rates, last=True)
        found[f"focus {month}"] = await world.analytics.query(sql, parameters)
        found[f"corrections {month}"] = await world.analytics.query(
            *month_pages.corrections(month, "request_id", "asc", 1000, 0)
        )
    return found


async def test_every_view_and_export_says_the_same_before_and_after(world: BooksWorld) -> None:
    """Random events of four months over three closes: holds and their late truths, copies, corrections, a split."""
    chance = random.Random(20)
    await world.insert("allocations", ALLOCATIONS, allocation_row(shared_key(), 1))
    written: list[Usage] = []
    corrections = 0
    for closing in ("2026-09", "2026-10", "2026-11", ""):
        events = some_events(chance, len(written) + 1, 60)
        late = [truth_of(each) for each in written if each.outcome == "expired" and chance.random() < 0.3]
        copies = chance.sample(written, min(len(written), 5))
        await world.write(*events, *late, *copies)
        written += events
        for event in chance.sample([each for each in written if each.outcome == "completed"], 3):
            await world.correct(event.request_id, corrections, -chance.randrange(1, 10**6))
            corrections += 1
        if closing:
            await world.close(closing, corrections, tiers=TIERS)
            before = await everything(world) if closing == "2026-11" else {}
            stored = StoredBooks(world.analytics, lambda: world.closes)
            assert await stored.look() == [closing]
            assert not before or await everything(world) == before
    assert len(await world.analytics.query("SELECT month FROM bursar.booked_months FINAL")) == 3
    # As the requests themselves say, charge by charge.
    by_request = await world.analytics.query(
        "SELECT booked_month, belongs_to_month, charge_kind, sum(toInt64(requests)) AS r, sum(cost_nusd) AS n,"
        " toUInt64(count()) AS c FROM bursar.charges GROUP BY ALL ORDER BY ALL"
    )
    stored_rows = await world.analytics.query(
        "SELECT booked_month, belongs_to_month, charge_kind, sum(requests) AS r, sum(cost_nusd) AS n,"
        " sum(charges) AS c FROM bursar.booked_charges GROUP BY ALL ORDER BY ALL"
    )
    assert stored_rows == by_request
    # The requests of a stored month may go, once nothing of it is booked in an open one: what was closed stays.
    lines = "SELECT * FROM bursar.booked_lines WHERE booked_month = '{}-01' ORDER BY line"
    asked = [lines.format(month) for month in MONTHS[:2]]
    before_lines = [await world.analytics.query(sql) for sql in asked]
    assert all(before_lines)
    await world.analytics.command("ALTER TABLE bursar.usage_events DROP PARTITION 202609")
    assert [await world.analytics.query(sql) for sql in asked] == before_lines


async def test_a_month_that_does_not_come_to_its_checksum_is_not_stored(world: BooksWorld) -> None:
    await world.write(usage(1), usage(2))
    await world.close("2026-11", 0)
    close = world.closes["2026-11"]
    world.closes["2026-11"] = msgspec.structs.replace(close, checksum="0" * 64)
    stored = StoredBooks(world.analytics, lambda: world.closes)
    assert await stored.look() == []
    (rows,) = await world.analytics.query("SELECT count() AS n FROM bursar.booked_months")
    assert rows["n"] == 0
    world.closes["2026-11"] = close
    assert await stored.look() == []  # it waits before it tries again
    assert await StoredBooks(world.analytics, lambda: world.closes).look() == ["2026-11"]


async def test_a_making_that_was_cut_short_is_not_read(world: BooksWorld) -> None:
    await world.write(usage(1, cost_nusd=5), usage(2, cost_nusd=6))
    await world.close("2026-11", 0)
    sql = "SELECT * FROM bursar.booked_lines ORDER BY line"
    before = await world.analytics.query(sql)
    stored = StoredBooks(world.analytics, lambda: world.closes)
    command, left = world.analytics.command, 2

    async def dying(sql: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise ConnectionError("killed")
        await command(sql)

    world.analytics.command = dying  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await stored.look()
    world.analytics.command = command  # type: ignore[method-assign]
    assert await world.analytics.query(sql) == before
    assert await stored.look() == ["2026-11"]
    assert await world.analytics.query(sql) == before


async def test_closing_over_rest_stores_the_month_and_every_byte_stays(tmp_path: Path) -> None:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path, front) as finance:
            await _closed_and_stored(finance)


async def _closed_and_stored(finance: Finance) -> None:
    events = [usage(number, started_at_ms=STARTED_AT_MS + number * 3_600_000, project="p") for number in range(1, 9)]
    await finance.append(*events, usage(20, outcome="expired", estimated=True, input_tokens=None, output_tokens=None))
    paths = ["/api/exports/focus?month=2026-11"]
    before = [await finance.get(path) for path in paths]
    status, answer = await finance.close("2026-11")
    assert status == 200, answer
    paths += ["/api/finance/statements/team-1/2026-11", "/api/finance/closes/2026-11"]
    async with asyncio.timeout(60):
        while not await finance.front.query("SELECT month FROM bursar.booked_months"):
            await asyncio.sleep(0.2)
    after = [await finance.get(path) for path in paths]
    assert after[:1] == before
    assert after[-1]["verified"] is True  # type: ignore[index]
    await finance.append(usage(30, cost_nusd=77))
    assert [await finance.get(path) for path in paths] == after
    listed: Any = await finance.get("/api/finance/statements?month=2026-12")
    assert listed["teams"][0]["billed_nusd"] == 77
