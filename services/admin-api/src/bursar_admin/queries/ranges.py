"""Ranges of time in questions, and which part of one is answered from the sums by hour. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from bursar_admin.errors import bad_field
from bursar_admin.queries.filters import MAX_RANGE_DAYS, Filters
from bursar_common.usage_sums import FORM
from bursar_common.windows import zone

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
DEFAULT_DAYS: Final = 7
"""Range of sums and rankings where ``from`` is not given."""
AHEAD_MS: Final = HOUR_MS
"""How far "now" reaches: clocks of edges may be ahead of this one."""
MAX_OPEN_HOURS: Final = 400
"""Hours read request by request beside sums; with more of them everything is."""
MAX_OPEN_DAYS: Final = 100
"""Days read by hours beside sums of days; with more of them everything is."""
MAX_BUCKETS: Final = 2_200
"""Points of a histogram: 91 days by hour."""


@dataclass(frozen=True)
class Span:
    """``[from_ms, to_ms)``, Unix milliseconds."""

    from_ms: int
    to_ms: int

    @property
    def before(self) -> Span:
        """The range of the same length that ends where this one starts."""
        return Span(2 * self.from_ms - self.to_ms, self.from_ms)

    def sql(self, name: str, column: str = "started_at") -> tuple[str, dict[str, Any]]:
        """The condition, and its parameters: by day as well, which is what the table is ordered by."""
        return (
            f"{column} >= fromUnixTimestamp64Milli({{{name}_from:Int64}}, 'UTC')"
            f" AND {column} < fromUnixTimestamp64Milli({{{name}_to:Int64}}, 'UTC')"
            f" AND toDate({column}) >= toDate({{{name}_first:String}})"
            f" AND toDate({column}) <= toDate({{{name}_last:String}})",
            {
                f"{name}_from": self.from_ms,
                f"{name}_to": self.to_ms,
                f"{name}_first": _day(self.from_ms),
                f"{name}_last": _day(self.to_ms - 1),
            },
        )


def span_of(filters: Filters, now_ms: int, days: int = DEFAULT_DAYS) -> Span:
    """The range asked for; ``to`` defaults to now, ``from`` to ``days`` before it.

    Raises Refusal (400) for one that is empty or too long."""
    to_ms = filters.to_ms if filters.to_ms is not None else now_ms + AHEAD_MS
    from_ms = filters.from_ms if filters.from_ms is not None else to_ms - days * DAY_MS
    if to_ms <= from_ms:
        raise bad_field("from", "is not before to (by default now)", None, "an earlier moment than to")
    if to_ms - from_ms > MAX_RANGE_DAYS * DAY_MS + AHEAD_MS:
        raise bad_field("from", "is too long before to", None, f"at most {MAX_RANGE_DAYS} days")
    return Span(from_ms, to_ms)


@dataclass(frozen=True)
class Plan:
    """How a range is read: each moment of it in exactly one way, a day or an hour at a time or request by request."""

    raw: tuple[Span, ...]
    """Stretches that are read request by request."""
    corrected: bool
    """Whether there are corrections to be added to requests that are read themselves."""
    hours: tuple[Span, ...] = ()
    """Stretches of whole hours read from the sums by hour."""
    open_hours: tuple[int, ...] = ()
    """Unix seconds of hours within ``hours`` that are not to be taken from there."""
    days: Span | None = None
    """Whole UTC days read from the sums by day."""
    open_days: tuple[int, ...] = ()
    """Unix seconds of the beginnings of days within ``days`` that are not to be taken from there."""
    cut: str = ""
    """Which of the day's sums."""


@dataclass(frozen=True)
class Hours:
    """What is known about the sums, over all time."""

    complete: bool
    """Every hour that has requests is noted in usage_hours_touched."""
    open: frozenset[int]
    """Hours (Unix s) that have requests and no complete sums."""
    corrected: bool
    without_short: frozenset[int] = frozenset()
    """Hours whose sums, or what there is of them, hold neither short answers nor highest values."""
    open_days: frozenset[int] = frozenset()
    """Beginnings (Unix s) of UTC days that have requests and no complete sums of days."""


HOURS_QUERY: Final = f"""SELECT
    toUnixTimestamp(toDateTime(h.day, 'UTC')) AS day, h.open AS open, h.without_short AS without_short,
    (SELECT count() FROM bursar.corrections) AS corrections
FROM
(
    SELECT
        toDate(hour) AS day,
        groupArrayIf(toUnixTimestamp(hour), NOT complete) AS open,
        groupArrayIf(toUnixTimestamp(hour), form < {FORM}) AS without_short,
        sipHash64(arraySort(groupArray((toUnixTimestamp(hour), generation)))) AS source
    FROM bursar.usage_hours_state GROUP BY day
) AS h
LEFT JOIN
(
    SELECT x.day AS day, argMax(x.source, x.built_at) AS source FROM bursar.usage_days_built AS x GROUP BY x.day
) AS b ON b.day = h.day
WHERE h.day = toDate(0) OR b.day != h.day OR b.source != h.source OR notEmpty(h.open) OR notEmpty(h.without_short)"""
"""Days without complete sums, with their hours likewise; the row of day 0 says that all hours are noted. As the view
bursar.usage_days_state says it. Over all time, so that one answer serves all questions that are asked at once."""


