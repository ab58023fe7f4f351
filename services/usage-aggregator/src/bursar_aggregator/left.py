"""What comes for months whose requests have left.

Such a row must not go in: its hour would be summed up anew, from that row alone. What is booked in a month whose books
are stored was counted before (it is read again); whether anything else was cannot be known any more, as the requests it
would be compared with are gone, so it is set aside for people to decide about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from bursar_aggregator.arrivals import running_month_ms
from bursar_aggregator.rows import COLUMNS
from bursar_common.analytics import Analytics
from bursar_common.finance import month_of_ms, next_month

REASON: Final = "it came after the requests of its month had left, so whether it was counted cannot be known"

_STARTED: Final = COLUMNS.index("started_at")
_PLACE: Final = tuple(COLUMNS.index(name) for name in ("log_topic", "log_partition", "log_offset"))

Row = tuple[Any, ...]
Place = tuple[str, int, int]


def place_of(row: Row) -> Place:
    """Topic, partition, offset."""
    topic, partition, offset = (row[index] for index in _PLACE)
    return topic, partition, offset


class Close(msgspec.Struct, frozen=True):
    """A closed month, as ``bursar.closed_months`` has it."""

    month: str
    """``2026-11``."""
    bounds: dict[tuple[str, int], int]
    """Of each (topic, partition): the first offset that came after it."""
    stored: bool


def was_counted(row: Row, closes: Sequence[Close]) -> bool:
    """Whether the month the row is booked in has stored books: then it was there when they came to their checksum.
    ``closes``: earliest first."""
    topic, partition, offset = place_of(row)
    if not any((topic, partition) in close.bounds for close in closes):
        return False  # a partition that came after the last close
    booked = month_of_ms(row[_STARTED])
    for close in closes:
        if offset >= close.bounds.get((topic, partition), 0):
            booked = max(booked, next_month(close.month))
    return next((close.stored for close in closes if close.month >= booked), False)


def parted(rows: Sequence[Row], taken_from_ms: int, closes: Sequence[Close]) -> tuple[list[Row], list[Row]]:
    """Rows to insert, and those to set aside. What is too old and was counted is neither."""
    taken, unknown = [], []
    for row in rows:
        if row[_STARTED] >= taken_from_ms:
            taken.append(row)
        elif not was_counted(row, closes):
            unknown.append(row)
    return taken, unknown


class LeftMonths:
    """Asks ClickHouse about rows of months that are over."""

    def __init__(self, analytics: Analytics, now_s: Callable[[], float]) -> None:
        self._analytics = analytics
        self._now_s = now_s

    async def part(self, rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
        """Rows to insert, and those to set aside. Raises AnalyticsUnavailable, AnalyticsRefused."""
        running_ms = running_month_ms(self._now_s())
        if all(row[_STARTED] >= running_ms for row in rows):
            return rows, ()
        (kept,) = await self._analytics.query(
            "SELECT toUnixTimestamp(toDateTime(taken_from, 'UTC')) AS taken_from_s FROM bursar.usage_kept"
        )
        taken_from_ms = int(kept["taken_from_s"]) * 1000
        if all(row[_STARTED] >= taken_from_ms for row in rows):
            return rows, ()
        found = await self._analytics.query(
            "SELECT formatDateTime(month, '%Y-%m') AS name, log_topics, log_partitions, next_offsets,"
            " month IN (SELECT month FROM bursar.booked_months) AS stored"
            " FROM bursar.closed_months FINAL ORDER BY month"
        )
        closes = [
            Close(
                row["name"],
                {
                    (topic, partition): offset
                    for topic, partition, offset in zip(
                        row["log_topics"], row["log_partitions"], row["next_offsets"], strict=True
                    )
                },
                bool(row["stored"]),
            )
            for row in found
        ]
        return parted(rows, taken_from_ms, closes)
