from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_common.charging import amount_for, amounts_of, largest_held, of_unit
from bursar_common.scopes import counter_id, parse_counter_id
from bursar_common.wire import Amounts, HoldEntry, UsageCounts

COUNTS = UsageCounts(
    input_tokens=1, cache_read_tokens=20, cache_write_5m_tokens=300, cache_write_1h_tokens=4000, output_tokens=50_000,
    thinking_tokens=600_000, web_searches=7_000_000,
)  # fmt: skip


def test_what_a_finished_request_charges() -> None:
    assert amounts_of(COUNTS, 12_345, sent=True) == Amounts(n=12_345, t=54_301, T=54_321, r=1)
    assert amounts_of(UsageCounts(), 0, sent=False) == Amounts()


def test_an_unknown_request_charges_the_largest_hold_of_each_unit() -> None:
    hold = (
        HoldEntry(counter_id("n", "key", 0, 60), 500, 900),
        HoldEntry(counter_id("n", "team", 0, 60), 900, 900, strict=True),
        HoldEntry(counter_id("t", "tokens", 0, 60), 70, 70),
        HoldEntry(counter_id("T", "all", 0, 60), 80, 80),
        HoldEntry(counter_id("t", "team-tokens", 0, 60), 60, 60),
        HoldEntry(counter_id("r", "requests", 0, 60), 1, 1),
    )
    assert largest_held(hold, unheld_nusd=5) == Amounts(n=900, t=70, T=80, r=1)


def test_without_a_budget_the_expected_cost_is_still_recorded() -> None:
    assert largest_held((HoldEntry(counter_id("r", "requests", 0, 60), 1, 1),), unheld_nusd=5) == Amounts(n=5, r=1)
    assert largest_held(()) == Amounts(r=1)


def test_replaying_is_adding_by_the_counters_unit() -> None:
    amounts = Amounts(n=1, t=2, T=3, r=4)
    assert [amount_for(amounts, counter_id(unit, "x", 0, 60)) for unit in ("n", "t", "T", "r")] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="unknown counter unit"):
        of_unit(amounts, "x")  # type: ignore[arg-type]


@given(
    st.sampled_from(["n", "t", "T", "r"]),
    st.from_regex(r"[0-9a-f-]{1,40}", fullmatch=True),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
)
def test_counter_ids_come_back(unit: str, limit_id: str, start: int, end: int) -> None:
    assert parse_counter_id(counter_id(unit, limit_id, start, end)) == (unit, limit_id, start, end)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "n", "n:x:1", "x:x:1:2", "n:x:1:2:3", "n:x:a:2"])
def test_other_texts_are_no_counter_ids(text: str) -> None:
    with pytest.raises(ValueError):
        parse_counter_id(text)
