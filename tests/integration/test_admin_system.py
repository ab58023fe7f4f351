"""System health, the installation, price books and previews over REST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar_admin.analytics import Analytics
from bursar_common.events import USAGE_TOPIC
from tests.harness.admin import EnforcerStandIn, running_admin
from tests.harness.patience import patient_ledger
from tests.harness.usage_events import usage, usage_record


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_ledger(monkeypatch)


async def test_health_says_what_it_can_ask_and_unknown_is_not_zero(tmp_path: Path) -> None:
    enforcer = EnforcerStandIn()
    await enforcer.start(f"unix:{tmp_path}/enforcer.sock")
    try:
        async with running_admin(tmp_path, enforcer=enforcer) as admin:
            await admin.desk.journal.event_log.append([usage_record(usage()), usage_record(usage())])
            enforcer.state = {
                "status": "ok",
                "admission": "open",
                "open_holds": 3,
                "positions": {"governance": 2, "usage:0": 1},
            }
            status, answer, _ = await admin.call("GET", "/api/health/system")
            assert status == 200
            assert answer["open_holds"] == 3
            assert answer["status"] == "ok"
            lags = {(lag["reader"], lag["topic"].split(".")[1]): lag["behind"] for lag in answer["lags"]}
            assert lags == {
                ("admin-api", "governance"): 0,
                ("ledger", "governance"): 0,
                ("ledger", "usage"): 1,
                ("analytics", "usage"): None,
            }
            parts = {part["name"]: part["status"] for part in answer["parts"]}
            assert parts == {
                "admin-api": "ok",
                "enforcer": "ok",
                "event log": "ok",
                "aggregator": "unknown",
                "analytics": "unknown",
            }
            assert answer["dead_letters_waiting"] == 0
            await admin.desk.journal.event_log.commit("bursar-usage-aggregator", USAGE_TOPIC, 0, 2)
            _, answer, _ = await admin.call("GET", "/api/health/system")
            assert answer["lags"][3]["behind"] == 0

            enforcer.state["admission"] = "closed"
            _, answer, _ = await admin.call("GET", "/api/health/system")
            assert (answer["status"], answer["admission"]) == ("degraded", "closed")
            enforcer.state = None
            _, answer, _ = await admin.call("GET", "/api/health/system")
            assert answer["status"] == "degraded"
            assert answer["open_holds"] is None
            assert answer["lags"][2]["behind"] is None
    finally:
        await enforcer.close()


async def test_the_installation_says_who_asks_and_what_is_kept(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        _, answer, _ = await admin.call("GET", "/api/installation")
        assert (answer["event_log"], answer["usage_kept_days"], answer["analytics"]) == ("sqlite", 400, False)
        kept = {each["what"]: (each["kept_days"], each["setting"]) for each in answer["kept"]}
        assert kept["Requests, in the log"] == (400, "BURSAR_USAGE_RETENTION_DAYS")
        assert kept["Requests, for reading"] == (None, "BURSAR_USAGE_ROWS_DAYS")
        assert kept["Prompts and answers, for reading"] == (30, "BURSAR_CONTENT_RETENTION_DAYS")
        assert kept["Governance, corrections"] == (None, "")
        assert "Requests, archived" not in kept
        assert (answer["access"]["actor"], answer["access"]["signed_in_with"]) == ("local", "loopback")
    async with running_admin(tmp_path, admin_token="a-token-of-the-tests", public_hosts="spend.example.com") as admin:
        token = {"Authorization": "Bearer a-token-of-the-tests"}
        assert (await admin.call("GET", "/api/installation"))[0] == 401
        _, answer, _ = await admin.call("GET", "/api/installation", headers=token)
        assert answer["access"] == {
            "actor": "admin-token",
            "signed_in_with": "token",
            "hosts": ["spend.example.com"],
        }
        assert "a-token-of-the-tests" not in str(answer)


async def test_prices_of_now_with_overrides_and_discount(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        _, plain, _ = await admin.call("GET", "/api/providers/anthropic/prices")
        models = {model["id"]: model for model in plain["models"]}
        assert len(models) > 5
        assert not any(model["overridden"] for model in models.values())
        sonnet = models["claude-sonnet-4-5"]
        assert sonnet["list"][0]["input"] == sonnet["billed"][0]["input"] == "3"
        change = {
            "discount_percent": "12.5",
            "price_overrides": [{"model": "claude-sonnet-4-5", "input": "2", "output": "10"}],
        }
        status, answer, _ = await admin.call("PATCH", "/api/providers/anthropic", change)
        assert status == 200, answer
        _, priced, _ = await admin.call("GET", "/api/providers/anthropic/prices")
        (sonnet,) = [model for model in priced["models"] if model["id"] == "claude-sonnet-4-5"]
        assert sonnet["overridden"] is True
        assert (sonnet["list"][0]["input"], sonnet["billed"][0]["input"]) == ("2", "1.75")
        assert priced["price_book_id"] != plain["price_book_id"]
        assert (await admin.call("GET", "/api/providers/nobody/prices"))[0] == 404


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("max_limit=x&reset_duration=1d", "max_limit"),
        ("max_limit=-1&reset_duration=1d", "max_limit"),
        ("max_limit=1&reset_duration=never", "reset_duration"),
        ("max_limit=1&reset_duration=60s", "reset_duration"),
        ("max_limit=1&reset_duration=7d&calendar_aligned=true", "reset_duration"),
        ("max_limit=1&reset_duration=1d&calendar_aligned=yes", "calendar_aligned"),
        ("max_limit=1&reset_duration=1d&limit=2", "limit"),
    ],
)
async def test_a_wrong_preview_is_400(tmp_path: Path, query: str, field: str) -> None:
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name="t"))["team"]["id"]
        status, answer, _ = await admin.call("GET", f"/api/governance/budget-preview?kind=team&id={team}&{query}")
        assert (status, answer["error"]["field"]) == (400, field)


async def test_a_preview_asks_for_the_windows_of_the_last_days(tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[dict[str, Any]] = []

    async def rows(_self: Analytics, _sql: str, parameters: Any = None, _settings: Any = None) -> list[dict[str, Any]]:
        asked.append(dict(parameters))
        return [{"requests": 5, "would_refuse": 2, "spent_nusd": 7, "first_refused_ms": 1_790_000_000_000}]

    monkeypatch.setattr(Analytics, "rows", rows)
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name="t"))["team"]["id"]
        for window, aligned, windows in (
            ("1d", "true", 8),
            ("1h", "false", 169),
            ("1M", "false", 2),
            ("1w", "true", 2),
        ):
            status, answer, _ = await admin.call(
                "GET",
                f"/api/governance/budget-preview?kind=team&id={team}&max_limit=1.5&reset_duration={window}"
                f"&calendar_aligned={aligned}",
            )
            assert status == 200, answer
            assert (answer["would_refuse"], answer["first_refused_at"]) == (2, "2026-09-21T14:13:20.000Z")
            starts = asked[-1]["starts"]
            assert starts == sorted(set(starts))
            assert abs(len(starts) - windows) <= 1
            assert starts[0] * 1000 <= asked[-1]["recent_ms"]
            assert asked[-1]["limit"] == 1_500_000_000
        status, _, _ = await admin.call(
            "GET", "/api/governance/budget-preview?kind=team&id=nobody&max_limit=1&reset_duration=1d"
        )
        assert status == 404
