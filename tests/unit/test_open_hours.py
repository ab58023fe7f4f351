"""What is kept of questions about usage, by what name, and how open hours are added up. No engine."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from multidict import MultiDict

from bursar_admin.adding import Asked, add_up
from bursar_admin.analytics import Analytics
from bursar_admin.errors import unavailable
from bursar_admin.freshness import MAX_AGE_S, accepted_s, age_of
from bursar_admin.kept import Kept
from bursar_admin.opened import WIDE, Held, Opened, passing, summed
from bursar_admin.queries.criteria import Criteria, criteria
from bursar_admin.queries.filters import read_filters
from bursar_admin.queries.ranges import Hours, Span, plan_of
from bursar_admin.queries.standing import STANDING_QUERY, Standing, standing_of
from bursar_admin.queries.sums import MEASURES, Question
from bursar_admin.usage import SumsKnown

HOUR_S = 1_795_000_000 // 3600 * 3600


def part(table: str, name: int, from_s: int = 0, to_s: int = 0) -> dict[str, Any]:
    return {"table": table, "part": name, "from_s": from_s, "to_s": to_s, "now_s": HOUR_S + 1000}


def standing(*parts: dict[str, Any]) -> Standing:
    found = standing_of(parts)
    assert found is not None
    return found


def wanted(**given: str) -> Criteria:
    return criteria(read_filters(MultiDict(given), [], timezone=""), {"u1": "Ann"}, {"k1": "key one"})


class Counted:
    """A client that says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def rows(self, sql: str, parameters: Any = None, settings: Any = None) -> list[dict[str, Any]]:
        self.asked += 1
        answer = {"asked": self.asked}
        await asyncio.sleep(0)
        return [answer]


def test_requests_are_named_by_the_parts_that_may_hold_them() -> None:
    span = Span(HOUR_S * 1000, HOUR_S * 1000 + 900_000)
    inside, behind = (
        part("usage_recent", 1, HOUR_S + 5, HOUR_S + 60),
        part("usage_recent", 2, HOUR_S + 900, HOUR_S + 950),
    )
    name = standing(inside).requests([span])
    assert standing(inside, behind).requests([span]) == name
    assert standing(inside, part("usage_hours_touched", 7)).requests([span]) == name
    changed = [
        part("usage_events", 3, HOUR_S - 7200, HOUR_S),
        part("usage_recent", 3, HOUR_S + 899, HOUR_S + 2000),
        part("usage_events", 3),  # when is not known
        part("corrections", 3),
    ]
    assert name not in {standing(inside, each).requests([span]) for each in changed}
    assert standing(part("usage_recent", 9, HOUR_S + 5, HOUR_S + 60)).requests([span]) != name


def test_sums_are_named_by_the_tables_that_say_what_is_complete() -> None:
    first = standing(part("usage_hours_touched", 1), part("usage_events", 2, HOUR_S, HOUR_S))
    assert standing(part("usage_hours_touched", 1)).sums == first.sums
    for table in ("usage_hours_touched", "usage_hours_built", "usage_days_built", "usage_left", "schema_migrations"):
        assert standing(part("usage_hours_touched", 1), part(table, 9)).sums != first.sums
    assert standing_of([]) is None


def test_a_range_until_now_ends_with_its_last_request() -> None:
    there = standing(
        part("usage_recent", 1, HOUR_S + 5, HOUR_S + 60), part("usage_events", 2, HOUR_S - 9000, HOUR_S + 61)
    )
    starts = HOUR_S * 1000
    assert there.clipped([Span(starts, starts + 900_000)]) == (Span(starts, starts + 62_000),)
    assert there.clipped([Span(starts, starts + 30_500)]) == (Span(starts, starts + 30_500),)
    assert there.clipped([Span(starts + 62_000, starts + 900_000)]) == ()
    unknown = standing(part("usage_recent", 1))
    assert unknown.clipped([Span(starts, starts + 900_000)]) == (Span(starts, starts + 900_000),)


def test_a_plan_without_what_the_tables_hold_has_no_name() -> None:
    starts = HOUR_S * 1000
    span = Span(starts - 7_200_000, starts + 900_000)
    known = {
        "complete": True, "open": frozenset({HOUR_S}), "corrected": False,
        "hour_buildings": {HOUR_S - 7200: 1, HOUR_S - 3600: 2}, "now_s": HOUR_S + 1000,
    }  # fmt: skip
    assert plan_of(span, Hours(**known), "team").named is None  # type: ignore[arg-type]
    there = standing(part("usage_recent", 1, HOUR_S + 5, HOUR_S + 60))
    plan = plan_of(span, Hours(**known, standing=there), "team")  # type: ignore[arg-type]
    assert plan.raw == (Span(starts, starts + 61_000),)
    assert plan.named == ((1, 2), there.requests([plan.raw[0]]))
    # Nothing there: all is read from named buildings.
    nothing = plan_of(span, Hours(**known, standing=standing(part("usage_left", 1))), "team")  # type: ignore[arg-type]
    assert (nothing.raw, nothing.named) == ((), ((1, 2), ""))


