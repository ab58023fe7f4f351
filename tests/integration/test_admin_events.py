"""The governance log over REST: who did what, when; strict filters, cursors, nothing secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bursar_common.clock import SystemClock
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import GOVERNANCE_TOPIC
from bursar_common.keys import key_hmac, sha256_hex
from tests.harness.admin import KEY_SECRET, Admin, running_admin

EVENTS = "/api/events"


class EveryMomentOnce(SystemClock):
    """The system's clock, of which no two events get the same millisecond."""

    def __init__(self) -> None:
        self._last_ms = 0

    def now_ms(self) -> int:
        self._last_ms = max(self._last_ms + 1, super().now_ms())
        return self._last_ms


async def listed(admin: Admin, **query: Any) -> list[dict[str, Any]]:
    status, answer, _ = await admin.call("GET", f"{EVENTS}?{urlencode(query)}")
    assert status == 200, answer
    return list(answer["events"])


async def test_what_happened_who_did_it_and_what_changed(tmp_path: Path) -> None:
    async with running_admin(tmp_path, clock=EveryMomentOnce()) as admin:
        customer = (await admin.create("customers", name="Northwind"))["customer"]
        team = (
            await admin.create(
                "teams", name="platform", customer_id=customer["id"], budget={"max_limit": 500, "reset_duration": "1M"}
            )
        )["team"]
        key = (await admin.create("virtual-keys", name="alice", team_id=team["id"]))["virtual_key"]
        await admin.call("PATCH", f"/api/governance/teams/{team['id']}", {"budget": {"max_limit": 750}})
        await admin.call("POST", f"/api/governance/virtual-keys/{key['id']}/rotate", {})
        await admin.call("DELETE", f"/api/governance/virtual-keys/{key['id']}")

        found = await listed(admin)
        said = [(each["actor"], each["action"], each["entity"], each["name"]) for each in found]
        assert said == [
            ("local", "deleted", "virtual_key", "alice"),
            ("local", "rotated", "virtual_key", "alice"),
            ("local", "changed", "team", "platform"),
            ("local", "created", "virtual_key", "alice"),
            ("local", "created", "team", "platform"),
            ("local", "created", "customer", "Northwind"),
            ("system", "created", "config", "configuration"),
            ("system", "created", "provider", "anthropic"),
        ]
        raised = found[2]
        assert raised["changes"] == [
            {"field": "budgets[0].limit_nusd", "before": 500_000_000_000, "after": 750_000_000_000}
        ]
        assert [change["field"] for change in found[1]["changes"]] == ["value"]
        assert found[1]["changes"][0]["after"] == "[hidden]"
        assert all(each["outcome"] == "applied" for each in found)

        # Owners: a customer's events are those of its teams and their keys, also of what is gone.
        assert len(await listed(admin, customer="Northwind")) == 6
        assert len(await listed(admin, team=team["id"])) == 5
        assert [each["action"] for each in await listed(admin, key=key["id"])] == ["deleted", "rotated", "created"]
        assert await listed(admin, user="nobody") == []
        assert [each["entity"] for each in await listed(admin, entity="team")] == ["team", "team"]
        assert [each["name"] for each in await listed(admin, action="deleted")] == ["alice"]
        assert len(await listed(admin, actor="system")) == 2
        assert len(await listed(admin, text="PLAT")) == 2
        assert await listed(admin, id=customer["id"], action="changed") == []
        moment = raised["time"]
        assert [each["id"] for each in await listed(admin, to=moment)] == [each["id"] for each in found[3:]]
        assert {each["id"] for each in await listed(admin, **{"from": moment})} == {each["id"] for each in found[:3]}

        status, answer, _ = await admin.call("GET", f"{EVENTS}/{raised['id']}")
        assert status == 200
        event = answer["event"]
        assert event["document"]["budgets"][0]["limit_nusd"] == 750_000_000_000
        assert event["seen"][team["id"]] == 1
        status, answer, _ = await admin.call("GET", f"{EVENTS}/nothing")
        assert (status, answer["error"]["type"]) == (404, "not_found_error")
        # The key's hash is in the log, and in no answer.
        hmac = key_hmac(KEY_SECRET, sha256_hex(key["value"]))
        assert any(hmac.encode() in value for value in await admin.events())
        for query in ("", f"/{found[3]['id']}", f"/{found[1]['id']}"):
            _, answer, _ = await admin.call("GET", EVENTS + query)
            assert hmac not in str(answer)
            assert key["value"] not in str(answer)


