"""Which budgets cover an owner in a day, a week and a month, and what they come to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bursar_admin.budget_totals import attention, counters, covering, tightest, total
from bursar_admin.projection import Projection
from bursar_admin.representation import Figures
from bursar_common.governance import Budget, Customer, Team, VirtualKey
from bursar_common.wire import Balance

NOW_S = int(datetime(2026, 11, 18, 12, tzinfo=UTC).timestamp())
"""A Wednesday."""


def budget(budget_id: str, limit: int, window: str = "1M", **fields: Any) -> Budget:
    return Budget(
        id=budget_id, limit_nusd=limit, window=window, anchored_at_s=NOW_S, **{"calendar_aligned": True, **fields}
    )


def team(team_id: str, customer_id: str, *budgets: Budget) -> Team:
    return Team(id=team_id, name=team_id, created_at_s=1, customer_id=customer_id, budgets=budgets)


def projection() -> Projection:
    found = Projection()
    documents: tuple[tuple[str, Any], ...] = (
        ("customer", Customer(id="north", name="North", created_at_s=1, budgets=(budget("c", 100),))),
        ("customer", Customer(id="south", name="South", created_at_s=1, timezone="Asia/Tokyo")),
        ("team", team("n1", "north", budget("n1", 60), budget("n1d", 5, "1d"))),
        ("team", team("s1", "south", budget("s1", 30))),
        ("team", team("s2", "south", budget("s2", 20, enforcement="observe"))),
        ("team", team("alone", "", budget("a", 7), budget("aw", 2, "1w"))),
    )  # fmt: skip
    for kind, document in documents:
        found.entities(kind)[document.id] = document
    for number in range(2):
        key = VirtualKey(
            id=f"k{number}", name=f"k{number}", created_at_s=1, hmac=f"h{number}", user_id="u",
            budgets=(budget(f"k{number}", 10 + number, "24h", calendar_aligned=False),),
        )  # fmt: skip
        found.virtual_keys[key.id] = key
    return found


@pytest.mark.parametrize(
    ("kind", "owner_id", "window", "budgets"),
    [
        # North's own covers its team; South has none, so its teams' count; a team of nobody stands for itself.
        ("", "", "month", ["c", "s1", "s2", "a"]),
        ("", "", "day", ["n1d"]),
        ("", "", "week", ["aw"]),
        ("customer", "north", "month", ["c"]),
        ("customer", "north", "day", ["n1d"]),
        ("customer", "south", "month", ["s1", "s2"]),
        ("customer", "south", "week", []),
        ("team", "n1", "month", ["n1"]),
        ("team", "n1", "week", []),
        ("user", "u", "day", ["k0", "k1"]),
        ("user", "nobody", "day", []),
        ("virtual_key", "k1", "day", ["k1"]),
    ],
)
def test_what_covers_an_owner(kind: str, owner_id: str, window: Any, budgets: list[str]) -> None:
    found = covering(projection(), kind, owner_id, window, NOW_S)
    assert [each.budget.id for each in found] == budgets


def test_the_tightest_that_refuses_counts() -> None:
    several = (budget("a", 5, enforcement="observe"), budget("b", 9), budget("c", 8, enforcement="strict"))
    chosen = tightest(several, "month")
    assert chosen is not None
    assert chosen.id == "c"
    observed = tightest(several[:1], "month")
    assert observed is not None
    assert observed.id == "a"
    assert tightest(several, "day") is None


def test_what_they_come_to() -> None:
    found = covering(projection(), "", "", "month", NOW_S)
    balances = {each.counter: Balance(each.counter, 3, 1, 0) for each in found[:2]}
    known = total(found, Figures(balances))
    assert (known.budgets, known.observed, known.limit_nusd) == (4, 1, 157)
    # A counter that was never charged stands at zero, one that could not be asked is unknown.
    assert (known.spent_nusd, known.held_nusd) == (6, 2)
    assert total(found, Figures(None)).spent_nusd is None
    # South counts in Tokyo: its month ends nine hours before the others'.
    assert known.resets_at_s is None
    (one,) = covering(projection(), "team", "s1", "month", NOW_S)
    assert total([one], Figures({})).resets_at_s == int(datetime(2026, 11, 30, 15, tzinfo=UTC).timestamp())


def test_nothing_limits_nothing() -> None:
    none = total([], Figures({}))
    assert (none.budgets, none.limit_nusd, none.spent_nusd, none.resets_at_s) == (0, 0, 0, None)


def test_whose_budgets_want_attention() -> None:
    asked = counters(projection(), NOW_S)
    by_budget = {each.budget.id: counter for counter, (_, _, each) in asked.items()}
    # 17 and a half of 30 days are over: 58 of 100 is the pace of the limit.
    spent = {"c": 59, "n1": 59, "n1d": 1, "s1": 30, "s2": 1, "a": 1, "aw": 0}
    figures = Figures({by_budget[name]: Balance(by_budget[name], amount, 0, 0) for name, amount in spent.items()})
    found = attention(asked, figures, NOW_S)
    assert (found.budgets, found.over, found.near, found.soon) == (7, 1, 1, 1)
    assert {document.id for _, document in found.owners} == {"north", "n1", "s1"}
    unknown = attention(asked, Figures(None), NOW_S)
    assert (unknown.budgets, unknown.over, unknown.near, unknown.soon, unknown.owners) == (7, 0, 0, 0, [])
