"""Budgets and rate limits in a change: when a limit keeps its id and what it opens with when it does not."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from bursar_admin.body import read_body
from bursar_admin.errors import Refusal
from bursar_admin.limits import Moment, Zones, merge_budgets, merge_rate_limit, window_of
from bursar_admin.schemas import TeamBody
from bursar_common.governance import Budget, RateLimit

ANCHOR_S = 1_793_000_000  # 2026-10-26
NOW_S = 1_795_000_000
UTC = Zones("", "")
OLD = Budget(id="old", limit_nusd=100_000_000_000, window="1M", anchored_at_s=ANCHOR_S)
OTHER = Budget(id="other", limit_nusd=5_000_000_000, window="1d", anchored_at_s=ANCHOR_S, enforcement="strict")


def body(**fields: Any) -> TeamBody:
    return read_body(TeamBody, json.dumps(fields).encode(), creating=False)


def moment(openings: dict[tuple[str, int], int] | None = None) -> Moment:
    ids = count(1)
    return Moment(NOW_S, lambda: f"new{next(ids)}", "local", openings or {})


def merged(existing: tuple[Budget, ...], zones: Zones = UTC, **fields: Any) -> tuple[Budget, ...]:
    return merge_budgets(existing, body(**fields), "", zones, moment())


@pytest.mark.parametrize(
    "fields",
    [
        {"budget": {"max_limit": 50}},
        {"budget": {"max_limit": 50, "reset_duration": "1M"}},
        {"budget": {"max_limit": 50, "reset_duration": "1M", "id": "old"}},
        {"budgets": [{"max_limit": 50, "reset_duration": "1M"}]},
        {"budgets": [{"max_limit": 50, "id": "old"}]},
    ],
)
def test_the_same_window_keeps_the_id(fields: dict[str, Any]) -> None:
    (budget,) = merged((OLD,), **fields)
    assert (budget.id, budget.limit_nusd, budget.anchored_at_s) == ("old", 50_000_000_000, ANCHOR_S)


@pytest.mark.parametrize(
    "fields",
    [
        {"budget": {"reset_duration": "1d"}},
        {"budget": {"calendar_aligned": True}},
        {"calendar_aligned": True},
        {"budgets": [{"max_limit": 100, "reset_duration": "1w"}]},
        {"budgets": [{"id": "old", "reset_duration": "90m"}]},
    ],
)
def test_another_window_is_another_id_with_an_opening(fields: dict[str, Any]) -> None:
    asking = moment()
    (budget,) = merge_budgets((OLD,), body(**fields), "", UTC, asking)
    (needed,) = asking.needed
    assert budget.id not in ("old", "")
    assert needed.old == OLD
    assert needed.old_window == window_of(OLD, "", NOW_S)

    known = moment({needed.key: 7_000})
    (budget,) = merge_budgets((OLD,), body(**fields), "", UTC, known)
    assert known.needed == []
    assert budget.opening_nusd == 7_000
    assert (budget.opening_window_start_s, budget.opening_window_end_s) == window_of(budget, "", NOW_S)
    assert budget.limit_nusd == OLD.limit_nusd


def test_a_budget_added_beside_another_leaves_it_alone() -> None:
    asking = moment()
    budgets = merge_budgets(
        (OLD,),
        body(budgets=[{"max_limit": 9, "reset_duration": "1d"}, {"max_limit": 100, "reset_duration": "1M"}]),
        "",
        UTC,
        asking,
    )
    assert [budget.id for budget in budgets] == ["new1", "old"]
    assert asking.needed == []
    assert budgets[0].anchored_at_s == NOW_S


def test_a_list_says_everything_about_items_without_an_id() -> None:
    (budget,) = merged((OTHER,), budgets=[{"max_limit": 5, "reset_duration": "1d"}])
    assert (budget.id, budget.enforcement) == ("other", "standard")
    (budget,) = merged((OTHER,), budgets=[{"id": "other", "max_limit": 6}])
    assert budget.enforcement == "strict"


def test_one_budget_of_several_is_not_replaced_by_accident() -> None:
    for fields in ({"budget": {"max_limit": 1}}, {"budget": None}):
        with pytest.raises(Refusal) as caught:
            merged((OLD, OTHER), **fields)
        assert caught.value.status == 400
    assert merged((OLD, OTHER), budgets=[]) == ()
    assert merged((OLD, OTHER), budgets=None) == ()
    assert merged((OLD, OTHER)) == (OLD, OTHER)
    assert merged((OLD,), budget=None) == ()


def test_strictness_drops_the_overshoot() -> None:
    (budget,) = merged((), budget={"max_limit": 1, "reset_duration": "1d", "max_overshoot": 0.5})
    assert budget.max_overshoot_nusd == 500_000_000
    (strict,) = merged((budget,), budget={"enforcement": "strict"})
    assert (strict.id, strict.enforcement, strict.max_overshoot_nusd) == (budget.id, "strict", None)
    (unset,) = merged((budget,), budget={"max_overshoot": None})
    assert unset.max_overshoot_nusd is None


@pytest.mark.parametrize(
    ("window", "aligned", "moves"),
    [
        ("1M", False, True),
        ("1Q", False, True),
        ("1d", True, True),
        ("1h", True, True),
        ("1d", False, False),
        ("90m", False, False),
    ],
)
def test_a_time_zone_moves_only_windows_that_depend_on_it(window: str, aligned: bool, moves: bool) -> None:
    old = Budget(id="old", limit_nusd=1, window=window, anchored_at_s=ANCHOR_S, calendar_aligned=aligned)
    (budget,) = merged((old,), Zones("", "Asia/Tokyo"))
    assert (budget.id != "old") is moves


LIMIT = RateLimit(
    id="rl", anchored_at_s=ANCHOR_S, token_limit_id="t", token_max=10, token_window="1d",
    request_limit_id="r", request_max=5, request_window="1h",
)  # fmt: skip


def limited(existing: RateLimit | None, zones: Zones = UTC, **fields: Any) -> RateLimit | None:
    return merge_rate_limit(existing, body(**fields), "", zones, moment())


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, {"t", "r"}),
        ({"rate_limit": {"token_max_limit": 99}}, {"t", "r"}),
        ({"rate_limit": {"token_reset_duration": "1h"}}, {"r"}),
        ({"rate_limit": {"request_reset_duration": "1d"}}, {"t"}),
        ({"rate_limit": {"calendar_aligned": True}}, set()),
        ({"calendar_aligned": True}, set()),
        ({"rate_limit": {"request_max_limit": None}}, {"t"}),
        ({"rate_limit": {"request_max_limit": None, "request_reset_duration": None}}, {"t"}),
        ({"rate_limit": {"count_cache_reads": True}}, {"t", "r"}),
    ],
)
def test_each_half_keeps_its_id_as_long_as_its_window(fields: dict[str, Any], kept: set[str]) -> None:
    after = limited(LIMIT, **fields)
    assert after is not None
    assert after.id == "rl"
    assert {after.token_limit_id, after.request_limit_id} & {"t", "r"} == kept


def test_a_rate_limit_can_be_cleared() -> None:
    assert limited(LIMIT, rate_limit=None) is None
    assert limited(LIMIT, rate_limit={"token_max_limit": None, "request_max_limit": None}) is None
    assert limited(None) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"rate_limit": {"token_max_limit": None, "token_reset_duration": "1d"}},
        {"calendar_aligned": True, "rate_limit": {"token_reset_duration": "5h"}},
        {"rate_limit": {"calendar_aligned": True, "request_reset_duration": "2d"}},
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        limited(LIMIT, **fields)
