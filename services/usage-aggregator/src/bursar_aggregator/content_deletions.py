"""Content that is to be gone: deletions from the governance topic, kept out of the table and taken out of it.

A deletion is an event of the log that is kept for ever, so it holds for whatever is replayed, restored or late: rows it
covers are not inserted (the topic is read to its end before every insert), and rows that are there are deleted from the
table's parts, at once and again whenever the table is compared. Inserting and deleting take turns within a process;
every replica does both, so what one inserted before it had heard of a deletion, the same one deletes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from bursar_aggregator.content_rows import SESSION_ID, STARTED_AT, USER_ID, VIRTUAL_KEY_ID
from bursar_aggregator.governance_reading import GovernanceReading
from bursar_common.analytics import Analytics
from bursar_common.eventlog.port import EventLog
from bursar_common.events import GOVERNANCE_TOPIC
from bursar_common.governance import CONTENT_DELETION, ContentDeletion

MAX_ID_BYTES: Final = 512
"""Longer ids are not ours; one would make a statement too long."""
AT_ONCE: Final = 100
"""Deletions of one statement: with the longest ids some 120 kB, and ClickHouse reads up to 256 KiB."""
READ_WAIT_S: Final = 1.0
"""Seconds to wait for an event that is known to be there."""
_FIELDS: Final = (("user_id", USER_ID), ("virtual_key_id", VIRTUAL_KEY_ID), ("session_id", SESSION_ID))


class Deletions:
    """What is deleted, as far as the governance topic was read in its order from its beginning. Pure."""

    def __init__(self) -> None:
        self._reading = GovernanceReading()
        self._before: dict[tuple[str, str], int] = {}
        """(column, id) to the time before which content of it is deleted (Unix ms)."""
        self.count = 0

    def take(self, value: bytes) -> bool:
        """Whether the record is a deletion. What the projector rejects, or nobody can read, changes nothing."""
        applied = self._reading.take(value)
        if applied is None:
            return False
        if applied.entity != CONTENT_DELETION or applied.document is None:
            return False
        try:
            deletion = msgspec.convert(applied.document, ContentDeletion)
        except msgspec.ValidationError:
            return False
        for column, _ in _FIELDS:
            wanted: str = getattr(deletion, column)
            if wanted and len(wanted.encode()) <= MAX_ID_BYTES:
                key = (column, wanted)
                self._before[key] = max(self._before.get(key, 0), deletion.before_ms)
        self.count += 1
        return True

    def kept(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The rows that no deletion covers."""
        if not self._before:
            return list(rows)
        return [
            row
            for row in rows
            if not any(row[STARTED_AT] < self._before.get((column, row[index]), 0) for column, index in _FIELDS)
        ]

    def conditions(self, since_ms: int) -> list[str]:
        """Of deletions that may cover content from ``since_ms`` on, as SQL in pieces of AT_ONCE. Ids are in hex:
        whatever they are made of, they are not SQL."""
        found = [
            f"({column} = unhex('{wanted.encode().hex()}')"
            f" AND started_at < fromUnixTimestamp64Milli({before_ms}, 'UTC'))"
            for (column, wanted), before_ms in self._before.items()
            if before_ms > since_ms
        ]
        return [" OR ".join(piece) for piece in _pieces(found)]


def _pieces(found: Sequence[str]) -> Iterable[Sequence[str]]:
    for first in range(0, len(found), AT_ONCE):
        yield found[first : first + AT_ONCE]


class DeletionFollower:
    """Reads deletions off the log and carries them out. ``at_work``: held while rows are inserted or deleted."""

    def __init__(self, analytics: Analytics, event_log: EventLog) -> None:
        self._analytics = analytics
        self._event_log = event_log
        self.at_work = asyncio.Lock()
        self.deletions = Deletions()
        self._offset: int | None = None

    async def read_on(self) -> bool:
        """Read to the end of the topic as of now; whether there were deletions. Raises LogUnavailable, OffsetLost."""
        before = self.deletions.count
        if self._offset is None:
            self._offset = await self._event_log.begin_offset(GOVERNANCE_TOPIC, 0)
        end = await self._event_log.end_offset(GOVERNANCE_TOPIC, 0)
        while self._offset < end:
            records = await self._event_log.read(GOVERNANCE_TOPIC, 0, self._offset, wait_s=READ_WAIT_S)
            if not records:
                break  # nothing but gaps up to the end
            for record in records:
                self.deletions.take(record.value)
            self._offset = records[-1].offset + 1
            await asyncio.sleep(0)
        return self.deletions.count > before

    async def carry_out(self, since_ms: int) -> int:
        """Delete what deletions cover; the number of rows found. ``since_ms``: older content is gone anyway.

        Raises AnalyticsUnavailable, AnalyticsRefused."""
        count = 0
        async with self.at_work:
            for condition in self.deletions.conditions(since_ms):
                found = f"SELECT count() AS rows FROM bursar.content WHERE {condition}"  # noqa: S608 - ids are in hex
                (row,) = await self._analytics.query(found)
                if row["rows"]:
                    count += row["rows"]
                    await self._analytics.command(
                        f"ALTER TABLE bursar.content DELETE WHERE {condition} SETTINGS mutations_sync = 2"
                    )
        return count
