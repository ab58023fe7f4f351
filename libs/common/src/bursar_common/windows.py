"""Windows of time in which limits count: how long they are, and which one a moment lies in.

A window is ``<n>`` of ``s m h d w M Q Y``. Calendar windows begin with the calendar's minute, hour, day, week
(Monday), month, quarter or year in the owner's time zone. Anchored windows are counted from the limit's creation:
``s m h d w`` in elapsed seconds (a day is 24 hours), ``M Q Y`` in calendar months at the anchor's local time of day,
clamped to the last day of a short month and always computed from the anchor, so that 31 January, 28 February, 31
March follow each other without drift.

Windows of one limit never overlap and leave no gap, whatever a time zone does: every window is ``[start, end)``
between two neighbours of one rising sequence of starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SHORTEST_S = 60
"""A shorter window would be over before the requests it admitted are."""
LONGEST_S = 366 * 86_400
"""One year, a leap year included."""
ZONES_CACHED = 1024
"""More than there are IANA zones."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_MONTHS = {"M": 1, "Q": 3, "Y": 12}
_WORDS = {
    "s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "M": "month", "Q": "quarter", "Y": "year",
}  # fmt: skip
_TEXT = re.compile(r"([1-9][0-9]{0,8})([smhdwMQY])")
_ALLOWED = (
    "a window is a whole number of s, m, h, d, w, M, Q or Y, at least 60 s and at most one year, such as 90m or 1M"
)


class Window(NamedTuple):
    """``number`` of ``unit`` (one of ``s m h d w M Q Y``)."""

    number: int
    unit: str

    def __str__(self) -> str:
        return f"{self.number}{self.unit}"

    def words(self) -> str:
        """For a sentence: ``month``, ``90 minutes``."""
        word = _WORDS[self.unit]
        return word if self.number == 1 else f"{self.number} {word}s"


@lru_cache(maxsize=1024)
def parse_window(text: str, calendar_aligned: bool = False) -> Window:
    """The window that ``text`` names. Raises ValueError saying what was given and what is allowed."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{_ALLOWED}; given was {text[:32]!r}")
    window = Window(int(match[1]), match[2])
    if window.unit in _SECONDS:
        length_s = window.number * _SECONDS[window.unit]
        fits = SHORTEST_S <= length_s <= LONGEST_S
    else:
        fits = window.number * _MONTHS[window.unit] <= 12
    if not fits:
        raise ValueError(f"{_ALLOWED}; given was {text!r}")
    if calendar_aligned and window.number != 1:
        raise ValueError(f"a calendar-aligned window is one of 1m, 1h, 1d, 1w, 1M, 1Q, 1Y; given was {text!r}")
    return window


@lru_cache(maxsize=ZONES_CACHED)
def zone(name: str) -> tzinfo:
    """The IANA time zone of that name; UTC for the empty name. Raises ValueError for a name that is none."""
    if name in ("", "UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"a time zone is an IANA name such as Europe/Paris; given was {name[:64]!r}") from None


def bounds(window: Window, calendar_aligned: bool, anchored_at_s: int, timezone: str, now_s: float) -> tuple[int, int]:
    """Start and end (Unix s, end exclusive) of the window that ``now_s`` lies in.

    Before ``anchored_at_s`` an anchored limit is in its first window. Raises ValueError for an unknown zone."""
    number, unit = window
    if calendar_aligned:
        return _calendar_bounds(unit, zone(timezone), int(now_s // 1))
    if unit in _SECONDS:
        length_s = number * _SECONDS[unit]
        index = max(0, int((now_s - anchored_at_s) // length_s))
        start_s = anchored_at_s + index * length_s
        return start_s, start_s + length_s
    return _anchored_month_bounds(number * _MONTHS[unit], anchored_at_s, zone(timezone), now_s)


def _anchored_month_bounds(months: int, anchored_at_s: int, tz: tzinfo, now_s: float) -> tuple[int, int]:
    anchor = datetime.fromtimestamp(anchored_at_s, tz)

    def start(index: int) -> int:
        if index == 0:
            return anchored_at_s
        year, month0 = divmod(anchor.year * 12 + anchor.month - 1 + index * months, 12)
        day = min(anchor.day, _days_in_month(year, month0 + 1))
        return int(datetime(year, month0 + 1, day, anchor.hour, anchor.minute, anchor.second, tzinfo=tz).timestamp())

    if now_s <= anchored_at_s:
        return anchored_at_s, start(1)
    now = datetime.fromtimestamp(now_s, tz)
    index = max(0, ((now.year - anchor.year) * 12 + now.month - anchor.month) // months)
    return _between(start, index, now_s)


def _calendar_bounds(unit: str, tz: tzinfo, now_s: int) -> tuple[int, int]:
    if unit in ("m", "h"):
        return _clock_bounds(_SECONDS[unit], tz, now_s)
    today = datetime.fromtimestamp(now_s, tz).date()

    if unit in ("d", "w"):
        step = 1 if unit == "d" else 7
        first = today if unit == "d" else today - timedelta(days=today.weekday())

        def start(index: int) -> int:
            return _midnight(first + timedelta(days=index * step), tz)
    else:
        months = _MONTHS[unit]
        month0 = (today.year * 12 + today.month - 1) // months * months

        def start(index: int) -> int:
            year, month = divmod(month0 + index * months, 12)
            return _midnight(date(year, month + 1, 1), tz)

    return _between(start, 0, now_s)


def _between(start: Callable[[int], int], index: int, now_s: float) -> tuple[int, int]:
    """The neighbours ``start(i) <= now < start(i + 1)``, searched from a near guess: local dates may repeat or be
    skipped where a time zone changes around midnight, the sequence of starts only rises."""
    start_s, end_s = start(index), start(index + 1)
    while now_s < start_s:
        index -= 1
        start_s, end_s = start(index), start_s
    while now_s >= end_s:
        index += 1
        start_s, end_s = end_s, start(index + 1)
    return start_s, end_s


def _clock_bounds(length_s: int, tz: tzinfo, now_s: int) -> tuple[int, int]:
    """The local clock's minute or hour; cut short where the clock is changed within it (half-hour changes exist)."""
    offset_s = _offset_s(tz, now_s)
    start_s = (now_s + offset_s) // length_s * length_s - offset_s
    end_s = start_s + length_s
    if _offset_s(tz, start_s) != offset_s:
        start_s = _change(tz, start_s, now_s)
    if _offset_s(tz, end_s - 1) != offset_s:
        end_s = _change(tz, now_s, end_s - 1)
    return start_s, end_s


def _change(tz: tzinfo, before_s: int, after_s: int) -> int:
    """First second with the offset of ``after_s``; the offset changes once between the two."""
    offset_s = _offset_s(tz, after_s)
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if _offset_s(tz, middle_s) == offset_s:
            after_s = middle_s
        else:
            before_s = middle_s
    return after_s


def _offset_s(tz: tzinfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, tz).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _midnight(day: date, tz: tzinfo) -> int:
    """First midnight of a local day; where the clock skips it, the moment it would have been."""
    return int(datetime(day.year, day.month, day.day, tzinfo=tz).timestamp())


def _days_in_month(year: int, month: int) -> int:
    following = date(year + month // 12, month % 12 + 1, 1)
    return (following - timedelta(days=1)).day
