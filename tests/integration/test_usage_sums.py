"""Sums by hour and day say what the requests themselves say: at first, after late events, redeliveries and
corrections, while sums are being made again and after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from multidict import MultiDict

from bench import analytics_rows
from bursar_admin.adding import Asked as Adding
from bursar_admin.analytics import Analytics as Questions
from bursar_admin.analytics import literal, read_rows
from bursar_admin.books import Books
from bursar_admin.freshness import accepted_s
from bursar_admin.insights import Insights
from bursar_admin.projection import Projection
from bursar_admin.queries.dimensions import dimension
from bursar_admin.queries.filters import read_filters
from bursar_admin.queries.ranges import HOURS_QUERY, Hours, Span, span_of
from bursar_admin.queries.standing import STANDING_QUERY
from bursar_admin.sums import UsageSums
from bursar_admin.usage import SumsKnown, UsageStore
from bursar_aggregator.engine import Engine
from bursar_aggregator.hours import HourSums
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_aggregator.recent import EMPTYING, filling
from bursar_common.analytics import Analytics

ROWS = 3000
DAYS = 3
START_S = int(datetime(2026, 3, 1, 7, 30, tzinfo=UTC).timestamp())
END_S = START_S + (DAYS + 1) * 86_400
SETTINGS = {
    "max_execution_time": "25",
    "output_format_json_quote_64bit_integers": "1",
    "session_timezone": "UTC",
    "do_not_merge_across_partitions_select_final": "1",
}


class Asked:
    """The admin API's client, without HTTP between."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked: list[str] = []

    async def rows(self, sql: str, parameters: Any = None, settings: Any = None) -> list[dict[str, Any]]:
        if sql not in (HOURS_QUERY, STANDING_QUERY):
            self.asked.append(sql)
        bound = {name: literal(value) for name, value in (parameters or {}).items()}
        read = self.engine.read
        answer = await asyncio.to_thread(
            read, sql, "JSONCompact", database="bursar", settings=SETTINGS, parameters=bound, tag="test"
        )
        return read_rows(answer.body)


class NothingKnown(SumsKnown):
    """As if nothing was summed up: every question is answered from requests."""

    async def now(self) -> Hours:
        return Hours(False, frozenset(), True)


class NoBooks:
    async def find(self, _: str) -> None:
        return None


class People:
    users: dict[str, Any] = {}  # noqa: RUF012
    customers = teams = virtual_keys = users


class Place:
    def __init__(self, engine: Engine, writing: Analytics) -> None:
        self.engine = engine
        self.writing = writing
        self.sums = HourSums(writing)
        self.questions = Asked(engine)
        questions = cast("Questions", self.questions)
        self.store = UsageStore(questions, cast("Projection", People()))
        self.plain = UsageStore(questions, cast("Projection", People()))
        self.plain._sums_known = NothingKnown(questions)

    def insert(self, first: int, count: int) -> None:
        self.engine.run_main(analytics_rows.insert_block(first, count, ROWS, START_S, DAYS), "Null")

    async def settle(self) -> None:
        """What was touched was so an hour ago; then sum up until nothing is due."""
        self.engine.run_main(
            "INSERT INTO bursar.usage_hours_touched (hour, touched_at) SELECT DISTINCT"
            " toStartOfHour(toDateTime(started_at, 'UTC')), now64(3) - INTERVAL 1 HOUR FROM bursar.usage_events"
            " UNION ALL SELECT toDateTime(0, 'UTC'), now64(3)",
            "Null",
        )
        while await self.sums.look(settled_s=0):
            pass

    def age(self) -> None:
        """All notes of hours, and buildings of sums, are an hour older."""
        for table, column in (("usage_hours_touched", "touched_at"), ("usage_hours_built", "built_at")):
            self.engine.run_main(f"CREATE TABLE bursar.aged AS bursar.{table}", "Null")
            self.engine.run_main(
                f"INSERT INTO bursar.aged SELECT * REPLACE ({column} - INTERVAL 1 HOUR AS {column})"
                f" FROM bursar.{table}",
                "Null",
            )
            self.engine.run_main(f"EXCHANGE TABLES bursar.aged AND bursar.{table}", "Null")
            self.engine.run_main("DROP TABLE bursar.aged SYNC", "Null")

    async def summed_again(self) -> None:
        self.age()
        while await self.sums.look():
            pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("bursar_aggregator.hours.HOURS_AT_ONCE", 24)
    engine = Engine(tmp_path / "chdb")
    writing = Analytics(f"chdb://{engine.path}")
    place = Place(engine, writing)
    asyncio.run(migrate(writing, load_migrations()))
    place.insert(0, ROWS)
    yield place
    asyncio.run(writing.close())
    engine.close()


