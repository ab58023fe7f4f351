"""What could not be read goes to ``<topic>.dlq``: the original bytes, key and headers, with its reason and position.

The record is appended before its batch is acknowledged. A crash in between appends it again: the position in its
headers tells the copies apart from two bad records.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from bursar_aggregator.batch import SetAside
from bursar_common.eventlog.port import MAX_RECORD_BYTES, EventLog, NewRecord, record_bytes

log = structlog.get_logger()

REASON_HEADER = "bursar-dlq-reason"
POSITION_HEADER = "bursar-dlq-position"
"""``<topic>:<partition>:<offset>`` of the record as it was read."""

CUT_HEADER = "bursar-dlq-cut"
"""Bytes of the original value, where only its beginning is kept."""


def dead_letter_topic(topic: str) -> str:
    return f"{topic}.dlq"


def dead_letter(item: SetAside) -> NewRecord:
    """The record as it goes to the dead-letter topic."""
    record = item.record
    position = f"{record.topic}:{record.partition}:{record.offset}"
    letter = NewRecord(
        topic=dead_letter_topic(record.topic),
        key=record.key,
        value=record.value,
        headers=(*record.headers, (REASON_HEADER, item.reason.encode()), (POSITION_HEADER, position.encode())),
    )
    if record_bytes(letter) <= MAX_RECORD_BYTES:
        return letter
    # A record at the limit has no room for the reason. Its end is cut off: the original still stands at its position.
    cut = (CUT_HEADER, str(len(record.value)).encode())
    headers = (*letter.headers, cut)
    excess = record_bytes(NewRecord(letter.topic, letter.key, letter.value, headers)) - MAX_RECORD_BYTES
    return NewRecord(letter.topic, letter.key, letter.value[: max(0, len(letter.value) - excess)], headers)


async def bury(event_log: EventLog, items: Sequence[SetAside]) -> None:
    """Append the records to their dead-letter topics. Raises LogUnavailable."""
    if not items:
        return
    await event_log.append([dead_letter(item) for item in items])
    for item in items:
        log.warning(
            "record set aside",
            topic=item.record.topic,
            partition=item.record.partition,
            offset=item.record.offset,
            reason=item.reason,
        )
