"""Amounts as pages say them. The same table is put to the script of the pages in tests/e2e/test_pages_browser.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bursar_admin.pages import numbers
from bursar_admin.pages.forecast import Forecast, forecast

TABLE: dict[str, list[list[Any]]] = json.loads((Path(__file__).parent / "page_numbers.json").read_text())
FUNCTIONS = {
    "money": numbers.money,
    "exactMoney": numbers.exact_money,
    "bigMoney": numbers.big_money,
    "axisMoney": numbers.axis_money,
    "count": numbers.count,
    "exactCount": numbers.exact_count,
    "spanMs": numbers.span_ms,
    "shortId": numbers.short_id,
    "category": numbers.category,
    "colours": numbers.colours,
    "ago": lambda moments: numbers.ago(*moments),
}
WHOLE = frozenset({"money", "exactMoney", "bigMoney", "axisMoney", "count", "exactCount"})


@pytest.mark.parametrize(("name", "given", "said"), [(name, *row) for name, rows in TABLE.items() for row in rows])
def test_amounts_are_said_as_in_the_table(name: str, given: Any, said: Any) -> None:
    value = int(given) if name in WHOLE and given is not None else given
    assert FUNCTIONS[name](value) == said  # type: ignore[operator]


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (112, 100, "+12%"),
        (97, 100, "-3%"),
        (100, 100, "±0%"),
        (1003, 1000, "±0%"),
        (5, 0, "new"),
        (0, 0, ""),
        (None, 5, ""),
        (5, None, ""),
        (0, 5, "-100%"),
        (9_000_000_000_000_000_000, 1, ">+999%"),
        (-5, -10, "+50%"),
    ],
)
def test_a_change_has_a_sign_and_compares_to_something(now: int | None, before: int | None, said: str) -> None:
    assert numbers.change(now, before) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(1, 2, "50%"), (1, 1000, "<1%"), (0, 5, "0%"), (5, 0, "–"), (None, 5, "–"), (0.123, 1, "12%"), (30, 10, "300%")],
)
def test_a_part_of_a_whole(part: float | None, whole: float, said: str) -> None:
    assert numbers.percent(part, whole) == said


@pytest.mark.parametrize(
    ("usd", "said"), [("0.120000000", "0.12"), ("3.000000000", "3.00"), ("0.000000001", "0.000000001"), ("5", "5")]
)
def test_exact_dollars_keep_their_cents(usd: str, said: str) -> None:
    assert numbers.trim_zeros(usd) == said


DAY = 86_400


@pytest.mark.parametrize(
    ("spent", "limit", "now", "expected"),
    [
        (None, 100, 15 * DAY, Forecast(None, None)),
        (50, 100, DAY // 2, Forecast(None, None)),
        (50, 200, 15 * DAY, Forecast(100, None)),
        (50, 80, 15 * DAY, Forecast(100, 24 * DAY)),
        (90, 80, 15 * DAY, Forecast(180, None)),
        (0, 80, 15 * DAY, Forecast(0, None)),
        (70, 80, 31 * DAY, Forecast(70, None)),
        (50, None, 15 * DAY, Forecast(100, None)),
        (50, 0, 15 * DAY, Forecast(100, None)),
    ],
)
def test_forecast_goes_on_at_the_pace_so_far(
    spent: int | None, limit: int | None, now: int, expected: Forecast
) -> None:
    assert forecast(spent, limit, 0, 30 * DAY, now) == expected


@pytest.mark.parametrize(
    ("rows", "total", "said"),
    [
        ([], 0, ""),
        ([1_000_000_000, 2_000_000_000], 3_000_000_000, ""),
        # Each is the nearest cent of what it stands for; together they are one off.
        ([4_000_000, 14_000_000, 24_000_000], 42_000_000, "less"),
        ([16_000_000, 26_000_000, 36_000_000], 78_000_000, "more"),
        ([3_333_333_333] * 3, 9_999_999_999, "$0.01 less"),
        # Below a cent as many digits as matter are shown, and added.
        ([3_100_000, 1_200_000], 4_300_000, ""),
    ],
)
def test_a_column_that_does_not_add_up_says_so(rows: list[int], total: int, said: str) -> None:
    note = numbers.footing(rows, total)
    assert bool(note) == bool(said)
    assert said in note
    shown = sum(float(numbers.money(each).strip("$").replace(",", "")) for each in rows)
    off = round(shown - float(numbers.money(total).strip("$").replace(",", "")), 6)
    assert (f"${abs(off):.2f}" in note) if note and abs(off) >= 0.01 else bool(off) == bool(note)
