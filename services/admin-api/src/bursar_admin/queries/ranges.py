"""Ranges of time in questions, and which part of one is answered from the sums by hour. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from bursar_admin.errors import bad_field
from bursar_admin.queries.filters import MAX_RANGE_DAYS, Filters
from bursar_admin.queries.standing import Standing
from bursar_common.usage_sums import FORM, RECENT_MS
from bursar_common.windows import zone

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
DEFAULT_DAYS: Final = 7
"""Range of sums and rankings where ``from`` is not given."""
AHEAD_MS: Final = HOUR_MS
"""How far beyond now is read where a range goes on until now: clocks of edges may be ahead of this one, and what they
have just served must not be missing."""
MAX_OPEN_HOURS: Final = 400
"""Hours read request by request beside sums; with more of them everything is."""
MAX_OPEN_DAYS: Final = 100
"""Days read by hours beside sums of days; with more of them everything is."""
MAX_BUILDINGS: Final = 4_000
"""Buildings of days and hours that one statement names; with more of them the tables are asked which ones stand."""
MAX_BUCKETS: Final = 2_200
"""Points of a histogram: 91 days by hour."""
RECENT: Final = "bursar.usage_recent"
"""The table of the last days' requests, ordered by hour."""


@dataclass(frozen=True)
class Span:
    """``[from_ms, to_ms)``, Unix milliseconds."""

    from_ms: int
    to_ms: int
    now_ms: int | None = field(default=None, compare=False)
    """Where the range was asked for until now: that moment, AHEAD_MS before ``to_ms``."""

    @property
    def until_ms(self) -> int:
        """The end of what was asked for."""
        return self.to_ms if self.now_ms is None else self.now_ms

    @property
    def before(self) -> Span:
        """The range of the same length that ends where this one starts."""
        return Span(2 * self.from_ms - self.until_ms, self.from_ms)

    def recent_sql(self, name: str) -> tuple[str, dict[str, Any]]:
        """As :meth:`sql`, by hour as well, which is what ``bursar.usage_recent`` is ordered by."""
        return (
            f"started_at >= fromUnixTimestamp64Milli({{{name}_from:Int64}}, 'UTC')"
            f" AND started_at < fromUnixTimestamp64Milli({{{name}_to:Int64}}, 'UTC')"
            f" AND toStartOfHour(started_at) >= toDateTime({{{name}_first:UInt32}}, 'UTC')"
            f" AND toStartOfHour(started_at) <= toDateTime({{{name}_last:UInt32}}, 'UTC')",
            {
                f"{name}_from": self.from_ms,
                f"{name}_to": self.to_ms,
                f"{name}_first": self.from_ms // HOUR_MS * 3600,
                f"{name}_last": (self.to_ms - 1) // HOUR_MS * 3600,
            },
        )

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
                f"{name}_first": day_of(self.from_ms),
                f"{name}_last": day_of(self.to_ms - 1),
            },
        )


def span_of(filters: Filters, now_ms: int, days: int = DEFAULT_DAYS) -> Span:
    """The range asked for; ``to`` defaults to now (what is dated up to AHEAD_MS later is read, too), ``from`` to
    ``days`` before.

    Raises Refusal (400) for one that is empty or too long."""
    to_ms = filters.to_ms if filters.to_ms is not None else now_ms + AHEAD_MS
    until_now = now_ms if filters.to_ms is None else None
    from_ms = filters.from_ms if filters.from_ms is not None else (until_now or to_ms) - days * DAY_MS
    if to_ms <= from_ms:
        raise bad_field("from", "is not before to (by default now)", None, "an earlier moment than to")
    if to_ms - from_ms > MAX_RANGE_DAYS * DAY_MS + AHEAD_MS:
        raise bad_field("from", "is too long before to", None, f"at most {MAX_RANGE_DAYS} days")
    # A range that begins ahead of now is as long as what can be there.
    return Span(from_ms, to_ms, until_now if until_now is not None and until_now > from_ms else None)


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
    buildings: tuple[int, ...] | None = None
    """The buildings of ``days`` and ``hours`` that are to be read, all in cuts; None: read hours with all dimensions,
    and ask the tables which buildings stand."""
    recent_ms: int | None = None
    """The moment from which on ``bursar.usage_recent`` has all requests, Unix ms; None: the question is not to be
    answered from there."""

    @property
    def raw_sources(self) -> tuple[tuple[str, tuple[Span, ...]], ...]:
        """The tables of requests that ``raw`` is read from, each with its stretches."""
        recent = tuple(each for each in self.raw if self.recent_ms is not None and each.from_ms >= self.recent_ms)
        older = tuple(each for each in self.raw if each not in recent)
        sources = ("bursar.usage_events", older), (RECENT, recent)
        return tuple((table, spans) for table, spans in sources if spans)

    requests: str | None = None
    """Names the requests in ``raw`` (see :class:`bursar_admin.queries.standing.Standing`); None: that is not known."""

    left: str = ""
    """Names what is known of months whose requests have left; empty: not known."""

    place: tuple[tuple[int, int | None], ...] = ()
    """Beginnings and ends of ``raw`` as asked for (Unix ms), whatever is there yet: plans of equal place differ by what
    had come in. An end of None is that of a range until now."""

    @property
    def raw_days(self) -> frozenset[str]:
        """UTC days that ``raw`` is of, whole or in part."""
        return frozenset(
            day_of(at_ms) for span in self.raw for at_ms in (*range(span.from_ms, span.to_ms, DAY_MS), span.to_ms - 1)
        )

    @property
    def named(self) -> object | None:
        """All that the answer depends on beside the statement: named buildings, whose rows never change, and named
        requests. None: not known, so an answer holds for the moment only."""
        if self.buildings is None or (self.raw and self.requests is None):
            return None
        return self.buildings, self.requests if self.raw else ""


