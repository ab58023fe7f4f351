"""Books of closed months that several aggregators store, one of them of a release before, while analytics are rebuilt,
and where the log gets another partition: no charge is lost or counted twice, and no month is said to differ that does
not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from bursar_aggregator.stored_books import Made, StoredBooks, storing
from bursar_common.eventlog.port import LogRecord
from bursar_common.finance import LogBound
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.stored_books import BooksWorld
from tests.harness.usage_events import usage, usage_record
from tests.integration.test_books_month_by_month import said, stored, three_closed_months
from tests.integration.test_stored_books import some_events

pytestmark = pytest.mark.timeout(900)
"""Seconds: views of many parts take the engine long to analyse where the machine has other work."""
WRONG = "0" * 64


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BooksWorld]:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.process.ready()
        await front.prepare()
        world = BooksWorld(front.inner())
        yield world
        await world.analytics.close()


async def one_closed_month(world: BooksWorld) -> None:
    await world.write(usage(1, cost_nusd=5), usage(2, cost_nusd=6, model="claude-haiku-4-5"))
    await world.close("2026-11", 0)


async def step(world: BooksWorld, name: str) -> None:
    await world.analytics.command(f"INSERT INTO bursar.usage_left (month, step) VALUES ('1970-01-01', '{name}')")


async def differences(world: BooksWorld) -> int:
    (row,) = await world.analytics.query("SELECT count() AS n FROM bursar.booked_differences")
    return int(row["n"])


def first_time(world: BooksWorld, beginning: str, do: Callable[[], Awaitable[object]]) -> None:
    """Do that before the first command that begins so."""
    command, done = world.analytics.command, False

    async def interrupted(sql: str) -> None:
        nonlocal done
        if not done and sql.startswith(beginning):
            done = True
            await do()
        await command(sql)

    world.analytics.command = interrupted  # type: ignore[method-assign]


async def test_what_a_release_before_stored_together_with_the_month_before_counts_once(world: BooksWorld) -> None:
    """It knows no differing months: its next is what follows the last stored one, with all that is not stored yet."""
    await three_closed_months(world)
    before = await said(world)
    right = world.closes["2026-09"]
    world.closes["2026-09"] = msgspec.structs.replace(right, checksum=WRONG)
    until_october = {month: world.closes[month] for month in ("2026-09", "2026-10")}
    assert await StoredBooks(world.analytics, lambda: until_october).look() == ["2026-10"]
    assert await StoredBooks(world.analytics, lambda: world.closes).store(world.closes["2026-11"], "") is Made.STORED
    (of_november,) = await world.analytics.query(
        "SELECT toString(min(booked_month)) AS low FROM bursar.booked_rows WHERE closed_month = '2026-11-01'"
    )
    assert of_november["low"] < "2026-10-01"
    assert await stored(world) == [("2026-09", False, True), ("2026-10", True, False), ("2026-11", True, False)]
    assert await said(world) == before
    world.closes["2026-09"] = right
    assert await StoredBooks(world.analytics, lambda: world.closes).look() == ["2026-09"]
    assert await said(world) == before


async def test_late_requests_in_a_partition_that_no_close_names_are_booked(world: BooksWorld) -> None:
    await three_closed_months(world)
    assert await StoredBooks(world.analytics, lambda: world.closes).look() == ["2026-09", "2026-10", "2026-11"]
    before = await said(world)
    september_ms = int(datetime(2026, 9, 20, tzinfo=UTC).timestamp() * 1000)
    late = []
    for offset in range(14):  # all before the offsets at which months were closed in the partition that was there
        record = usage_record(usage(90_000 + offset, started_at_ms=september_ms + offset, cost_nusd=1_000_000_000))
        late.append(LogRecord(record.topic, 1, offset, record.key, record.value))
    await world.writer.write(late)
    books, checksums = await said(world)
    added = [row for row in books if row not in before[0]]
    assert sum(row["c"] for row in books) - sum(row["c"] for row in before[0]) == 14
    assert {(str(row["booked_month"])[:7], str(row["belongs_to_month"])[:7]) for row in added} == {
        ("2026-12", "2026-09")
    }
    assert checksums[:3] == before[1][:3]
    # Once a close names it, they are of that month.
    chance = random.Random(9)
    await world.write(*some_events(chance, 7_000, 10))
    await world.close("2026-12", 100, also=[LogBound(late[0].topic, 1, 14)])
    assert await StoredBooks(world.analytics, lambda: world.closes).look() == ["2026-12"]
    (december,) = [row for row in (await said(world))[1] if str(row["booked_month"])[:7] == "2026-12"]
    assert december["checksum"] == world.closes["2026-12"].checksum


async def test_a_month_that_another_replica_stores_meanwhile_does_not_differ(world: BooksWorld) -> None:
    await three_closed_months(world)
    before = await said(world)
    first = StoredBooks(world.analytics, lambda: world.closes)
    second = StoredBooks(world.analytics, lambda: world.closes)
    found: list[str] = []

    async def meanwhile() -> None:
        found.extend(await first.look())

    first_time(world, "INSERT INTO bursar.booked_rows", meanwhile)
    assert await second.look() == []
    assert found == ["2026-09", "2026-10", "2026-11"]
    assert (first.differing, second.differing, await differences(world)) == (0, 0, 0)
    assert await said(world) == before


async def test_nothing_is_compared_while_analytics_are_rebuilt(world: BooksWorld) -> None:
    await one_closed_month(world)
    right = dict(world.closes)
    world.closes["2026-11"] = msgspec.structs.replace(right["2026-11"], checksum=WRONG)
    books = StoredBooks(world.analytics, lambda: world.closes)
    await step(world, "rebuilding")
    assert (await books.look(), books.differing, await differences(world)) == ([], 0, 0)
    await step(world, "rebuilt")
    assert (await books.look(), books.differing, await differences(world)) == ([], 1, 1)
    # A rebuild that begins while a month is being read, too; after it nobody waits for the next try.
    world.closes["2026-11"] = right["2026-11"]
    again = StoredBooks(world.analytics, lambda: world.closes)
    first_time(world, "INSERT INTO bursar.booked_rows", lambda: step(world, "rebuilding"))
    assert (await again.look(), again.differing, await differences(world)) == ([], 0, 1)
    assert await books.look() == []
    await step(world, "rebuilt")
    assert await books.look() == ["2026-11"]
    assert (await again.look(), books.differing) == ([], 0)


async def test_a_making_that_differs_takes_only_its_own_rows_away(world: BooksWorld) -> None:
    await one_closed_month(world)
    (row,) = await world.analytics.query("SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms")
    of_another = (int(row["now_ms"]) - 1000) << 20
    end_ms = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)
    await world.analytics.command(storing("2026-11", "", of_another, (), 0, end_ms))
    wrong = msgspec.structs.replace(world.closes["2026-11"], checksum=WRONG)
    assert await StoredBooks(world.analytics, lambda: {"2026-11": wrong}).look() == []
    assert await differences(world) == 1
    async with asyncio.timeout(60):
        while True:
            rows = await world.analytics.query(
                "SELECT generation, count() AS n FROM bursar.booked_rows GROUP BY generation ORDER BY generation"
            )
            if len(rows) < 2:
                break
            await asyncio.sleep(0.1)
    assert rows == [{"generation": of_another, "n": 2}]
