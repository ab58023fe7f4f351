"""A batch: records of the log, sorted into rows to insert and records to set aside. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from bursar_aggregator.decode import Poison, decode
from bursar_aggregator.rows import row_of
from bursar_common.eventlog.port import LogRecord, record_bytes

MAX_BATCH_RECORDS = 5_000
"""Records of one insert. Half a second of what the job reads at its best; larger blocks gain nothing and repeat more
work after a crash."""
MAX_BATCH_BYTES = 8 << 20
"""Bytes of records of one insert: with its rows and block about five times that in memory."""
MAX_BATCH_WAIT_S = 0.25
"""Seconds the first record of a batch waits for others: analytics are at most this much later, and an idle system
makes at most four parts a second."""


class SetAside(msgspec.Struct, frozen=True):
    """A record that goes to the dead-letter topic, and why."""

    record: LogRecord
    reason: str


class Batch(msgspec.Struct, frozen=True):
    rows: Sequence[tuple[Any, ...]]
    set_aside: Sequence[SetAside]


def in_chunks(records: Sequence[LogRecord], max_bytes: int) -> Iterator[Sequence[LogRecord]]:
    """The records in order, in pieces of at most ``max_bytes`` (a larger record stands alone)."""
    start = size = 0
    for index, record in enumerate(records):
        size += record_bytes(record)
        if size > max_bytes and index > start:
            yield records[start:index]
            start, size = index, record_bytes(record)
    if start < len(records):
        yield records[start:]


def batch_of(records: Iterable[LogRecord]) -> Batch:
    """Rows of all that can be read, the rest with its reason. Never raises."""
    rows: list[tuple[Any, ...]] = []
    set_aside: list[SetAside] = []
    for record in records:
        event = decode(record.value)
        row = event if isinstance(event, Poison) else row_of(event, record.topic, record.partition, record.offset)
        if isinstance(row, Poison):
            set_aside.append(SetAside(record, row.reason))
        else:
            rows.append(row)
    return Batch(rows, set_aside)