async def test_an_answer_is_kept_by_the_name_of_what_it_was_read_from() -> None:
    client = Counted()
    kept = Kept(cast("Analytics", client))
    assert await kept.named("q", {}, "one") == await kept.named("q", {}, "one") == [{"asked": 1}]
    assert await kept.named("q", {}, "two") == [{"asked": 2}]
    assert await kept.named("q", {"p": 1}, "two") == [{"asked": 3}]
    # Of one statement the latest is kept: what was read by a former name is not told again.
    assert await kept.named("q", {}, "one") == [{"asked": 4}]
    both = await asyncio.gather(kept.named("q", {}, "three"), kept.named("q", {}, "four"), kept.named("q", {}, "three"))
    assert both[0] == both[2] != both[1]


async def test_who_may_not_see_parts_is_answered_without() -> None:
    asked: list[str] = []

    class Narrow:
        async def rows(self, sql: str, parameters: Any = None, settings: Any = None) -> list[dict[str, Any]]:
            asked.append("parts" if sql == STANDING_QUERY else "hours")
            if sql == STANDING_QUERY:
                raise unavailable("not for you")
            return []

    known = SumsKnown(cast("Analytics", Narrow()))
    assert (await known.now()).standing is None
    assert (await known.now()).standing is None
    assert asked == ["parts", "hours", "hours"]
    # What is accepted to be a moment old is not asked again.
    accepted_s.set(5.0)
    await known.now()
    assert asked == ["parts", "hours", "hours"]
    accepted_s.set(0.0)


def group(hour: int, amount: int, **of: str) -> tuple[tuple[str, ...], int, int, tuple[int, ...]]:
    values = tuple(of.get(name, "") for name in WIDE)
    return values, HOUR_S + hour * 3600, (HOUR_S + hour * 3600) * 1000 + amount, tuple(amount for _ in MEASURES)


def test_groups_are_added_up_by_what_is_asked_for() -> None:
    held = Held(
        [
            group(0, 1, team_id="t1", team="Blue", model="opus"),
            group(0, 20, team_id="t1", team="Blue", model="haiku"),
            group(1, 300, team_id="t1", team="Blue", model="haiku"),
            group(0, 4000, team_id="t2", model="opus"),
        ],
        "name",
    )
    rows = summed(held, wanted(), ("team_id", "team"), ("requests", "cost_nusd"))
    assert {(row["team_id"], row["hour_s"] - HOUR_S, row["sum_requests"], row["sum_cost_nusd"]) for row in rows} == {
        ("t1", 0, 21, 21), ("t1", 3600, 300, 300), ("t2", 0, 4000, 4000),
    }  # fmt: skip
    assert {row["last_ms"] - HOUR_S * 1000 for row in rows} == {20, 3_600_300, 4000}
    (whole,) = summed(held, wanted(model="opus"), (), MEASURES)
    assert {whole[f"sum_{name}"] for name in MEASURES} == {4001}
    assert {row["team"] for row in summed(held, wanted(model="none"), ("team",), MEASURES)} == set()


def test_groups_pass_filters_as_requests_do() -> None:
    one = {"team_id": "t1", "team": "Blue", "user_id": "u1", "virtual_key_id": "k1", "virtual_key": "key one"}

    def passes(**given: str) -> bool:
        test = passing(wanted(**given))
        return test is None or test(group(0, 1, **one)[0])

    assert all(passes(**{name: value}) for name, value in (
        ("team", "t1"), ("team", "Blue"), ("user", "Ann"), ("user", "u1"), ("key", "k1"), ("key", "key one"),
        ("project", ""),
    ))  # fmt: skip
    assert not any(passes(**{name: value}) for name, value in (
        ("team", "t2"), ("team", ""), ("user", "Bob"), ("key", "k2"), ("project", "p"), ("outcome", "refused"),
    ))  # fmt: skip
    assert not passes(team="t1", user="Bob")


def test_how_old_an_answer_may_be_is_said_as_http_says_it() -> None:
    assert [age_of(text) for text in ("", "max-age=2", "no-store, max-age=1", "max-age=0", "max-age=99")] == [
        0.0, 2.0, 1.0, 0.0, MAX_AGE_S,
    ]  # fmt: skip
    assert [age_of(text) for text in ("no-cache, max-age=2", "s-max-age=2", "max-age=x", "x-max-age=3")] == [0.0] * 4


