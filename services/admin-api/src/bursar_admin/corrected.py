"""Corrections of requests as events: what the corrections topic says, beside the governance log.

The topic knows who corrected what, when and why; whose request it was is asked of the analytics. While these do not
answer, corrections are told without their owners, and a question about one owner misses them (and says so)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import msgspec

from bursar_admin.analytics import Analytics
from bursar_admin.chronicle import Change, Entry
from bursar_admin.errors import Refusal, unavailable
from bursar_admin.queries.corrected_requests import MAX_IDS, owners
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable, OffsetLost
from bursar_common.events import CORRECTIONS_TOPIC, Envelope, decode_envelope
from bursar_common.finance import USAGE_CORRECTED, Correction, CorrectionFold

MAX_KEPT: Final = 5_000
"""Newest corrections kept, some 10 MB. Older ones stay in their topic, and in ClickHouse."""
READ_WAIT_S: Final = 1.0
ASK_S: Final = 10.0
"""Until the log, or the analytics, is given up for this answer."""
ENTITY: Final = "request"
ACTION: Final = "corrected"
OWNERS: Final = ("customer_id", "team_id", "user_id", "virtual_key_id")

_decode = msgspec.json.Decoder(Correction).decode


class Corrected:
    """The newest corrections, read from their topic when somebody asks. Nothing runs between questions."""

    def __init__(self, event_log: EventLog, analytics: Analytics, most: int = MAX_KEPT) -> None:
        self._log = event_log
        self._analytics = analytics
        self._most = most
        self._next: int | None = None
        self._fold = CorrectionFold()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._owners: dict[str, dict[str, str]] = {}
        """Of each kept request whose row was found: it does not change any more."""
        self._turn = asyncio.Lock()
        self.trimmed = False
        """There are older ones that are not kept."""

    @property
    def oldest_time(self) -> str | None:
        """Of the oldest one kept, where there are older ones."""
        return next(iter(self._entries.values())).time if self.trimmed and self._entries else None

    async def newest_first(self) -> tuple[list[Entry], bool]:
        """(corrections, whether the owners of all are known). Raises Refusal (503) while the log is away."""
        async with self._turn:
            await self._catch_up()
            known = await self._find_owners()
            return [self._whole(entry) for entry in reversed(self._entries.values())], known

    async def find(self, correction_id: str) -> Entry | None:
        async with self._turn:
            await self._catch_up()
            if correction_id not in self._entries:
                return None
            await self._find_owners()
            return self._whole(self._entries[correction_id])

    async def of_requests(self, request_ids: Iterable[str]) -> dict[str, list[Entry]]:
        """Corrections of these requests, oldest first; of none that is not kept."""
        wanted = set(request_ids)
        found: dict[str, list[Entry]] = {}
        async with self._turn:
            await self._catch_up()
            for entry in self._entries.values():
                if entry.entity_id in wanted:
                    found.setdefault(entry.entity_id, []).append(entry)
        return found

    # -- the topic -------------------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                await self._read()
        except OffsetLost:  # another log than before
            self._entries.clear()
            self._fold = CorrectionFold()
            self._next = None
        except (LogUnavailable, TimeoutError):
            raise unavailable("The event log does not answer; corrections are read from it. Try again.") from None

    async def _read(self) -> None:
        end = await self._log.end_offset(CORRECTIONS_TOPIC, 0)
        if self._next is None:
            begin = await self._log.begin_offset(CORRECTIONS_TOPIC, 0)
            self._next = max(begin, end - self._most)
            self.trimmed = self._next > begin
        while self._next < end:
            records = await self._log.read(CORRECTIONS_TOPIC, 0, self._next, wait_s=READ_WAIT_S)
            if not records:
                return  # nothing but gaps up to the end
            for record in records:
                self._take(record)
            self._next = records[-1].offset + 1
            await asyncio.sleep(0)  # SQLite reads without waiting: others get their turn

    def _take(self, record: LogRecord) -> None:
        try:
            envelope = decode_envelope(record.value)
            correction = _decode(envelope.data)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return  # nobody can read it, so it corrects nothing
        if envelope.type != USAGE_CORRECTED or self._fold.take(record.offset, correction) != "counts":
            return
        self._entries[correction.correction_id] = entry_of(record.offset, envelope, correction)
        while len(self._entries) > self._most:
            self._owners.pop(self._entries.popitem(last=False)[1].entity_id, None)
            self.trimmed = True

    # -- whose they are ----------------------------------------------------------------------------------------------

    async def _find_owners(self) -> bool:
        """Ask for those that are not known yet. False: the analytics do not answer."""
        missing = list({entry.entity_id for entry in self._entries.values()} - self._owners.keys())
        try:
            async with asyncio.timeout(ASK_S):
                for first in range(0, len(missing), MAX_IDS):
                    rows = await self._analytics.rows(*owners(missing[first : first + MAX_IDS]))
                    self._owners.update((str(row.pop("request_id")), row) for row in rows)
        except (Refusal, TimeoutError):
            return False
        return True

    def _whole(self, entry: Entry) -> Entry:
        owner = self._owners.get(entry.entity_id)
        if owner is None:
            return entry
        document = {**(entry.document or {}), **owner}
        ids = frozenset(owner[name] for name in OWNERS if owner[name])
        return replace(entry, owners=entry.owners | ids, document=document)


def entry_of(offset: int, envelope: Envelope, correction: Correction) -> Entry:
    """A correction as the chronicle tells it. A request has no name; its id stands for it. Pure."""
    told: dict[str, Any] = {"reason": correction.reason, "cost_nusd": correction.cost_nusd}
    if correction.list_cost_nusd != correction.cost_nusd:
        told["list_cost_nusd"] = correction.list_cost_nusd
    return Entry(
        offset=offset,
        id=correction.correction_id,
        time=envelope.time,
        type=envelope.type,
        entity=ENTITY,
        entity_id=correction.request_id,
        name=correction.request_id,
        actor=correction.actor,
        action=ACTION,
        overtaken_by="",
        owners=frozenset((correction.request_id,)),
        changes=tuple(Change(field, None, value) for field, value in told.items()),
        document={
            "request_id": correction.request_id,
            "reason": correction.reason,
            "cost_nusd": correction.cost_nusd,
            "list_cost_nusd": correction.list_cost_nusd,
        },
        seen={},
    )