def filters(**given: str | list[str]) -> Any:
    listed = [
        (name.rstrip("_"), each)
        for name, value in given.items()
        for each in (value if isinstance(value, list) else [value])
    ]
    return read_filters(MultiDict(listed), [], timezone="")


RANGES = {
    "all": (START_S - 86_400, END_S),
    "within a day": (START_S + 3 * 3600 + 17, START_S + 9 * 3600 + 1),
    "odd ends": (START_S + 12_345, END_S - 100_000),
}
FILTERS: tuple[dict[str, str], ...] = (
    {},
    {"team": "team-7"},
    {"user": "user-id-" + "7".rjust(28, "0")},
    {"model": "claude-opus-4-6"},
    {"project": "project-7"},
    {"outcome": "interrupted"},
    {"team": "team-3", "project": "project-33"},
    {"cost_center": "cc-7"},
    {"billing": "subscription", "model": "claude-opus-4-6"},
)
Asking = Callable[[UsageStore, Any, Span], Awaitable[Any]]


def _asks() -> dict[str, Asking]:
    def sums(store: UsageStore) -> UsageSums:
        return UsageSums(store, cast("Books", NoBooks()))

    def rank(by: str, metric: str = "list_cost") -> Asking:
        return lambda store, wanted, span: sums(store).rankings(
            wanted, span, span.before, dimension(by), sort_by=metric, descending=True, limit=100, offset=0
        )

    def course(interval: str, timezone: str, by: str = "") -> Asking:
        return lambda store, wanted, span: sums(store).histogram(
            wanted, span, interval=interval, timezone=timezone, metric="tokens",
            by=dimension(by) if by else None, top=3,
        )  # fmt: skip

    def sessions(sort_by: str) -> Asking:
        return lambda store, wanted, span: store.sessions(wanted, span, sort_by, descending=True, count=7, offset=2)

    def values(by: str) -> Asking:
        return lambda store, wanted, span: sums(store).values(wanted, span, dimension(by), "", 1000)

    return {
        "stats": lambda store, wanted, span: sums(store).stats(wanted, span, latency=False),
        **{f"by {by}": rank(by) for by in ("team", "user", "model", "project", "key", "cost_center", "session")},
        "by reason": rank("refused_by", "refused"),
        "hours": course("hour", "UTC"),
        "days": course("day", "UTC", "team"),
        "days elsewhere": course("day", "America/New_York", "model"),
        "days off the hour": course("day", "Asia/Kolkata"),
        **{f"sessions by {name}": sessions(name) for name in ("cost", "list_cost", "tokens", "started_at")},
        "values": values("environment"),
        "all sessions": lambda store, wanted, span: store.all_sessions(wanted, span),
        "insights": lambda store, wanted, span: Insights(store, cast("Books", NoBooks())).all(
            wanted, span, span.before, compare=True
        ),
    }


ASKS = _asks()


def told(found: Any) -> Any:
    """An answer without what is not part of it: in which order equal ones stand, and where sessions' requests are."""
    if isinstance(found, dict):
        return {name: told(value) for name, value in found.items() if name != "places"}
    if isinstance(found, list | tuple):
        return [told(each) for each in found]
    return found


