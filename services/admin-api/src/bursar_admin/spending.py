"""What was spent under a budget since a moment: the opening balance of its successor when a window is changed.

The larger of two figures. ClickHouse's sum over the requests charged to the old budget since the new window began (it
may lag behind by seconds); and what the old window's counter stands at, if that window began in the new one. Where
ClickHouse cannot be asked and the new window is the shorter one, the opening is 0: a new window starts empty. Requests
in flight at that moment are settled to the old budget id and are in neither figure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from bursar_admin.enforcer import Enforcer
from bursar_admin.limits import OpeningNeeded
from bursar_common.scopes import counter_id

if TYPE_CHECKING:
    from bursar_common.analytics import Analytics

log = structlog.get_logger()

QUERY_TIMEOUT_S = 5.0
"""A change of a budget waits this long for a better figure, not longer."""
_QUERY = """SELECT toInt64(sum(cost_nusd)) AS spent_nusd FROM bursar.usage
WHERE started_at >= fromUnixTimestamp64Milli({since_ms:Int64})
  AND arrayExists(counter -> startsWith(counter, {prefix:String}), charged_to)"""


class Spending:
    """Asks ClickHouse (when there is one) and the ledger."""

    def __init__(self, clickhouse_url: str, enforcer: Enforcer, *, ca_file: Path | None = None) -> None:
        self._url = clickhouse_url
        self._ca_file = ca_file
        self._enforcer = enforcer
        self._analytics: Analytics | None = None

    async def close(self) -> None:
        if self._analytics is not None:
            await self._analytics.close()

    async def openings(self, needed: list[OpeningNeeded]) -> dict[tuple[str, int], int]:
        """An opening balance in nano-dollars for every question."""
        counters = {need.key: counter_id("n", need.old.id, *need.old_window) for need in needed}
        balances = await self._enforcer.balances(list(counters.values())) or {}
        found: dict[tuple[str, int], int] = {}
        for need in needed:
            balance = balances.get(counters[need.key])
            covered = need.new_window[0] <= need.old_window[0]
            spent = balance.spent if covered and balance is not None else 0
            found[need.key] = max(spent, await self._counted(need.old.id, need.new_window[0]))
        return found

    async def rows(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Rows of a SELECT; None where ClickHouse cannot be asked or does not answer in time."""
        if not self._url:
            return None
        # Here, because the client takes a second and 20 MB to import, and many installations never ask.
        from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable

        try:
            if self._analytics is None:
                self._analytics = Analytics(self._url, ca_file=self._ca_file)
            async with asyncio.timeout(QUERY_TIMEOUT_S):
                return await self._analytics.query(sql, parameters)
        except (AnalyticsRefused, AnalyticsUnavailable, TimeoutError) as error:
            log.warning("analytics_not_asked", error=str(error)[:200])
            return None

    async def _counted(self, budget_id: str, since_s: int) -> int:
        """ClickHouse's figure; 0 where it cannot be had."""
        rows = await self.rows(_QUERY, {"since_ms": since_s * 1000, "prefix": f"n:{budget_id}:"})
        return max(0, int(rows[0]["spent_nusd"])) if rows else 0
