"""When a month's requests may leave. Pure.

Requests leave by whole UTC months, oldest first. A month is due when its last day is older than the setting says; it
may go when everything that is shown of it is held elsewhere: its books are stored, nothing of it is booked in a month
that is still open, its sums are complete and of the newest form, and, where there is an archive, the archive has it.
Age is judged by two clocks that have to agree: this machine's, and the newest request's.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bursar_common.finance import month_bounds_ms
from bursar_common.settings import Settings, SettingsError
from bursar_common.usage_sums import FORM

DAY_MS: Final = 86_400_000
MONTH_DAYS: Final = 31
"""Days that the first request of a month is kept longer than its last."""
AHEAD_DAYS: Final = 2
"""Days that this machine's clock may be ahead of the newest event. With more, the clock may be wrong: nothing is
deleted because of its age until there is a newer event, which an installation in use has within a weekend."""
REBUILDING: Final = (
    "(SELECT maxIf(at, step = 'rebuilding') > maxIf(at, step = 'rebuilt')"
    " FROM bursar.usage_left WHERE month = toDate('1970-01-01'))"
)
"""Whether analytics are being rebuilt, or that was broken off."""


class MonthState(msgspec.Struct, frozen=True):
    """What is known of the oldest month that has requests."""

    month: str
    """``2026-11``."""
    stored: bool
    """Its books are stored: those of the close that fixed it."""
    open_charges: int
    """Charges of its requests that are booked in a month whose books are not stored."""
    days_open: int
    """Its UTC days whose sums are not complete."""
    days: int
    """Its UTC days that have sums."""
    hours_old: int = 0
    """Its hours whose sums are of a former form: they could not be made again."""


def rows_days(settings: Settings) -> int:
    """Days that requests are kept at least; 0: for ever.

    Without an archive they leave before the log forgets the first of their month. Raises SettingsError."""
    if settings.usage_archive or not settings.usage_rows_days:
        return settings.usage_rows_days
    longest = settings.usage_retention_days - MONTH_DAYS
    if longest < 1:
        raise SettingsError(
            f"BURSAR_USAGE_ROWS_DAYS is {settings.usage_rows_days}, but the log keeps requests for "
            f"{settings.usage_retention_days} days (BURSAR_USAGE_RETENTION_DAYS), which is not longer than a month: "
            f"without BURSAR_USAGE_ARCHIVE requests can leave only where the log keeps more than {MONTH_DAYS} days."
        )
    if settings.usage_rows_days > longest:
        raise SettingsError(
            f"BURSAR_USAGE_ROWS_DAYS is {settings.usage_rows_days}, and without BURSAR_USAGE_ARCHIVE requests are kept "
            f"no longer than the log: at most BURSAR_USAGE_RETENTION_DAYS less {MONTH_DAYS} ({longest}), as a "
            "month's requests leave together."
        )
    return settings.usage_rows_days


def clock_ahead(now_ms: int, newest_ms: int) -> str:
    """Why nothing may be called old by this clock, given the newest event; empty: it may."""
    days = (now_ms - newest_ms) // DAY_MS
    if now_ms - newest_ms <= AHEAD_DAYS * DAY_MS:
        return ""
    return f"this machine's clock is {days} days ahead of the newest request, and may be wrong; nothing is called old"


def is_due(month: str, now_ms: int, days: int) -> bool:
    """Whether the last request of the month is older than ``days``."""
    return month_bounds_ms(month)[1] + days * DAY_MS <= now_ms


def why_not(state: MonthState) -> str:
    """Why a month that is due may not leave yet; empty: it may."""
    if not state.stored:
        return "its books are not stored: the month was not closed, or did not come to the checksum of its close"
    if state.open_charges:
        return f"{state.open_charges} of its charges are booked in a month that is not closed"
    if state.days_open or not state.days:
        return f"the sums of {state.days_open or 'all'} of its days are not complete"
    if state.hours_old:
        return f"the sums of {state.hours_old} of its hours are of a former form, not {FORM}, and are made anew"
    return ""
