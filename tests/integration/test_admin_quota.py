"""A virtual key asks what it may still spend: its own chain, nobody else's, and never with a wrong key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar_common.clock import SystemClock
from bursar_common.wire import Balance
from tests.harness.admin import Admin, running_admin
from tests.harness.patience import patient_ledger

PATH = "/api/governance/virtual-keys/quota"
MONTH = {"reset_duration": "1M", "calendar_aligned": True}


class ClockThatStands(SystemClock):
    """No month ends between a question and the next."""

    def now_ms(self) -> int:
        return 1_795_252_211_123


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_ledger(monkeypatch)


async def governed(admin: Admin) -> dict[str, Any]:
    """A key with limits at every level, and a stranger beside it."""
    customer = (await admin.create("customers", name="acme", budget={"max_limit": 1000, **MONTH}))["customer"]
    team = (
        await admin.create("teams", name="platform", customer_id=customer["id"], budget={"max_limit": 100, **MONTH})
    )["team"]
    await admin.create("teams", name="others", customer_id=customer["id"], budget={"max_limit": 7, **MONTH})
    created = await admin.create(
        "virtual-keys",
        name="alice",
        team_id=team["id"],
        budget={"max_limit": 10, **MONTH},
        rate_limit={"request_max_limit": 50, "request_reset_duration": "1h"},
        provider_configs=[{"provider": "anthropic", "budget": {"max_limit": 5, **MONTH}}],
    )
    await admin.create("virtual-keys", name="bob", team_id=team["id"], budget={"max_limit": 3, **MONTH})
    return dict(created["virtual_key"])


async def ask(admin: Admin, query: str = "", **headers: str) -> tuple[int, Any]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    status, answer, _ = await admin.call("GET", PATH + query, headers=sent)
    return status, answer


async def test_the_whole_chain_and_nothing_beside_it(tmp_path: Path) -> None:
    async with running_admin(tmp_path, clock=ClockThatStands()) as admin:
        key = await governed(admin)
        counter = next(name for name in admin.enforcer.asked if name.startswith(f"n:{key['budgets'][0]['id']}:"))
        admin.enforcer.balances[counter] = Balance(counter, 2_500_000_001, 500_000_000, 600_000_000)
        status, answer = await ask(admin, Authorization=f"Bearer {key['value']}")
        assert status == 200
        assert answer["virtual_key"] == {
            "id": key["id"], "name": "alice", "team": "platform", "customer": "acme", "expires_at": None,
        }  # fmt: skip
        owners = [(b["owner"]["kind"], b["owner"]["name"], b["limit_usd"]) for b in answer["budgets"]]
        assert owners == [
            ("virtual_key", "alice", "10.000000000"),
            ("provider_config", "anthropic", "5.000000000"),
            ("team", "platform", "100.000000000"),
            ("customer", "acme", "1000.000000000"),
        ]
        own = answer["budgets"][0]
        assert (own["spent_nusd"], own["held_nusd"], own["left_nusd"]) == (2_500_000_001, 500_000_000, 6_999_999_999)
        assert own["left_usd"] == "6.999999999"
        assert own["resets_at"].endswith("-01T00:00:00.000Z")
        assert [(r["unit"], r["limit"], r["left"]) for r in answer["rate_limits"]] == [("requests", 50, 50)]
        assert answer["usage"] is None  # there is no ClickHouse here: unknown, not zero
        assert "bob" not in str(answer)
        assert "others" not in str(answer)

        status, same = await ask(admin, x_api_key=key["value"])
        assert status == 200
        assert same["budgets"] == answer["budgets"]


async def test_wrong_keys_are_answered_alike(tmp_path: Path) -> None:
    async with running_admin(tmp_path, admin_token="an-admin-token-of-the-tests") as admin:
        said = [
            await ask(admin),
            await ask(admin, Authorization="Bearer sk-bf-" + "0" * 64),
            await ask(admin, Authorization="Basic abc"),
            await ask(admin, x_api_key="an-admin-token-of-the-tests"),
            await ask(admin, Authorization="Bearer \x80\xff"),
        ]
        assert {status for status, _ in said} == {401}
        for _, answer in said:
            del answer["error"]["request_id"]
        assert all(answer == said[0][1] for _, answer in said)
        assert said[0][1]["error"]["type"] == "authentication_error"


async def test_a_key_does_not_open_the_rest_of_the_api(tmp_path: Path) -> None:
    token = {"Authorization": "Bearer an-admin-token-of-the-tests"}
    async with running_admin(tmp_path, admin_token="an-admin-token-of-the-tests") as admin:
        status, answer, _ = await admin.call("POST", "/api/governance/virtual-keys", {"name": "alice"}, headers=token)
        assert status == 200
        key = answer["virtual_key"]
        bearer = {"Authorization": f"Bearer {key['value']}"}
        assert (await admin.call("GET", PATH, headers=bearer))[0] == 200
        assert (await admin.call("GET", f"/api/governance/virtual-keys/{key['id']}", headers=bearer))[0] == 401
        assert (await admin.call("POST", PATH, {}, headers=bearer))[0] in (401, 405)

        changed = {"is_active": False}
        await admin.call("PATCH", f"/api/governance/virtual-keys/{key['id']}", changed, headers=token)
        status, answer, _ = await admin.call("GET", PATH, headers=bearer)
        assert (status, answer["error"]["message"]) == (403, "This virtual key is not active.")


async def test_two_different_keys_are_no_key(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        one = (await admin.create("virtual-keys", name="one"))["virtual_key"]["value"]
        two = (await admin.create("virtual-keys", name="two"))["virtual_key"]["value"]
        status, answer = (await ask(admin, Authorization=f"Bearer {one}", x_api_key=two))[:2]
        assert (status, answer["error"]["message"][:14]) == (401, "Two different ")
        # What is not known is passed over, also where it looks like a key of ours, in whichever header it comes.
        unknown = "sk-bf-" + "0" * 64
        for headers in (
            {"Authorization": f"Bearer {one}", "x_api_key": unknown},
            {"Authorization": f"Bearer {unknown}", "x_api_key": one},
            {"x_bf_vk": unknown, "x_api_key": one},
        ):
            status, answer = (await ask(admin, **headers))[:2]
            assert (status, answer["virtual_key"]["name"]) == (200, "one")
        assert (await ask(admin, Authorization=f"Bearer {one}", x_api_key=one))[0] == 200
        assert (await ask(admin, Authorization="Bearer sk-ant-oat-own-login", x_bf_vk=two))[0] == 200


async def test_figures_are_null_without_the_ledger(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        key = await governed(admin)
        admin.enforcer.reachable = False
        status, answer = await ask(admin, x_api_key=key["value"])
        assert (status, answer["balances"]) == (200, "unavailable")
        assert {budget["left_nusd"] for budget in answer["budgets"]} == {None}
        assert answer["rate_limits"][0]["left"] is None


@pytest.mark.parametrize("query", ["?since=yesterday", "?since=1", "?since=99999999999", "?run=%00", "?team=x"])
async def test_wrong_questions_name_the_field(tmp_path: Path, query: str) -> None:
    async with running_admin(tmp_path) as admin:
        key = (await admin.create("virtual-keys", name="one"))["virtual_key"]["value"]
        status, answer = await ask(admin, query, x_api_key=key)
        assert status == 400
        assert answer["error"]["field"] == query[1:].partition("=")[0]
