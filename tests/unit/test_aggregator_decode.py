"""Bytes of the usage topic to rows: what is read, what is poison and why."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_aggregator.batch import batch_of, in_chunks
from bursar_aggregator.dead_letters import CUT_HEADER, POSITION_HEADER, REASON_HEADER, dead_letter
from bursar_aggregator.decode import MAX_REASON_CHARS, Poison, UsageEvent, decode
from bursar_aggregator.migrations import load_migrations
from bursar_aggregator.rows import COLUMN_TYPES, COLUMNS, row_of
from bursar_common.eventlog.port import MAX_RECORD_BYTES, LogRecord, record_bytes
from bursar_common.events import USAGE_RECORDED, USAGE_TOPIC, Usage
from bursar_common.wire import Amounts
from tests.harness.usage_events import STARTED_AT_MS, request_id, usage, usage_record

INT64_MAX = (1 << 63) - 1


def value_of(event: Usage) -> bytes:
    return usage_record(event).value


def changed(event: Usage, **envelope: Any) -> bytes:
    return json.dumps(json.loads(value_of(event)) | envelope).encode()


def log_record(value: bytes, offset: int = 7, **fields: Any) -> LogRecord:
    return LogRecord(
        **({"topic": USAGE_TOPIC, "partition": 3, "offset": offset, "key": "key-1", "value": value} | fields)
    )


def row(event: Usage) -> dict[str, Any]:
    decoded = decode(value_of(event))
    assert isinstance(decoded, UsageEvent), decoded
    made = row_of(decoded, USAGE_TOPIC, 3, 7)
    assert not isinstance(made, Poison), made
    return dict(zip(COLUMNS, made, strict=True))


@pytest.mark.parametrize(
    ("outcome", "rank", "event_id"),
    [("refused", 0, "denied"), ("expired", 1, "expired"), ("completed", 2, "usage"), ("upstream_error", 2, "usage")],
)
def test_rank_follows_the_type_of_the_event(outcome: str, rank: int, event_id: str) -> None:
    assert decode(value_of(usage(outcome=outcome))) == UsageEvent(
        f"{event_id}:{request_id(0)}", rank, usage(outcome=outcome)
    )


def test_row_keeps_every_figure_exactly_and_where_it_was_read() -> None:
    cost = 8_000_000_000_123_456_789
    made = row(usage(cost_nusd=cost, list_cost_nusd=cost + 1, amounts=Amounts(n=cost, t=1, T=2, r=3)))
    assert made["cost_nusd"] == cost
    assert made["list_cost_nusd"] == cost + 1
    assert made["started_at"] == STARTED_AT_MS
    assert [made[f"charged_{unit}"] for unit in ("n", "t", "tokens", "r")] == [cost, 1, 2, 3]
    assert made["charged_to"] == ("n:budget-1:1795219200:1795305600",)
    assert (made["log_topic"], made["log_partition"], made["log_offset"]) == (USAGE_TOPIC, 3, 7)
    assert made["event_id"] == f"usage:{request_id(0)}"


def test_unknown_stays_unknown() -> None:
    made = row(usage(output_tokens=None, status=None, latency_ms=None, max_tokens=None, ended_at_ms=None))
    assert [made[name] for name in ("output_tokens", "status", "latency_ms", "max_tokens", "ended_at")] == [None] * 5


def test_fields_of_a_newer_release_are_passed_over() -> None:
    value = json.loads(value_of(usage()))
    value["data"]["something_new"] = {"a": 1}
    assert isinstance(decode(json.dumps(value).encode()), UsageEvent)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not a CloudEvents envelope"),
        (b"not json", "not a CloudEvents envelope"),
        (b"[]", "not a CloudEvents envelope"),
        (b'{"id":"usage:1"}', "not a CloudEvents envelope"),
        (b"\xff\xfe", "not a CloudEvents envelope"),
        (b"[" * 100_000, "not a CloudEvents envelope"),
        (changed(usage(), type="bursar.usage.recorded.v2"), "not a type of usage event"),
        (changed(usage(), specversion="0.3"), "not CloudEvents 1.0"),
        (changed(usage(), data={"request_id": "r"}), "data of the event"),
        (changed(usage(), data="text"), "data of the event"),
        (changed(usage(), id="usage:other"), "id is not made of"),
        (changed(usage(), type="bursar.usage.expired.v1", id=f"expired:{request_id(0)}"), "does not belong"),
        (changed(usage(outcome="refused"), type=USAGE_RECORDED, id=f"usage:{request_id(0)}"), "does not belong"),
        (value_of(usage(virtual_key_id="")), "is empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_poison_with_a_reason(value: bytes, reason: str) -> None:
    answer = decode(value)
    assert isinstance(answer, Poison)
    assert reason in answer.reason


@given(st.binary(max_size=300))
def test_decoding_never_raises(value: bytes) -> None:
    assert isinstance(decode(value), Poison | UsageEvent)


def test_a_reason_is_short_and_repeats_no_content() -> None:
    value = changed(usage(), data={"request_id": ["secret-" * 1_000]})
    answer = decode(value)
    assert isinstance(answer, Poison)
    assert len(answer.reason) <= MAX_REASON_CHARS
    assert "secret" not in answer.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"cost_nusd": INT64_MAX + 1},
        {"cost_nusd": -1},
        {"amounts": Amounts(n=INT64_MAX + 1)},
        {"input_tokens": -1},
        {"output_tokens": 1 << 64},
        {"max_tokens": 1 << 70},
        {"status": 70_000},
        {"attempts": -1},
        {"started_at_ms": 0},
        {"started_at_ms": 99_999_999_999_999},
        {"ended_at_ms": -5},
        {"text_bytes": -1},
    ],
)
def test_a_value_its_column_cannot_hold_is_poison_not_a_refused_block(fields: dict[str, Any]) -> None:
    event = UsageEvent("usage:x", 2, usage(**fields))
    assert isinstance(row_of(event, USAGE_TOPIC, 0, 0), Poison)


def test_a_batch_goes_on_behind_poison() -> None:
    records = [log_record(value_of(usage(number)), number) for number in range(3)]
    records.insert(1, log_record(b"?", 99))
    batch = batch_of(records)
    assert [made[COLUMNS.index("log_offset")] for made in batch.rows] == [0, 1, 2]
    assert [item.record.offset for item in batch.set_aside] == [99]


def test_every_field_of_the_event_has_a_column_of_the_schema() -> None:
    table, *later = (migration.sql for migration in load_migrations())
    columns = dict(re.findall(r"^    `(\w+)` (.+) COMMENT ", table[: table.index("ENGINE")], re.MULTILINE))
    for sql in (part for each in later for part in each.split(";") if "ALTER TABLE bursar.usage_events" in part):
        columns |= re.findall(r"^    ADD COLUMN IF NOT EXISTS `(\w+)` (.+) COMMENT ", sql, re.MULTILINE)
    assert columns == dict(zip(COLUMNS, COLUMN_TYPES, strict=True))
    view = [sql for sql in later if "VIEW bursar.usage\n" in sql][-1]
    shown = set(re.findall(r"^    `(\w+)` .+ COMMENT ", view, re.MULTILINE))
    assert {field for field in Usage.__struct_fields__ if field in columns} - {"text_bytes"} <= shown
    renamed = {"started_at_ms": "started_at", "ended_at_ms": "ended_at", "amounts": "charged_n"}
    assert {renamed.get(field, field) for field in Usage.__struct_fields__} <= set(columns)


def test_a_dead_letter_is_the_original_with_reason_and_position() -> None:
    (item,) = batch_of([log_record(b"?", 5, headers=(("bursar-outbox", b"a:1"),))]).set_aside
    letter = dead_letter(item)
    assert (letter.topic, letter.key, letter.value) == (f"{USAGE_TOPIC}.dlq", "key-1", b"?")
    headers = dict(letter.headers)
    assert headers["bursar-outbox"] == b"a:1"
    assert headers[REASON_HEADER] == item.reason.encode()
    assert headers[POSITION_HEADER] == f"{USAGE_TOPIC}:3:5".encode()


def test_a_record_at_the_size_limit_still_gets_a_dead_letter() -> None:
    value = b"x" * (MAX_RECORD_BYTES - len("key-1"))
    letter = dead_letter(batch_of([log_record(value)]).set_aside[0])
    assert record_bytes(letter) == MAX_RECORD_BYTES
    assert dict(letter.headers)[CUT_HEADER] == str(len(value)).encode()


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 60))
def test_chunks_keep_the_order_and_the_bound(sizes: list[int], max_bytes: int) -> None:
    records = [log_record(b"x" * size, offset, key="") for offset, size in enumerate(sizes)]
    chunks = list(in_chunks(records, max_bytes))
    assert [record for chunk in chunks for record in chunk] == records
    for chunk in chunks:
        assert len(chunk) == 1 or sum(record_bytes(record) for record in chunk) <= max_bytes


def test_usage_struct_is_what_the_log_carries() -> None:
    event = usage(tags={"a": "b"}, charged_to=())
    assert msgspec.json.decode(json.dumps(json.loads(value_of(event))["data"]), type=Usage) == event