class Hour:
    """A client that knows two requests of an hour that is open: at its minute 10 for 1, at its minute 50 for 100."""

    def __init__(self) -> None:
        self.asked = 0

    async def rows(self, sql: str, parameters: Any = None, settings: Any = None) -> list[dict[str, Any]]:
        await asyncio.sleep(0.01)
        if " AS of," not in sql:
            return []
        self.asked += 1
        until_ms = max(value for name, value in parameters.items() if name.endswith("_to"))
        return [
            {"of": ["" for _ in WIDE], "hour_s": HOUR_S, "last_ms": at_ms, "sums": [amount for _ in MEASURES]}
            for at_ms, amount in ((HOUR_S * 1000 + 600_000, 1), (HOUR_S * 1000 + 3_000_000, 100))
            if at_ms < until_ms
        ]


def open_question(minute: int | None, *requests: int) -> Question:
    """Of two hours, the second one open, up to its minute; None: until now, its minute 55."""
    starts_ms, ends_ms = (HOUR_S - 3600) * 1000, HOUR_S * 1000 + (minute or 55) * 60_000
    span = Span(starts_ms, ends_ms, now_ms=None if minute is not None else ends_ms - 60_000)
    parts = [part("usage_recent", name, HOUR_S + 600, HOUR_S + 3000) for name in requests]
    hours = Hours(
        complete=True, open=frozenset({HOUR_S}), corrected=False, hour_buildings={HOUR_S - 3600: 7},
        now_s=HOUR_S + 3600, standing=standing(*parts),
    )  # fmt: skip
    return Question(wanted(), plan_of(span, hours, "team"))


async def test_ranges_that_begin_alike_are_not_taken_for_each_other() -> None:
    asked = Asked((), ("cost_nusd",))

    async def costs(*questions: Question) -> list[int]:
        found = await asyncio.gather(*(add_up(kept, opened, each, asked) for each in questions))
        return [sum(row["sum_cost_nusd"] for row in rows or []) for rows in found]

    accepted_s.set(1.0)
    for order in ((None, 30), (30, None), (45, 30), (30, 45)):
        client = cast("Analytics", Hour())
        kept, opened = Kept(client), Opened(client)
        right = [101 if minute is None else 1 for minute in order]
        questions = [open_question(minute, 1) for minute in order]
        assert await costs(*questions) == right
        assert await costs(*reversed(questions)) == right[::-1]  # what was kept is right as well


async def test_open_hours_on_their_way_are_taken_by_who_accepts_an_older_answer() -> None:
    for accepted, asked in ((1.0, 1), (0.0, 2)):
        accepted_s.set(accepted)
        client = Hour()
        opened = Opened(cast("Analytics", client))
        before, after = open_question(None, 1), open_question(None, 1, 2)
        await asyncio.gather(*(opened.held(each, (), ("cost_nusd",)) for each in (before, after, before)))
        assert client.asked == asked + (accepted == 0.0)
        assert before.plan.place == after.plan.place
        assert before.plan.requests != after.plan.requests


class Standings:
    """A client whose tables change by :attr:`written`; which hours are complete takes long to find out."""

    def __init__(self) -> None:
        self.written = 1
        self.hours_asked = 0
        self.slow = asyncio.Event()

    async def rows(self, sql: str, parameters: Any = None, settings: Any = None) -> list[dict[str, Any]]:
        if sql == STANDING_QUERY:
            found = [part("usage_recent", self.written, HOUR_S, HOUR_S + 60), part("usage_hours_touched", 1)]
            await asyncio.sleep(0)
            return found
        self.hours_asked += 1
        await self.slow.wait()
        return []


async def test_what_was_written_before_a_question_is_in_what_it_is_planned_by() -> None:
    client = Standings()
    known = SumsKnown(cast("Analytics", client))
    accepted_s.set(0.0)
    first, beside = asyncio.create_task(known.now()), asyncio.create_task(known.now())
    for _ in range(5):
        await asyncio.sleep(0)
    client.written = 2
    after = asyncio.create_task(known.now())
    await asyncio.sleep(0)
    client.slow.set()
    names = [hours.standing.parts["usage_recent"][0].name for hours in await asyncio.gather(first, beside, after)
             if hours.standing is not None]  # fmt: skip
    assert names == [1, 1, 2]
    assert client.hours_asked == 1
    client.written = 3
    accepted_s.set(60.0)
    assert (await known.now()).standing == (await after).standing
