"""Which closed months are to be stored, and what each of them fixes."""

from __future__ import annotations

from bursar_aggregator.stored_books import storing, to_store
from bursar_common.finance import PeriodClose, close_id


def closed(*months: str) -> dict[str, PeriodClose]:
    return {
        month: PeriodClose(
            id=close_id(month), name=month, created_at_s=1, closed_by="test", bounds=(), price_books=(), checksum="",
            rows=0, requests=0, billed_nusd=0, list_nusd=0, expired_nusd=0, corrections_nusd=0, allocated_nusd=0,
            tiers=(), rates={},
        )
        for month in months
    }  # fmt: skip


def found(closes: dict[str, PeriodClose], *stored: str) -> list[tuple[str, str]]:
    return [(close.name, first) for close, first in to_store(closes, stored)]


def test_every_close_that_is_not_stored_begins_behind_the_close_before() -> None:
    closes = closed("2026-12", "2026-10", "2026-11")
    assert found(closes) == [("2026-10", ""), ("2026-11", "2026-11"), ("2026-12", "2026-12")]
    assert found(closes, "2026-11") == [("2026-10", ""), ("2026-12", "2026-12")]
    assert found(closes, "2026-10", "2026-11", "2026-12") == []
    # A close fixes what lies between the one before and itself.
    assert found(closed("2026-03", "2026-06"), "2026-03") == [("2026-06", "2026-04")]
    # What ClickHouse has stored, and governance has not been read for, ends there all the same.
    assert found(closed("2026-06"), "2026-05") == [("2026-06", "2026-06")]


def test_a_month_is_stored_with_what_its_own_close_fixed_and_no_more() -> None:
    assert "booked_month >= toDate('2026-11-01') AND booked_month < toDate('2026-12-01')" in storing(
        "2026-11", "2026-11", 1, (), 0, 1
    )
    assert "booked_month >= toDate('1970-01-01')" in storing("2026-11", "", 1, (), 0, 1)