async def test_pages_go_on_where_they_ended_under_the_same_question(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        for number in range(7):
            await admin.create("teams", name=f"t{number}")
        names: list[str] = []
        cursor = ""
        while True:
            query = {"entity": "team", "limit": 3, **({"cursor": cursor} if cursor else {})}
            _, answer, _ = await admin.call("GET", f"{EVENTS}?{urlencode(query)}")
            names += [each["name"] for each in answer["events"]]
            assert answer["count"] == len(answer["events"]) <= 3
            assert answer["complete"] is True
            if not answer["next_cursor"]:
                break
            cursor = answer["next_cursor"]
            await admin.create("customers", name=f"between-{cursor[-6:]}-{len(names)}")
        assert names == [f"t{number}" for number in range(6, -1, -1)]
        status, answer, _ = await admin.call("GET", f"{EVENTS}?cursor={cursor}")
        assert (status, answer["error"]["field"]) == (400, "cursor")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("entity=teams", "entity"),
        ("action=made", "action"),
        ("outcome=lost", "outcome"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=x", "cursor"),
        ("from=yesterday", "from"),
        ("from=2026-02-01&to=2026-01-01", "to"),
        ("teem=platform", "teem"),
        ("team=a&team=b", "team"),
        ("text=", "text"),
        ("provider=anthropic", "provider"),
        ("sort_by=changes", "sort_by"),
        ("order=down", "order"),
    ],
)
async def test_a_wrong_filter_is_400(tmp_path: Path, query: str, field: str) -> None:
    async with running_admin(tmp_path) as admin:
        status, answer, _ = await admin.call("GET", f"{EVENTS}?{query}")
        assert status == 400, answer
        assert field in [problem["field"] for problem in answer["error"].get("problems", [answer["error"]])]


async def test_an_overtaken_event_is_shown_as_one_without_effect(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name="t"))["team"]
        (created,) = await listed(admin, entity="team")
        await admin.call("PATCH", f"/api/governance/teams/{team['id']}", {"name": "u"})
        first, _ = [value for value in await admin.events() if team["id"].encode() in value]
        # The same creation once more, as a replica that was too late would have written it.
        tail = "0000" if created["id"].endswith("ffff") else "ffff"
        again = first.replace(created["id"].encode(), (created["id"][:-4] + tail).encode())
        await admin.desk.journal.event_log.append([NewRecord(GOVERNANCE_TOPIC, team["id"], again)])
        await admin.create("teams", name="later")
        (overtaken,) = await listed(admin, outcome="overtaken")
        assert overtaken["overtaken_by"] in (team["id"], "root:team")
        assert len(await listed(admin, entity="team", outcome="applied")) == 3


async def test_nothing_that_stands_in_the_log_stops_the_reading(tmp_path: Path) -> None:
    deep: Any = "end"
    for _ in range(200):
        deep = {"a": [deep]}
    async with running_admin(tmp_path) as admin:
        await admin.create("teams", name="t")
        (value,) = [value for value in await admin.events() if b'"team"' in value]
        event = json.loads(value)
        event["id"], event["data"]["entity_id"] = "strange", "s"
        event["data"]["seen"] = {}
        event["data"]["document"] = {"id": ["no", {}], "name": {"x": 1}, "budgets": [{"id": {}}, 3], "deep": deep}
        odd = json.dumps(event).encode()
        await admin.desk.journal.event_log.append(
            [NewRecord(GOVERNANCE_TOPIC, "s", b"not an event"), NewRecord(GOVERNANCE_TOPIC, "s", odd)]
        )
        await admin.create("teams", name="after")
        assert [each["name"] for each in await listed(admin, action="created", limit=1)] == ["after"]
        status, _, _ = await admin.call("GET", f"{EVENTS}/strange")
        assert status == 200
