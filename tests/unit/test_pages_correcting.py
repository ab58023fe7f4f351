"""Which requests have a form that corrects them, and where a correction is booked."""

from __future__ import annotations

import pytest

from bursar_admin.pages.correcting import booked_in
from bursar_admin.pages.records import Record
from bursar_common.finance import month_bounds_ms

OCTOBER_MS = month_bounds_ms("2026-10")[0]


@pytest.mark.parametrize(
    ("last_closed", "booked"),
    [("", "2026-10"), ("2026-09", "2026-10"), ("2026-10", "2026-11"), ("2026-12", "2027-01")],
)
def test_a_correction_is_booked_in_its_month_or_the_next_open_one(last_closed: str, booked: str) -> None:
    assert booked_in(OCTOBER_MS, last_closed) == ("2026-10", booked)


@pytest.mark.parametrize(
    ("outcome", "simulated", "correctable"),
    [("completed", False, True), ("expired", False, True), ("refused", False, False), ("completed", True, False)],
)
def test_what_was_never_charged_is_not_corrected(outcome: str, simulated: bool, correctable: bool) -> None:
    assert Record({"outcome": outcome, "simulated": simulated}).correctable is correctable
