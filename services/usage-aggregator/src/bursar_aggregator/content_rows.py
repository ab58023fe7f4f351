"""From records of the content topic to rows of ``bursar.content``, or to poison. Pure; reasons never repeat content."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from bursar_aggregator.batch import Batch, SetAside
from bursar_aggregator.decode import MAX_REASON_CHARS, Poison
from bursar_common.eventlog.port import LogRecord
from bursar_common.events import CONTENT_RECORDED, Content, decode_content, decode_envelope

TABLE: Final = "content"
_MAX_STARTED_AT_MS: Final = 4_102_444_800_000
"""2100-01-01, as of usage rows."""
_MAX_COUNT: Final = (1 << 32) - 1

_COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    ("request_id", "String"),
    ("started_at", "DateTime64(3, 'UTC')"),
    ("virtual_key_id", "String"),
    ("team_id", "LowCardinality(String)"),
    ("customer_id", "LowCardinality(String)"),
    ("user_id", "String"),
    ("session_id", "String"),
    ("agent_id", "String"),
    ("model", "LowCardinality(String)"),
    ("prompt_parts", "UInt32"),
    ("roles", "Array(String)"),
    ("kinds", "Array(String)"),
    ("names", "Array(String)"),
    ("texts", "Array(String)"),
    ("prompt_bytes", "UInt64"),
    ("answer_bytes", "UInt64"),
    ("prompt_cut", "Bool"),
    ("answer_cut", "Bool"),
    ("redacted", "UInt32"),
    ("event_id", "String"),
    ("log_topic", "LowCardinality(String)"),
    ("log_partition", "UInt32"),
    ("log_offset", "UInt64"),
)
COLUMNS: Final = tuple(name for name, _ in _COLUMNS)
COLUMN_TYPES: Final = tuple(type_ for _, type_ in _COLUMNS)
STARTED_AT: Final = COLUMNS.index("started_at")
VIRTUAL_KEY_ID: Final = COLUMNS.index("virtual_key_id")
USER_ID: Final = COLUMNS.index("user_id")
SESSION_ID: Final = COLUMNS.index("session_id")


def content_batch(records: Iterable[LogRecord]) -> Batch:
    """Rows of all that can be read, the rest with its reason. Never raises."""
    rows: list[tuple[Any, ...]] = []
    set_aside: list[SetAside] = []
    for record in records:
        row = row_of(record)
        if isinstance(row, Poison):
            set_aside.append(SetAside(record, row.reason))
        else:
            rows.append(row)
    return Batch(rows, set_aside)


def row_of(record: LogRecord) -> tuple[Any, ...] | Poison:
    """The record's row; never raises."""
    try:
        envelope = decode_envelope(record.value)
        if envelope.type != CONTENT_RECORDED or envelope.specversion != "1.0":
            return Poison("not a type of content event that this release knows")
        content = decode_content(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names the path and the expected type, never the value.
        return Poison(f"content: {error}"[:MAX_REASON_CHARS])
    unfit = _unfit(content, envelope.id)
    if unfit:
        return Poison(unfit)
    parts = (*content.prompt, *content.answer)
    return (
        content.request_id,
        content.started_at_ms,
        content.virtual_key_id,
        content.team_id,
        content.customer_id,
        content.user_id,
        content.session_id,
        content.agent_id,
        content.model,
        len(content.prompt),
        [part.role for part in parts],
        [part.kind for part in parts],
        [part.name for part in parts],
        [part.text for part in parts],
        content.prompt_bytes,
        content.answer_bytes,
        content.prompt_cut,
        content.answer_cut,
        content.redacted,
        envelope.id,
        record.topic,
        record.partition,
        record.offset,
    )


def _unfit(content: Content, event_id: str) -> str:
    if not content.request_id or not content.virtual_key_id:
        return "request_id or virtual_key_id is empty"
    if event_id != f"content:{content.request_id}":
        return "the event's id is not made of its request_id"
    if not 0 < content.started_at_ms < _MAX_STARTED_AT_MS:
        return "started_at_ms is not a time between 1970 and 2100"
    counts = (content.prompt_bytes, content.answer_bytes, content.redacted)
    if not all(0 <= count <= _MAX_COUNT for count in counts):
        return "a count is not between 0 and 4294967295"
    return ""
