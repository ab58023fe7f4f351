"""Ranges of time in questions, and which part of one is answered from the sums by hour. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from bursar_admin.errors import bad_field
from bursar_admin.queries.filters import MAX_RANGE_DAYS, Filters
from bursar_common.windows import zone

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
DEFAULT_DAYS: Final = 7
"""Range of sums and rankings where ``from`` is not given."""
AHEAD_MS: Final = HOUR_MS
"""How far "now" reaches: clocks of edges may be ahead of this one."""
SETTLED_S: Final = 180
"""Seconds after the last touch of an hour before sums read then are taken for complete: an insert gives up after 60 s,
and the aggregator notes an hour again after 60 s at the latest."""
MAX_OPEN_HOURS: Final = 400
"""Hours read request by request beside sums; with more of them everything is."""
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
    """How a range is read: hours from the sums (None: none), and the rest request by request."""

    summed: Span | None
    open_hours: tuple[int, ...]
    """Unix seconds of hours within ``summed`` that are not to be taken from there."""
    raw: tuple[Span, ...]
    corrected: bool
    """Whether there are corrections to be added to requests that are read themselves."""


@dataclass(frozen=True)
class Hours:
    """What is known about the sums of a range."""

    complete: bool
    """Every hour that has requests is noted in usage_hours_touched."""
    open: frozenset[int]
    """Hours (Unix s) that have requests and no complete sums."""
    corrected: bool


HOURS_QUERY: Final = """SELECT
    toUnixTimestamp(t.hour) AS hour,
    b.hour = t.hour AND b.built_at > t.touched_at + INTERVAL {settled:UInt32} SECOND AS settled,
    (SELECT count() FROM bursar.corrections) AS corrections
FROM
(
    SELECT hour, max(touched_at) AS touched_at FROM bursar.usage_hours_touched
    WHERE hour = toDateTime(0, 'UTC')
        OR hour BETWEEN toDateTime({from_s:UInt32}, 'UTC') AND toDateTime({to_s:UInt32}, 'UTC')
    GROUP BY hour
) AS t
LEFT JOIN
(
    SELECT hour, max(built_at) AS built_at FROM bursar.usage_hours_built
    WHERE hour BETWEEN toDateTime({from_s:UInt32}, 'UTC') AND toDateTime({to_s:UInt32}, 'UTC') GROUP BY hour
) AS b ON b.hour = t.hour
WHERE hour = 0 OR NOT settled"""


def hours_query(span: Span) -> tuple[str, dict[str, Any]]:
    """Hours of the range whose sums are not complete; the row of hour 0 says that all hours are noted."""
    return HOURS_QUERY, {"settled": SETTLED_S, "from_s": span.from_ms // 1000 - 3600, "to_s": span.to_ms // 1000}


def hours_of(rows: Iterable[dict[str, Any]]) -> Hours:
    listed = list(rows)
    return Hours(
        complete=any(row["hour"] == 0 for row in listed),
        open=frozenset(row["hour"] for row in listed if row["hour"] != 0),
        corrected=any(row["corrections"] for row in listed) or not listed,
    )


def plan_of(span: Span, hours: Hours | None) -> Plan:
    """How to read the range; ``hours`` None: the question cannot be answered from sums."""
    everything = Plan(None, (), (span,), hours is None or hours.corrected)
    if hours is None or not hours.complete:
        return everything
    first = -(-span.from_ms // HOUR_MS) * HOUR_MS
    last = span.to_ms // HOUR_MS * HOUR_MS
    open_hours = tuple(sorted(hour for hour in hours.open if first <= hour * 1000 < last))
    if last <= first or len(open_hours) > MAX_OPEN_HOURS:
        return everything
    pieces = [Span(span.from_ms, first), *(Span(hour * 1000, hour * 1000 + HOUR_MS) for hour in open_hours)]
    pieces.append(Span(last, span.to_ms))
    return Plan(Span(first, last), open_hours, tuple(_joined(pieces)), hours.corrected)


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
