"""Which requests may leave, and when; what comes for months that have left. Pure."""

from __future__ import annotations

import pytest

from bursar_aggregator import archive, stored_books
from bursar_aggregator.archive_manifest import HOUR_MS
from bursar_aggregator.archive_manifest import stretches as file_stretches
from bursar_aggregator.leaving import MonthState, clock_ahead, is_due, rows_days, why_not
from bursar_aggregator.left import Close, parted, was_counted
from bursar_aggregator.rows import COLUMNS
from bursar_common.finance import month_bounds_ms
from bursar_common.settings import Settings, SettingsError

DAY_MS = 86_400_000


def state(**fields: object) -> MonthState:
    return MonthState(**({"month": "2026-03", "stored": True, "open_charges": 0, "days_open": 0, "days": 31} | fields))  # type: ignore[arg-type]


def test_without_an_archive_requests_are_kept_no_longer_than_the_log() -> None:
    assert rows_days(Settings()) == 0  # for ever: nothing leaves unless it is asked for
    assert rows_days(Settings(usage_rows_days=90)) == 90
    assert rows_days(Settings(usage_rows_days=369)) == 369
    with pytest.raises(SettingsError, match="no longer than the log: at most BURSAR_USAGE_RETENTION_DAYS less 31"):
        rows_days(Settings(usage_rows_days=370))
    assert rows_days(Settings(usage_rows_days=3_000, usage_archive="/archive")) == 3_000
    assert rows_days(Settings(usage_archive="/archive")) == 0


@pytest.mark.parametrize("days", [1, 30, 31])
def test_a_log_of_a_month_lets_nothing_leave_without_an_archive(days: int) -> None:
    assert rows_days(Settings(usage_retention_days=days)) == 0
    with pytest.raises(
        SettingsError, match=rf"keeps requests for {days} days .* only where the log keeps more than 31"
    ):
        rows_days(Settings(usage_retention_days=days, usage_rows_days=7))
    assert rows_days(Settings(usage_retention_days=days, usage_rows_days=7, usage_archive="/archive")) == 7


def test_a_clock_that_is_ahead_of_everything_calls_nothing_old() -> None:
    assert clock_ahead(10 * DAY_MS, 8 * DAY_MS) == ""
    assert clock_ahead(10 * DAY_MS, 11 * DAY_MS) == ""
    assert "2 days ahead of the newest request" in clock_ahead(10 * DAY_MS + 1, 8 * DAY_MS)
    assert "401 days ahead" in clock_ahead(411 * DAY_MS, 10 * DAY_MS)


def test_a_month_is_due_when_its_last_day_is_old_enough() -> None:
    end_ms = month_bounds_ms("2026-03")[1]
    assert not is_due("2026-03", end_ms + 90 * DAY_MS - 1, 90)
    assert is_due("2026-03", end_ms + 90 * DAY_MS, 90)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"stored": False}, "books are not stored"),
        ({"open_charges": 2}, "2 of its charges"),
        ({"days_open": 1}, "sums of 1 of its days"),
        ({"days": 0}, "sums of all of its days"),
        ({"hours_old": 3}, "sums of 3 of its hours are of a former form"),
    ],
)
def test_a_month_stays_until_everything_shown_of_it_is_held_elsewhere(fields: dict[str, object], said: str) -> None:
    why = why_not(state(**fields))
    assert said in why
    assert bool(why) == bool(said)


def moment(month: str) -> int:
    return month_bounds_ms(month)[0]


def row(started_ms: int, offset: int, partition: int = 0) -> tuple[object, ...]:
    given = {"started_at": started_ms, "log_topic": "t", "log_partition": partition, "log_offset": offset}
    return tuple(given.get(name) for name in COLUMNS)


def test_what_comes_too_late_is_set_aside_and_what_was_counted_is_passed_over() -> None:
    closes = [Close("2026-03", {("t", 0): 100}, stored=True)]
    march, april = moment("2026-03"), moment("2026-04")
    young, replayed, unknown, other = row(april, 7), row(march, 99), row(march, 100), row(march, 1, partition=3)
    assert parted([young, replayed, unknown, other], april, closes) == ([young], [unknown, other])
    assert parted([young], 0, []) == ([young], [])


def test_what_is_booked_in_a_closed_month_that_is_not_stored_was_not_counted_for_sure() -> None:
    """March has left; April did not come to its checksum, May did."""
    closes = [
        Close("2026-03", {("t", 0): 100}, stored=True),
        Close("2026-04", {("t", 0): 200}, stored=False),
        Close("2026-05", {("t", 0): 300, ("t", 1): 50}, stored=True),
    ]
    march = moment("2026-03")
    known = {offset: was_counted(row(march, offset), closes) for offset in (99, 100, 199, 200, 299, 300)}
    assert known == {99: True, 100: False, 199: False, 200: True, 299: True, 300: False}
    # A partition that came later has nothing before it; what is booked before the first close was fixed by it.
    assert was_counted(row(march, 49, partition=1), closes)
    assert not was_counted(row(march, 50, partition=1), closes)
    assert was_counted(row(moment("2025-01"), 99), closes)


def test_files_are_of_a_day_or_of_as_many_hours_as_fit() -> None:
    hour = HOUR_MS
    rows = {0: 10, 5 * hour: 20, DAY_MS: 60_000, DAY_MS + hour: 60_000, DAY_MS + 2 * hour: 30_000}
    assert file_stretches(0, 3 * DAY_MS, rows) == [
        (0, DAY_MS), (DAY_MS, DAY_MS + hour), (DAY_MS + hour, 2 * DAY_MS),
    ]  # fmt: skip


def test_a_month_is_stored_whole_from_the_beginning_of_time_to_its_end() -> None:
    from_ms, to_ms = month_bounds_ms("2026-02")
    assert stored_books.stretches("2026-02", {}) == [(0, to_ms)]
    busy = {from_ms + day * DAY_MS: 600_000 for day in range(28)}
    found = stored_books.stretches("2026-02", busy)
    assert (found[0], found[-1][1], len(found)) == ((0, from_ms + DAY_MS), to_ms, 28)
    assert all(one[1] == two[0] for one, two in zip(found, found[1:], strict=False))


@pytest.mark.parametrize("value", ["relative/folder", "s3://bucket/x", "file:///x"])
def test_an_archive_is_a_folder(value: str) -> None:
    with pytest.raises(SettingsError, match="absolute path"):
        archive.check_archive(value)
