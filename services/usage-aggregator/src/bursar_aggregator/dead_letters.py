"""What could not be read goes to ``<topic>.dlq``: the original bytes, key and headers, with its reason and position.

The record is appended before its batch is acknowledged. A crash in between appends it again: the position in its
headers tells the copies apart from two bad records.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from bursar_aggregator.batch import SetAside
from bursar_common.eventlog.port import EventLog, NewRecord

log = structlog.get_logger()

REASON_HEADER = "bursar-dlq-reason"
POSITION_HEADER = "bursar-dlq-position"
"""``<topic>:<partition>:<offset>`` of the record as it was read."""


def dead_letter_topic(topic: str) -> str:
    return f"{topic}.dlq"


def dead_letter(item: SetAside) -> NewRecord:
    """The record as it goes to the dead-letter topic."""
    record = item.record
    position = f"{record.topic}:{record.partition}:{record.offset}"
    return NewRecord(
        topic=dead_letter_topic(record.topic),
        key=record.key,
        value=record.value,
        headers=(*record.headers, (REASON_HEADER, item.reason.encode()), (POSITION_HEADER, position.encode())),
    )


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
