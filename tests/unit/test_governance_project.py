from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_common.events import GovernanceData
from bursar_common.governance import (
    Applied,
    Customer,
    Rejected,
    Team,
    VirtualKey,
    effective_timezone,
    project,
    read_document,
)


def event(entity_id: str, seen: dict[str, int], bumps: tuple[str, ...] = (), **changes: Any) -> GovernanceData:
    data: dict[str, Any] = {"entity": "team", "actor": "local", "document": {"name": "x"}, **changes}
    return GovernanceData(entity_id=entity_id, seen=seen, bumps=bumps, **data)


def replay(events: list[GovernanceData]) -> tuple[dict[str, int], list[bool]]:
    versions: dict[str, int] = {}
    applied = []
    for each in events:
        outcome = project(each, versions)
        applied.append(isinstance(outcome, Applied))
        if isinstance(outcome, Applied):
            versions |= outcome.versions
    return versions, applied


def test_an_event_whose_versions_match_applies_and_raises_its_own_and_its_bumps() -> None:
    outcome = project(event("t", {"t": 0, "c": 3}, ("c:children",)), {"c": 3, "c:children": 7, "other": 9})
    assert outcome == Applied({"t": 1, "c:children": 8}, "team", "t", {"name": "x"})


def test_an_event_that_saw_another_version_has_no_effect() -> None:
    assert project(event("t", {"t": 0, "c": 2}), {"c": 3}) == Rejected("c", 2, 3)
    assert project(event("t", {"t": 1}), {}) == Rejected("t", 1, 0)
    assert project(event("t", {"t": 0}), {"t": 1}) == Rejected("t", 0, 1)


def test_bumping_itself_raises_once() -> None:
    outcome = project(event("t", {"t": 4}, ("t", "t")), {"t": 4})
    assert isinstance(outcome, Applied)
    assert outcome.versions == {"t": 5}


def test_the_projector_validates_nothing() -> None:
    """A new release must judge an old event as before, whatever its document holds."""
    strange = event("t", {}, entity="invented", document={"limit_nusd": -1, "window": "soon"})
    assert project(strange, {}) == Applied({"t": 1}, "invented", "t", {"limit_nusd": -1, "window": "soon"})


def test_deleting_an_empty_team_and_adding_a_key_to_it_collide() -> None:
    created = event("team", {"team": 0})
    delete = event("team", {"team": 1, "team:children": 0}, document=None)
    add = event("key", {"key": 0, "team": 1}, ("team:children",), entity="virtual_key")
    assert replay([created, delete, add])[1] == [True, True, False]
    assert replay([created, add, delete])[1] == [True, True, False]


def test_two_writers_of_one_name_collide_but_not_of_unrelated_entities() -> None:
    first = event("a", {"a": 0, "root:customer": 0}, ("root:customer",), entity="customer")
    second = event("b", {"b": 0, "root:customer": 0}, ("root:customer",), entity="customer")
    unrelated = event("k", {"k": 0}, entity="virtual_key")
    assert replay([first, unrelated, second])[1] == [True, True, False]


def test_a_deleted_id_is_never_used_again() -> None:
    created, deleted = event("t", {"t": 0}), event("t", {"t": 1}, document=None)
    assert replay([created, deleted, created])[1] == [True, True, False]


IDS = st.sampled_from(["a", "b", "c", "a:children", "root:team"])
EVENTS = st.builds(event, IDS, st.dictionaries(IDS, st.integers(0, 3)), st.lists(IDS, max_size=3).map(tuple))


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=20), st.data())
def test_every_reader_agrees_wherever_it_resumes(events: list[GovernanceData], data: Any) -> None:
    """Versions only rise, by one; a reader that resumes with the versions so far ends where the others do; and a
    reader that knows only the versions an event names judges it alike."""
    versions, applied = replay(events)
    cut = data.draw(st.integers(0, len(events)))
    resumed, _ = replay(events[:cut])
    for each, took_effect in zip(events[cut:], applied[cut:], strict=True):
        before = dict(resumed)
        narrow = {name: resumed[name] for name in (*each.seen, *each.bumps, each.entity_id) if name in resumed}
        outcome = project(each, narrow)
        assert isinstance(outcome, Applied) is took_effect
        assert took_effect is all(before.get(name, 0) == version for name, version in each.seen.items())
        if isinstance(outcome, Applied):
            resumed |= outcome.versions
            raised = {each.entity_id, *each.bumps}
            assert resumed == {**before, **{name: before.get(name, 0) + 1 for name in raised}}
    assert resumed == versions


def test_documents_are_read_with_their_defaults_and_without_what_a_newer_release_added() -> None:
    least = {"id": "k", "name": "n", "hmac": "h", "created_at_s": 1}
    key = read_document("virtual_key", {**least, "invented": [1]})
    assert key == VirtualKey(id="k", name="n", hmac="h", created_at_s=1)
    assert key.provider_configs is None, "every provider, not none"
    none = read_document(
        "virtual_key", {"id": "k", "name": "n", "hmac": "h", "created_at_s": 1, "provider_configs": []}
    )
    assert none.provider_configs == ()
    with pytest.raises(KeyError):
        read_document("invented", {})


def test_the_time_zone_is_the_teams_else_the_customers() -> None:
    def team(zone: str) -> Team:
        return Team(id="t", name="t", created_at_s=0, customer_id="c", timezone=zone)

    customer = Customer(id="c", name="c", created_at_s=0, timezone="Asia/Tokyo")
    assert effective_timezone(team("Europe/Paris"), customer) == "Europe/Paris"
    assert effective_timezone(team(""), customer) == "Asia/Tokyo"
    assert effective_timezone(None, customer) == "Asia/Tokyo"
    assert effective_timezone(team(""), None) == effective_timezone(None, None) == ""
