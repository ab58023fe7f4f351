"""The event log as services see it: append, and read from an offset.

Two adapters keep this contract: :mod:`bursar_common.eventlog.kafka` (cluster) and :mod:`bursar_common.eventlog.sqlite`
(one machine, and the edge's outbox). ``tests/integration/test_eventlog_contract.py`` runs one suite on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class NewRecord(msgspec.Struct, frozen=True):
    """Something to append. Records with the same ``key`` keep their order."""

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class LogRecord(msgspec.Struct, frozen=True):
    """A record as read back."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    appended_at_ms: int = 0


class LogPosition(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    offset: int


class LogUnavailable(Exception):
    """The log cannot be reached or did not confirm in time. Retryable: appending again may duplicate, never lose."""


class OffsetLost(Exception):
    """The offset asked for is older than what the log keeps (or newer than its end). Fatal to whoever reads on."""


class LogIncompatible(Exception):
    """The log was written by a newer release, or is something else altogether. Fatal: nothing was changed."""


class RecordTooLarge(ValueError):
    """A record above MAX_RECORD_BYTES; nothing of the call was appended."""


MAX_RECORD_BYTES = 8 << 20
"""Key, value and headers of one record, in bytes. Usage events take 2-20 kB; the room is for governance documents and
bodies. Topics on Kafka are created with the same limit."""


def record_bytes(record: NewRecord | LogRecord) -> int:
    """What a record counts for against the limits in bytes: key, value and headers."""
    size = len(record.key) + len(record.value)
    for name, value in record.headers:
        size += len(name) + len(value)
    return size


class EventLog(Protocol):
    async def start(self) -> None:
        """Connect. Raises LogUnavailable, LogIncompatible."""
        ...

    async def append(self, records: Sequence[NewRecord]) -> list[LogPosition]:
        """Append in order; returns once all are durable (fsync, or acks=all), positions in the order given.

        Raises LogUnavailable when durability is not known (the records may or may not be there) and RecordTooLarge.
        Cancelling the call does not take the records back."""
        ...

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_records: int = 500,
        max_bytes: int = 4 << 20,
        wait_s: float = 0.0,
    ) -> list[LogRecord]:
        """Records from ``offset`` on, oldest first; waits up to ``wait_s`` for the first, then returns what is there
        (maybe nothing). At least one record is returned if there is one, whatever its size. Offsets may have gaps (a
        transaction marker, a compacted record): continue at last offset + 1. Raises OffsetLost, LogUnavailable."""
        ...

    async def partitions(self, topic: str) -> int:
        """Number of partitions. SQLite: always 1."""
        ...

    async def end_offset(self, topic: str, partition: int) -> int:
        """The offset the next record will get."""
        ...

    async def begin_offset(self, topic: str, partition: int) -> int:
        """The oldest offset kept (0 where nothing was ever deleted)."""
        ...

    async def committed(self, group: str, topic: str, partition: int) -> int | None:
        """The offset ``group`` continues at, None if it never committed."""
        ...

    async def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        """Remember durably that ``group`` continues at ``offset``."""
        ...

    async def close(self) -> None:
        """Flush and disconnect. Idempotent."""
        ...