@dataclass(frozen=True)
class Hours:
    """What is known about the sums, over all time."""

    complete: bool
    """Every hour that has requests is noted in usage_hours_touched."""
    open: frozenset[int]
    """Hours (Unix s) that have requests and no complete sums."""
    corrected: bool
    old: frozenset[int] = frozenset()
    """Hours whose sums are of a former FORM, or not there: they lack columns and cuts."""
    open_days: frozenset[int] = frozenset()
    """Beginnings (Unix s) of UTC days that have requests and no complete sums of days."""
    hour_buildings: Mapping[int, int] = field(default_factory=dict)
    """Of complete hours that have cuts: Unix s to the building their rows in cuts bear."""
    lacking: frozenset[int] = frozenset()
    """Hours whose sums are of a former FORM and whose requests have left: their sums are all there is."""
    day_buildings: Mapping[int, int] = field(default_factory=dict)
    """Of days that are not open, likewise."""
    now_s: int | None = None
    """When it was asked, by ClickHouse's clock, which also says what ``bursar.usage_recent`` is fed with; None: nothing
    is known."""
    standing: Standing | None = None
    """What the tables of requests held then, or a moment before; None: not known."""

    has_recent: bool = True
    """``bursar.usage_recent`` has all it is to have: not while the schema file that makes it (018) copies into it."""

    @property
    def recent_ms(self) -> int | None:
        return None if self.now_s is None or not self.has_recent else self.now_s * 1000 - RECENT_MS


HOURS_QUERY: Final = """SELECT
    toUnixTimestamp(toDateTime(of_day, 'UTC')) AS day,
    groupArrayIf(hour_s, is_hour) AS hours,
    groupArrayIf(done, is_hour) AS complete,
    groupArrayIf(of_form, is_hour) AS forms,
    groupArrayIf(of_building, is_hour) AS buildings,
    sipHash64(arraySort(groupArrayIf((hour_s, made), is_hour))) = argMaxIf(of_building, built, NOT is_hour) AS same,
    argMaxIf(made, built, NOT is_hour) AS generation,
    (SELECT count() FROM bursar.corrections) AS corrections,
    toUnixTimestamp(now()) AS now_s,
    (SELECT count() FROM bursar.schema_migrations WHERE version = 18) AS has_recent,
    (SELECT toUnixTimestamp(toDateTime(kept_from, 'UTC')) FROM bursar.usage_kept) AS kept_from
FROM
(
    SELECT
        true AS is_hour, toDate(of_hour) AS of_day, toUnixTimestamp(of_hour) AS hour_s, max(built_at) AS built,
        argMax(generation, built_at) AS made, argMax(form, built_at) AS of_form,
        sipHash64(of_hour, made) AS of_building, built > max(touched_at) + INTERVAL 180 SECOND AS done
    FROM
    (
        SELECT
            hour AS of_hour, touched_at, toDateTime64(0, 3, 'UTC') AS built_at, toUInt64(0) AS generation,
            toUInt8(0) AS form
        FROM bursar.usage_hours_touched
        UNION ALL
        SELECT hour, toDateTime64(0, 3, 'UTC'), built_at, generation, form FROM bursar.usage_hours_built
    )
    GROUP BY of_hour
    UNION ALL
    SELECT false, day, toUInt32(0), built_at, generation, toUInt8(0), source, false FROM bursar.usage_days_built
)
GROUP BY of_day"""
"""Days with their hours and whether their sums are complete, as the views usage_hours_state and usage_days_state say
it, which take longer to be planned than to be read. Over all time, so that one answer serves all questions that are
asked at once. Hour 0, of day 0, says that all hours are noted."""


