"""Governance events that are no longer kept in memory, read from the log again. The work of one question is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from bursar_admin.chronicle import Entry, entry_of
from bursar_admin.errors import unavailable
from bursar_admin.event_index import EventIndex
from bursar_admin.projection import Projection
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable, OffsetLost
from bursar_common.events import GOVERNANCE_TOPIC, Envelope, GovernanceData, decode_envelope, decode_governance
from bursar_common.governance import Applied, Rejected, read_document

MAX_EXAMINED: Final = 2_000
"""Events one question looks through before it answers with what it has: some 50 ms on SQLite, a second on Kafka."""
MAX_LOOKED_UP: Final = 600
"""Events before those, read one by one to tell what changed; more than a page has."""
CHUNK: Final = 250
"""Events read together."""
ASK_S: Final = 15.0
"""Until a log that does not answer is given up."""

Test = Callable[[Entry], bool]
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What events must pass."""

    light: Sequence[Test]
    """Tests of the event alone."""
    deep: Sequence[Test]
    """Tests that must know what stood before it."""
    since: str = ""
    """Nothing before this time fits: looking further back is in vain. Writers' clocks differ by less than anybody who
    asks for a time minds."""

    def fits(self, entry: Entry) -> bool:
        return all(test(entry) for test in (*self.light, *self.deep))


@dataclass(frozen=True)
class PastPage:
    """Entries that fit, newest first."""

    entries: list[Entry]
    stopped_at: int | None
    """Events before this offset were not looked at, because the bound was reached; None: all were."""
    looked_back_to: str | None
    """Time of the oldest event that was looked at."""


class _Reading:
    """One question's records, each read once."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._records: dict[int, LogRecord] = {}
        self.looked_up = 0

    async def range(self, first: int, last: int) -> None:
        at = first
        while at <= last:
            records = await self._log.read(GOVERNANCE_TOPIC, 0, at, max_records=last - at + 1, wait_s=1.0)
            records = [record for record in records if record.offset <= last]
            if not records:
                return
            self._records.update((record.offset, record) for record in records)
            at = records[-1].offset + 1

    async def one(self, offset: int) -> tuple[Envelope, GovernanceData] | None:
        if offset not in self._records:
            self.looked_up += 1
            await self.range(offset, offset)
        return self.known(offset)

    def known(self, offset: int) -> tuple[Envelope, GovernanceData] | None:
        record = self._records.get(offset)
        if record is None:
            return None
        envelope = decode_envelope(record.value)
        return envelope, decode_governance(envelope)


class Past:
    """Reads the governance topic behind what the journal keeps. Raises Refusal (503) while the log is away."""

    def __init__(
        self,
        event_log: EventLog,
        index: EventIndex,
        projection: Projection,
        open_own: Callable[[], EventLog] | None = None,
    ) -> None:
        """``open_own``: makes a log of its own to read from, where whoever follows the topic must not be moved about;
        else ``event_log``, which is started and closed by others, is read."""
        self._open_own = open_own
        self._log = event_log if open_own is None else None
        self._index = index
        self._projection = projection
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        if self._open_own is not None and self._log is not None:
            await self._log.close()

    async def page(self, end: int, asked: Asked, most: int) -> PastPage:
        """Up to ``most`` events before the offset ``end``."""
        return await self._asked(lambda event_log: self._page(event_log, end, asked, most))

    async def find(self, event_id: str) -> Entry | None:
        return await self._asked(lambda event_log: self._find(event_log, event_id))

    async def _asked(self, question: Callable[[EventLog], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(ASK_S), self._turn:
                if self._log is None:
                    assert self._open_own is not None
                    event_log = self._open_own()
                    await event_log.start()
                    self._log = event_log
                return await question(self._log)
        except (LogUnavailable, OffsetLost, TimeoutError):
            raise unavailable("The event log does not answer; older events are read from it.") from None

    async def _page(self, event_log: EventLog, end: int, asked: Asked, most: int) -> PastPage:
        reading = _Reading(event_log)
        found: list[Entry] = []
        examined, oldest, at = 0, None, end
        while True:
            offsets = self._index.last_before(at, CHUNK)
            if not offsets:
                return PastPage(found, None, oldest)
            await reading.range(offsets[0], offsets[-1])
            for offset in reversed(offsets):
                if len(found) >= most or examined >= MAX_EXAMINED or reading.looked_up >= MAX_LOOKED_UP:
                    return PastPage(found, at, oldest)
                known = reading.known(offset)
                if known is not None:
                    oldest = known[0].time
                    if oldest < asked.since:
                        return PastPage(found, None, oldest)
                    entry = self._entry(offset, *known, None)
                    if all(test(entry) for test in asked.light):
                        entry = self._entry(offset, *known, await self._before(reading, offset))
                        if all(test(entry) for test in asked.deep):
                            found.append(entry)
                examined, at = examined + 1, offset

    async def _find(self, event_log: EventLog, event_id: str) -> Entry | None:
        reading = _Reading(event_log)
        for offset in self._index.places_of(event_id):
            known = await reading.one(offset)
            if known is not None and known[0].id == event_id:
                return self._entry(offset, *known, await self._before(reading, offset))
        return None

    async def _before(self, reading: _Reading, offset: int) -> Any | None:
        """The document that stood there before an event."""
        place = self._index.before(offset)
        found = await reading.one(place) if place is not None else None
        if found is None or found[1].document is None:
            return None
        try:
            return read_document(found[1].entity, found[1].document)
        except (msgspec.ValidationError, ValueError, KeyError):
            return None

    def _entry(self, offset: int, envelope: Envelope, data: GovernanceData, before: Any | None) -> Entry:
        """As it was noted when it was read; teams are taken to belong to the customers they have now."""
        overtaken = self._index.overtaken_by(offset)
        verdict = Rejected(overtaken, 0, 0) if overtaken else Applied({}, data.entity, data.entity_id, data.document)
        return entry_of(offset, envelope, data, verdict, before, self._projection)
