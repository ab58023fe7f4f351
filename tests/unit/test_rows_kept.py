"""What is said of requests that have left."""

from __future__ import annotations

from typing import Any

from bursar_admin.errors import unavailable
from bursar_admin.rows_kept import ASK_AGAIN_S, RowsKept
from bursar_common.clock import SystemClock

MARCH_MS = 1_772_323_200_000


class Clock(SystemClock):
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


class Analytics:
    def __init__(self) -> None:
        self.answer: list[dict[str, Any]] | None = [{"kept_from_s": 0, "archive": ""}]
        self.asked = 0

    async def rows(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        self.asked += 1
        if self.answer is None:
            raise unavailable("away")
        return self.answer


async def test_it_is_said_until_when_requests_are_kept_and_where_the_others_are() -> None:
    analytics, clock = Analytics(), Clock()
    kept = RowsKept(analytics, clock)
    assert await kept.before(0) == ""
    analytics.answer = [{"kept_from_s": MARCH_MS // 1000, "archive": "/var/archive/2026-02"}]
    assert await kept.before(0) == ""  # as it was a moment ago
    assert analytics.asked == 1
    clock.now_s = ASK_AGAIN_S
    assert await kept.before(MARCH_MS - 1) == (
        "Requests before 2026-03-01 (UTC) are no longer kept; they are archived in /var/archive. Sums and books still "
        "count them."
    )
    assert await kept.before(MARCH_MS) == ""
    analytics.answer, clock.now_s = [{"kept_from_s": MARCH_MS // 1000, "archive": ""}], 2 * ASK_AGAIN_S
    assert "they were not archived" in await kept.before(0)


async def test_while_clickhouse_is_away_nothing_is_claimed() -> None:
    analytics = Analytics()
    analytics.answer = None
    kept = RowsKept(analytics, Clock())
    assert await kept.before(0) == ""
    analytics.answer = [{"kept_from_s": MARCH_MS // 1000, "archive": ""}]
    assert await kept.before(0) != ""  # and asked anew
