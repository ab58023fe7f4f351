"""The tree of budgets: teams below their customers, and how many budgets are in which state."""

from __future__ import annotations

import pytest

from bursar_admin.budget_totals import standing
from bursar_admin.pages.budgets import Line, Owner, marks, tree
from bursar_admin.pages.forecast import Forecast


def owner(kind: str, name: str, *lines: Line) -> Owner:
    return Owner(kind, name, name, 1, list(lines))


def line(spent: int | None, limit: int, reached_at_s: int | None = None) -> Line:
    return Line({}, 0, spent, 0, limit, Forecast(None, reached_at_s))


def test_teams_stand_below_their_customer_by_name() -> None:
    customers = [owner("customer", "Zeta"), owner("customer", "acme")]
    teams = [(owner("team", name), above) for name, above in (("b", "acme"), ("A", "acme"), ("c", "gone"), ("d", None))]
    found = tree(customers, teams, {"acme": 3, "A": 2, "": 9})
    assert [(each.id, [child.id for child in each.children]) for each in found] == [
        ("acme", ["A", "b"]), ("Zeta", []), ("c", []), ("d", []),
    ]  # fmt: skip
    assert (found[0].keys, found[0].children[0].keys, found[1].keys) == (3, 2, 0)


@pytest.mark.parametrize(
    ("spent", "limit", "soon", "said"),
    [
        (100, 100, False, "over"),
        (101, 100, True, "over"),
        (99, 100, True, "near"),
        (80, 100, False, "near"),
        (79, 100, False, ""),
        (79, 100, True, "soon"),
        (0, 0, False, "over"),
        # What the ledger does not say is not guessed.
        (None, 0, False, ""),
    ],
)
def test_how_a_budget_stands(spent: int | None, limit: int, soon: bool, said: str) -> None:
    assert standing(spent, limit, soon) == said


def test_states_are_counted_of_owners_and_those_below() -> None:
    above = owner("customer", "acme", line(50, 100, reached_at_s=9), line(None, 100))
    above.children = [owner("team", "a", line(100, 100)), owner("team", "b", line(85, 100, reached_at_s=9))]
    assert marks([above]) == {"budgets": 4, "over": 1, "near": 1, "soon": 1}
