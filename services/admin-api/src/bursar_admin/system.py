"""How the parts of the installation do, as far as admin-api can see: asked at once, each with a bound of its own."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp
import msgspec

from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal
from bursar_admin.letters import Letters
from bursar_admin.log_answers import LagAnswer, PartAnswer, SystemAnswer
from bursar_common.clock import rfc3339
from bursar_common.eventlog.port import LogUnavailable
from bursar_common.events import GOVERNANCE_TOPIC, USAGE_TOPIC
from bursar_common.service import connect

ANSWER_S: Final = 3.0
"""A part that takes longer does not serve."""
AGGREGATOR_GROUP: Final = "bursar-usage-aggregator"
"""Consumer group of the aggregator, whose committed positions stand in the log."""
LATE: Final = 5_000
"""Events behind from which on a reader is said to be late: more than a batch on its way."""


class System:
    """Asks around. Nothing here raises: what cannot be asked is unknown."""

    def __init__(self, desk: Desk, letters: Letters) -> None:
        self._desk = desk
        self._letters = letters

    async def look(self) -> SystemAnswer:
        ledger, analytics, aggregator, governance_end, usage, waiting = await asyncio.gather(
            self._desk.enforcer.state(),
            self._analytics(),
            self._aggregator(),
            self._end(GOVERNANCE_TOPIC),
            self._usage(),
            self._waiting(),
        )
        usage_end, committed = usage
        positions = (ledger or {}).get("positions", {})
        usage_applied = sum(offset for name, offset in positions.items() if name.startswith("usage:"))
        lags = [
            _lag("admin-api", GOVERNANCE_TOPIC, governance_end, self._desk.journal.next_offset),
            _lag("ledger", GOVERNANCE_TOPIC, governance_end, positions.get("governance") if ledger else None),
            _lag("ledger", USAGE_TOPIC, usage_end, usage_applied if ledger else None),
            _lag("analytics", USAGE_TOPIC, usage_end, committed),
        ]
        log_part = _part("event log", "ok" if usage_end is not None else "down", "" if usage_end is not None else AWAY)
        parts = [self._own(), _ledger_part(ledger), log_part, aggregator, analytics]
        late = any(lag["behind"] is not None and lag["behind"] > LATE for lag in lags)
        good = not late and all(part["status"] in ("ok", "unknown") for part in parts)
        return {
            "status": "ok" if good else "degraded",
            "as_of": rfc3339(self._desk.clock.now_ms()),
            "parts": parts,
            "lags": lags,
            "open_holds": ledger["open_holds"] if ledger else None,
            "admission": ledger.get("admission") if ledger else None,
            "dead_letters_waiting": waiting,
        }

    def _own(self) -> PartAnswer:
        why = self._desk.journal.failure
        return _part("admin-api", "degraded" if why else "ok", why)

    async def _analytics(self) -> PartAnswer:
        if not self._desk.settings.clickhouse_url:
            return _part("analytics", "unknown", "BURSAR_CLICKHOUSE_URL is not set for admin-api")
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._desk.analytics.rows("SELECT 1 AS one")
        except Refusal as refusal:
            return _part("analytics", "down", refusal.message)
        except TimeoutError:
            return _part("analytics", "down", "no answer")
        return _part("analytics", "ok", "")

    async def _aggregator(self) -> PartAnswer:
        """Its own word, where its address is known; its lag stands beside it anyway."""
        url = self._desk.settings.aggregator_url
        if not url:
            return _part("aggregator", "unknown", "BURSAR_AGGREGATOR_URL is not set for admin-api; see its lag")
        session, base = connect(url, limit=1, timeout=aiohttp.ClientTimeout(total=ANSWER_S))
        try:
            async with session, session.get(f"{base}/readyz") as response:
                said = msgspec.json.decode(await response.read())
                why = said.get("why", "") if isinstance(said, dict) else ""
                return _part("aggregator", "ok" if response.status == 200 else "down", str(why))
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError):
            return _part("aggregator", "down", "not reachable")

    async def _end(self, topic: str) -> int | None:
        try:
            return await self._desk.journal.event_log.end_offset(topic, 0)
        except LogUnavailable:
            return None

    async def _usage(self) -> tuple[int | None, int | None]:
        """(events ever appended to the usage topic, how far the aggregator's commits are), summed over partitions."""
        event_log = self._desk.journal.event_log
        end = committed = 0
        unknown = False
        try:
            for partition in range(await event_log.partitions(USAGE_TOPIC)):
                end += await event_log.end_offset(USAGE_TOPIC, partition)
                at = await event_log.committed(AGGREGATOR_GROUP, USAGE_TOPIC, partition)
                unknown = unknown or at is None
                committed += at or 0
        except LogUnavailable:
            return None, None
        return end, None if unknown and end else committed

    async def _waiting(self) -> int | None:
        try:
            return max(0, await self._letters.count() - self._desk.journal.chronicle.retried)
        except Refusal:
            return None


AWAY: Final = "the event log cannot be reached"


def _part(name: str, status: Any, why: str) -> PartAnswer:
    return {"name": name, "status": status, "why": why}


def _ledger_part(ledger: dict[str, Any] | None) -> PartAnswer:
    if ledger is None:
        return _part("enforcer", "down", "not reachable, or its Redis is not")
    if ledger.get("status") != "ok":
        return _part("enforcer", "down", str(ledger.get("why", "")))
    if ledger.get("admission") != "open":
        return _part("enforcer", "degraded", "admission is closed until the ledger's books are whole again")
    return _part("enforcer", "ok", "")


def _lag(reader: str, topic: str, end: int | None, at: int | None) -> LagAnswer:
    behind = None if end is None or at is None else max(0, end - at)
    return {"reader": reader, "topic": topic, "end": end, "behind": behind}