def hours_of(rows: Iterable[dict[str, Any]]) -> Hours:
    listed = list(rows)
    days = [row for row in listed if row["day"] != 0]
    return Hours(
        complete=len(days) < len(listed),
        open=frozenset(int(hour) for row in days for hour in row["open"]),
        without_short=frozenset(int(hour) for row in days for hour in row["without_short"]),
        open_days=frozenset(row["day"] for row in days),
        corrected=any(row["corrections"] for row in listed) or not listed,
    )


def plan_of(span: Span, hours: Hours | None, cut: str | None = None, *, short: bool = False) -> Plan:
    """How to read the range. ``hours`` None: the question cannot be answered from sums; ``cut`` None: not from those of
    days. ``short``: short answers are asked for."""
    everything = Plan((span,), hours is None or hours.corrected)
    if hours is None or not hours.complete:
        return everything
    first = -(-span.from_ms // HOUR_MS) * HOUR_MS
    last = span.to_ms // HOUR_MS * HOUR_MS
    if last <= first:
        return everything
    days, open_days = _days(first, last, hours) if cut is not None else (None, ())
    stretches = [Span(first, last)]
    if days is not None:
        stretches = [Span(first, days.from_ms), *(Span(day * 1000, day * 1000 + DAY_MS) for day in open_days)]
        stretches.append(Span(days.to_ms, last))
    by_hour = tuple(_joined(stretches))
    unread = hours.open | hours.without_short if short else hours.open
    open_hours = tuple(
        sorted(hour for hour in unread if any(each.from_ms <= hour * 1000 < each.to_ms for each in by_hour))
    )
    if len(open_hours) > MAX_OPEN_HOURS:
        return everything
    pieces = [Span(span.from_ms, first), *(Span(hour * 1000, hour * 1000 + HOUR_MS) for hour in open_hours)]
    pieces.append(Span(last, span.to_ms))
    return Plan(
        tuple(_joined(pieces)), hours.corrected, by_hour, open_hours, days, open_days, cut or "" if days else ""
    )


def _days(first_ms: int, last_ms: int, hours: Hours) -> tuple[Span | None, tuple[int, ...]]:
    """The whole days between two moments, and which of them have no complete sums."""
    span = Span(-(-first_ms // DAY_MS) * DAY_MS, last_ms // DAY_MS * DAY_MS)
    if span.to_ms <= span.from_ms:
        return None, ()
    open_days = tuple(sorted(day for day in hours.open_days if span.from_ms <= day * 1000 < span.to_ms))
    return (span, open_days) if len(open_days) <= MAX_OPEN_DAYS else (None, ())


def _joined(pieces: Iterable[Span]) -> Iterator[Span]:
    """The pieces that are not empty, neighbours made one."""
    current: Span | None = None
    for piece in pieces:
        if piece.to_ms <= piece.from_ms:
            continue
        if current is not None and piece.from_ms <= current.to_ms:
            current = Span(current.from_ms, max(current.to_ms, piece.to_ms))
            continue
        if current is not None:
            yield current
        current = piece
    if current is not None:
        yield current


def whole_hours(timezone: str, span: Span) -> bool:
    """Whether days of the zone begin with UTC hours throughout the range (not so in Kolkata or Adelaide)."""
    tz = zone(timezone)
    step = timedelta(days=30)
    moment, end = datetime.fromtimestamp(span.from_ms / 1000, UTC), datetime.fromtimestamp(span.to_ms / 1000, UTC)
    while moment < end + step:
        offset = moment.astimezone(tz).utcoffset() or timedelta()
        if offset.total_seconds() % 3600:
            return False
        moment += step
    return True


def whole_days(timezone: str) -> bool:
    """Whether days of the zone are UTC days."""
    return timezone in ("", "UTC", "Etc/UTC")


def buckets(span: Span, interval: str, timezone: str) -> list[tuple[str, int]]:
    """(key, start in Unix s) of every bucket of the range; the key of an hour is its start, of a day its date.

    Raises Refusal (400) where there would be too many."""
    tz = zone(timezone)
    if interval == "hour":
        offset_ms = (
            round((datetime.fromtimestamp(span.from_ms / 1000, tz).utcoffset() or timedelta()).total_seconds()) * 1000
        )
        first = (span.from_ms + offset_ms) // HOUR_MS * HOUR_MS - offset_ms
        count = -(-(span.to_ms - first) // HOUR_MS)
        _check_buckets(count)
        return [(str(start // 1000), start // 1000) for start in range(first, span.to_ms, HOUR_MS)]
    day = datetime.fromtimestamp(span.from_ms / 1000, tz).date()
    last = datetime.fromtimestamp((span.to_ms - 1) / 1000, tz).date()
    _check_buckets((last - day).days + 1)
    found = []
    while day <= last:
        found.append((day.isoformat(), _midnight_s(day, timezone)))
        day += timedelta(days=1)
    return found


def _midnight_s(day: date, timezone: str) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone(timezone)).timestamp())


def _check_buckets(count: int) -> None:
    if count > MAX_BUCKETS:
        raise bad_field("interval", "makes too many points for this range", None, f"at most {MAX_BUCKETS}: use day")


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
