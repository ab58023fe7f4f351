"""A search for text finds what a plain look at every request finds, whatever leads to the days and keys it looks at."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from bursar_admin import log_pages
from bursar_admin.analytics import Analytics
from bursar_admin.projection import Projection
from bursar_admin.queries import names as names_queries
from bursar_admin.queries.filters import Filters
from bursar_admin.queries.ranges import HOUR_MS, Span
from bursar_admin.usage import UsageStore
from bursar_aggregator import names
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_common.analytics import Analytics as Inner
from bursar_common.analytics import AnalyticsUnavailable
from bursar_common.events import Usage
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.leaving import october_is_due
from tests.harness.stored_books import BooksWorld
from tests.harness.usage_events import usage

DAY_MS = 24 * HOUR_MS
FIRST_MS = int(datetime(2036, 9, 28, tzinfo=UTC).timestamp() * 1000)
"""Far ahead: stored content leaves by its date."""
DAYS = 14
NUMBER = 90
KEYS = 9
RANGE = Span(FIRST_MS, FIRST_MS + DAYS * DAY_MS)
WORDS = ("alpha", "Beta", "gam_ma", "del%ta", "päivä", "it's", "back\\slash")
BEFORE = 19
"""The schema file before names are noted."""


class People:
    users: dict[str, Any] = {  # noqa: RUF012
        "u-1": type("User", (), {"id": "u-1", "name": "Ada Lovelace"})(),
        "u-2": type("User", (), {"id": "u-2", "name": "Alphonse"})(),
    }
    customers: dict[str, Any] = {}  # noqa: RUF012
    teams = virtual_keys = customers


def some_request(chance: random.Random, number: int) -> Usage:
    word = chance.choice(WORDS)
    where = chance.choice(("branch", "project", "tags", "error_type", "virtual_key", "nowhere", "nowhere"))
    fields: dict[str, Any] = {} if where == "nowhere" else {where: {"t": f"x-{word}-y"} if where == "tags" else word}
    return usage(
        number,
        virtual_key_id=f"key-{chance.randrange(KEYS)}",
        user_id=f"u-{chance.randrange(3)}",
        started_at_ms=FIRST_MS + chance.randrange(DAYS * 24) * HOUR_MS + number,
        **({"tags": {}} | fields),
    )


@asynccontextmanager
async def database(folder: Path, schema: int | None = None) -> AsyncIterator[tuple[Inner, Analytics]]:
    with ClickHouseFront(folder / "clickhouse") as front:
        await front.process.ready()
        inner, questions = front.inner(), Analytics(front.url)
        await migrate(inner, load_migrations()[:schema])
        yield inner, questions
        await questions.close()
        await inner.close()


async def put_content(inner: Inner, event: Usage, text: str) -> None:
    await inner.insert_columns(
        "content",
        ("request_id", "started_at", "virtual_key_id", "texts"),
        ("String", "DateTime64(3, 'UTC')", "String", "Array(String)"),
        [[event.request_id], [datetime.fromtimestamp(event.started_at_ms / 1000, UTC)], [event.virtual_key_id],
         [["be good", text]]],
    )  # fmt: skip


async def found(
    store: UsageStore, text: str, *, descending: bool, limit: int, in_time: bool = False, **filters: Any
) -> list[str]:
    """Ids of all pages together."""
    wanted = store.criteria(Filters(text=text, **filters))
    ids: list[str] = []
    after = None
    while True:
        page = await store.log_pages.page(
            wanted, RANGE, "started_at", descending=descending, after=after, count=limit, in_time=in_time
        )
        ids += [row["request_id"] for row in page.rows]
        if page.looked_to_ms is not None:
            after = (page.looked_to_ms, "") if descending else (page.looked_to_ms - 1, "~")  # as the route does
        elif len(page.rows) < limit:
            return ids
        else:
            after = (page.rows[-1]["sort_value"], page.rows[-1]["request_id"])


def plainly(events: list[Usage], said: dict[str, str], text: str, *, descending: bool) -> list[str]:
    """As a reader with an eye on every request would list them."""
    people = {user.id for user in People.users.values() if text.lower() in user.name.lower()}

    def has(event: Usage) -> bool:
        texts = [event.virtual_key, event.team, event.project, event.branch, event.error_type, event.model]
        texts += [*event.tags.values(), event.provider, said.get(event.request_id, "")]
        # Letters outside ASCII are told apart from their capitals.
        return event.user_id in people or any(text.lower() in each.lower() for each in texts)

    hits = sorted(((each.started_at_ms, each.request_id) for each in events if has(each)), reverse=descending)
    return [each for _, each in hits]


@pytest.mark.parametrize(
    ("most", "first", "content"), [(2_000, 100, False), (2_000, 100, True), (7, 3, False), (2, 1, True)]
)
async def test_all_pages_of_a_search_are_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, first: int, content: bool
) -> None:
    monkeypatch.setattr(names_queries, "MAX_HAUNTS", most)
    monkeypatch.setattr(names_queries, "FIRST_HAUNTS", first)
    chance = random.Random(most)
    events = [some_request(chance, number) for number in range(NUMBER)]
    said = {each.request_id: chance.choice(WORDS) for each in events if content and chance.random() < 0.2}
    async with database(tmp_path) as (inner, questions):
        world = BooksWorld(inner)
        await world.write(*events[: NUMBER // 2])
        await world.write(*events[NUMBER // 3 :])
        for each in events:
            if each.request_id in said:
                await put_content(inner, each, f"Tell me of {said[each.request_id]}, please")
        store = UsageStore(questions, cast("Projection", People()))
        texts = ("ALPHA", "a", "x-", "lovelace", "nothing has this")
        for text in texts if content or most < KEYS else (*WORDS, *texts):
            for descending in (True, False):
                expected = plainly(events, said, text, descending=descending)
                limit = chance.choice((9, 40))
                in_time = chance.random() < 0.5
                got = await found(store, text, descending=descending, limit=limit, in_time=in_time)
                assert got == expected, (text, descending, limit, in_time)
        assert await found(store, "x-", descending=True, limit=5, key=("key-3",)) == [
            each.request_id
            for each in sorted(events, key=lambda event: -event.started_at_ms)
            if each.virtual_key_id == "key-3" and each.request_id in plainly(events, {}, "x-", descending=True)
        ]


async def test_a_search_ends_in_time_and_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_pages, "TEXT_S", -1.0)
    events = [some_request(random.Random(5), number) for number in range(NUMBER)]
    async with database(tmp_path) as (inner, questions):
        await BooksWorld(inner).write(*events)
        store = UsageStore(questions, cast("Projection", People()))
        for descending in (True, False):
            expected = plainly(events, {}, "beta", descending=descending)
            assert await found(store, "beta", descending=descending, limit=4, in_time=True) == expected


class Counted:
    """Which statements are asked."""

    def __init__(self, questions: Analytics) -> None:
        self._questions = questions
        self.asked: list[str] = []

    async def rows(self, sql: str, parameters: Any = None, settings: Any = None) -> list[dict[str, Any]]:
        self.asked.append(sql)
        return await self._questions.rows(sql, parameters, settings)


async def test_requests_of_other_keys_and_days_are_not_looked_through(tmp_path: Path) -> None:
    events = [some_request(random.Random(5), number) for number in range(NUMBER)]
    async with database(tmp_path) as (inner, questions):
        await BooksWorld(inner).write(*events)
        counted = Counted(questions)
        store = UsageStore(cast("Analytics", counted), cast("Projection", People()))
        assert await found(store, "nothing has this", descending=True, limit=50) == []
        assert not any("usage_events" in sql for sql in counted.asked if "min(started_at)" not in sql)
        counted.asked.clear()
        # A name that nothing has any more leads to a look in vain.
        await inner.command(
            "INSERT INTO bursar.usage_names (day, virtual_key_id, name) VALUES ('2036-10-01', 'key-1', 'gone since')"
        )
        assert await found(store, "gone", descending=True, limit=50) == []
        (looked,) = [sql for sql in counted.asked if "sort_value" in sql]
        assert "haunt_days" in looked


async def test_names_of_what_is_there_are_noted_in_pieces_and_searched_once_all_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "WHOLE_ROWS", 9)
    events = [some_request(random.Random(3), number) for number in range(NUMBER)]
    async with database(tmp_path, BEFORE) as (inner, questions):
        await BooksWorld(inner).write(*events)
        wanted = plainly(events, {}, "alpha", descending=True)

        async def searched() -> tuple[list[str], bool]:
            counted = Counted(questions)
            store = UsageStore(cast("Analytics", counted), cast("Projection", People()))
            ids = await found(store, "alpha", descending=True, limit=50)
            return ids, any("usage_names" in sql for sql in counted.asked)

        assert await searched() == (wanted, False)
        run, pieces, failing = inner.command, list[str](), True

        async def command(sql: str) -> None:
            if names.COPYING in sql:
                pieces.append(sql)
                if failing and len(pieces) == 4:
                    raise AnalyticsUnavailable("away")
            await run(sql)

        monkeypatch.setattr(inner, "command", command)
        with pytest.raises(AnalyticsUnavailable):
            await migrate(inner, load_migrations())
        assert await searched() == (wanted, False), "nobody asks half of them"
        failing = False
        await migrate(inner, load_migrations())
        assert any("cityHash64" in sql for sql in pieces)
        assert await searched() == (wanted, True)
        (noted,) = await inner.query(
            "SELECT count() AS n, uniqExact(day, virtual_key_id, name) AS different FROM bursar.usage_names FINAL"
        )
        assert noted["n"] == noted["different"]


async def test_names_leave_with_their_requests(tmp_path: Path) -> None:
    async with october_is_due(tmp_path) as world:
        asked = "SELECT groupUniqArray(toYYYYMM(day)) AS months FROM bursar.usage_names"
        assert sorted((await world.one(asked))["months"]) == [202610, 202611, 202612]
        retention = world.retention(archive=False)
        assert [await retention.look(0) for _ in range(2)] == ["leaving", "left"], retention.why
        assert sorted((await world.one(asked))["months"]) == [202611, 202612]
        # An aggregator of the release before lets requests go and leaves their names.
        await world.analytics.command(
            "INSERT INTO bursar.usage_names (day, virtual_key_id, name) VALUES ('2026-10-01', 'key-1', 'left behind')"
        )
        assert await retention.look(0) == ""
        assert sorted((await world.one(asked))["months"]) == [202611, 202612]
