"""When a month's requests may leave. Pure.

Requests leave by whole UTC months, oldest first. A month is due when its last day is older than the setting says; it
may go when everything that is shown of it is held elsewhere: its books are stored, nothing of it is booked in a month
that is still open, its sums are complete and, where there is an archive, the archive has it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bursar_common.finance import month_bounds_ms
from bursar_common.settings import Settings, SettingsError

DAY_MS: Final = 86_400_000
MONTH_DAYS: Final = 31
"""Days that the first request of a month is kept longer than its last."""


class MonthState(msgspec.Struct, frozen=True):
    """What is known of the oldest month that has requests."""

    month: str
    """``2026-11``."""
    stored: bool
    """Its books are stored, or those of a later month."""
    open_charges: int
    """Charges of its requests that are booked in a month whose books are not stored."""
    days_open: int
    """Its UTC days whose sums are not complete."""
    days: int
    """Its UTC days that have sums."""


def rows_days(settings: Settings) -> int:
    """Days that requests are kept at least.

    Without an archive they leave before the log forgets the first of their month. Raises SettingsError."""
    longest = settings.usage_retention_days - MONTH_DAYS
    if settings.usage_archive:
        return settings.usage_rows_days or max(longest, 0) or 1
    if settings.usage_rows_days > max(longest, 0):
        raise SettingsError(
            f"BURSAR_USAGE_ROWS_DAYS is {settings.usage_rows_days}, and without BURSAR_USAGE_ARCHIVE requests are kept "
            f"no longer than the log: at most BURSAR_USAGE_RETENTION_DAYS less {MONTH_DAYS} ({max(longest, 0)}), as a "
            "month's requests leave together."
        )
    return settings.usage_rows_days or max(longest, 1)


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
    return ""
