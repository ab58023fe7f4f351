"""The governance log as people read it: what differs, whom it is about, how much is kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bursar_admin.chronicle import MAX_DEPTH, Change, Chronicle, differences, entry_of
from bursar_admin.pages.events import field_words, value_words
from bursar_admin.projection import Projection
from bursar_common.events import Envelope, GovernanceData
from bursar_common.governance import Applied, Customer, Rejected, Team


def envelope(number: int, action: str = "changed", entity: str = "team") -> Envelope:
    return Envelope(
        id=f"e{number}", source="bursar/admin", type=f"bursar.{entity}.{action}.v1", time="2026-11-21T00:00:00.000Z",
        data=msgspec.Raw(b"{}"),
    )  # fmt: skip


def data(document: dict[str, Any] | None, entity_id: str = "t", entity: str = "team") -> GovernanceData:
    return GovernanceData(entity=entity, entity_id=entity_id, actor="local", seen={"hmac:abc": 0}, document=document)


APPLIED = Applied({"t": 2}, "team", "t", None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"a": 1}, {"a": 2}, [Change("a", 1, 2)]),
        ({"a": 1}, {}, [Change("a", 1, None)]),
        ({}, {"a": [1, 2]}, [Change("a", None, [1, 2])]),
        ({"name": "x", "id": "1"}, {"name": "x", "id": "2"}, []),
        ({"name": "x"}, {"name": "y"}, [Change("name", "x", "y")]),
        (
            {"budgets": [{"id": "a", "limit": 1}, {"id": "b", "limit": 2}]},
            {"budgets": [{"id": "b", "limit": 3}]},
            [Change("budgets[0].limit", 2, 3), Change("budgets", {"id": "a", "limit": 1}, None)],
        ),
        ({}, {"rate_limit": {"token_max": 5}}, [Change("rate_limit.token_max", None, 5)]),
    ],
)
def test_what_differs(old: dict[str, Any], new: dict[str, Any], said: list[Change]) -> None:
    assert list(differences(old, new)) == said


def test_a_document_without_end_is_looked_into_so_far_and_no_further() -> None:
    deep: Any = 1
    for _ in range(5 * MAX_DEPTH):
        deep = {"a": deep}
    assert list(differences({}, deep)) == []


def test_an_event_is_about_whom_it_left_and_whom_it_joined() -> None:
    projection = Projection()
    for number, name in enumerate(("old", "new")):
        projection.apply(data({"id": name, "name": name, "created_at_s": number}, name, "customer"))
    before = Team(id="t", name="team", created_at_s=1, customer_id="old")
    moved = {"id": "t", "name": "team", "created_at_s": 1, "customer_id": "new"}
    entry = entry_of(7, envelope(1), data(moved), APPLIED, before, projection)
    assert entry.owners == {"t", "old", "new"}
    assert entry.changes == (Change("customer_id", "old", "new"),)
    assert (entry.action, entry.name, entry.overtaken_by) == ("changed", "team", "")
    assert entry.seen == {"hmac": 0}, "a key's hash is in nothing that is shown"
    assert isinstance(projection.customers["old"], Customer)


def test_a_hash_is_told_apart_and_never_told() -> None:
    projection = Projection()
    before = {"id": "k", "name": "key", "hmac": "a" * 64}
    after = {"id": "k", "name": "key", "hmac": "b" * 64}
    entry = entry_of(1, envelope(1, entity="virtual_key"), data(after, "k", "virtual_key"), APPLIED, before, projection)
    assert entry.action == "rotated"
    assert entry.changes == (Change("value", "[hidden]", "[hidden]"),)
    assert "a" * 64 not in repr(entry)
    assert "b" * 64 not in repr(entry)


def test_only_the_newest_are_kept_and_overtaken_retries_do_not_count() -> None:
    chronicle, projection = Chronicle(most=3), Projection()
    for number in range(5):
        chronicle.note(number, envelope(number), data({"name": str(number)}), APPLIED, None, projection)
    assert [entry.offset for entry in chronicle.newest_first()] == [4, 3, 2]
    assert (len(chronicle), chronicle.forgotten, chronicle.find("e0")) == (3, 2, None)
    letter = data({"name": "x"}, "dead-letter:x", "dead_letter")
    overtaken = Rejected("dead-letter:x", 0, 1)
    chronicle.note(5, envelope(5, "retried", "dead_letter"), letter, overtaken, None, projection)
    assert chronicle.retry_of("dead-letter:x") is None
    chronicle.note(6, envelope(6, "retried", "dead_letter"), letter, APPLIED, None, projection)
    assert chronicle.retry_of("dead-letter:x") is not None
    assert chronicle.retried == 1


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("budgets[0].limit_nusd", 750_000_000_000, ("budget limit", "$750.00")),
        ("budgets[1].window", "1M", ("budget 2 window", "a month")),
        ("rate_limit.token_max", 5000, ("rate limit token limit", "5,000")),
        ("is_active", False, ("active", "no")),
        ("expires_at_s", None, ("expires", "none")),
        ("description", "", ("description", "empty")),
        ("provider_configs[0].allowed_models", ["a", "b"], ("provider config allowed models", '["a", "b"]')),
        ("budgets[0].window", "odd", ("budget window", "odd")),
    ],
)
def test_changes_are_said_as_people_say_them(path: str, value: Any, said: tuple[str, str]) -> None:
    assert (field_words(path), value_words(path, value)) == said
