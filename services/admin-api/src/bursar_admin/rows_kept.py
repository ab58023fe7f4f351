"""From when on requests are kept: what is older has left ClickHouse, and only sums and books know of it. And from when
on they stand in ``bursar.usage_recent`` as well, and whether their names are noted in ``bursar.usage_names``."""

from __future__ import annotations

from typing import Any, Final, Protocol

from bursar_admin.errors import Refusal
from bursar_common.clock import Clock, rfc3339
from bursar_common.usage_sums import RECENT_MS

ASK_AGAIN_S: Final = 60.0
"""Seconds that an answer serves for: months leave once a month."""
SCHEMA_OF_RECENT: Final = 18
"""The schema file that fills ``bursar.usage_recent``; until it is applied, which may take minutes, requests are missing
there."""
SCHEMA_OF_NAMES: Final = 20
"""The schema file that fills ``bursar.usage_names``, likewise."""
QUESTION: Final = (
    "SELECT toUnixTimestamp(toDateTime(kept_from, 'UTC')) AS kept_from_s, archive, toUnixTimestamp(now()) AS now_s,"
    " (SELECT count() FROM bursar.schema_migrations WHERE version = {recent:UInt32}) AS has_recent,"
    " (SELECT count() FROM bursar.schema_migrations WHERE version = {names:UInt32}) AS has_names"
    " FROM bursar.usage_kept",
    {"recent": SCHEMA_OF_RECENT, "names": SCHEMA_OF_NAMES},
)


class Asks(Protocol):
    async def rows(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]: ...


def sentence(kept_from_ms: int, archive: str) -> str:
    """What is said of requests before then; empty: all are kept."""
    if not kept_from_ms:
        return ""
    where = f"they are archived in {archive.rpartition('/')[0]}" if archive else "they were not archived"
    day = rfc3339(kept_from_ms)[:10]
    return f"Requests before {day} (UTC) are no longer kept; {where}. Sums and books still count them."


class RowsKept:
    def __init__(self, analytics: Asks, clock: Clock) -> None:
        self._analytics = analytics
        self._clock = clock
        self._asked_at_s: float | None = None
        self._from_ms = 0
        self._said = ""
        self._recent: tuple[int, float] | None = None
        self._named = False

    async def before(self, moment_ms: int) -> str:
        """The sentence where requests of before ``moment_ms`` are asked for and have left; empty where not, and while
        ClickHouse does not say."""
        known = await self._known()
        return self._said if known and moment_ms < self._from_ms else ""

    async def from_ms(self) -> int:
        """Since when requests are kept, Unix ms; 0: all are. What was last known while ClickHouse does not say: none
        that have left come back."""
        await self._known()
        return self._from_ms

    async def recent_ms(self) -> int | None:
        """Since when requests are in ``bursar.usage_recent`` too, by ClickHouse's clock, Unix ms; None: they are not.
        Up to ASK_AGAIN_S wrong where that clock was put right, for which the table has a day more."""
        await self._known()
        if self._recent is None:
            return None
        now_s, at_s = self._recent
        return now_s * 1000 + round((self._clock.monotonic_s() - at_s) * 1000) - RECENT_MS

    async def named(self) -> bool:
        """Whether ``bursar.usage_names`` has the names of all requests."""
        await self._known()
        return self._named

    async def _known(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._asked_at_s is None or now_s - self._asked_at_s >= ASK_AGAIN_S:
            try:
                rows = await self._analytics.rows(*QUESTION)
            except Refusal:
                return False
            self._from_ms = int(rows[0]["kept_from_s"]) * 1000 if rows else 0
            self._said = sentence(self._from_ms, rows[0]["archive"] if rows else "")
            self._asked_at_s = now_s
            has_recent = bool(rows) and rows[0].get("has_recent")
            self._recent = (int(rows[0]["now_s"]), now_s) if has_recent else None
            self._named = bool(rows) and bool(rows[0].get("has_names"))
        return True