def hours_of(rows: Iterable[Mapping[str, Any]]) -> Hours:
    complete = corrected = False
    listed = list(rows)
    unread: list[int] = []
    old: list[int] = []
    lacking: list[int] = []
    open_days: list[int] = []
    hour_buildings: dict[int, int] = {}
    day_buildings: dict[int, int] = {}
    for row in listed:
        corrected = corrected or bool(row["corrections"])
        if row["day"] == 0:
            complete = 0 in row["hours"]
            continue
        hours: Sequence[int] = row["hours"]
        if not hours:
            continue  # sums of a day whose requests are gone
        formed = min(row["forms"])
        if formed >= FORM and all(row["complete"]):
            hour_buildings.update(zip(hours, map(int, row["buildings"]), strict=True))
        else:
            for hour, done, form, building in zip(hours, row["complete"], row["forms"], row["buildings"], strict=True):
                if not done:
                    unread.append(hour)
                if form < FORM:
                    (lacking if row["day"] < row.get("kept_from", 0) else old).append(hour)
                elif done:
                    hour_buildings[hour] = int(building)
        if row["same"] and formed >= 1 and all(row["complete"]):
            day_buildings[row["day"]] = int(row["generation"])
        else:
            open_days.append(row["day"])
    return Hours(
        complete=complete,
        open=frozenset(unread),
        corrected=corrected or not listed,
        old=frozenset(old),
        open_days=frozenset(open_days),
        lacking=frozenset(lacking),
        hour_buildings=hour_buildings,
        day_buildings=day_buildings,
        now_s=min((row["now_s"] for row in listed), default=None),
        has_recent=all(row.get("has_recent", 1) for row in listed),
    )


def plan_of(span: Span, hours: Hours | None, cut: str | None = None, *, short: bool = False) -> Plan:
    """How to read the range. ``hours`` None: the question cannot be answered from sums; ``cut`` None: not from those of
    days. ``short``: columns are asked for that sums of a former FORM do not have."""
    recent_ms = hours.recent_ms if hours is not None else None
    everything = Plan((span,), hours is None or hours.corrected, recent_ms=recent_ms)
    if hours is None or not hours.complete:
        return everything
    first = -(-span.from_ms // HOUR_MS) * HOUR_MS
    last = span.to_ms // HOUR_MS * HOUR_MS
    if last <= first:
        return everything
    days, open_days = _days(first, last, hours, short=short) if cut is not None else (None, ())
    stretches = [Span(first, last)]
    if days is not None:
        stretches = [Span(first, days.from_ms), *(Span(day * 1000, day * 1000 + DAY_MS) for day in open_days)]
        stretches.append(Span(days.to_ms, last))
    by_hour = tuple(joined(stretches))
    unread = hours.open | hours.old if short else hours.open
    open_hours = tuple(
        sorted(hour for hour in unread if any(each.from_ms <= hour * 1000 < each.to_ms for each in by_hour))
    )
    if len(open_hours) > MAX_OPEN_HOURS:
        return everything
    pieces = [Span(span.from_ms, first), *(Span(hour * 1000, hour * 1000 + HOUR_MS) for hour in open_hours)]
    pieces.append(Span(last, span.to_ms))
    raw = tuple(joined(pieces))
    buildings = _buildings(days, open_days, by_hour, open_hours, hours) if cut is not None else None
    requests, left = None, ""
    now = span.to_ms if span.now_ms is not None else None
    place = tuple((each.from_ms, None if each.to_ms == now else each.to_ms) for each in raw)
    if buildings is not None and hours.standing is not None:
        raw = hours.standing.clipped(raw)
        requests, left = hours.standing.requests(raw), hours.standing.left
    return Plan(
        raw, hours.corrected, by_hour, open_hours, days, open_days, cut or "", buildings, recent_ms, requests,
        left, place,
    )  # fmt: skip


def _buildings(
    days: Span | None, open_days: Sequence[int], by_hour: Sequence[Span], open_hours: Sequence[int], hours: Hours
) -> tuple[int, ...] | None:
    """The buildings that stand for what is not open; None where an hour has no cuts, or they are too many."""
    found: list[int] = []
    if days is not None:
        unread = set(open_days)
        for day in range(days.from_ms // 1000, days.to_ms // 1000, 86_400):
            if day in hours.day_buildings and day not in unread:
                found.append(hours.day_buildings[day])
    unread = set(open_hours)
    for stretch in by_hour:
        for hour in range(stretch.from_ms // 1000, stretch.to_ms // 1000, 3600):
            if hour in unread:
                continue
            if hour in hours.hour_buildings:
                found.append(hours.hour_buildings[hour])
            elif hour in hours.old or hour in hours.lacking:
                return None
    return tuple(found) if len(found) <= MAX_BUILDINGS else None


def _days(first_ms: int, last_ms: int, hours: Hours, *, short: bool) -> tuple[Span | None, tuple[int, ...]]:
    """The whole days between two moments, and which of them have no complete sums."""
    span = Span(-(-first_ms // DAY_MS) * DAY_MS, last_ms // DAY_MS * DAY_MS)
    if span.to_ms <= span.from_ms:
        return None, ()
    unread = hours.open_days
    if short:
        unread |= {hour // 86_400 * 86_400 for hour in hours.old}
    open_days = tuple(sorted(day for day in unread if span.from_ms <= day * 1000 < span.to_ms))
    return (span, open_days) if len(open_days) <= MAX_OPEN_DAYS else (None, ())


def joined(pieces: Iterable[Span]) -> Iterator[Span]:
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


def day_of(at_ms: int) -> str:
    """The UTC day of a moment."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def day_start_ms(day: str) -> int:
    """The first moment of a UTC day."""
    return round(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1000
