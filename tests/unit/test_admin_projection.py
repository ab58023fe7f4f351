"""The projection's indices say what a search through all documents would say, after any history."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_admin.projection import Projection, parent_of, provider_key
from bursar_common.events import GovernanceData
from bursar_common.governance import Applied, Rejected

IDS = [f"id{number}" for number in range(5)]
steps = st.lists(
    st.tuples(
        st.sampled_from(["customer", "team", "user", "virtual_key"]),
        st.sampled_from(IDS),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["", *IDS]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
)


def document(entity: str, entity_id: str, name: str, parent: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": entity_id, "name": name, "created_at_s": 1}
    if entity == "team":
        fields["customer_id"] = parent
    if entity == "user":
        fields["team_id"] = parent
    if entity == "virtual_key":
        fields |= {"team_id": parent, "hmac": entity_id * 2, "provider_configs": [{"id": "c", "provider": name}]}
    return fields


@given(steps)
@settings(max_examples=100, deadline=None)
def test_indices_agree_with_the_documents(history: list[tuple[str, str, str, str, bool, bool]]) -> None:
    projection = Projection()
    for entity, suffix, name, parent, deleted, stale in history:
        entity_id = f"{entity}-{suffix}"
        seen = {entity_id: projection.version(entity_id) + (1 if stale else 0)}
        event = GovernanceData(
            entity=entity,
            entity_id=entity_id,
            actor="local",
            seen=seen,
            document=None if deleted else document(entity, entity_id, name, parent),
        )
        before = dict(projection.entities(entity))
        verdict = projection.apply(event)
        assert isinstance(verdict, Rejected if stale else Applied)
        if stale:
            assert projection.entities(entity) == before
    for entity in ("customer", "team", "user", "virtual_key"):
        documents = projection.entities(entity)
        assert projection.ordered(entity) == sorted(documents)
        for found in documents.values():
            same = {d.id for d in documents.values() if (parent_of(d), d.name) == (parent_of(found), found.name)}
            assert projection.named(entity, parent_of(found), found.name) in {*same, None}
    for parent in IDS:
        for entity, field in (("team", "customer_id"), ("user", "team_id"), ("virtual_key", "team_id")):
            expected = {d.id for d in projection.entities(entity).values() if getattr(d, field) == parent}
            assert projection.children(parent, entity) == expected
    keys = projection.virtual_keys.values()
    for name in ("a", "b"):
        assert projection.children(provider_key(name), "virtual_key") == {k.id for k in keys if k.name == name}
    for key in keys:
        assert projection.with_hmac(key.hmac) == key.id
    for suffix in IDS:
        if f"virtual_key-{suffix}" not in projection.virtual_keys:
            assert projection.with_hmac(f"virtual_key-{suffix}" * 2) is None


def test_what_cannot_be_read_counts_by_its_version_only() -> None:
    projection = Projection()
    good = {"id": "t", "name": "x", "created_at_s": 1}
    projection.apply(GovernanceData(entity="team", entity_id="t", actor="local", seen={}, document=good))
    broken = GovernanceData(entity="team", entity_id="t", actor="local", seen={"t": 1}, document={"name": []})
    assert isinstance(projection.apply(broken), Applied)
    assert projection.version("t") == 2
    assert projection.ordered("team") == []
    assert projection.named("team", "", "x") is None


def test_entities_of_another_release_and_price_books_are_versions() -> None:
    projection = Projection()
    event = GovernanceData(entity="price_book", entity_id="b", actor="system", seen={"b": 0}, document={"id": "b"})
    assert isinstance(projection.apply(event), Applied)
    assert isinstance(projection.apply(event), Rejected)


def test_a_document_of_a_newer_release_keeps_what_is_known() -> None:
    projection = Projection()
    newer = {"id": "t", "name": "x", "created_at_s": 1, "colour": "red"}
    projection.apply(GovernanceData(entity="team", entity_id="t", actor="local", seen={}, document=newer))
    assert msgspec.to_builtins(projection.teams["t"])["name"] == "x"
