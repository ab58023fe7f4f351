"""The books over a real ClickHouse: closed months stay as they were, and every nano-dollar is booked once."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar_aggregator.arrivals import FirstArrivals
from bursar_aggregator.batch import batch_of
from bursar_aggregator.books import ALLOCATIONS, CLOSED, BooksFollower, allocation_row, closed_row
from bursar_aggregator.writer import UsageWriter
from bursar_common.analytics import Analytics
from bursar_common.eventlog.port import LogRecord, NewRecord
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import CORRECTIONS_TOPIC, GOVERNANCE_TOPIC, GovernanceData, Usage, encode_event
from bursar_common.finance import (
    USAGE_CORRECTED,
    WHOLE,
    Allocation,
    AllocationPart,
    Close,
    Correction,
    LogBound,
    PeriodClose,
    booked_month,
    divide,
)
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.usage_events import STARTED_AT_MS, request_id, usage, usage_record

DAY_MS = 86_400_000
VIEWS = (
    "log_closes", "late_truths", "charges", "allocated_charges", "booked_monthly", "booked_lines", "month_checksums",
)  # fmt: skip
TABLES = ("closed_months", "allocations", "expired_events")


class World:
    """A database to which events are written as the aggregator writes them, each at the next offset."""

    def __init__(self, analytics: Analytics) -> None:
        self.analytics = analytics
        keep = FirstArrivals(analytics, lambda: (STARTED_AT_MS + 40 * DAY_MS) / 1000).keep
        self.writer = UsageWriter(analytics, None, keep=keep)  # type: ignore[arg-type]
        self.offset = 0

    async def write(self, *events: Usage) -> None:
        records = []
        for event in events:
            record = usage_record(event)
            records.append(LogRecord(record.topic, 0, self.offset, record.key, record.value))
            self.offset += 1
        assert not batch_of(records).set_aside
        await self.writer.write(records)

    async def close(self, month: str, corrections: int = 0) -> None:
        bounds = (LogBound("bursar.usage.v1", 0, self.offset), LogBound(CORRECTIONS_TOPIC, 0, corrections))
        await self.insert("closed_months", CLOSED, closed_row(a_close(month, bounds), 1))

    async def correct(self, number: int, offset: int, cost: int) -> None:
        names = ("correction_id", "request_id", "corrected_at", "reason", "cost_nusd", "list_cost_nusd", "log_offset")
        types = ("String", "String", "DateTime64(3, 'UTC')", "String", "Int64", "Int64", "UInt64")
        at = datetime(2026, 12, 5, tzinfo=UTC)
        row = (f"c{offset}", request_id(number), at, "price", cost, cost, offset)
        await self.insert("corrections", tuple(zip(names, types, strict=True)), row)

    async def insert(self, table: str, columns: Any, *rows: Any) -> None:
        await self.analytics.insert_columns(
            table,
            [name for name, _ in columns],
            [type_ for _, type_ in columns],
            [list(column) for column in zip(*rows, strict=True)],
        )

    async def books(self) -> dict[tuple[str, str, str], tuple[int, int]]:
        """(booked, belongs to, kind) -> (requests, nano-dollars)."""
        rows = await self.analytics.query(
            "SELECT booked_month, belongs_to_month, charge_kind, sum(requests) AS r, sum(billed_nusd) AS n"
            " FROM bursar.booked_monthly GROUP BY booked_month, belongs_to_month, charge_kind"
        )
        return {
            (f"{row['booked_month']:%Y-%m}", f"{row['belongs_to_month']:%Y-%m}", row["charge_kind"]): (
                row["r"],
                row["n"],
            )
            for row in rows
        }

    async def checksum(self, month: str) -> str:
        rows = await self.analytics.query(
            f"SELECT checksum FROM bursar.month_checksums WHERE booked_month = '{month}-01'"
        )
        return str(rows[0]["checksum"])

    async def sums_agree(self) -> None:
        """By the month it belongs to, what is booked anywhere is what bursar.usage says."""
        booked = await self.analytics.query(
            "SELECT belongs_to_month AS m, sum(cost_nusd) AS n, sum(list_cost_nusd) AS l, sum(toInt64(requests)) AS r,"
            " ifNull(sum(output_tokens), 0) AS t FROM bursar.charges GROUP BY m ORDER BY m"
        )
        known = await self.analytics.query(
            "SELECT toStartOfMonth(toDate(started_at)) AS m, sum(cost_nusd) AS n, sum(list_cost_nusd) AS l,"
            " toInt64(count()) AS r, toInt64(ifNull(sum(output_tokens), 0)) AS t FROM bursar.usage"
            " WHERE provider != 'simulator' AND outcome != 'refused' GROUP BY m ORDER BY m"
        )
        assert booked == known


def a_close(month: str, bounds: tuple[LogBound, ...]) -> PeriodClose:
    return PeriodClose(
        id=f"close:{month}", name=month, created_at_s=1_796_000_000, closed_by="test", bounds=bounds, price_books=(),
        checksum="", rows=0, requests=0, billed_nusd=0, list_nusd=0, expired_nusd=0, corrections_nusd=0,
        allocated_nusd=0,
    )  # fmt: skip


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        analytics = front.inner()
        yield World(analytics)
        await analytics.close()


def hold(number: int, **fields: Any) -> Usage:
    return usage(number, outcome="expired", estimated=True, input_tokens=None, output_tokens=None, **fields)


async def test_what_comes_after_a_close_is_booked_in_the_next_month(world: World) -> None:
    november, december = usage(1), usage(9, started_at_ms=STARTED_AT_MS + 15 * DAY_MS)
    await world.write(november, hold(3, cost_nusd=5_000), december, usage(4, provider="simulator"))
    before = await world.checksum("2026-11")
    await world.close("2026-11")
    assert await world.checksum("2026-11") == before
    truth = usage(3, cost_nusd=3_000)
    await world.write(usage(5, cost_nusd=70), truth, december)  # late; the truth of a hold; a copy
    await world.correct(1, 0, -9)
    assert await world.books() == {
        ("2026-11", "2026-11", "usage"): (1, november.cost_nusd),
        ("2026-11", "2026-11", "expired_hold"): (1, 5_000),
        ("2026-12", "2026-12", "usage"): (1, december.cost_nusd),
        ("2026-12", "2026-11", "usage"): (1, 70),
        ("2026-12", "2026-11", "correction"): (0, -5_000 + 3_000 - 9),
    }
    assert await world.checksum("2026-11") == before
    await world.sums_agree()
    await world.close("2026-12", corrections=1)
    december_closed = await world.checksum("2026-12")
    await world.write(usage(6, cost_nusd=11), usage(10, started_at_ms=december.started_at_ms, cost_nusd=13))
    books = await world.books()
    assert books["2027-01", "2026-11", "usage"] == (1, 11)
    assert books["2027-01", "2026-12", "usage"] == (1, 13)
    assert [await world.checksum(month) for month in ("2026-11", "2026-12")] == [before, december_closed]
    await world.sums_agree()


async def test_a_copy_that_comes_after_the_close_changes_nothing(world: World) -> None:
    await world.write(usage(1), hold(2))
    before = await world.books()
    await world.close("2026-11")
    await world.write(usage(1), hold(2))
    assert await world.books() == before
    # Read again from the beginning, as a rebuild does: the same books.
    world.offset = 0
    await world.analytics.command("TRUNCATE TABLE bursar.usage_events")
    await world.write(usage(1), hold(2), usage(1), hold(2))
    assert await world.books() == before


async def test_the_checksum_can_be_made_from_the_lines_by_hand(world: World) -> None:
    await world.write(usage(1), usage(2, model="claude-opus-4-8"), hold(3), usage(4, project="ünïcode"))
    rows = await world.analytics.query("SELECT line FROM bursar.booked_lines WHERE booked_month = '2026-11-01'")
    lines = sorted(row["line"].encode() + b"\n" for row in rows)
    assert hashlib.sha256(b"".join(lines)).hexdigest() == await world.checksum("2026-11")


async def test_the_views_book_as_the_rule_says(world: World) -> None:
    """Random events of four months over random closes, against the pure rule."""
    chance = random.Random(7)
    closes: list[Close] = []
    expected: dict[int, tuple[str, int]] = {}
    for closing in ("2026-09", "2026-10", "2026-11", ""):
        events: list[Usage] = []
        for _ in range(12):
            number, month = len(expected) + 1, chance.randrange(9, 13)
            at_ms = int(datetime(2026, month, 14, tzinfo=UTC).timestamp() * 1000) + number
            expected[number] = (f"2026-{month:02d}", world.offset + len(events))
            events.append(usage(number, started_at_ms=at_ms, cost_nusd=number))
        await world.write(*events)
        if closing:
            await world.close(closing)
            closes.append((closing, {("bursar.usage.v1", 0): world.offset}))
    rows = await world.analytics.query("SELECT request_id, booked_month FROM bursar.charges")
    found = {row["request_id"]: f"{row['booked_month']:%Y-%m}" for row in rows}
    for number, (belongs, offset) in expected.items():
        assert found[request_id(number)] == booked_month(belongs, "bursar.usage.v1", 0, offset, closes)
    await world.sums_agree()


def split(weights: list[int], **fields: Any) -> Allocation:
    parts = tuple(
        AllocationPart(team_id=f"t{at}", team=f"Team {at}", weight=weight) for at, weight in enumerate(weights)
    )
    defaults: dict[str, Any] = {
        "id": "a1",
        "name": "shared key",
        "kind": "split",
        "created_at_s": 1,
        "from_month": "2026-11",
    }
    return Allocation(**(defaults | {"virtual_key_id": "key-1", "parts": parts} | fields))


async def test_a_split_moves_to_the_nano_dollar_as_the_pure_rule_divides(world: World) -> None:
    chance = random.Random(11)
    amounts = [chance.randrange(1, 10**12) for _ in range(25)] + [1, 2, 3]
    weights = [333_333, 333_333, 123_456, 7]
    await world.write(
        *(usage(at, cost_nusd=amount, project=f"p{at}") for at, amount in enumerate(amounts)),
        usage(99, virtual_key_id="key-2"),
    )
    await world.insert("allocations", ALLOCATIONS, allocation_row(split(weights), 1))
    rows = await world.analytics.query(
        "SELECT project, team_id, cost_nusd, list_cost_nusd FROM bursar.allocated_charges"
    )
    assert sum(row["cost_nusd"] for row in rows) == sum(row["list_cost_nusd"] for row in rows) == 0
    found = {(row["project"], row["team_id"]): row["cost_nusd"] for row in rows}
    for at, amount in enumerate(amounts):
        parts = divide(amount, [*weights, WHOLE - sum(weights)])
        for index, part in enumerate(parts[:-1]):
            assert found.get((f"p{at}", f"t{index}"), 0) == part
        assert found.get((f"p{at}", "team-1"), 0) == parts[-1] - amount
    total = await world.analytics.query("SELECT sum(billed_nusd) AS n FROM bursar.booked_monthly")
    assert total[0]["n"] == sum(amounts) + usage(99).cost_nusd


async def test_what_is_taken_back_is_split_like_what_was_charged(world: World) -> None:
    await world.insert("allocations", ALLOCATIONS, allocation_row(split([500_000]), 1))
    await world.write(hold(1, cost_nusd=101))
    await world.close("2026-11")
    await world.write(usage(1, cost_nusd=50))
    books = await world.books()
    assert books["2026-11", "2026-11", "split"][1] == books["2026-12", "2026-11", "split"][1] == 0
    rows = await world.analytics.query(
        "SELECT booked_month, team_id, sum(billed_nusd) AS n FROM bursar.booked_monthly"
        " GROUP BY booked_month, team_id ORDER BY booked_month, team_id"
    )
    assert [(row["booked_month"], row["team_id"], row["n"]) for row in rows] == [
        (date(2026, 11, 1), "t0", 51), (date(2026, 11, 1), "team-1", 50),
        (date(2026, 12, 1), "t0", -26), (date(2026, 12, 1), "team-1", -25),
    ]  # fmt: skip


async def test_fees_and_commitments_stand_in_each_of_their_months(world: World) -> None:
    fee = split([], id="f", kind="fee", from_month="2026-01", to_month="2026-02", virtual_key_id="",
                parts=(AllocationPart(team_id="t", weight=3, amount_nusd=60),))  # fmt: skip
    ended = split([], id="e", kind="commitment", from_month="2026-03", to_month="2026-02", virtual_key_id="",
                  parts=(AllocationPart(customer_id="c", weight=WHOLE, amount_nusd=1),))  # fmt: skip
    later = split([], id="l", kind="fee", from_month="2099-01", virtual_key_id="",
                  parts=(AllocationPart(customer_id="c", weight=1, amount_nusd=1),))  # fmt: skip
    await world.insert("allocations", ALLOCATIONS, *(allocation_row(each, 1) for each in (fee, ended, later)))
    assert await world.books() == {
        ("2026-01", "2026-01", "fee"): (0, 60),
        ("2026-02", "2026-02", "fee"): (0, 60),
    }


async def test_every_column_says_what_it_is(world: World) -> None:
    rows = await world.analytics.query(
        "SELECT table, name, comment FROM system.columns"
        " WHERE database = 'bursar' AND has({tables:Array(String)}, table)",
        {"tables": [*VIEWS, *TABLES]},
    )
    assert {row["table"] for row in rows} == {*VIEWS, *TABLES}
    assert [row for row in rows if len(row["comment"]) < 4] == []


def governance(entity: str, document: Any, entity_id: str, seen: int) -> NewRecord:
    data = GovernanceData(
        entity=entity, entity_id=entity_id, actor="test", seen={entity_id: seen},
        document=None if document is None else msgspec.to_builtins(document),
    )  # fmt: skip
    value = encode_event(
        id=f"{entity_id}{seen}", source="bursar/admin", type="t", time="2026-12-01T00:00:00Z", subject="", data=data
    )
    return NewRecord(GOVERNANCE_TOPIC, entity_id, value)


async def touched(world: World) -> list[dict[str, Any]]:
    return await world.analytics.query(
        "SELECT hour, max(touched_at) AS at FROM bursar.usage_hours_touched GROUP BY hour"
    )


async def test_the_follower_brings_closes_allocations_and_corrections_in(world: World, tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    try:
        follower = BooksFollower(world.analytics, log)
        close = a_close("2026-11", (LogBound("bursar.usage.v1", 0, 3),))
        moved = split([10])
        await log.append(
            [
                governance("period_close", close, close.id, 0),
                governance("period_close", a_close("2026-11", ()), close.id, 0),  # rejected by the projector
                governance("allocation", moved, moved.id, 0),
                governance("team", {"id": "t"}, "t", 0),
                NewRecord(GOVERNANCE_TOPIC, "x", b"not an event"),
            ]
        )
        correction = Correction(
            correction_id="k", request_id=request_id(1), corrected_at_ms=STARTED_AT_MS, reason="r", actor="a",
            cost_nusd=-4, list_cost_nusd=-5,
        )  # fmt: skip
        value = encode_event(
            id="k", source="bursar/admin", type=USAGE_CORRECTED, time="2026-12-01T00:00:00Z", subject="",
            data=correction,
        )  # fmt: skip
        overtaken = encode_event(
            id="late", source="bursar/admin", type=USAGE_CORRECTED, time="2026-12-01T00:00:00Z", subject="",
            data=msgspec.structs.replace(correction, correction_id="late", seen_offset=1),
        )  # fmt: skip
        await log.append([NewRecord(CORRECTIONS_TOPIC, "k", each) for each in (b"?", value, overtaken, value)])
        await world.write(usage(1, cost_nusd=9))
        assert await touched(world) == []
        await follower.step()
        noted = await touched(world)
        assert [row["hour"].timestamp() for row in noted] == [STARTED_AT_MS // 3_600_000 * 3600]  # read by request now
        await log.append([governance("allocation", None, moved.id, 1)])
        await follower.step()
        await BooksFollower(world.analytics, log).step()  # another replica, or the next start
        assert await touched(world) == noted  # what is in already touches nothing
        (closed,) = await world.analytics.query("SELECT * FROM bursar.closed_months FINAL")
        assert (closed["month"], closed["next_offsets"], closed["version"]) == (date(2026, 11, 1), [3], 1)
        (allocation,) = await world.analytics.query("SELECT deleted, version FROM bursar.allocations FINAL")
        assert (allocation["deleted"], allocation["version"]) == (True, 2)
        (row,) = await world.analytics.query("SELECT * FROM bursar.corrections FINAL")
        assert (row["cost_nusd"], row["list_cost_nusd"], row["log_offset"]) == (-4, -5, 1)
    finally:
        await log.close()
