"""Records of the content topic to rows, and which of them deletions cover."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bursar_aggregator.content_deletions import AT_ONCE, Deletions
from bursar_aggregator.content_rows import COLUMN_TYPES, COLUMNS, content_batch
from bursar_common.eventlog.port import LogRecord, NewRecord
from bursar_common.events import USAGE_RECORDED, ContentPart
from tests.harness.content_events import content, content_record, deletion_record


def read_back(record: NewRecord, offset: int = 7) -> LogRecord:
    return LogRecord(record.topic, 3, offset, record.key, record.value)


def row(number: int = 1, **more: Any) -> dict[str, Any]:
    (found,) = content_batch([read_back(content_record(content(number, **more)))]).rows
    assert len(found) == len(COLUMNS) == len(COLUMN_TYPES)
    return dict(zip(COLUMNS, found, strict=True))


def test_a_record_becomes_a_row() -> None:
    found = row(5, prompt="why?", answer="because", started_at_ms=1_700_000_000_123, redacted=2, prompt_cut=True)
    assert found["request_id"] == "request-5"
    assert found["started_at"] == 1_700_000_000_123
    assert found["prompt_parts"] == 2
    assert found["roles"] == ["system", "user", "assistant"]
    assert found["kinds"] == ["text"] * 3
    assert found["texts"] == ["be good", "why?", "because"]
    assert (found["prompt_cut"], found["answer_cut"], found["redacted"]) == (True, False, 2)
    assert (found["event_id"], found["log_partition"], found["log_offset"]) == ("content:request-5", 3, 7)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (content_record(content(1), type=USAGE_RECORDED), "not a type of content event"),
        (content_record(content(1), id="content:another"), "id is not made of"),
        (content_record(content(1, request_id="")), "is empty"),
        (content_record(content(1, virtual_key_id="")), "is empty"),
        (content_record(content(1, started_at_ms=-5)), "started_at_ms"),
        (content_record(content(1, prompt_bytes=-5)), "a count is not"),
        (content_record(content(1, redacted=1 << 40)), "a count is not"),
        (NewRecord("t", "k", b"not json: very private"), "content: "),
        (NewRecord("t", "k", content_record(content(1)).value[:-40]), "content: "),
        (
            NewRecord("t", "k", content_record(content(1)).value.replace(b'"text"', b'"very private"', 1)[:-9]),
            "content",
        ),
    ],
)
def test_what_cannot_be_read_is_set_aside_and_not_quoted(record: NewRecord, why: str) -> None:
    batch = content_batch([read_back(record), read_back(content_record(content(2)), 8)])
    assert len(batch.rows) == 1
    (aside,) = batch.set_aside
    assert why in aside.reason
    assert "private" not in aside.reason


def rows_of(*contents: Any) -> list[tuple[Any, ...]]:
    return list(content_batch([read_back(content_record(each)) for each in contents]).rows)


def test_deletions_keep_covered_rows_out() -> None:
    deletions = Deletions()
    rows = rows_of(
        content(1, started_at_ms=50, user_id="alice"),
        content(2, started_at_ms=150, user_id="alice"),
        content(3, started_at_ms=50, user_id="bob"),
        content(4, started_at_ms=50, user_id="bob", virtual_key_id="alice"),
        content(5, started_at_ms=50, user_id="bob", session_id="s"),
        content(6, started_at_ms=50, user_id="", session_id=""),
    )
    assert deletions.kept(rows) == rows
    assert deletions.take(deletion_record(100, user_id="alice").value)
    assert [each[0] for each in deletions.kept(rows)] == [
        "request-2",
        "request-3",
        "request-4",
        "request-5",
        "request-6",
    ]
    assert deletions.take(deletion_record(100, session_id="s").value)
    assert deletions.take(deletion_record(90, user_id="alice").value)  # an earlier one takes nothing back
    assert deletions.take(deletion_record(200, virtual_key_id="alice").value)
    assert [each[0] for each in deletions.kept(rows)] == ["request-2", "request-3", "request-6"]
    assert deletions.count == 4


def test_what_is_no_deletion_changes_nothing() -> None:
    deletions = Deletions()
    assert not deletions.take(b"not an event")
    assert not deletions.take(deletion_record(100, seen=1, user_id="alice").value)  # overtaken: rejected by everybody
    assert not deletions.take(content_record(content(1)).value)
    assert deletions.kept(rows_of(content(1, started_at_ms=5, user_id="alice"))) != []


def test_statements_are_bounded_and_hold_no_text_of_anybody() -> None:
    deletions = Deletions()
    for number in range(AT_ONCE * 2 + 1):
        assert deletions.take(deletion_record(1000 + number, user_id=f"') OR 1=1 -- {number}").value)
    pieces = deletions.conditions(0)
    assert len(pieces) == 3
    assert all("1=1" not in piece and len(piece) < 128 << 10 for piece in pieces)
    assert deletions.conditions(1000 + AT_ONCE * 2) == []
    assert len(deletions.conditions(1000 + AT_ONCE)) == 1


def test_parts_stand_in_the_log_as_lists() -> None:
    value = content_record(content(1)).value
    assert b'["system","text","","be good"]' in value
    assert msgspec.json.decode(value)["data"]["prompt"][0] == ["system", "text", "", "be good"]
    assert ContentPart("a", "b", "c", "d").text == "d"
