"""What was spent under a budget since a moment: the opening balance of its successor when a window is changed.

The larger of two figures. ClickHouse's sum over the requests charged to the old budget since the new window began (it
may lag behind by seconds); and what the old window's counter stands at, if that window began in the new one. Where
ClickHouse cannot be asked and the new window is the shorter one, the opening is 0: a new window starts empty. Requests
in flight at that moment are settled to the old budget id and are in neither figure.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import aiohttp
import structlog

from bursar_admin.enforcer import Enforcer
from bursar_admin.limits import OpeningNeeded
from bursar_common.scopes import counter_id

log = structlog.get_logger()

QUERY_TIMEOUT_S = 3.0
"""A change of a budget waits this long for a better figure, not longer."""
_QUERY = """SELECT toInt64(sum(cost_nusd)) FROM bursar.usage
WHERE started_at >= fromUnixTimestamp({since:Int64})
  AND arrayExists(c -> startsWith(c, {counters:String}), charged_to)"""


class Spending:
    """Asks ClickHouse (when there is one) and the ledger."""

    def __init__(self, clickhouse_url: str, enforcer: Enforcer) -> None:
        self._enforcer = enforcer
        self._url = ""
        self._headers: dict[str, str] = {}
        parts = urlsplit(clickhouse_url)
        if parts.scheme in ("http", "https") and parts.hostname:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            self._url = f"{parts.scheme}://{host}:{parts.port or (8443 if parts.scheme == 'https' else 8123)}/"
            if parts.username:
                self._headers["X-ClickHouse-User"] = unquote(parts.username)
            if parts.password:
                self._headers["X-ClickHouse-Key"] = unquote(parts.password)

    async def openings(self, needed: list[OpeningNeeded]) -> dict[tuple[str, int], int]:
        """An opening balance in nano-dollars for every question."""
        counters = {need.key: counter_id("n", need.old.id, *need.old_window) for need in needed}
        balances = await self._enforcer.balances(list(counters.values())) or {}
        found: dict[tuple[str, int], int] = {}
        for need in needed:
            spent = 0
            balance = balances.get(counters[need.key])
            covers = need.new_window[0] <= need.old_window[0]
            if covers and balance is not None:
                spent = balance.spent
            counted = await self._counted(need.old.id, need.new_window[0])
            found[need.key] = max(spent, counted or 0)
        return found

    async def _counted(self, budget_id: str, since_s: int) -> int | None:
        if not self._url:
            return None
        parameters = {"param_since": str(since_s), "param_counters": f"n:{budget_id}:", "default_format": "TSV"}
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=QUERY_TIMEOUT_S)) as session:
                async with session.post(
                    self._url, params=parameters, data=_QUERY.encode(), headers=self._headers
                ) as response:
                    text = await response.text()
                    if response.status != 200:
                        log.warning("opening_not_counted", status=response.status)
                        return None
                    return max(0, int(text.strip() or "0"))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.warning("opening_not_counted", error=type(error).__name__)
            return None
