"""What comes for months whose requests have left.

Such a row must not go in: its hour would be summed up anew, from that row alone. What the close of the last stored
month knows was counted before (it is read again); whether anything else was cannot be known any more, as the requests
it would be compared with are gone, so it is set aside for people to decide about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from bursar_aggregator.arrivals import running_month_ms
from bursar_aggregator.rows import COLUMNS
from bursar_common.analytics import Analytics

REASON: Final = "it came after the requests of its month had left, so whether it was counted cannot be known"

_STARTED: Final = COLUMNS.index("started_at")
_PLACE: Final = tuple(COLUMNS.index(name) for name in ("log_topic", "log_partition", "log_offset"))

Row = tuple[Any, ...]
Place = tuple[str, int, int]


def place_of(row: Row) -> Place:
    """Topic, partition, offset."""
    topic, partition, offset = (row[index] for index in _PLACE)
    return topic, partition, offset


def parted(rows: Sequence[Row], taken_from_ms: int, counted: dict[tuple[str, int], int]) -> tuple[list[Row], list[Row]]:
    """Rows to insert, and those to set aside. ``counted``: of each (topic, partition) the first offset that the last
    stored month does not know. What is below it and too old is neither: it was counted."""
    taken, unknown = [], []
    for row in rows:
        if row[_STARTED] >= taken_from_ms:
            taken.append(row)
            continue
        topic, partition, offset = place_of(row)
        if offset >= counted.get((topic, partition), 0):
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
        closes = await self._analytics.query(
            "SELECT log_topics, log_partitions, next_offsets FROM bursar.closed_months FINAL"
            " WHERE month = (SELECT max(month) FROM bursar.booked_months)"
        )
        counted = {
            (topic, partition): offset
            for close in closes
            for topic, partition, offset in zip(
                close["log_topics"], close["log_partitions"], close["next_offsets"], strict=True
            )
        }
        return parted(rows, taken_from_ms, counted)
