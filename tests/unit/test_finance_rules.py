"""Which month something is booked in, and how an amount is divided without losing a nano-dollar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_aggregator.arrivals import CLOCK_MARGIN_S, first_only, question, running_month_ms
from bursar_aggregator.rows import COLUMNS
from bursar_common.finance import booked_month, divide, is_month, month_bounds_ms, month_of_ms, next_month

NANO = st.integers(-9_000_000_000_000_000_000, 9_000_000_000_000_000_000)
WEIGHTS = st.lists(st.integers(0, 1_000_000), min_size=1, max_size=40).filter(any)


@given(NANO, WEIGHTS)
def test_parts_sum_to_the_whole_and_none_is_off_by_a_unit(amount: int, weights: list[int]) -> None:
    parts = divide(amount, weights)
    assert sum(parts) == amount
    whole = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * whole - amount * weight) < whole
        assert weight or part == 0
    assert divide(-amount, weights) == [-part for part in parts]


@given(NANO, st.integers(1, 1_000_000), st.integers(1, 30))
def test_equal_shares_differ_by_one_unit_at_most(amount: int, weight: int, count: int) -> None:
    parts = divide(amount, [weight] * count)
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize(
    ("amount", "weights", "parts"),
    [(10, [1, 1, 1], [4, 3, 3]), (-10, [1, 1, 1], [-4, -3, -3]), (100, [50, 30, 20], [50, 30, 20]),
     (1, [1, 999_999], [0, 1]), (0, [3, 4], [0, 0]), (7, [0, 1], [0, 7])],
)  # fmt: skip
def test_examples_of_division(amount: int, weights: list[int], parts: list[int]) -> None:
    assert divide(amount, weights) == parts


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1]])
def test_what_cannot_be_divided_by(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        divide(1, weights)


CLOSES = [("2026-10", {("u", 0): 10, ("u", 1): 5}), ("2026-11", {("u", 0): 20, ("u", 1): 5})]


@pytest.mark.parametrize(
    ("belongs", "partition", "offset", "booked"),
    [
        ("2026-10", 0, 9, "2026-10"),  # was there when its month was closed
        ("2026-10", 0, 10, "2026-11"),
        ("2026-10", 0, 20, "2026-12"),  # after two closes
        ("2026-11", 0, 19, "2026-11"),
        ("2026-11", 0, 20, "2026-12"),
        ("2026-12", 0, 15, "2026-12"),  # never earlier than its own month
        ("2026-08", 0, 9, "2026-08"),
        ("2026-08", 0, 12, "2026-11"),  # months before the first close are fixed with it
        ("2026-11", 1, 5, "2026-12"),
        ("2026-10", 2, 0, "2026-12"),  # a partition younger than the closes
        ("2027-03", 2, 0, "2027-03"),
    ],
)
def test_the_month_something_is_booked_in(belongs: str, partition: int, offset: int, booked: str) -> None:
    assert booked_month(belongs, "u", partition, offset, CLOSES) == booked


def test_months() -> None:
    assert [is_month(text) for text in ("2026-11", "2026-13", "2026-00", "1999-12", "2026-1", "2026-11-01", "")] == [
        True, False, False, False, False, False, False,
    ]  # fmt: skip
    assert (next_month("2026-11"), next_month("2026-12")) == ("2026-12", "2027-01")
    start_ms, end_ms = month_bounds_ms("2026-12")
    assert (month_of_ms(start_ms), month_of_ms(end_ms - 1), month_of_ms(end_ms)) == ("2026-12", "2026-12", "2027-01")


def row(request_id: str, offset: int, *, rank: int = 2, partition: int = 0) -> tuple[object, ...]:
    values = {"request_id": request_id, "rank": rank, "log_topic": "u", "log_partition": partition}
    return tuple({**values, "log_offset": offset, "started_at": 1_000}.get(name) for name in COLUMNS)


def test_the_first_arrival_stands() -> None:
    there = {("a", 2): ("u", 0, 10)}
    assert first_only([row("a", 11)], there) == []
    replayed = [row("a", 10), row("a", 3)]
    assert first_only(replayed, there) == replayed
    truth = [row("a", 12, rank=2), row("b", 13)]
    assert first_only(truth, {("a", 1): ("u", 0, 10)}) == truth  # an expired hold is no copy of the truth
    assert first_only([row("c", 1), row("c", 2)], {}) == [row("c", 1)]
    assert first_only([row("a", 1, partition=1)], there) == []


def test_an_id_in_a_question_is_never_sql() -> None:
    text = question([row("01a1fd5e-cdb4-7000", 1), row("x') OR 1=1 --", 2)])
    assert "'01a1fd5e-cdb4-7000'" in text
    assert "OR 1=1" not in text
    assert "unhex('782729204f5220313d31202d2d')" in text


def test_the_running_month_is_the_one_no_clock_can_have_left() -> None:
    start_ms, end_ms = month_bounds_ms("2026-11")
    assert running_month_ms(end_ms / 1000 - CLOCK_MARGIN_S - 1) == start_ms
    assert running_month_ms(end_ms / 1000 - CLOCK_MARGIN_S) == end_ms
