"""Sums of sessions of what is summed up and of what is open, put together."""

from __future__ import annotations

from typing import Any

from bursar_admin.queries import sessions
from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.filters import Filters
from bursar_admin.queries.ranges import DAY_MS, HOUR_MS, Plan, Span
from bursar_admin.queries.sums import MEASURES, Question
from bursar_admin.session_sums import MAX_LISTED, halves, looked, merged, summaries, summed_up

DAY_S = 20_000 * 86_400
DAY = DAY_S * 1000


def hour_s(day: int, hour: int) -> int:
    return DAY_S + day * 86_400 + hour * 3600


def running(**changed: Any) -> Plan:
    """Three days, the second of them open, and six hours of the fourth, the last of which is cut and open; one hour of
    the second day is open as well."""
    of_second = Span(DAY + DAY_MS, DAY + 2 * DAY_MS)
    of_fourth = Span(DAY + 3 * DAY_MS, DAY + 3 * DAY_MS + 6 * HOUR_MS)
    given: dict[str, Any] = {
        "raw": (
            Span(hour_s(1, 7) * 1000, hour_s(1, 8) * 1000),
            Span(hour_s(3, 5) * 1000, hour_s(3, 6) * 1000 + 1234),
        ),
        "corrected": False,
        "hours": (of_second, of_fourth),
        "open_hours": (hour_s(1, 7), hour_s(3, 5)),
        "days": Span(DAY, DAY + 3 * DAY_MS),
        "open_days": (DAY_S + 86_400,),
        "cut": "session",
        "buildings": (1, 2, 3),
    }
    return Plan(**{**given, **changed})


def question(plan: Plan) -> Question:
    return Question(Criteria(Filters()), plan)


def test_each_moment_is_in_one_half() -> None:
    plan = running()
    assert summed_up(plan) == (
        Span(DAY, hour_s(1, 7) * 1000),
        Span(hour_s(1, 8) * 1000, hour_s(3, 5) * 1000),
    )
    (closed, closed_spans), (opened, open_spans) = halves(question(plan), Span(DAY, DAY + 4 * DAY_MS))
    whole = sorted((*closed_spans, *open_spans), key=lambda span: span.from_ms)
    assert whole[0].from_ms == DAY
    assert whole[-1].to_ms == plan.raw[-1].to_ms
    assert all(one.to_ms == two.from_ms for one, two in zip(whole[:-1], whole[1:], strict=True))
    assert closed.plan.buildings == plan.buildings
    assert closed.plan.raw == ()
    assert opened.plan.raw == plan.raw
    assert (opened.plan.buildings, opened.plan.days, opened.plan.hours) == ((), None, ())


def test_it_is_one_question_where_there_is_nothing_to_keep() -> None:
    span = Span(DAY, DAY + DAY_MS)
    for plan in (running(raw=()), running(buildings=()), running(buildings=None)):
        assert halves(question(plan), span) == [(question(plan), (span,))]


def sums(session: str, at_ms: int, amount: int, **given: Any) -> dict[str, Any]:
    return {
        "session": session,
        "of_ms": at_ms,
        **{f"of_{name}": "" for name in sessions.LAST},
        "places": [],
        "keys": [],
        **{f"sum_{name}": amount for name in MEASURES},
        **given,
    }


def test_a_session_on_both_sides_is_one() -> None:
    closed = [
        sums("both", 5, 7, of_team="before", places=[["2026-01-01", "a"]], keys=["one", "two"]),
        sums("closed", 5, 1),
    ]
    opened = [
        sums("both", 6, -2, of_team="now", places=[["2026-01-01", "a"], ["2026-01-02", "a"]], keys=["two", "three"]),
        sums("open", 9, 4),
    ]
    kept = [dict(row) for row in closed]
    for parts in ([closed, opened], [opened, closed]):
        found = {row["session"]: row for row in merged(parts)}
        assert sorted(found) == ["both", "closed", "open"]
        both = found["both"]
        assert {both[f"sum_{name}"] for name in MEASURES} == {5}
        assert (both["of_team"], both["of_ms"]) == ("now", 6)
        assert sorted(both["keys"]) == ["one", "three", "two"]
        assert sorted(both["places"]) == [["2026-01-01", "a"], ["2026-01-02", "a"]]
    assert closed == kept  # what is kept belongs to everybody


def test_of_two_requests_at_one_moment_the_same_is_the_last_in_any_order() -> None:
    one, two = sums("s", 5, 1, of_virtual_key_id="a", of_team="z"), sums("s", 5, 1, of_virtual_key_id="b", of_team="y")
    assert {row["of_team"] for parts in ([[one], [two]], [[two], [one]]) for row in merged(parts)} == {"y"}


def test_agents_count_once() -> None:
    many = [f"model-{number}" for number in range(MAX_LISTED)]
    closed = {"session": "s", "first_ms": 3, "last_ms": 9, "agent_ids": ["", "x"], "models": many, "seen": 4}
    opened = {"session": "s", "first_ms": 5, "last_ms": 20, "agent_ids": ["x", "y"], "models": ["new"], "seen": 2}
    row = looked([closed, opened])["s"]
    assert (row["first_ms"], row["last_ms"], row["agents"], row["seen"]) == (3, 20, 3, 6)
    assert row["models"] == sorted(many)
    assert closed["agent_ids"] == ["", "x"]


class Store:
    """Has sessions `a` (on both sides) and `b` (open only)."""

    def __init__(self) -> None:
        self.asked: list[tuple[bool, list[str]]] = []

    async def ask(self, question: Question, sql: str, parameters: Any) -> list[dict[str, Any]]:
        opened, ids = bool(question.plan.raw), parameters["sessions"]
        if "agent_ids" in sql:
            self.asked.append((opened, ids))
            at_ms = 8 if opened else 2
            return [
                {
                    "session": each,
                    "first_ms": at_ms,
                    "last_ms": at_ms + 1,
                    "agent_ids": [""],
                    "models": ["m"],
                    "seen": 2,
                }
                for each in ids
            ]
        amount = {"sum_requests": 2, "sum_refused": 0}
        return [
            sums(each, 9 if opened else 3, 0, keys=["two", "one"], **amount) for each in ids if opened or each == "a"
        ]

    async def ask_requests(self, question: Question, sql: str, parameters: Any) -> list[dict[str, Any]]:
        opened, ids = bool(question.plan.raw), parameters["sessions"]
        self.asked.append((opened, ids))
        at_ms = 8 if opened else 2
        return [
            {"session": each, "first_ms": at_ms, "last_ms": at_ms + 1, "agent_ids": [""], "models": ["m"], "seen": 2}
            for each in ids
        ]


async def test_summaries_stand_in_the_order_asked_for() -> None:
    store = Store()
    found = await summaries(store, question(running()), Span(DAY, DAY + 4 * DAY_MS), ["b", "gone", "a"])
    assert found[1]["keys"] == ["one", "two"]
    found = [row for row in found if row["session"] != "gone"]
    assert [(row["session"], row["sum_requests"], row["first_ms"], row["last_ms"]) for row in found] == [
        ("b", 2, 8, 9),
        ("a", 4, 2, 9),
    ]
    assert sorted(store.asked) == [(False, ["a"]), (True, ["b", "gone", "a"])]
