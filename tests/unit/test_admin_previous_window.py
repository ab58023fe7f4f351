"""The window before the current one: when there is one, which it is, and what is said of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bursar_admin.limits import previous_window_of, window_of
from bursar_admin.projection import Projection
from bursar_admin.representation import Figures, budget_answer, counters_of
from bursar_common.governance import Budget, Customer
from bursar_common.scopes import counter_id
from bursar_common.wire import Balance

LIMIT_NUSD = 1_000


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


ANCHOR_S = at("2026-01-31T10:00:00")


def budget(window: str = "1d", **fields: Any) -> Budget:
    return Budget(id="b", limit_nusd=LIMIT_NUSD, window=window, **{"anchored_at_s": ANCHOR_S, **fields})


@pytest.mark.parametrize(
    ("window", "aligned", "zone", "now", "start", "end"),
    [
        ("1d", False, "", "2026-02-02T10:00:00", "2026-02-01T10:00:00", "2026-02-02T10:00:00"),
        ("60s", False, "", "2026-01-31T10:01:59", "2026-01-31T10:00:00", "2026-01-31T10:01:00"),
        # Months are counted from the anchor: no drift after a short one.
        ("1M", False, "", "2026-04-01T00:00:00", "2026-02-28T10:00:00", "2026-03-31T10:00:00"),
        ("1M", True, "", "2026-03-01T00:00:00", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
        # The day the clocks go forward in Paris has 23 hours.
        ("1d", True, "Europe/Paris", "2026-03-30T08:00:00", "2026-03-28T23:00:00", "2026-03-29T22:00:00"),
        # The window the budget was made in counts, though it began before the budget did.
        ("1M", True, "", "2026-02-10T00:00:00", "2026-01-01T00:00:00", "2026-02-01T00:00:00"),
    ],
)
def test_it_ended_where_the_current_one_starts(
    window: str, aligned: bool, zone: str, now: str, start: str, end: str
) -> None:
    limited = budget(window, calendar_aligned=aligned)
    assert previous_window_of(limited, zone, at(now)) == (at(start), at(end))
    assert window_of(limited, zone, at(now))[0] == at(end)


@pytest.mark.parametrize(
    ("fields", "now"),
    [
        ({}, "2026-01-31T10:00:00"),
        ({}, "2026-02-01T09:59:59"),
        ({"window": "1M"}, "2026-02-28T09:59:59"),
        ({"calendar_aligned": True}, "2026-01-31T23:59:59"),
        ({"window": "1Y", "calendar_aligned": True}, "2026-12-31T00:00:00"),
        # Made by a change of another window: what was before it was counted under another id.
        (
            {"opening_nusd": 5, "opening_window_start_s": at("2026-03-02T10:00:00")},
            "2026-03-02T12:00:00",
        ),
    ],
)
def test_there_is_none_in_the_first_window(fields: dict[str, Any], now: str) -> None:
    assert previous_window_of(budget(**fields), "", at(now)) is None


NOW_S = at("2026-02-02T12:00:00")
BEFORE = counter_id("n", "b", at("2026-02-01T10:00:00"), at("2026-02-02T10:00:00"))
WINDOW = {"window_start": "2026-02-01T10:00:00.000Z", "window_end": "2026-02-02T10:00:00.000Z"}


def said(balances: dict[str, Balance] | None) -> Any:
    return budget_answer(budget(), "", Figures(balances), NOW_S)["previous_window"]


@pytest.mark.parametrize(
    ("balance", "figures"),
    [
        (Balance(BEFORE, 1_250, 0, 0, 0, 300), (1_250, 0, 250, 300)),
        (Balance(BEFORE, 1_000, 40, 90, 2, -40), (1_000, 2, 0, -40)),
        (Balance(BEFORE, 7, 0, 0), (7, 0, 0, None)),
        (Balance(BEFORE, 0, 0, 0, 0, -9), (0, 0, 0, -9)),
    ],
)
def test_figures_are_the_ledgers(balance: Balance, figures: tuple[int | None, ...]) -> None:
    names = ("spent_nusd", "open_holds", "overshoot_nusd", "overshoot_bound_nusd")
    assert said({BEFORE: balance}) == {**WINDOW, **dict(zip(names, figures, strict=True))}


def test_no_counter_is_none_and_no_answer_is_unknown() -> None:
    assert said({}) is None
    assert said({BEFORE: Balance(BEFORE, 0, 0, 0)}) is None
    unknown = said(None)
    assert unknown == {
        **WINDOW,
        "spent_nusd": None,
        "open_holds": None,
        "overshoot_nusd": None,
        "overshoot_bound_nusd": None,
    }


def test_its_counter_is_asked_for_beside_the_current_one() -> None:
    current = counter_id("n", "b", *window_of(budget(), "", NOW_S))
    first = Budget(id="new", limit_nusd=LIMIT_NUSD, window="1d", anchored_at_s=NOW_S)
    customer = Customer(id="c", name="c", budgets=(budget(), first), created_at_s=ANCHOR_S)
    asked = list(counters_of(Projection(), customer, NOW_S))
    assert asked == [current, BEFORE, counter_id("n", "new", NOW_S, NOW_S + 86_400)]
