"""All pages together are what a plain sort gives, whatever stands twice, was overtaken, was corrected or has left."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from bursar_admin import log_pages
from bursar_admin.analytics import Analytics
from bursar_admin.log_pages import CorrectedPlaces, Place
from bursar_admin.projection import Projection
from bursar_admin.queries.filters import Filters
from bursar_admin.queries.logs import SORTS, TOP_OF
from bursar_admin.queries.ranges import HOUR_MS, Span
from bursar_admin.usage import UsageStore
from bursar_aggregator.decode import UsageEvent, decode
from bursar_common.eventlog.port import LogRecord
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import Usage
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.leaving import Installation, at, october_is_due
from tests.harness.patience import patient_admin
from tests.harness.stored_books import CORRECTED
from tests.harness.usage_events import STARTED_AT_MS, request_id, usage, usage_record

DAY_MS = 24 * HOUR_MS
NUMBER = 24
TWO_MONTHS = Span(at(10, 1) - DAY_MS, at(12, 28))
COUNTS = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens")
TIMES = ("latency_ms", "time_to_first_token_ms")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


class People:
    """Nobody: filters by owner are not asked for here."""

    def __init__(self) -> None:
        self.users: dict[str, Any] = {}
        self.virtual_keys: dict[str, Any] = {}


def store_of(questions: Analytics) -> UsageStore:
    return UsageStore(questions, cast("Projection", People()))


@asynccontextmanager
async def empty(folder: Path) -> AsyncIterator[tuple[Installation, Analytics]]:
    """Nothing is on record, which is noted; what is written twice stays so."""
    with ClickHouseFront(folder / "clickhouse") as front:
        await front.prepare()
        analytics, questions = front.inner(), Analytics(front.url)
        log = SqliteEventLog(folder / "log.db")
        await log.start()
        world = Installation(analytics, log, folder)
        await analytics.command("INSERT INTO bursar.usage_hours_touched (hour) VALUES (toDateTime(0, 'UTC'))")
        await analytics.command("SYSTEM STOP MERGES bursar.usage_events")
        yield world, questions
        await questions.close()
        await log.close()
        await analytics.close()


async def all_pages(
    store: UsageStore, span: Span, sort_by: str, *, descending: bool, limit: int, filters: Filters | None = None
) -> list[dict[str, Any]]:
    """One page after the other, until one is not full."""
    wanted = store.criteria(filters or Filters())
    found: list[dict[str, Any]] = []
    after: Place | None = None
    while True:
        rows = await store.page(wanted, span, sort_by, descending=descending, after=after, count=limit)
        found += rows
        if len(rows) < limit:
            return found
        after = (rows[-1]["sort_value"], rows[-1]["request_id"])


def some_request(chance: random.Random, number: int) -> Usage:
    cost = chance.choice((0, 5_000, 5_000, chance.randrange(9_000)))
    known = chance.random() < 0.9
    return usage(
        number,
        virtual_key_id=f"key-{chance.randrange(12)}",
        started_at_ms=STARTED_AT_MS + chance.choice((-20, 0, 1, 2, 20)) * HOUR_MS,
        cost_nusd=cost,
        list_cost_nusd=cost + chance.randrange(2),
        **{name: chance.choice((0, 100, chance.randrange(200))) if known else None for name in COUNTS},
        latency_ms=chance.choice((None, 70, chance.randrange(90))),
        time_to_first_token_ms=chance.choice((None, 7, chance.randrange(9))),
    )


def sort_value(shown: dict[str, Any], sort_by: str) -> int:
    if sort_by in ("cost", "list_cost"):
        return int(shown[f"{sort_by}_nusd"])
    if sort_by == "tokens":
        counts = [shown[name] for name in COUNTS]
        return -1 if None in counts else sum(counts)
    value = shown["started_at_ms" if sort_by == "started_at" else sort_by]
    return -1 if value is None else value


@pytest.mark.parametrize("seed", range(2))
async def test_all_pages_together_are_the_plain_order(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with empty(tmp_path) as (world, questions):
        truth = {request_id(number): some_request(chance, number) for number in range(NUMBER)}
        # Holds that expired, at what was held, which the truth overtook later.
        overtaken = [
            replace(each, outcome="expired", cost_nusd=8_000, latency_ms=None, **dict.fromkeys(COUNTS, 300))
            for each in truth.values()
            if chance.random() < 0.3
        ]
        records = [
            LogRecord(record.topic, 0, offset, record.key, record.value)
            for offset, record in enumerate(map(usage_record, (*overtaken, *truth.values())))
        ]
        await world.writer.write(records)
        if seed % 2:
            await world.sum_up()
        for _ in range(2):  # once more: crashes between writing and noting how far
            await world.writer.write([each for each in records if chance.random() < 0.8])
        if seed % 2:
            await world.sum_up()
        shown = {
            name: {field: getattr(each, field) for field in (*COUNTS, "cost_nusd", "list_cost_nusd", *TIMES)}
            | {"started_at_ms": each.started_at_ms}
            for name, each in truth.items()
        }
        corrected = chance.sample(sorted(truth), chance.choice((1, 6)))
        for offset, name in enumerate(corrected):
            cost, tokens = chance.choice((-1, 4_000, 5_000 - shown[name]["cost_nusd"])), chance.choice((0, 55))
            when = datetime(2026, 12, 5, tzinfo=UTC)
            await world.insert(
                "corrections",
                (*CORRECTED, ("output_tokens", "Int64")),
                (f"c{offset}", name, when, "price", cost, cost, offset, tokens),
            )
            shown[name]["cost_nusd"] += cost
            shown[name]["list_cost_nusd"] += cost
            if shown[name]["output_tokens"] is not None:
                shown[name]["output_tokens"] += tokens
        store = store_of(questions)
        for sort_by in SORTS:
            for descending in (True, False):
                limit = chance.choice((4, 7, 10))
                least = chance.choice((None, None, 4_000))
                filters = Filters(min_cost_usd="0.000004") if least else Filters()
                found = await all_pages(store, TWO_MONTHS, sort_by, descending=descending, limit=limit, filters=filters)
                expected = sorted(
                    (
                        (sort_value(each, sort_by), name)
                        for name, each in shown.items()
                        if least is None or each["cost_nusd"] >= least
                    ),
                    reverse=descending,
                )
                assert [(row["sort_value"], row["request_id"]) for row in found] == expected, (
                    seed, sort_by, descending, limit, least,
                )  # fmt: skip


async def test_pages_of_the_last_two_days_are_the_plain_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their places come from the table by hour, those of older requests from the other one, and both in one page."""
    chance = random.Random(7)
    async with empty(tmp_path) as (world, questions):
        await world.analytics.command("SYSTEM STOP MERGES bursar.usage_recent")
        ((_, now_ms),) = [row.popitem() for row in await questions.rows("SELECT toUnixTimestamp(now()) * 1000 AS n")]
        truth: dict[str, Usage] = {}
        for number in range(36):
            at_ms = now_ms - chance.choice((1, 2, 3, 30, 46, 49, 70)) * HOUR_MS - chance.randrange(900_000)
            digits = f"{at_ms:012x}"
            name = f"{digits[:8]}-{digits[8:]}-7000-8000-{number:012d}"
            truth[name] = replace(some_request(chance, number), request_id=name, started_at_ms=at_ms)
        overtaken = [
            replace(each, outcome="expired", cost_nusd=8_000, latency_ms=None, **dict.fromkeys(COUNTS, 300))
            for each in list(truth.values())[::3]
        ]
        records = [
            LogRecord(record.topic, 0, offset, record.key, record.value)
            for offset, record in enumerate(map(usage_record, (*overtaken, *truth.values())))
        ]
        await world.writer.write(records)
        await world.sum_up()
        asked: list[str] = []
        real = questions.rows

        async def rows(sql: str, *further: Any) -> list[dict[str, Any]]:
            asked.append(sql)
            return await real(sql, *further)

        monkeypatch.setattr(questions, "rows", rows)
        shown = {
            name: {field: getattr(each, field) for field in (*COUNTS, "cost_nusd", "list_cost_nusd", *TIMES)}
            | {"started_at_ms": each.started_at_ms}
            for name, each in truth.items()
        }
        span = Span(now_ms - 5 * DAY_MS, now_ms + HOUR_MS)
        store = store_of(questions)
        for step in ("summed up", "late", "corrected"):
            if step == "late":
                # As after a crash: hours are open again, some of which are recent.
                newest = [each for each in records if read(each).started_at_ms > now_ms - 3 * HOUR_MS]
                hours = [(read(each).started_at_ms // HOUR_MS * 3600,) for each in newest]
                await world.insert("usage_hours_touched", (("hour", "DateTime('UTC')"),), *hours)
                await world.writer.write(newest)
            if step == "corrected":
                for offset, name in enumerate(chance.sample(sorted(truth), 5)):
                    when = datetime(2026, 12, 5, tzinfo=UTC)
                    await world.insert("corrections", CORRECTED, (f"c{offset}", name, when, "price", 3_000, 1, offset))
                    shown[name]["cost_nusd"] += 3_000
                    shown[name]["list_cost_nusd"] += 1
            for sort_by in SORTS:
                for descending, filters in ((True, Filters()), (False, Filters()), (True, DEAR), (True, NO_BRANCH)):
                    found = await all_pages(store, span, sort_by, descending=descending, limit=7, filters=filters)
                    expected = sorted(
                        (
                            (sort_value(each, sort_by), name)
                            for name, each in shown.items()
                            if filters is not DEAR or each["cost_nusd"] >= 4_000
                        ),
                        reverse=descending,
                    )
                    got = [(row["sort_value"], row["request_id"]) for row in found]
                    assert got == expected, (step, sort_by, descending, filters)
                    for row in found:
                        assert {name: row[name] for name in shown[row["request_id"]]} == shown[row["request_id"]]
        places = [sql for sql in asked if "AS day, rank" in sql]
        assert any("usage_recent" in sql and "usage_events" not in sql for sql in places)
        assert any("usage_recent" in sql and "{least:Int64}" in sql for sql in places)
        assert any("usage_recent" not in sql for sql in places)


DEAR = Filters(min_cost_usd="0.000004")
NO_BRANCH = Filters(branch="")
"""The table by hour has no branches."""


def read(record: LogRecord) -> Usage:
    event = decode(record.value)
    assert isinstance(event, UsageEvent)
    return event.usage


async def test_what_stands_twice_does_not_end_a_page(tmp_path: Path) -> None:
    async with empty(tmp_path) as (world, questions):
        events = [usage(number, started_at_ms=STARTED_AT_MS, cost_nusd=5_000 + number) for number in range(20)]
        records = [
            LogRecord(record.topic, 0, offset, record.key, record.value)
            for offset, record in enumerate(map(usage_record, events))
        ]
        await world.writer.write(records)
        await world.writer.write(records)
        await world.correct(request_id(3), 0, -2)
        assert (await world.one("SELECT count() AS n FROM bursar.usage_events"))["n"] == 40
        costs = sorted(5_001 if number == 3 else 5_000 + number for number in range(20))
        for descending in (True, False):
            rows = await store_of(questions).page(
                store_of(questions).criteria(Filters()),
                TWO_MONTHS,
                "list_cost",
                descending=descending,
                after=None,
                count=10,
            )
            expected = costs[::-1][:10] if descending else costs[:10]
            assert [row["list_cost_nusd"] for row in rows] == expected


async def test_the_dearest_of_many_equal_ones_are_followed_by_the_others(tmp_path: Path) -> None:
    async with empty(tmp_path) as (world, questions):
        same = [usage(n, started_at_ms=STARTED_AT_MS, virtual_key_id=f"key-{n}", cost_nusd=5_000) for n in range(20)]
        cheaper = [
            usage(20 + n, started_at_ms=STARTED_AT_MS, virtual_key_id=f"cheap-{n}", cost_nusd=n) for n in range(5)
        ]
        await world.write(*same, *cheaper)
        await world.sum_up()
        found = await all_pages(store_of(questions), TWO_MONTHS, "cost", descending=True, limit=2)
        assert [row["cost_nusd"] for row in found] == [5_000] * 20 + [4, 3, 2, 1, 0]
        assert len({row["request_id"] for row in found}) == 25


async def test_where_nothing_is_summed_up_the_dearest_are_found(tmp_path: Path) -> None:
    async with empty(tmp_path) as (world, questions):
        store = store_of(questions)
        for sort_by in TOP_OF:
            assert await all_pages(store, TWO_MONTHS, sort_by, descending=True, limit=5) == []
            aligned = Span(at(11) // DAY_MS * DAY_MS, at(12) // DAY_MS * DAY_MS)
            assert await all_pages(store, aligned, sort_by, descending=True, limit=5) == []
        await world.write(*(usage(n, started_at_ms=STARTED_AT_MS, cost_nusd=n, latency_ms=n) for n in range(12)))
        # Every hour is open, as in a new installation; then all are summed up, then as a former release left the sums.
        for step in ("open", "summed", "former"):
            if step == "summed":
                await world.sum_up()
            elif step == "former":
                await world.analytics.command(
                    "ALTER TABLE bursar.usage_hours_built UPDATE form = 1 WHERE 1 SETTINGS mutations_sync = 2"
                )
            for sort_by in TOP_OF:
                found = await all_pages(store, TWO_MONTHS, sort_by, descending=True, limit=5)
                assert len(found) == 12, (step, sort_by)
                if sort_by != "tokens":
                    assert [row["request_id"] for row in found] == [request_id(n) for n in reversed(range(12))]


async def test_sums_of_what_has_left_do_not_end_the_pages_of_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with october_is_due(tmp_path) as world:
        dear = [
            usage(200 + n, started_at_ms=at(11, 2 + n), virtual_key_id=f"key-{n}", cost_nusd=90 - n) for n in range(8)
        ]
        gone = [
            usage(300 + n, started_at_ms=at(10, 3 + n), virtual_key_id=f"key-{n}", cost_nusd=9_000 + n)
            for n in range(20)
        ]
        questions = Analytics(world.front.url)
        await world.write(*dear, *gone)
        await world.sum_up()
        asked: list[Span] = []
        for step in ("all kept", "left, and known", "left, and not yet known"):
            store = store_of(questions)
            if step == "left, and known":
                await world.analytics.command("ALTER TABLE bursar.usage_events DROP PARTITION 202610")
                await world.insert("usage_left", (("month", "Date"), ("step", "String")), (at_date(10), "left"))
            if step == "left, and not yet known":
                await world.analytics.command("TRUNCATE TABLE bursar.usage_left")
            real = store.haunts

            async def haunts(wanted: Any, span: Span, *further: Any, real: Any = real) -> Any:
                asked.append(span)
                return await real(wanted, span, *further)

            monkeypatch.setattr(store, "haunts", haunts)
            found = await all_pages(store, TWO_MONTHS, "cost", descending=True, limit=3)
            kept = [1_000, 100, *(90 - n for n in range(8))]
            before = [9_000 + n for n in reversed(range(20))]
            old = [5, 4, 3, 2, 1]
            assert [row["cost_nusd"] for row in found] == ([*before, *kept, *old] if step == "all kept" else kept)
            if step == "left, and known":
                november = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
                assert {span.from_ms for span in asked} == {november}
                october = Span(TWO_MONTHS.from_ms, november)
                assert await all_pages(store, october, "started_at", descending=False, limit=3) == []
            asked.clear()
        await questions.close()


def at_date(month: int) -> Any:
    return datetime(2026, month, 1, tzinfo=UTC).date()


async def test_corrected_requests_that_are_not_on_record_are_looked_for_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with empty(tmp_path) as (world, questions):
        await world.write(usage(1, started_at_ms=STARTED_AT_MS))
        await world.correct(request_id(1), 0, -1)
        await world.correct(request_id(2), 1, -1)
        asked: list[str] = []
        real = questions.rows

        async def rows(sql: str, *further: Any) -> list[dict[str, Any]]:
            asked.append(sql)
            return await real(sql, *further)

        monkeypatch.setattr(questions, "rows", rows)
        monkeypatch.setattr(log_pages, "LOOK_AGAIN_S", 3_600.0)
        places = CorrectedPlaces(questions)
        for _ in range(3):
            assert list(await places.all()) == [request_id(1)]
        assert len(asked) == 4  # which are corrected, three times, and once where these are
        await world.write(usage(2, started_at_ms=STARTED_AT_MS))
        monkeypatch.setattr(log_pages, "LOOK_AGAIN_S", 0.0)
        assert set(await places.all()) == {request_id(1), request_id(2)}
