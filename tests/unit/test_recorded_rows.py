"""Rows of recorded requests that are kept for the next page."""

from __future__ import annotations

from bursar_admin.recorded import KEPT_ROWS, KEPT_S, RecordedRows
from bursar_common.clock import SystemClock


class Clock(SystemClock):
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


def row(number: int, rank: int = 2) -> dict[str, object]:
    return {"request_id": f"id-{number}", "rank": rank, "cost_nusd": number, "sort_value": number, "matches": 0}


def place(number: int, rank: int = 2, value: int = 7) -> dict[str, object]:
    return {"request_id": f"id-{number}", "rank": rank, "sort_value": value}


def test_only_what_stands_for_good_is_kept() -> None:
    rows = RecordedRows(Clock())
    for rank in (0, 1):
        rows.keep(row(rank, rank))
        assert rows.at(place(rank, rank)) is None
        assert rows.at(place(rank)) is None
    rows.keep(row(2))
    assert rows.at(place(2, rank=1)) is None  # another event of the request was found: what matches is not known
    assert rows.at({"request_id": "id-2", "sort_value": 1}) is None
    found = rows.at(place(2))
    assert found == {"request_id": "id-2", "rank": 2, "cost_nusd": 2, "sort_value": 7, "matches": 1}
    found["cost_nusd"] = 5  # whoever got it adds corrections
    again = rows.at(place(2, value=8))
    assert again is not None
    assert (again["cost_nusd"], again["sort_value"]) == (2, 8)


def test_rows_go_after_a_while_and_the_longest_unused_first() -> None:
    clock = Clock()
    rows = RecordedRows(clock)
    for number in range(KEPT_ROWS):
        rows.keep(row(number))
    assert rows.at(place(0)) is not None
    rows.keep(row(KEPT_ROWS))
    assert rows.at(place(0)) is not None
    assert rows.at(place(1)) is None
    clock.now_s = KEPT_S
    assert rows.at(place(0)) is None
