"""The first arrival of an event stands, once its month is over.

Kafka may hold an event twice (a relay that repeats itself). ClickHouse keeps the copy that was inserted last, and with
it the later place in the log; a month closed between the two would lose the request to the month after. So rows of
months that are over are compared with what is there, and copies of what came before are left out. Rows of the running
month need no question: no close can stand before them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from bursar_aggregator.rows import COLUMNS
from bursar_common.analytics import Analytics

CLOCK_MARGIN_S: Final = 600
"""Seconds this machine's clock may be behind the one that closes a month."""
ASKED_AT_ONCE: Final = 2_000
"""Ids of one question: some 80 kB of text, where ClickHouse reads up to 256 KiB."""

_AT: Final = {name: COLUMNS.index(name) for name in COLUMNS}
_ID, _STARTED, _RANK = _AT["request_id"], _AT["started_at"], _AT["rank"]
_TOPIC, _PARTITION, _OFFSET = _AT["log_topic"], _AT["log_partition"], _AT["log_offset"]
_PLAIN_ID: Final = re.compile(r"[0-9A-Za-z:._-]{1,64}")

Row = tuple[Any, ...]
Place = tuple[str, int, int]
"""Topic, partition, offset."""


def running_month_ms(now_s: float) -> int:
    """The first moment of the month that is running for sure, Unix ms."""
    later = datetime.fromtimestamp(now_s + CLOCK_MARGIN_S, UTC)
    return int(datetime(later.year, later.month, 1, tzinfo=UTC).timestamp()) * 1000


def first_only(rows: Sequence[Row], there: dict[tuple[str, int], Place]) -> list[Row]:
    """The rows without copies of what is ``there``: (request id, rank) to the place it was read at. A row read at the
    same place again, or at an earlier one, stays: it is a replay."""
    seen = dict(there)
    kept = []
    for row in rows:
        place = (row[_TOPIC], row[_PARTITION], row[_OFFSET])
        first = seen.setdefault((row[_ID], row[_RANK]), place)
        if first == place or (first[:2] == place[:2] and place[2] < first[2]):
            kept.append(row)
    return kept


class FirstArrivals:
    """Asks ClickHouse about rows of months that are over: few, but for replays."""

    def __init__(self, analytics: Analytics, now_s: Callable[[], float]) -> None:
        self._analytics = analytics
        self._now_s = now_s

    async def keep(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows to insert. Raises AnalyticsUnavailable, AnalyticsRefused."""
        running_ms = running_month_ms(self._now_s())
        past = [row for row in rows if row[_STARTED] < running_ms]
        if not past:
            return rows
        there: dict[tuple[str, int], Place] = {}
        for first in range(0, len(past), ASKED_AT_ONCE):
            found = await self._analytics.query(question(past[first : first + ASKED_AT_ONCE]))
            for row in found:
                place = (row["log_topic"], row["log_partition"], row["log_offset"])
                there[row["request_id"], row["rank"]] = place
        return first_only(rows, there)


def question(rows: Sequence[Row]) -> str:
    """Where the events of these rows were read before. Ids that are not plain are written in hex: whatever they are
    made of, they are not SQL."""
    ids = ",".join(
        f"'{row[_ID]}'" if _PLAIN_ID.fullmatch(row[_ID]) else f"unhex('{row[_ID].encode().hex()}')" for row in rows
    )
    moments = [row[_STARTED] for row in rows]
    return f"""SELECT request_id, rank, log_topic, log_partition, min(log_offset) AS log_offset
FROM bursar.usage_events
WHERE started_at >= fromUnixTimestamp64Milli({min(moments)}, 'UTC')
  AND started_at <= fromUnixTimestamp64Milli({max(moments)}, 'UTC') AND request_id IN ({ids})
GROUP BY request_id, rank, log_topic, log_partition"""  # noqa: S608 - ids are checked or hex, moments are integers
