"""Several admin-api processes on one log: one wins, nobody is told what is not so, nothing is lost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bursar_common.events import decode_envelope, decode_governance
from tests.harness.admin import Admin, EnforcerStandIn, running_admin
from tests.harness.waiting import eventually

KEYS = "/api/governance/virtual-keys"


async def replicas(stack: AsyncExitStack, home: Path, number: int) -> list[Admin]:
    enforcer = EnforcerStandIn()
    await enforcer.start(f"unix:{home}/enforcer.sock")
    stack.push_async_callback(enforcer.close)
    starting = [
        stack.enter_async_context(running_admin(home, enforcer=enforcer, name=f"admin{index}"))
        for index in range(number)
    ]
    return [await start for start in starting]


async def test_of_concurrent_creates_of_one_name_exactly_one_wins(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        admins = await replicas(stack, tmp_path, 3)
        answers = await asyncio.gather(
            *(admins[number % 3].call("POST", KEYS, {"name": "same"}) for number in range(30))
        )
        won = [answer for status, answer, _ in answers if status == 200]
        lost = [answer for status, answer, _ in answers if status == 409]
        assert (len(won), len(lost)) == (1, 29)
        for answer in lost:
            assert answer["error"]["existing_id"] == won[0]["virtual_key"]["id"]


async def test_different_names_all_get_through(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        admins = await replicas(stack, tmp_path, 2)
        answers = await asyncio.gather(
            *(admins[number % 2].call("POST", KEYS, {"name": f"k{number}"}) for number in range(40))
        )
        assert [status for status, _, _ in answers] == [200] * 40
        assert len({answer["virtual_key"]["value"] for _, answer, _ in answers}) == 40
        for admin in admins:
            await eventually(lambda admin=admin: len(admin.desk.projection.virtual_keys) == 40)  # type: ignore[misc]


async def test_delete_an_empty_team_or_add_a_key_to_it(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        admins = await replicas(stack, tmp_path, 2)
        for number in range(10):
            team = (await admins[0].create("teams", name=f"t{number}"))["team"]["id"]
            await eventually(lambda team=team: team in admins[1].desk.projection.teams)  # type: ignore[misc]
            (deleted, _, _), (added, _, _) = await asyncio.gather(
                admins[0].call("DELETE", f"/api/governance/teams/{team}"),
                admins[1].call("POST", KEYS, {"name": f"k{number}", "team_id": team}),
            )
            assert (deleted, added) in [(200, 400), (409, 200)]


async def test_first_start_of_several_makes_one_provider(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        admins = await replicas(stack, tmp_path, 3)
        _, answer, _ = await admins[2].call("GET", "/api/providers")
        assert [provider["name"] for provider in answer["providers"]] == ["anthropic"]
        _, answer, _ = await admins[1].call("GET", "/api/config")
        assert answer["client_config"]["enforce_auth_on_inference"] is True


async def test_every_change_is_an_event_with_an_actor(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name="t"))["team"]
        await admin.call("PATCH", f"/api/governance/teams/{team['id']}", {"name": "u"})
        await admin.call("PATCH", f"/api/governance/teams/{team['id']}", {"name": "u"})
        await admin.call("DELETE", f"/api/governance/teams/{team['id']}")
        envelopes = [decode_envelope(value) for value in await admin.events()]
        kinds = [envelope.type for envelope in envelopes]
        assert kinds == [
            "bursar.provider.created.v1",
            "bursar.config.created.v1",
            "bursar.team.created.v1",
            "bursar.team.changed.v1",
            "bursar.team.deleted.v1",
        ]
        actors: list[Any] = [decode_governance(envelope).actor for envelope in envelopes]
        assert actors == ["system", "system", "local", "local", "local"]
        assert {envelope.source for envelope in envelopes} == {"bursar/admin"}


async def test_ten_thousand_keys_start_and_list(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name="t"))["team"]["id"]
    await _append_keys(tmp_path, team, 10_000)
    async with running_admin(tmp_path) as admin:
        _, answer, _ = await admin.call("GET", f"{KEYS}?limit=500&offset=9800")
        assert (answer["count"], answer["total_count"]) == (200, 10_000)
        _, answer, _ = await admin.call("GET", f"{KEYS}?name=k5000")
        assert [key["name"] for key in answer["virtual_keys"]] == ["k5000"]
        _, answer, _ = await admin.call("GET", f"{KEYS}?team_id={team}&limit=500")
        assert (answer["count"], answer["total_count"]) == (500, 10_000)
        windows = 2  # the current one and the one before
        assert len(set(admin.enforcer.asked)) == (200 + 1 + 500) * windows
        status, answer, _ = await admin.call("DELETE", f"/api/governance/teams/{team}")
        assert status == 409
        assert answer["error"]["children_count"] == 10_000
        status, _, _ = await admin.call("POST", KEYS, {"name": "k77", "team_id": team})
        assert status == 409


async def _append_keys(home: Path, team: str, number: int) -> None:
    """Keys as another process would have written them."""
    from bursar_common.eventlog import open_log
    from bursar_common.eventlog.port import NewRecord
    from bursar_common.events import GOVERNANCE_TOPIC, GovernanceData, encode_event
    from tests.harness.admin import admin_settings

    event_log = open_log(admin_settings(home))
    await event_log.start()
    try:
        for first in range(0, number, 1000):
            records = []
            for index in range(first, first + 1000):
                key_id = f"key-{index:06}"
                document = {
                    "id": key_id,
                    "name": f"k{index}",
                    "hmac": f"{index:064x}",
                    "created_at_s": 1_790_000_000,
                    "team_id": team,
                    "budgets": [{"id": f"b{index}", "limit_nusd": 1, "window": "1d", "anchored_at_s": 1_790_000_000}],
                }
                data = GovernanceData(
                    entity="virtual_key", entity_id=key_id, actor="local", seen={key_id: 0}, document=document
                )
                value = encode_event(
                    id=key_id,
                    source="bursar/admin",
                    type="bursar.virtual_key.created.v1",
                    time="",
                    subject="",
                    data=data,
                )
                records.append(NewRecord(GOVERNANCE_TOPIC, key_id, value))
            await event_log.append(records)
    finally:
        await event_log.close()
