"""The real Claude Code CLI through Bursar, on one machine and on the cluster shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import eventually
from tests.harness.claude import RequestTap, run_claude
from tests.harness.gateway import Gateway

pytestmark = [pytest.mark.claude, pytest.mark.timeout(400)]

MODEL = "claude-opus-4-8"


async def test_a_prompt_is_answered_and_the_bill_is_the_clients_own(gateway: Gateway, tmp_path: Path) -> None:
    await gateway.reset_simulator(
        input_tokens=12, cache_write_5m_tokens=5000, cache_read_tokens=15000, text="Hello!", output_tokens=7
    )
    key = await gateway.create_key("cli", budget={"max_limit": 100, "reset_duration": "1M"})
    run = await run_claude(f"{gateway.url}/anthropic", key.value, tmp_path / "home", "--model", MODEL)
    assert run.exit_code == 0, run.stderr
    assert run.text == "Hello!"

    served = await gateway.provider.served()
    rows = await gateway.usage_rows(key.id, at_least=len(served))
    assert len(rows) == len(served) >= 1
    assert {row["outcome"] for row in rows} == {"completed"}
    list_nusd = sum(row["list_cost_nusd"] for row in rows)
    assert round(run.result["total_cost_usd"] * 1e9) == list_nusd
    # The worked example of the price list: 12 in, 5,000 written, 15,000 read, 7 out is $0.038985 a request.
    assert list_nusd == 38_985_000 * len(rows)

    async def spent() -> bool:
        return (await gateway.key(key.id))["budgets"][0]["spent_nusd"] == list_nusd

    await eventually(spent)
    for row in rows:
        assert row["session_id"] == run.result["session_id"]
        assert row["virtual_key"] == "cli"
        assert row["model"] == MODEL
        assert row["client_version"]


async def test_a_spent_budget_says_so_after_one_request(gateway: Gateway, tmp_path: Path) -> None:
    await gateway.reset_simulator()
    key = await gateway.create_key("spent", budget={"max_limit": 0.5, "reset_duration": "1M"})
    answer = await gateway.message(key.value, model=MODEL, max_tokens=64000, sim={"output-tokens": 30000})
    assert answer.status == 200

    async def spent() -> bool:
        return (await gateway.key(key.id))["budgets"][0]["spent_nusd"] >= 500_000_000

    await eventually(spent)
    async with RequestTap(gateway.url) as tap:
        run = await run_claude(f"{tap.url}/anthropic", key.value, tmp_path / "home", "--model", MODEL)
        assert tap.paid_requests() == 1, tap.seen
    assert run.result["is_error"] is True
    assert run.text.startswith("API Error: 402 ")
    assert "virtual key" in run.text
    assert "$0.75 of $0.50" in run.text
    assert "resets" in run.text


async def test_a_forbidden_model_is_named_with_what_is_allowed(gateway: Gateway, tmp_path: Path) -> None:
    key = await gateway.create_key(
        "modest", provider_configs=[{"provider": "anthropic", "allowed_models": ["claude-sonnet-4-6"]}]
    )
    async with RequestTap(gateway.url) as tap:
        run = await run_claude(f"{tap.url}/anthropic", key.value, tmp_path / "home", "--model", MODEL)
        assert tap.paid_requests() == 1, tap.seen
    assert run.result["is_error"] is True
    assert "403" in run.text
    assert MODEL in run.text
    assert "claude-sonnet-4-6" in run.text
    assert "/model" in run.text


async def test_an_unknown_key_says_that_login_will_not_help(gateway: Gateway, tmp_path: Path) -> None:
    async with RequestTap(gateway.url) as tap:
        run = await run_claude(f"{tap.url}/anthropic", "sk-bf-" + "0" * 64, tmp_path / "home", "--model", MODEL)
        assert tap.paid_requests() == 1, tap.seen
    assert run.result["is_error"] is True
    assert "401" in run.text
    assert "/login" in run.text
