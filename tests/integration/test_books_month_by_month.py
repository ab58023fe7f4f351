"""A closed month that does not come to its checksum keeps no other from being stored; no charge changes its month."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar_aggregator.books import ALLOCATIONS, allocation_row
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_aggregator.stored_books import StoredBooks
from bursar_common.events import Usage
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.stored_books import BooksWorld
from tests.integration.test_stored_books import TIERS, shared_key, some_events, truth_of

pytestmark = pytest.mark.timeout(900)
"""Seconds: views of many parts take the engine long to analyse where the machine has other work."""
BEFORE_019 = 18
BOOKED = (
    "SELECT booked_month, belongs_to_month, charge_kind, team_id, team, virtual_key_id, model, project, billing,"
    " sum(toInt64(requests)) AS r, sum(cost_nusd) AS n, sum(input_tokens) AS t, toUInt64({count}) AS c"
    " FROM bursar.{view} GROUP BY ALL ORDER BY ALL"
)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.process.ready()
        yield front


async def three_closed_months(world: BooksWorld) -> None:
    """Events of four months over three closes: holds and late truths, copies, corrections of earlier months, a split;
    nothing is stored."""
    chance = random.Random(7)
    await world.insert("allocations", ALLOCATIONS, allocation_row(shared_key(), 1))
    written: list[Usage] = []
    corrections = 0
    for closing in ("2026-09", "2026-10", "2026-11", ""):
        events = some_events(chance, len(written) + 1, 60)
        late = [truth_of(each) for each in written if each.outcome == "expired" and chance.random() < 0.4]
        await world.write(*events, *late, *chance.sample(written, min(len(written), 5)))
        written += events
        for event in chance.sample([each for each in written if each.outcome == "completed"], 3):
            await world.correct(event.request_id, corrections, -chance.randrange(1, 10**6))
            corrections += 1
        if closing:
            await world.close(closing, corrections, tiers=TIERS)


async def said(world: BooksWorld) -> Any:
    """Every charge, from the books; equal to what the requests themselves say."""
    books = await world.analytics.query(BOOKED.format(view="booked_charges", count="sum(charges)"))
    assert books == await world.analytics.query(BOOKED.format(view="charges", count="count()"))
    return books, await world.analytics.query("SELECT * FROM bursar.month_checksums ORDER BY booked_month")


async def stored(world: BooksWorld) -> list[tuple[str, bool, bool]]:
    rows = await world.analytics.query("SELECT * FROM bursar.stored_closes ORDER BY month")
    return [(str(row["month"])[:7], row["stored"], row["differs"]) for row in rows]


async def test_months_are_stored_around_those_that_differ_and_every_charge_stays_where_it_is(
    front: ClickHouseFront,
) -> None:
    await front.prepare()
    world = BooksWorld(front.inner())
    await three_closed_months(world)
    before = await said(world)
    late = [row for row in before[0] if row["belongs_to_month"] < row["booked_month"]]
    assert {str(row["booked_month"])[:7] for row in late} == {"2026-10", "2026-11", "2026-12"}
    right = dict(world.closes)
    for month in ("2026-09", "2026-11"):
        world.closes[month] = msgspec.structs.replace(right[month], checksum="0" * 64)
    books = StoredBooks(world.analytics, lambda: world.closes)
    assert await books.look() == ["2026-10"]
    assert books.differing == 2
    assert await stored(world) == [("2026-09", False, True), ("2026-10", True, False), ("2026-11", False, True)]
    (of_october,) = await world.analytics.query(
        "SELECT toString(min(booked_month)) AS low, toString(max(booked_month)) AS high FROM bursar.booked_rows"
    )
    assert of_october == {"low": "2026-10-01", "high": "2026-10-01"}
    assert await said(world) == before
    # Once their requests are there they are stored as well, in any order.
    for month in ("2026-11", "2026-09"):
        world.closes[month] = right[month]
        books = StoredBooks(world.analytics, lambda: world.closes)
        assert await books.look() == [month]
        assert await said(world) == before
    assert books.differing == 0
    assert await stored(world) == [(month, True, False) for month in ("2026-09", "2026-10", "2026-11")]
    # What comes now is booked in the open month, and nowhere else.
    chance = random.Random(8)
    await world.write(*some_events(chance, 5_000, 20))
    books_now, checksums = await said(world)
    closed = [row for row in before[0] if str(row["booked_month"])[:7] != "2026-12"]
    assert [row for row in books_now if str(row["booked_month"])[:7] != "2026-12"] == closed
    assert checksums[:3] == before[1][:3]
    await world.analytics.close()


async def test_books_that_a_release_before_stored_are_read_on(front: ClickHouseFront) -> None:
    world = BooksWorld(front.inner())
    migrations = load_migrations()
    await migrate(world.analytics, migrations[:BEFORE_019])
    await three_closed_months(world)
    before = await said(world)
    first = {"2026-09": world.closes["2026-09"], "2026-10": world.closes["2026-10"]}
    assert await StoredBooks(world.analytics, lambda: first).look() == ["2026-09", "2026-10"]
    assert await said(world) == before
    await migrate(world.analytics, migrations)
    assert await said(world) == before
    assert await StoredBooks(world.analytics, lambda: world.closes).look() == ["2026-11"]
    assert await said(world) == before
    await world.analytics.close()
