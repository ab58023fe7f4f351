"""Which corrections count: the log alone decides, the same for everybody."""

from __future__ import annotations

import pytest

from bursar_admin.correcting import TRUTH_WITHIN_MS, check
from bursar_admin.errors import Refusal
from bursar_common.finance import Correction, CorrectionFold


def correction(
    id_: str, request_id: str = "r", seen: int | None = None, cost: int = -1, listed: int = -1
) -> Correction:
    return Correction(
        correction_id=id_, request_id=request_id, corrected_at_ms=0, reason="r", actor="a", cost_nusd=cost,
        list_cost_nusd=listed, seen_offset=seen,
    )  # fmt: skip


def test_of_two_that_did_not_know_of_each_other_the_first_counts() -> None:
    fold = CorrectionFold()
    found = [
        fold.take(offset, each)
        for offset, each in (
            (10, correction("a", seen=10)),
            (11, correction("b", seen=10)),  # did not see a
            (12, correction("c", "other", seen=10)),  # of another request
            (13, correction("b", seen=12)),  # judged anew: saw a; b at 11 never counted
            (14, correction("b", seen=14)),  # sent again
            (15, correction("d", seen=13)),  # did not see the b that counts
            (16, correction("e")),  # of a release that judged by nothing
            (17, correction("f", seen=16)),  # did not see e
            (18, correction("g", seen=17)),
        )
    ]
    assert found == [
        "counts", "overtaken", "counts", "counts", "repeated", "overtaken", "counts", "overtaken", "counts",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "added", "cost", "listed", "now_ms", "field"),
    [
        ({}, (0, 0), -100, -200, 0, ""),
        ({}, (0, 0), -101, 0, 0, "cost_nusd"),
        ({}, (0, 0), -1, -201, 0, "list_cost_nusd"),
        ({}, (-60, 0), -41, 0, 0, "cost_nusd"),
        ({}, (-60, 0), -40, 0, 0, ""),
        ({"cost_nusd": -5}, (0, 0), 3, 0, 0, ""),  # what is below zero may be put right step by step
        ({"outcome": "expired"}, (0, 0), -1, 0, TRUTH_WITHIN_MS - 1, "cost_nusd"),
        ({"outcome": "expired"}, (0, 0), 1, 0, 0, ""),
        ({"outcome": "expired"}, (5, 0), -5, 0, 0, ""),  # no lower than the guess
        ({"outcome": "expired"}, (0, 0), -1, 0, TRUTH_WITHIN_MS, ""),
    ],
)
def test_no_request_comes_to_cost_less_than_nothing(
    request_: dict[str, object], added: tuple[int, int], cost: int, listed: int, now_ms: int, field: str
) -> None:
    row = {"started_at_ms": 0, "outcome": "completed", "cost_nusd": 100, "list_cost_nusd": 200, **request_}
    wanted = correction("a", cost=cost, listed=listed)
    if not field:
        check(row, added, wanted, now_ms)
        return
    with pytest.raises(Refusal) as refused:
        check(row, added, wanted, now_ms)
    assert (refused.value.status, refused.value.extra["field"]) == (409, field)


@pytest.mark.parametrize(
    ("added", "cost", "expected", "field"),
    [
        ((0, 0), -1, None, ""),
        ((0, 0), -1, 100, ""),
        ((-60, 0), -1, 40, ""),
        ((-60, 0), -1, 100, "expected_cost_nusd"),
        ((0, 0), 1, 0, "expected_cost_nusd"),  # 0 is an expectation, not none
        ((-60, 0), -41, 100, "expected_cost_nusd"),  # said first: what was wanted rests on it
    ],
)
def test_what_it_was_expected_to_cost_is_held_against_what_it_costs(
    added: tuple[int, int], cost: int, expected: int | None, field: str
) -> None:
    row = {"started_at_ms": 0, "outcome": "completed", "cost_nusd": 100, "list_cost_nusd": 200}
    wanted = correction("a", cost=cost, listed=0)
    if not field:
        check(row, added, wanted, 0, expected)
        return
    with pytest.raises(Refusal) as refused:
        check(row, added, wanted, 0, expected)
    extra = refused.value.extra
    assert (refused.value.status, extra["field"], extra["given"]) == (409, field, expected)
    assert (extra["cost_nusd"], extra["list_cost_nusd"]) == (100 + added[0], 200)
    assert f" {100 + added[0]} nano-dollars" in refused.value.message
    assert f" {expected}" in refused.value.message
