"""The stretch of time a page shows, from its URL, in the viewer's zone; and the one it is compared to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from bursar_admin.errors import bad_field

CHOICES = (("today", "Today"), ("7d", "7 days"), ("month", "This month"), ("last_month", "Last month"))
WEEK = "week"
"""A range, too, from Monday on; not offered beside ``7d``, which is about the same."""
DEFAULT = "month"
MAX_CUSTOM_DAYS = 366 * 2
"""Longest stretch of a page: a chart of more days than pixels says nothing."""
HOURLY_UP_TO_DAYS = 2
Bucket = Literal["hour", "day"]


@dataclass(frozen=True)
class Span:
    """``[start_s, end_s)``, Unix seconds; a running span ends now."""

    name: str
    start_s: int
    end_s: int
    before_start_s: int
    before_end_s: int
    label: str
    """``this month``"""
    before_label: str
    """``the same days of last month``"""
    bucket: Bucket
    timezone: str
    whole_end_s: int
    """Where the span ends once it is over: for forecasts; ``end_s`` where it is over."""
    from_text: str = ""
    to_text: str = ""

    @property
    def running(self) -> bool:
        return self.whole_end_s > self.end_s


def span_of(query: Mapping[str, str], now_s: int, timezone: str) -> Span:
    """Raises Refusal (400) for a span that is none."""
    zone = ZoneInfo(timezone)
    now = datetime.fromtimestamp(now_s, zone)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    name = query.get("range") or ("custom" if query.get("from") or query.get("to") else DEFAULT)
    if name == "custom":
        return _custom(query, zone, now)
    if name == "today":
        start, end, before = today, today + timedelta(days=1), today - timedelta(days=1)
        return _running(name, start, end, before, now, "today", "yesterday until this time", timezone)
    if name == "7d":
        start, end = today - timedelta(days=6), today + timedelta(days=1)
        before = start - timedelta(days=7)
        return _running(name, start, end, before, now, "these 7 days", "the 7 days before", timezone)
    if name == WEEK:
        start = today - timedelta(days=today.weekday())
        end, before = start + timedelta(days=7), start - timedelta(days=7)
        return _running(name, start, end, before, now, "this week", "last week until this time", timezone)
    month = today.replace(day=1)
    if name == "month":
        return _running(
            name, month, _next(month), _last(month), now, "this month", "the same days of last month", timezone
        )
    if name == "last_month":
        start = _last(month)
        return Span(
            name, _s(start), _s(month), _s(_last(start)), _s(start), "last month", "the month before", "day", timezone,
            _s(month),
        )  # fmt: skip
    raise bad_field("range", "is not a time range", name, [*(choice for choice, _ in CHOICES), WEEK, "custom"])


def _running(
    name: str, start: datetime, end: datetime, before: datetime, now: datetime, label: str, before_label: str, zone: str
) -> Span:
    start_s, now_s, before_s = _s(start), _s(now), _s(before)
    # No further than where this span began: the month before may be shorter.
    before_end_s = before_s + now_s - start_s
    if name != "today":
        # To the hour: of a week or more it is nothing one sees, and sums of whole hours are found at once.
        before_end_s = (before_end_s + 1800) // 3600 * 3600
    before_end_s = min(before_end_s, start_s)
    bucket: Bucket = "hour" if name == "today" else "day"
    return Span(name, start_s, max(now_s, start_s + 1), before_s, max(before_end_s, before_s + 1), label, before_label,
                bucket, zone, _s(end))  # fmt: skip


def _custom(query: Mapping[str, str], zone: ZoneInfo, now: datetime) -> Span:
    start = _moment(query, "from", zone, after=False)
    end = _moment(query, "to", zone, after=True) if query.get("to") else now
    if end <= start:
        raise bad_field("to", "is not after from", query.get("to"), "a later moment")
    if (end - start).days > MAX_CUSTOM_DAYS:
        raise bad_field("from", "is too long before to for one page", query.get("from"), f"{MAX_CUSTOM_DAYS} days")
    length = _s(end) - _s(start)
    last = end - timedelta(seconds=1)
    by_day = start.time() == datetime.min.time() and end.time() == datetime.min.time()
    if not by_day:
        label = f"{start.day} {start:%b %H:%M} to {end.day} {end:%b %H:%M}"
    elif start.date() == last.date():
        label = f"{start.day} {start:%b %Y}"
    else:
        label = f"{start.day} {start:%b} to {last.day} {last:%b %Y}"
    return Span(
        name="custom",
        start_s=_s(start),
        end_s=_s(end),
        before_start_s=_s(start) - length,
        before_end_s=_s(start),
        label=label,
        before_label="the same length before",
        bucket="hour" if length <= HOURLY_UP_TO_DAYS * 86400 else "day",
        timezone=zone.key,
        # Without an end it goes on: a request of the next moment belongs into it.
        whole_end_s=_s(end) + (0 if query.get("to") else 1),
        from_text=query.get("from", ""),
        to_text=query.get("to", ""),
    )


def _moment(query: Mapping[str, str], name: str, zone: ZoneInfo, *, after: bool) -> datetime:
    """A day (``after``: its end), a moment, or Unix seconds."""
    text = query.get(name, "")
    try:
        if text.isascii() and text.isdigit() and len(text) <= 11:
            found = datetime.fromtimestamp(int(text), zone)
        elif len(text) == 10:
            found = datetime.combine(date.fromisoformat(text), datetime.min.time(), zone)
            found += timedelta(days=1 if after else 0)
        else:
            found = datetime.fromisoformat(text)
            found = found.astimezone(zone) if found.tzinfo else found.replace(tzinfo=zone)
    except (ValueError, OverflowError, OSError):
        raise bad_field(name, "is not a day or moment", text, "2026-11-30, 2026-11-30T14:00 or Unix seconds") from None
    if not 2000 <= found.year <= 2200:
        raise bad_field(name, "is not a day or moment", text, "the years 2000 to 2200")
    return found


def _s(moment: datetime) -> int:
    return int(moment.timestamp())


def _next(month: datetime) -> datetime:
    return (month + timedelta(days=32)).replace(day=1)


def _last(month: datetime) -> datetime:
    return (month - timedelta(days=1)).replace(day=1)
