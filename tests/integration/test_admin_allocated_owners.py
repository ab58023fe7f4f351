"""Who is named by what is charged each month is not deleted: by name, whoever is faster, until that has ended."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.admin import Admin, EnforcerStandIn, running_admin
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import running_finance
from tests.harness.usage_events import usage
from tests.harness.waiting import eventually

PATH = "/api/finance/allocations"


async def allocate(admin: Admin, **body: Any) -> str:
    status, answer, _ = await admin.call("POST", PATH, {"from_month": "2026-12", **body})
    assert status == 200, answer
    return str(answer["allocation"]["id"])


async def owners(admin: Admin) -> dict[str, str]:
    """A customer, a team of it, another team and a key: paths by name."""
    customer = (await admin.create("customers", name="Northwind"))["customer"]["id"]
    team = (await admin.create("teams", name="Research"))["team"]["id"]
    key = (await admin.create("virtual-keys", name="ci"))["virtual_key"]["id"]
    return {"customers": customer, "teams": team, "virtual-keys": key}


BODIES: dict[str, dict[str, Any]] = {
    "teams": {"name": "Seats", "kind": "fee", "amount": 25, "parts": [{"team_id": "ID", "seats": 3}]},
    "customers": {"name": "Sum", "kind": "commitment", "amount": 9, "parts": [{"customer_id": "ID", "percent": 100}]},
    "virtual-keys": {"name": "CI", "kind": "split", "virtual_key_id": "ID", "parts": [{"percent": 50}]},
}


def body_for(kind: str, ids: dict[str, str]) -> dict[str, Any]:
    body = {**BODIES[kind], "parts": [dict(part) for part in BODIES[kind]["parts"]]}
    if kind == "virtual-keys":
        return body | {"virtual_key_id": ids[kind], "parts": [{"team_id": ids["teams"], "percent": 50}]}
    (part,) = body["parts"]
    return body | {"parts": [{name: ids[kind] if value == "ID" else value for name, value in part.items()}]}


@pytest.mark.parametrize("kind", list(BODIES))
async def test_an_owner_that_an_allocation_names_is_not_deleted(tmp_path: Path, kind: str) -> None:
    async with running_admin(tmp_path) as admin:
        ids = await owners(admin)
        allocation = await allocate(admin, **body_for(kind, ids))
        path = f"/api/governance/{kind}/{ids[kind]}"
        status, answer, _ = await admin.call("DELETE", path)
        assert status == 409
        name = BODIES[kind]["name"]
        assert answer["error"]["children"] == [{"kind": "allocation", "id": allocation, "name": name}]
        assert answer["error"]["children_count"] == 1
        assert f"allocation '{name}'" in answer["error"]["message"]
        assert (await admin.call("GET", path))[0] == 200
        # Nobody else's deletion is in the way of, and without the allocation it goes through.
        other = (await admin.create("teams", name="Other"))["team"]["id"]
        assert (await admin.call("DELETE", f"/api/governance/teams/{other}"))[0] == 200
        assert (await admin.call("DELETE", f"{PATH}/{allocation}"))[0] == 200
        assert (await admin.call("DELETE", path))[0] == 200


async def test_a_part_less_frees_its_team(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        first, second = [(await admin.create("teams", name=name))["team"]["id"] for name in ("one", "two")]
        parts = [{"team_id": first, "seats": 1}, {"team_id": second, "seats": 2}]
        allocation = await allocate(admin, name="Seats", kind="fee", amount=5, parts=parts)
        assert (await admin.call("DELETE", f"/api/governance/teams/{first}"))[0] == 409
        status, _, _ = await admin.call("PATCH", f"{PATH}/{allocation}", {"parts": parts[1:]})
        assert status == 200
        assert (await admin.call("DELETE", f"/api/governance/teams/{first}"))[0] == 200
        assert (await admin.call("DELETE", f"/api/governance/teams/{second}"))[0] == 409


async def test_delete_a_team_or_allocate_to_it(tmp_path: Path) -> None:
    """Two processes at the same moment: one of the two happens, and whichever does is what both say."""
    async with AsyncExitStack() as stack:
        enforcer = EnforcerStandIn()
        await enforcer.start(f"unix:{tmp_path}/enforcer.sock")
        stack.push_async_callback(enforcer.close)
        one, two = [
            await stack.enter_async_context(running_admin(tmp_path, enforcer=enforcer, name=f"admin{number}"))
            for number in range(2)
        ]
        seen = set()
        for number in range(10):
            team = (await one.create("teams", name=f"t{number}"))["team"]["id"]
            await eventually(lambda team=team: team in two.desk.projection.teams)
            body = {"name": f"a{number}", "kind": "fee", "amount": 1, "from_month": "2026-12",
                    "parts": [{"team_id": team, "seats": 1}]}  # fmt: skip
            (deleted, _, _), (made, _, _) = await asyncio.gather(
                one.call("DELETE", f"/api/governance/teams/{team}"), two.call("POST", PATH, body)
            )
            assert (deleted, made) in [(200, 400), (409, 200)]
            seen.add(deleted)
            alive = (await one.call("GET", f"/api/governance/teams/{team}"))[0] == 200
            assert alive == (made == 200)
        assert seen <= {200, 409}


async def test_what_ended_in_a_closed_month_is_history(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path / "home", front) as finance:
            admin = finance.admin
            team = (await admin.create("teams", name="Research"))["team"]["id"]
            key = (await admin.create("virtual-keys", name="ci"))["virtual_key"]["id"]
            allocation = await allocate(
                admin, name="CI", kind="split", virtual_key_id=key, from_month="2026-11", to_month="2026-11",
                parts=[{"team_id": team, "percent": 50}],
            )  # fmt: skip
            await finance.append(usage(1, virtual_key_id=key, team_id=team, team="Research"))
            path = f"/api/governance/teams/{team}"
            assert (await admin.call("DELETE", path))[0] == 409, "November is open"
            status, closed = await finance.close("2026-11")
            assert status == 200, closed
            assert (await admin.call("DELETE", path))[0] == 200
            # It cannot go on with nobody to bear it.
            status, answer, _ = await admin.call("PATCH", f"{PATH}/{allocation}", {"to_month": None})
            assert (status, "'Research' was deleted" in answer["error"]["message"]) == (409, True)
            status, answer, _ = await admin.call("PATCH", f"{PATH}/{allocation}", {"description": "until we moved"})
            assert status == 200, answer
            assert answer["allocation"]["parts"][0]["team"] == "Research"