async def compare(
    place: Place, only: tuple[str, ...] = (), within: dict[str, tuple[int, int]] = RANGES, end_s: int = END_S
) -> None:
    """Every question under some of the filters, over the ranges in turn."""
    ranges = list(within.items())
    for turn, name in enumerate(only or ASKS):
        for number, given in enumerate(FILTERS[:2] if name == "insights" else FILTERS):
            if name != "insights" and (turn + number) % 3:
                continue
            label, (from_s, to_s) = ranges[(turn + number) // 3 % len(ranges)]
            asked = filters(from_=str(from_s), to=str(to_s), **given)
            wanted, span = place.store.criteria(asked), span_of(asked, end_s * 1000)
            summed = await ASKS[name](place.store, wanted, span)
            plain = await ASKS[name](place.plain, wanted, span)
            assert told(summed) == told(plain), (name, given, label)


async def read_by_days(place: Place) -> tuple[int, int]:
    """(days taken from sums of days, days that are not) of the whole range."""
    span = Span((START_S // 86_400) * 86_400_000, END_S // 86_400 * 86_400_000)
    question = await place.store.question(place.store.criteria(filters()), span, dimension("team"))
    assert question.plan.days is not None
    assert question.plan.cut == "team"
    days = (question.plan.days.to_ms - question.plan.days.from_ms) // 86_400_000
    return days - len(question.plan.open_days), len(question.plan.open_days)


def twins(place: Place, day: str, what: str, sets: str) -> None:
    """Further events of some requests of a day: like those that are there, but for ``sets``."""
    place.engine.run_main(
        f"INSERT INTO bursar.usage_events SELECT * REPLACE ({sets}) FROM bursar.usage_events FINAL"
        f" WHERE toDate(started_at) = '{day}' AND {what}",
        "Null",
    )


QUICK = ("by team", "days", "sessions by list_cost", "insights")


async def test_sums_say_what_requests_say(place: Place) -> None:
    twins(
        place,
        "2026-03-02",
        "cityHash64(request_id) % 5 = 0",
        "toUInt8(1) AS rank, 'expired' AS outcome, '' AS session_id",
    )
    await place.settle()
    assert await read_by_days(place) == (DAYS + 1, 0)
    await compare(place)


async def test_what_comes_later_is_counted_at_once_and_once(place: Place) -> None:
    await place.settle()
    # Redelivered: the same events again, into hours that are then noted as they always are.
    await touched(place, "2026-03-02")
    twins(place, "2026-03-02", "1", "event_id AS event_id")
    assert await read_by_days(place) == (DAYS, 1)
    await compare(place, QUICK)
    # A late event of one hour, and the truth about another request.
    await touched(place, "2026-03-03")
    twins(place, "2026-03-03", "toHour(started_at) = 5", "concat(request_id, '-late') AS request_id")
    twins(place, "2026-03-03", "toHour(started_at) = 7", "list_cost_nusd + 5 AS list_cost_nusd, toUInt8(3) AS rank")
    assert await read_by_days(place) == (DAYS - 1, 2)
    await compare(place, QUICK)
    await place.summed_again()
    assert await read_by_days(place) == (DAYS + 1, 0)
    await compare(place, QUICK)
    # A correction touches the hours it is about, when the next look finds it.
    place.engine.run_main(
        "INSERT INTO bursar.corrections (correction_id, request_id, corrected_at, reason, cost_nusd, list_cost_nusd,"
        " output_tokens) SELECT 'c1', request_id, now64(3), 'test', -7, -9, 3 FROM bursar.usage_events FINAL"
        " WHERE toDate(started_at) = '2026-03-02' AND outcome = 'completed' LIMIT 20",
        "Null",
    )
    await place.sums.look()
    assert (await read_by_days(place))[1] >= 1
    await compare(place, QUICK)
    await place.summed_again()
    assert await read_by_days(place) == (DAYS + 1, 0)
    await compare(place, QUICK)


async def touched(place: Place, day: str, hours: int = 24) -> None:
    """The first hours of a day are noted, as they are before they get rows."""
    first = int(datetime.fromisoformat(f"{day}T00:00:00Z").timestamp())
    noted = [first + hour * 3600 for hour in range(hours)]
    await place.writing.insert_columns("usage_hours_touched", ("hour",), ("DateTime('UTC')",), [noted])


async def test_what_is_summed_up_is_asked_once(place: Place) -> None:
    await place.settle()
    wanted = place.store.criteria(filters())
    span = Span(START_S // 3600 * 3600_000, (START_S // 3600 + 60) * 3600_000)
    names = [name for name in ASKS if name not in ("days off the hour",)]
    first = [told(await ASKS[name](place.store, wanted, span)) for name in names]
    place.questions.asked.clear()
    again = [told(await ASKS[name](place.store, wanted, span)) for name in names]
    assert place.questions.asked == []
    assert again == first
    # An hour that gets an event is read request by request at once, and what else was kept of its day no more.
    await touched(place, "2026-03-02", hours=1)
    twins(place, "2026-03-02", "toHour(started_at) = 0", "concat(request_id, '-late') AS request_id")
    for name in names:
        assert told(await ASKS[name](place.store, wanted, span)) == told(await ASKS[name](place.plain, wanted, span))
    assert told(await ASKS["stats"](place.store, wanted, span)) != first[names.index("stats")]


async def test_open_hours_are_added_to_what_is_kept(place: Place) -> None:
    await place.settle()
    await touched(place, "2026-03-03", hours=2)
    twins(
        place,
        "2026-03-03",
        "toHour(started_at) < 2",
        "concat(request_id, '-late') AS request_id, started_at + INTERVAL 1 MILLISECOND AS started_at,"
        " 'renamed' AS team, 'key' AS virtual_key",
    )
    place.engine.run_main(
        "INSERT INTO bursar.corrections (correction_id, request_id, corrected_at, reason, cost_nusd, list_cost_nusd,"
        " output_tokens) SELECT 'c1', request_id, now64(3), 'test', -7, -9, -3 FROM bursar.usage_events FINAL"
        " WHERE toDate(started_at) = '2026-03-03' AND toHour(started_at) < 2 AND output_tokens > 9 LIMIT 9",
        "Null",
    )
    span = Span(START_S * 1000, END_S * 1000)
    question = await place.store.question(place.store.criteria(filters()), span, dimension("team"))
    found = await place.store.added(question, Adding(("team_id",), ("requests",), "team"))
    assert found is not None
    assert {row["label"] for row in found if row["team_id"] == "team-id-" + "7".rjust(24, "0")} <= {"team-7", "renamed"}
    await compare(place)


async def clear_of_the_hours_end(within_s: float = 120.0) -> None:
    """Does not return in the last ``within_s`` of an hour: what is open and what is recent is told by hours, and is to
    be the same in all lines of a test that asks until now."""
    left_s = 3_600 - time.time() % 3_600
    if left_s < within_s:
        await asyncio.sleep(left_s + 1)


@pytest.mark.timeout(480)  # where it begins at an hour's end
async def test_what_is_open_is_kept_until_its_requests_change(place: Place) -> None:
    """Not summed up at all, and asked until now: answers rest on what the tables hold, and on nothing that is older."""
    await clear_of_the_hours_end()
    (clock,) = await place.questions.rows("SELECT toUnixTimestamp(now()) AS now_s")
    now_s = clock["now_s"]
    await place.settle()
    begun_s = now_s // 3600 * 3600 - 3600
    # Ten sessions, all begun at one moment; the last request is before the running hour.
    place.engine.run_main(analytics_rows.insert_block(ROWS, 600, 1 << 40, begun_s - 3600, 1), "Null")
    hours = [now_s // 3600 * 3600 - hour * 3600 for hour in range(30)]
    await place.writing.insert_columns("usage_hours_touched", ("hour",), ("DateTime('UTC')",), [hours])
    wanted, refused = place.store.criteria(filters()), place.store.criteria(filters(outcome="refused", team="team-7"))
    names = [name for name in ASKS if name not in ("by session", "days off the hour")]

    async def answers(store: UsageStore, until_s: int, *filtered: Any) -> list[Any]:
        span = Span((begun_s - 3 * 3600) * 1000, until_s * 1000)
        each = filtered or (wanted, refused)
        return [told(await ASKS[name](store, one, span)) for one in each for name in names]

    before = await answers(place.store, now_s + 5)
    place.questions.asked.clear()
    # A second later the range is another, its requests are the same.
    assert await answers(place.store, now_s + 6, wanted) == before[: len(names)]
    assert [text for text in place.questions.asked if "agent_id" not in text] == []
    changes = {
        "come in": f"INSERT INTO bursar.usage_events SELECT * REPLACE (concat(request_id, '-x') AS request_id)"
        f" FROM bursar.usage_events FINAL WHERE toUnixTimestamp(started_at) BETWEEN {begun_s} AND {now_s} LIMIT 40",
        "replaced": "INSERT INTO bursar.usage_events SELECT * REPLACE (list_cost_nusd + 7 AS list_cost_nusd,"
        " toUInt8(3) AS rank, 'renamed' AS team) FROM bursar.usage_events FINAL"
        # By the moment: of two requests that began at once, the name of either could be the latest one.
        f" WHERE toUnixTimestamp(started_at) BETWEEN {begun_s} AND {now_s} AND sipHash64(started_at) % 20 = 0",
        "corrected": "INSERT INTO bursar.corrections (correction_id, request_id, corrected_at, reason, cost_nusd,"
        " list_cost_nusd, output_tokens) SELECT 'c1', request_id, now64(3), 'test', -7, -9, -3"
        " FROM bursar.usage_events FINAL"
        f" WHERE toUnixTimestamp(started_at) BETWEEN {begun_s} AND {now_s} AND output_tokens > 9 LIMIT 20",
    }
    for what, statement in changes.items():
        place.engine.run_main(statement, "Null")
        after = await answers(place.store, now_s + 6)
        assert after != before, what
        assert after == await answers(place.plain, now_s + 6), what
        before = after
    # Merged, emptied and filled again: other parts, the same requests.
    for statement in ("OPTIMIZE TABLE bursar.usage_recent FINAL", EMPTYING, *filling()):
        place.engine.run_main(statement, "Null")
        if statement != EMPTYING:
            continue
        # While it is empty its answers are its own; none of them is told afterwards.
        await ASKS["by team"](place.store, wanted, Span(begun_s * 1000, now_s * 1000))
    assert await answers(place.store, now_s + 6) == before
    # Who accepts what is a moment old gets it, and nobody else.
    place.engine.run_main(changes["come in"].replace("'-x'", "'-y'"), "Null")
    span = Span((begun_s - 3 * 3600) * 1000, (now_s + 6) * 1000)
    accepted_s.set(3_600.0)
    old = told(await ASKS["by team"](place.store, wanted, span))
    accepted_s.set(0.0)
    assert old == before[names.index("by team")]
    new = told(await ASKS["by team"](place.store, wanted, span))
    assert new == told(await ASKS["by team"](place.plain, wanted, span)) != old


async def read_of_requests(place: Place, from_s: int, to_s: int) -> tuple[set[str], set[str]]:
    """Tables of requests that sums and latencies of a range are read from: as they are, and with nothing known."""
    wanted, span = place.store.criteria(filters()), Span(from_s * 1000, to_s * 1000)
    tables = []
    for store in (place.store, place.plain):
        place.questions.asked.clear()
        await UsageSums(store, cast("Books", NoBooks())).stats(wanted, span, latency=True)
        texts = " ".join(place.questions.asked)
        tables.append({name for name in ("usage_events", "usage_recent") if f"bursar.{name} FINAL" in texts})
    return tables[0], tables[1]


@pytest.mark.timeout(480)  # where it begins at an hour's end
async def test_recent_requests_say_what_all_requests_say(place: Place) -> None:
    await clear_of_the_hours_end()
    (clock,) = await place.questions.rows("SELECT toUnixTimestamp(now()) AS now_s")
    now_s = clock["now_s"]
    begun_s = now_s - 47 * 3600
    # Ids of other numbers: a request has one moment.
    place.engine.run_main(analytics_rows.insert_block(ROWS, ROWS, ROWS, begun_s - 2 * 86_400, 2), "Null")
    await place.settle()
    running = now_s // 3600 * 3600
    noted = [running - hour * 3600 for hour in (0, 1, 3, 20)]
    await place.writing.insert_columns("usage_hours_touched", ("hour",), ("DateTime('UTC')",), [noted])
    within = f"toUnixTimestamp(toStartOfHour(started_at)) IN ({', '.join(map(str, noted))})"
    put = "INSERT INTO bursar.usage_events SELECT * REPLACE ({sets}) FROM bursar.usage_events FINAL WHERE {which}"
    for number, sets in enumerate(
        (
            "event_id AS event_id",
            "concat(request_id, '-late') AS request_id, started_at + INTERVAL 1 MILLISECOND AS started_at,"
            " 'renamed' AS team",
            "list_cost_nusd + 5 AS list_cost_nusd, toUInt8(3) AS rank",
            "toUInt8(1) AS rank, 'expired' AS outcome, '' AS session_id",
        )
    ):
        which = f"{within} AND cityHash64(request_id) % 4 = {number}"
        place.engine.run_main(put.format(sets=sets, which=which), "Null")
    place.engine.run_main(
        "INSERT INTO bursar.corrections (correction_id, request_id, corrected_at, reason, cost_nusd, list_cost_nusd,"
        " output_tokens) SELECT 'c1', request_id, now64(3), 'test', -7, -9, -3 FROM bursar.usage_events FINAL"
        f" WHERE {within} AND output_tokens > 9 LIMIT 9",
        "Null",
    )
    held = "SELECT count() AS rows, sum(list_cost_nusd) AS cost, sum(cityHash64(request_id, rank, team)) AS all"
    (copied,) = await place.questions.rows(f"{held} FROM bursar.usage_recent FINAL")
    assert copied["rows"] > ROWS * 0.9
    assert [copied] == await place.questions.rows(
        f"{held} FROM bursar.usage_events FINAL WHERE started_at >= now64(3) - INTERVAL 3 DAY"
    )
    ranges = {
        "until now": (begun_s // 3600 * 3600 - 86_400, now_s + 3600),
        "odd ends, both recent": (begun_s + 12_345, now_s - 77),
        "within a day": (now_s - 6 * 3600 - 17, now_s),
    }
    recent, both, plain = {"usage_recent"}, {"usage_recent", "usage_events"}, {"usage_events"}
    assert [await read_of_requests(place, *each) for each in ranges.values()] == [(recent, plain)] * 3
    await compare(place, within=ranges, end_s=now_s)
    # What is older is not there, and is read where it is, also beside what is recent.
    assert await read_of_requests(place, START_S + 17, START_S + 7 * 3600) == (plain, plain)
    await touched(place, "2026-03-03", hours=2)
    twins(place, "2026-03-03", "toHour(started_at) < 2", "concat(request_id, '-late') AS request_id")
    long = {"from long ago": (max(START_S + 17, now_s - 360 * 86_400), now_s + 3600)}
    assert await read_of_requests(place, *long["from long ago"]) == (both, plain)
    await compare(place, ("by team", "stats"), long, now_s)
    # Emptied and filled again, as it is by the schema of a database that has rows, and by a rebuild.
    place.engine.run_main(EMPTYING, "Null")
    for statement in filling() * 2:
        place.engine.run_main(statement, "Null")
    assert await place.questions.rows(f"{held} FROM bursar.usage_recent FINAL WHERE started_at >= now64(3) - INTERVAL"
                                      " 2 DAY") == [copied]  # fmt: skip
    schema = next(each.sql for each in load_migrations() if each.name == "recent").replace("\n", " ")
    assert [statement for statement in filling() if statement not in schema] == []


async def test_views_show_what_stands_once(place: Place) -> None:
    await place.settle()
    await touched(place, "2026-03-02")
    await place.summed_again()
    sums = "sum(requests) AS r, sum(refused) AS f, sum(list_cost_nusd) AS c, sum(few_tools_requests) AS t"
    requests = (
        "SELECT countIf(outcome != 'refused') AS r, countIf(outcome = 'refused') AS f, sum(list_cost_nusd) AS c,"
        " countIf(outcome = 'completed' AND output_tokens < 500 AND web_searches = 0 AND tool_uses <= 1) AS t"
        " FROM bursar.usage_events FINAL"
    )
    (truth,) = await place.questions.rows(requests)
    assert truth["t"] > 0
    for table, once in (("usage_hours", False), ("usage_hourly_sums", True), ("usage_daily_sums", True)):
        (found,) = await place.questions.rows(f"SELECT {sums} FROM bursar.{table}")
        assert (found == truth) == once, table
    # What was touched and is not summed up yet is not shown, rather than shown wrong.
    await touched(place, "2026-03-02", hours=1)
    (found,) = await place.questions.rows("SELECT uniqExact(day) AS days FROM bursar.usage_daily_sums")
    assert found["days"] == DAYS
    (found,) = await place.questions.rows("SELECT count() AS hours FROM bursar.usage_hourly_sums"
                                          " WHERE hour = toDateTime('2026-03-02 00:00:00', 'UTC')")  # fmt: skip
    assert found["hours"] == 0


async def test_former_buildings_are_cleared_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.settle()
    await touched(place, "2026-03-02")
    await place.summed_again()
    monkeypatch.setattr("bursar_aggregator.hours.STALE_S", -60)
    place.age()
    await place.sums._sweep()
    place.engine.run_main("OPTIMIZE TABLE bursar.usage_days FINAL SETTINGS mutations_sync = 2", "Null")
    for _ in range(1_200):
        (left,) = await place.questions.rows(
            "SELECT count() AS rows, (SELECT countDistinct(generation) FROM bursar.usage_days) AS buildings,"
            " (SELECT count() FROM (SELECT hour FROM bursar.usage_hours_built GROUP BY hour)) AS hours,"
            " (SELECT count() FROM (SELECT day FROM bursar.usage_days_built GROUP BY day)) AS days"
            " FROM system.mutations WHERE NOT is_done AND database = 'bursar'"
        )
        if not left["rows"]:
            break
        await asyncio.sleep(0.1)
    assert left["buildings"] == left["hours"] + left["days"]
    await compare(place, QUICK)


async def test_hours_of_a_former_release_are_summed_up_again(place: Place) -> None:
    await place.settle()
    place.engine.run_main(
        "ALTER TABLE bursar.usage_hours_built UPDATE form = 0 WHERE 1 SETTINGS mutations_sync = 2", "Null"
    )
    place.engine.run_main("ALTER TABLE bursar.usage_hours UPDATE short_requests = 0, top_cost_nusd = 0 WHERE 1"
                          " SETTINGS mutations_sync = 2", "Null")  # fmt: skip
    assert (await read_by_days(place))[0] == 0
    await compare(place, ("insights", "by team"))
    await place.summed_again()
    assert await read_by_days(place) == (DAYS + 1, 0)
    await compare(place, ("insights", "by team"))


async def test_pages_in_order_hold_every_request_once(place: Place) -> None:
    await place.settle()
    await touched(place, "2026-03-03")
    twins(
        place,
        "2026-03-03",
        "toHour(started_at) = 5",
        "concat(request_id, '-late') AS request_id, 250 * rank AS latency_ms",
    )
    wanted = place.store.criteria(filters(team=["team-7", "team-3", "team-9"]))
    span = Span(START_S * 1000 - 1, END_S * 1000)
    (counted,) = await place.store.analytics.rows(
        "SELECT uniqExact(request_id) AS rows FROM bursar.usage_events WHERE team IN ('team-7', 'team-3', 'team-9')"
    )
    for sort_by in ("cost", "tokens", "latency_ms", "started_at", "output_tokens"):
        seen: list[tuple[int, str]] = []
        while True:
            after = seen[-1] if seen else None
            page = await place.store.page(wanted, span, sort_by, descending=True, after=after, count=60)
            seen += [(row["sort_value"], row["request_id"]) for row in page]
            if len(page) < 60:
                break
        assert seen == sorted(set(seen), reverse=True), sort_by
        assert len(seen) == counted["rows"], sort_by
