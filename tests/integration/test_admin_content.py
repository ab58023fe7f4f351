"""``/api/content`` and the switches of content over REST: strict, and recorded before anything is deleted."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bursar_common.events import GovernanceData, decode_envelope, decode_governance
from bursar_common.ids import uuid7
from tests.harness.admin import Admin, running_admin

PATH = "/api/content"


async def deletions(admin: Admin) -> list[GovernanceData]:
    events = [decode_governance(decode_envelope(value)) for value in await admin.events()]
    return [event for event in events if event.entity == "content_deletion"]


async def test_what_is_deleted_must_be_said_exactly(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        for name in ("twin", "twin", "one"):
            team = (await admin.create("teams", name=f"t{uuid7()}"))["team"]["id"]
            await admin.create("users", name=name, team_id=team)
        cases: list[tuple[str, str]] = [
            ("", "user"),
            ("user=one&key=x", "user"),
            ("user=one&session=", "user"),
            ("user=nobody", "user"),
            ("user=", "user"),
            ("user=twin", "user"),
            ("key=nobody", "key"),
            ("session=", "session"),
            ("session=" + "x" * 201, "session"),
            ("session=a%0Ab", "session"),
            ("user=one&before=tomorrow", "before"),
            ("user=one&before=2199-01-01", "before"),
            ("user=one&user=two", "user"),
            ("users=one", "users"),
            ("user=one&team=x", "team"),
        ]
        for query, field in cases:
            status, answer, _ = await admin.call("DELETE", f"{PATH}?{query}")
            assert (status, answer["error"]["field"]) == (400, field), query
            assert "problems" not in answer["error"]  # one fault is told once
        assert (await admin.call("GET", PATH))[0] == 405
        assert await deletions(admin) == []


async def test_a_deletion_is_recorded_with_its_actor_also_while_analytics_are_away(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        user = (await admin.create("users", name="one"))["user"]["id"]
        key = (await admin.create("virtual-keys", name="k"))["virtual_key"]["id"]
        gone_user = uuid7()
        asked: list[tuple[str, dict[str, str]]] = [
            ("user=one", {"user_id": user}),
            (f"user={user}", {"user_id": user}),
            ("key=k", {"virtual_key_id": key}),
            (f"user={gone_user}", {"user_id": gone_user}),
            ("session=abc&before=2026-01-02", {"session_id": "abc"}),
        ]
        untils: list[float] = []
        for query, whom in asked:
            status, answer, _ = await admin.call("DELETE", f"{PATH}?{query}")
            assert (status, answer["gone"]) == (202, False)
            assert whom.items() <= answer.items()
            assert answer["event_id"]
            assert answer["log_until"] in answer["message"]
            assert answer["message"].startswith("Recorded. ")
            untils.append(datetime.fromisoformat(answer["log_until"]).timestamp() * 1000)
        found = await deletions(admin)
        documents: list[dict[str, Any]] = [dict(event.document or {}) for event in found]
        assert [
            {name: document[name] for name in whom} for document, (_, whom) in zip(documents, asked, strict=True)
        ] == [whom for _, whom in asked]
        assert {event.actor for event in found} == {"local"}
        assert documents[-1]["before_ms"] == 1_767_312_000_000
        # A week in the topic, a day for Kafka's segment, an hour until somebody looks.
        week_and_more_ms = (8 * 24 + 1) * 3_600_000
        assert [
            round(until) - document["created_at_ms"] for until, document in zip(untils, documents, strict=True)
        ] == [week_and_more_ms] * len(asked)
        assert all(document["before_ms"] <= document["created_at_ms"] for document in documents)


@pytest.mark.parametrize("kind", ["teams", "virtual-keys"])
async def test_who_switches_content(tmp_path: Path, kind: str) -> None:
    name = "team" if kind == "teams" else "virtual_key"
    async with running_admin(tmp_path) as admin:
        made = (await admin.create(kind, name="x"))[name]
        assert made["content"] is None
        path = f"/api/governance/{kind}/{made['id']}"
        for value in ("on", "off", None):
            status, answer, _ = await admin.call("PATCH", path, {"content": value})
            assert (status, answer[name]["content"]) == (200, value)
        await admin.call("PATCH", path, {"content": "on"})
        _, answer, _ = await admin.call("PATCH", path, {"name": "y"})
        assert answer[name]["content"] == "on"
        for wrong in ("yes", True, "", "ON"):
            status, answer, _ = await admin.call("PATCH", path, {"content": wrong})
            assert (status, answer["error"]["field"]) == (400, "content")


async def test_a_key_says_what_comes_of_the_switches(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name="t"))["team"]["id"]
        key = (await admin.create("virtual-keys", name="k", team_id=team))["virtual_key"]["id"]

        async def stored() -> bool:
            _, answer, _ = await admin.call("GET", f"/api/governance/virtual-keys/{key}")
            return bool(answer["virtual_key"]["content_stored"])

        assert not await stored()
        for wrong in ("maybe", 1):
            status, answer, _ = await admin.call("PATCH", "/api/config", {"client_config": {"content": wrong}})
            assert (status, answer["error"]["field"]) == (400, "client_config.content")
        status, answer, _ = await admin.call("PATCH", "/api/config", {"client_config": {"content": "on"}})
        assert (status, answer["client_config"]["content"]) == (200, "on")
        assert answer["client_config"]["enforce_auth_on_inference"] is True
        assert await stored()
        await admin.call("PATCH", f"/api/governance/teams/{team}", {"content": "off"})
        assert not await stored()
        await admin.call("PATCH", f"/api/governance/virtual-keys/{key}", {"content": "on"})
        assert not await stored()
        await admin.call("PATCH", f"/api/governance/teams/{team}", {"content": None})
        await admin.call("PATCH", "/api/config", {"client_config": {"content": None}})
        assert await stored()
