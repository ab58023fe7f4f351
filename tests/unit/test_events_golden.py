"""The examples in docs/events.md are what the log holds: they decode, and encode to the same document again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar_common import events
from bursar_common.catalogue import build_book
from bursar_common.charging import amounts_of, largest_held
from bursar_common.events import (
    Usage,
    decode_envelope,
    decode_governance,
    decode_usage,
    encode_event,
)
from bursar_common.finance import FINANCE_TYPES, USAGE_CORRECTED, Correction
from bursar_common.governance import (
    DOCUMENT_TYPES,
    Applied,
    ContentDeletion,
    Provider,
    VirtualKey,
    project,
    read_document,
)
from bursar_common.price_documents import BookDocument
from bursar_common.pricing import PriceBook, cost
from bursar_common.scopes import parse_counter_id
from bursar_common.windows import parse_window
from bursar_common.wire import HoldEntry, UsageCounts

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
TEXT = DOCUMENT.read_text()


def _examples() -> list[tuple[str, str]]:
    """(event type, JSON) of each fenced block, which stands below the heading that names the type."""
    found = []
    for section in re.split(r"^#+ ", TEXT, flags=re.M):
        heading, _, body = section.partition("\n")
        found += [(heading.strip("`"), block.partition("\n```")[0]) for block in body.split("```json\n")[1:]]
    return found


EXAMPLES = _examples()
GOVERNANCE = [(type_, text) for type_, text in EXAMPLES if not type_.startswith(("bursar.usage.", "bursar.content."))]
WRITTEN = {
    *(
        f"bursar.{entity}.{action}.v1"
        for entity in (*DOCUMENT_TYPES, *FINANCE_TYPES)
        for action in ("created", "changed", "deleted")
    ),
    USAGE_CORRECTED,
    events.USAGE_RECORDED,
    events.USAGE_EXPIRED,
    events.USAGE_DENIED,
    events.CONTENT_RECORDED,
    "bursar.content_deletion.created.v1",
    "bursar.price_book.created.v1",
    events.DEAD_LETTER_RETRIED,
} - {"bursar.config.deleted.v1", "bursar.period_close.changed.v1", "bursar.period_close.deleted.v1"}


def example(type_: str) -> bytes:
    return next(text for each, text in EXAMPLES if each == type_).encode()


def usage(type_: str) -> Usage:
    return decode_usage(decode_envelope(example(type_)))


def counts_of(event: Usage) -> UsageCounts:
    return UsageCounts(**{name: getattr(event, name) or 0 for name in UsageCounts.__struct_fields__})


def test_every_type_that_is_written_has_one_example() -> None:
    assert sorted(type_ for type_, _ in EXAMPLES) == sorted(WRITTEN)
    assert TEXT.count("```json") == len(EXAMPLES)


@pytest.mark.parametrize(("type_", "text"), EXAMPLES, ids=[type_ for type_, _ in EXAMPLES])
def test_an_example_decodes_and_is_written_the_same_way(type_: str, text: str) -> None:
    envelope = decode_envelope(text.encode())
    assert (envelope.type, envelope.specversion, envelope.datacontenttype) == (type_, "1.0", "application/json")
    data: msgspec.Struct
    if type_ == USAGE_CORRECTED:
        data = msgspec.json.decode(envelope.data, type=Correction)
    elif type_ == events.CONTENT_RECORDED:
        data = events.decode_content(envelope)
    else:
        data = decode_usage(envelope) if type_.startswith("bursar.usage.") else decode_governance(envelope)
    written = encode_event(
        id=envelope.id, source=envelope.source, type=type_, time=envelope.time, subject=envelope.subject, data=data
    )
    assert json.loads(written) == json.loads(text)


@pytest.mark.parametrize(("type_", "text"), GOVERNANCE, ids=[type_ for type_, _ in GOVERNANCE])
def test_a_governance_example_applies_and_its_document_is_the_entity(type_: str, text: str) -> None:
    data = decode_governance(decode_envelope(text.encode()))
    _, entity, action, _ = type_.split(".")
    assert (data.entity, data.document is None) == (entity, action == "deleted")
    assert (data.seen[data.entity_id] == 0) == (action in ("created", "retried"))
    applied = project(data, data.seen)
    assert isinstance(applied, Applied)
    assert applied.versions[data.entity_id] == data.seen[data.entity_id] + 1
    if data.document is not None and entity in {**DOCUMENT_TYPES, **FINANCE_TYPES}:
        document = read_document(entity, data.document)
        written = json.loads(msgspec.json.encode(document))
        assert written == data.document, "a field that the entity does not have"


def test_a_deletion_of_content_names_one_whose_it_is() -> None:
    data = decode_governance(decode_envelope(example("bursar.content_deletion.created.v1")))
    deletion = msgspec.convert(data.document, ContentDeletion)
    assert deletion.id == data.entity_id
    assert [bool(each) for each in (deletion.user_id, deletion.virtual_key_id, deletion.session_id)].count(True) == 1
    assert msgspec.to_builtins(deletion) == data.document


def test_the_price_book_is_named_by_its_content() -> None:
    data = decode_governance(decode_envelope(example("bursar.price_book.created.v1")))
    assert data.document is not None
    book = PriceBook.of(msgspec.convert(data.document["book"], BookDocument))
    assert (book.id, data.document["id"]) == (data.entity_id, data.entity_id)


def test_every_field_of_a_usage_event_is_explained() -> None:
    table = TEXT.split("## Usage")[1].split("### ")[0]
    named = set(re.findall(r"`([a-z_0-9]+)`", table))
    assert set(Usage.__struct_fields__) <= named


def test_the_recorded_example_adds_up() -> None:
    event = usage(events.USAGE_RECORDED)
    assert event.amounts == amounts_of(counts_of(event), event.cost_nusd, sent=True)
    book = build_book(Provider(id="p", name="anthropic", kind="anthropic", created_at_s=0))
    priced = cost(book, event.model, counts_of(event), started_at_ms=event.started_at_ms)
    assert priced == (event.list_cost_nusd, event.cost_nusd)


def test_the_expired_example_charges_what_was_held() -> None:
    event, recorded = usage(events.USAGE_EXPIRED), usage(events.USAGE_RECORDED)
    amounts = {"n": event.held_nusd, "t": event.amounts.t, "r": 1}
    hold = [HoldEntry(counter, amounts[counter[0]], 0) for counter in event.charged_to]
    assert event.amounts == largest_held(hold)
    assert event.cost_nusd == event.amounts.n
    assert (event.request_id, event.started_at_ms, event.charged_to) == (
        recorded.request_id, recorded.started_at_ms, recorded.charged_to,
    )  # fmt: skip
    assert event.estimated
    assert event.input_tokens is None, "unknown is not zero"


def test_a_refusal_charges_nothing() -> None:
    event = usage(events.USAGE_DENIED)
    assert (event.cost_nusd, event.charged_to, event.amounts) == (0, (), type(event.amounts)())


def test_the_counters_are_windows_of_the_limits_of_the_keys_own_example() -> None:
    key: VirtualKey = read_document(
        "virtual_key", decode_governance(decode_envelope(example("bursar.virtual_key.created.v1"))).document or {}
    )
    event = usage(events.USAGE_RECORDED)
    assert event.virtual_key_id == key.id
    counters = [parse_counter_id(counter) for counter in event.charged_to]
    assert all(
        counter.window_start_s * 1000 <= event.started_at_ms < counter.window_end_s * 1000 for counter in counters
    )
    assert key.budgets[0].id in {counter.limit_id for counter in counters}
    assert parse_window(key.budgets[0].window, key.budgets[0].calendar_aligned) == (1, "M")


def test_no_key_value_and_no_credential_stands_in_an_example() -> None:
    for _, text in EXAMPLES:
        assert not re.search(r"sk-[a-z]+-|x-api-key|Bearer", text)


# Readers of other releases


def with_data(type_: str, **changes: Any) -> bytes:
    envelope = json.loads(example(type_))
    envelope["data"] |= changes
    return json.dumps(envelope).encode()


def test_a_newer_release_may_add_fields() -> None:
    newer = json.loads(with_data(events.USAGE_RECORDED, invented={"x": 1}))
    newer["traceparent"] = "00-1-2-03"
    assert decode_usage(decode_envelope(json.dumps(newer).encode())) == usage(events.USAGE_RECORDED)
    team = decode_governance(decode_envelope(example("bursar.team.created.v1"))).document or {}
    assert read_document("team", {**team, "invented": 1}) == read_document("team", team)


def test_an_older_release_wrote_only_what_is_required() -> None:
    old = {"request_id": "r", "started_at_ms": 1, "virtual_key_id": "k", "outcome": "completed"}
    envelope = {"id": "usage:r", "source": "bursar/edge", "type": events.USAGE_RECORDED, "time": "t", "data": old}
    event = decode_usage(decode_envelope(json.dumps(envelope).encode()))
    assert (event.input_tokens, event.cost_nusd, event.charged_to) == (None, 0, ())


@pytest.mark.parametrize(
    "poison",
    [
        b"", b"{}", b"[]", b"null", b'{"id":"x"}', b"\xff", b'{"id":1,"source":"s","type":"t","time":"t","data":{}}',
        with_data(events.USAGE_RECORDED, outcome="invented"),
        with_data(events.USAGE_RECORDED, cost_nusd="1"),
        with_data(events.USAGE_RECORDED, cost_nusd=1.5),
        with_data(events.USAGE_RECORDED, started_at_ms=None),
        with_data(events.USAGE_RECORDED, charged_to="n:x:1:2"),
    ],
)  # fmt: skip
def test_poison_is_refused_with_a_reason(poison: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError, match=r"."):
        decode_usage(decode_envelope(poison))
