"""Events that are no longer kept in memory are read from the log, and are told as they were when they were kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bursar_admin import journal, past
from bursar_admin.chronicle import Chronicle
from bursar_admin.event_index import EventIndex
from tests.harness.admin import Admin, running_admin

KEPT = 7
EVENTS = "/api/events"


async def history(admin: Admin) -> dict[str, str]:
    """Some twenty events of every kind; ids by name."""
    customer = (await admin.create("customers", name="Northwind"))["customer"]["id"]
    ids = {"Northwind": customer}
    budget = {"max_limit": 5, "reset_duration": "1d"}
    for name in ("one", "two", "three"):
        team = (await admin.create("teams", name=name, customer_id=customer, budget=budget))["team"]["id"]
        key = (await admin.create("virtual-keys", name=f"{name}-key", team_id=team))["virtual_key"]["id"]
        ids |= {name: team, f"{name}-key": key}
        await admin.call("PATCH", f"/api/governance/teams/{team}", {"budget": {"max_limit": 50}})
        await admin.call("POST", f"/api/governance/virtual-keys/{key}/rotate", {})
    await admin.call("DELETE", f"/api/governance/virtual-keys/{ids['one-key']}")
    await admin.call("DELETE", f"/api/governance/teams/{ids['one']}")
    for number in range(KEPT):
        await admin.call("PATCH", f"/api/governance/customers/{customer}", {"name": f"Northwind {number}"})
    return ids


async def paged(admin: Admin, **query: Any) -> tuple[list[dict[str, Any]], int]:
    """All pages, and how many they were."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    for pages in range(1, 200):
        status, answer, _ = await admin.call("GET", f"{EVENTS}?{urlencode({**query, **cursor})}")
        assert status == 200, answer
        found += answer["events"]
        assert answer["complete"]
        if answer["next_cursor"] is None:
            return found, pages
        cursor = {"cursor": answer["next_cursor"]}
    raise AssertionError("pages without an end")


async def test_old_events_are_told_as_new_ones_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_admin(tmp_path) as admin:
        ids = await history(admin)
        whole, _ = await paged(admin)
        each = {event["id"]: (await admin.call("GET", f"{EVENTS}/{event['id']}"))[1] for event in whole}
    monkeypatch.setattr(journal, "Chronicle", partial(Chronicle, KEPT))
    async with running_admin(tmp_path) as admin:
        assert len(admin.desk.journal.chronicle) == KEPT
        assert (await paged(admin))[0] == whole
        found, pages = await paged(admin, limit=3)
        assert (found, pages) == (whole, -(-len(whole) // 3))
        for event_id, answer in each.items():
            assert (await admin.call("GET", f"{EVENTS}/{event_id}"))[1] == answer
        assert (await admin.call("GET", f"{EVENTS}/nobody"))[0] == 404
        one, old = ids["one"], [event for event in whole if event["action"] == "deleted"]
        for query, wanted in (
            ({"id": one}, [event for event in whole if event["entity_id"] == one]),
            ({"team": one}, [event for event in whole if event["name"] in ("one", "one-key")]),
            ({"text": "one-key"}, [event for event in whole if event["name"] == "one-key"]),
            ({"action": "deleted"}, old),
            ({"action": "rotated"}, [event for event in whole if event["action"] == "rotated"]),
            ({"action": "changed", "entity": "team"}, [
                event for event in whole if (event["action"], event["entity"]) == ("changed", "team")]),
            ({"actor": "system"}, [event for event in whole if event["actor"] == "system"]),
            ({"to": "2001-01-01"}, []),
        ):  # fmt: skip
            assert wanted or "to" in query
            assert (await paged(admin, **query))[0] == wanted, query
            assert (await paged(admin, limit=1, **query))[0] == wanted, query


async def test_the_work_of_one_question_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "Chronicle", partial(Chronicle, KEPT))
    monkeypatch.setattr(past, "MAX_EXAMINED", 4)
    monkeypatch.setattr(past, "CHUNK", 3)
    async with running_admin(tmp_path) as admin:
        ids = await history(admin)
        query = {"id": ids["one"], "action": "created"}
        status, answer, _ = await admin.call("GET", f"{EVENTS}?{urlencode(query)}")
        assert (status, answer["events"]) == (200, [])
        assert answer["next_cursor"] is not None
        assert answer["looked_back_to"] is not None
        found, pages = await paged(admin, **query)
        assert [event["name"] for event in found] == ["one"]
        assert pages > 2
        # A page for people says so, keeps the filters, and goes on.
        path = f"/events?id={ids['one']}&action=created"
        _, text, _ = await admin.call("GET", path, headers={"accept": "text/html"})
        assert "Look further back" in text
        assert f"/events?id={ids['one']}&amp;action=created&amp;cursor=" in text
        # Nothing before a time is looked for in vain.
        answer = (await admin.call("GET", f"{EVENTS}?from=2099-01-01&id=nobody"))[1]
        assert (answer["events"], answer["next_cursor"]) == ([], None)


async def test_while_the_log_is_away_old_events_are_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bursar_common.eventlog.port import LogUnavailable

    monkeypatch.setattr(journal, "Chronicle", partial(Chronicle, KEPT))
    async with running_admin(tmp_path) as admin:
        await history(admin)

        async def away(*_: Any, **__: Any) -> Any:
            raise LogUnavailable("gone")

        monkeypatch.setattr(admin.desk.journal.event_log, "read", away)
        assert (await admin.call("GET", f"{EVENTS}?limit=3"))[0] == 200, "the newest are in memory"
        status, answer, _ = await admin.call("GET", EVENTS)
        assert (status, answer["error"]["type"]) == (503, "unavailable_error")


def test_the_index_is_bounded_and_says_so() -> None:
    index = EventIndex(most=20)
    for offset in range(100, 130):
        index.add(
            offset, f"event-{offset}", "e" if offset % 2 else f"f{offset}", overtaken_by="e" if offset == 129 else "",
            had_before=offset % 2 == 1 and offset > 101, exists=True,
        )  # fmt: skip
    assert len(index) <= 20
    assert index.trimmed
    assert index.last_before(130, 3) == [127, 128, 129]
    assert index.last_before(105, 3) == []
    assert index.before(127) == 125
    assert index.before(128) is None
    assert index.before(101) is None, "not known any more"
    assert (index.overtaken_by(129), index.overtaken_by(128)) == ("e", "")
    assert index.places_of("event-128") == [128]
    assert index.places_of("event-101") == []
