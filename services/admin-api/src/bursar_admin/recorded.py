"""Rows of requests that were recorded, kept for who looks at a page again, or at another one with the same requests.

The event of the highest rank stands, and there is one: what it says never changes. What corrections add is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from bursar_admin.queries.logs import RECORDED
from bursar_common.clock import Clock, SystemClock

KEPT_ROWS: Final = 2_000
"""Some 10 MB. The longest unused goes first."""
KEPT_S: Final = 600.0
"""Seconds that a row is kept: analytics may be rebuilt by a release that reads more from the same events."""

Row = dict[str, Any]


class RecordedRows:
    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._rows: OrderedDict[str, tuple[float, Row]] = OrderedDict()

    def at(self, place: Row) -> Row | None:
        """The row of a candidate that is the recorded event itself, which has passed the filters; a copy."""
        if place.get("rank") != RECORDED:
            return None
        found = self._rows.get(place["request_id"])
        if found is None or self._clock.monotonic_s() - found[0] >= KEPT_S:
            return None
        self._rows.move_to_end(place["request_id"])
        return {**found[1], "sort_value": place["sort_value"], "matches": 1}

    def keep(self, row: Row) -> None:
        """``row``: of one event as it was recorded, without corrections."""
        if row["rank"] != RECORDED:
            return
        self._rows[row["request_id"]] = self._clock.monotonic_s(), dict(row)
        self._rows.move_to_end(row["request_id"])
        while len(self._rows) > KEPT_ROWS:
            self._rows.popitem(last=False)
