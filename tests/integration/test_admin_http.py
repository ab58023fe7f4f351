"""admin-api over HTTP on a real SQLite log: what users of the published guides send, and what they read back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from bursar_common.wire import Balance
from tests.harness.admin import EnforcerStandIn, running_admin
from tests.harness.patience import patient_ledger

ALICE: dict[str, Any] = {
    "name": "alice-claude-code",
    "provider_configs": [
        {"provider": "anthropic", "weight": 1.0, "allowed_models": ["claude-sonnet-4-6", "claude-opus-4-6"]}
    ],
    "budget": {"max_limit": 100.00, "reset_duration": "1M"},
    "rate_limit": {
        "token_max_limit": 500000,
        "token_reset_duration": "1d",
        "request_max_limit": 200,
        "request_reset_duration": "1h",
    },
    "is_active": True,
}
KEYS = "/api/governance/virtual-keys"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_ledger(monkeypatch)


async def test_the_published_bodies_work_as_they_stand(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        team = (
            await admin.create(
                "teams", name="platform-engineering", budget={"max_limit": 500.00, "reset_duration": "1M"}
            )
        )["team"]
        assert team["budgets"][0]["max_limit"] == 500.0
        assert team["budgets"][0]["limit_nusd"] == 500_000_000_000

        created = await admin.create("virtual-keys", **ALICE, team_id=team["id"])
        key = created["virtual_key"]
        assert key["value"].startswith("sk-bf-")
        assert key["provider_configs"][0]["allowed_models"] == ["claude-sonnet-4-6", "claude-opus-4-6"]
        assert key["rate_limit"]["token_max_limit"] == 500000
        assert created["message"]

        inside = copy.deepcopy(ALICE)
        config = inside["provider_configs"][0]
        config["budget"], config["rate_limit"] = inside.pop("budget"), inside.pop("rate_limit")
        config["calendar_aligned"] = True
        inside["name"] = "bob"
        key = (await admin.create("virtual-keys", **inside))["virtual_key"]
        config = key["provider_configs"][0]
        assert config["budgets"][0]["calendar_aligned"] is True
        assert config["rate_limit"]["calendar_aligned"] is True
        assert config["budgets"][0]["window_start"].endswith("-01T00:00:00.000Z")

        status, answer, _ = await admin.call(
            "PUT", "/api/config", {"client_config": {"enforce_auth_on_inference": True}}
        )
        assert status == 200, answer
        status, answer, _ = await admin.call("GET", f"{KEYS}?limit=1")
        assert status == 200
        assert (answer["count"], answer["total_count"], answer["limit"], answer["offset"]) == (1, 2, 1, 0)
        assert "value" not in answer["virtual_keys"][0]


async def test_figures_come_from_the_ledger_and_are_null_without_it(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        key = (await admin.create("virtual-keys", **ALICE))["virtual_key"]
        money = next(counter for counter in admin.enforcer.asked if counter.startswith("n:"))
        admin.enforcer.balances[money] = Balance(money, 1_500_000_001, 250_000_000, 250_000_000)
        _, answer, _ = await admin.call("GET", f"{KEYS}/{key['id']}")
        (budget,) = answer["virtual_key"]["budgets"]
        assert (budget["spent_nusd"], budget["held_nusd"]) == (1_500_000_001, 250_000_000)
        assert (budget["current_usage"], budget["held"]) == (1.500000001, 0.25)
        assert answer["balances"] == "live"

        admin.enforcer.reachable = False
        status, answer, _ = await admin.call("GET", f"{KEYS}/{key['id']}")
        (budget,) = answer["virtual_key"]["budgets"]
        assert status == 200
        assert answer["balances"] == "unavailable"
        assert budget["current_usage"] is None
        assert budget["spent_nusd"] is None
        assert budget["held"] is None
        assert answer["virtual_key"]["rate_limit"]["token_current_usage"] is None
        assert budget["max_limit"] == 100.0


async def test_a_restart_rebuilds_from_the_log(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        key = (await admin.create("virtual-keys", **ALICE))["virtual_key"]
        value = key.pop("value")
    async with running_admin(tmp_path) as admin:
        status, answer, _ = await admin.call("GET", f"{KEYS}/{key['id']}")
        assert status == 200
        assert answer["virtual_key"] == key
        status, answer, _ = await admin.call("POST", KEYS, {"name": "again", "value": value})
        assert status == 409
        assert answer["error"]["existing_id"] == key["id"]


async def test_a_change_the_ledger_does_not_take_over_is_202(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("bursar_admin.journal.APPLIED_TIMEOUT_S", 0.05)
    enforcer = EnforcerStandIn()
    await enforcer.start(f"unix:{tmp_path}/enforcer.sock")
    try:
        async with running_admin(tmp_path, enforcer=enforcer) as admin:
            enforcer.position = 0
            status, answer, _ = await admin.call("POST", KEYS, ALICE)
            assert status == 202
            assert answer["event_id"]
            assert answer["virtual_key"]["value"].startswith("sk-bf-")
            enforcer.reachable = False
            status, answer, _ = await admin.call("PATCH", f"{KEYS}/{answer['virtual_key']['id']}", {"is_active": False})
            assert status == 202
            assert answer["virtual_key"]["is_active"] is False
    finally:
        await enforcer.close()
