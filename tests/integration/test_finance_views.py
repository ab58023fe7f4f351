"""The finance views: what they leave out, what they hold apart, and that their sums are the ledger's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar_aggregator.decode import UsageEvent
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_aggregator.rows import COLUMN_TYPES, COLUMNS, row_of
from bursar_common.analytics import Analytics
from bursar_common.events import Usage
from bursar_common.wire import Amounts
from tests.harness.processes import ServiceProcess, free_port
from tests.harness.usage_events import request_id, usage

TOKEN = "token-of-the-tests"
DAY_MS = 86_400_000
VIEWS = (
    "chargeback_monthly_by_model",
    "chargeback_monthly_by_token_kind",
    "unattributed_monthly",
    "expired_holds_monthly",
    "corrections_monthly",
    "provider_bill_daily",
)


def events() -> list[Usage]:
    """A month of all there is, and a request of the month after."""
    plain = {"project": "p", "cost_center": "c", "customer_id": "cu", "customer": "acme"}
    return [
        usage(1, **plain, cache_read_tokens=7, web_searches=2),
        usage(2, **plain, model="claude-opus-4-8", list_cost_nusd=1_500_000_000),
        usage(3, **plain, estimated=True, outcome="interrupted"),
        usage(4, **plain, outcome="expired", estimated=True, input_tokens=None, output_tokens=None),
        usage(5, team_id="", team="", customer_id="", project="", cost_center=""),
        usage(6, **plain, provider="simulator"),
        usage(7, **plain, outcome="refused", cost_nusd=0, list_cost_nusd=0, amounts=Amounts()),
        usage(8, **plain, billing="subscription", cost_nusd=0, list_cost_nusd=5_000_000_000),
        usage(9, **plain, started_at_ms=usage(9).started_at_ms + 30 * DAY_MS),
    ]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("finance")
    address = f"127.0.0.1:{free_port()}"
    env = {"BURSAR_HOME": str(folder), "BURSAR_CLICKHOUSE_LISTEN": address, "BURSAR_INTERNAL_TOKEN": TOKEN}
    with ServiceProcess("bursar_aggregator.clickhouse_front", env=env, address=address, folder=folder) as process:
        yield process, address


@pytest.fixture
async def analytics(front: Any) -> AsyncIterator[Analytics]:
    process, address = front
    await process.ready()
    analytics = Analytics(f"http://bursar:{TOKEN}@{address}/bursar")
    if await migrate(analytics, load_migrations()):
        ranks = {"refused": 0, "expired": 1}
        rows = [
            row_of(UsageEvent(f"e:{number}", ranks.get(event.outcome, 2), event), "t", 0, number)
            for number, event in enumerate(events())
        ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        await analytics.insert_columns("usage_events", COLUMNS, COLUMN_TYPES, columns)
        await analytics.command(
            "INSERT INTO bursar.corrections"
            " (correction_id, request_id, corrected_at, reason, cost_nusd, list_cost_nusd)"
            f" VALUES ('x', '{request_id(2)}', '2026-12-02 00:00:00', 'price', -500000003, 0)"
        )
    yield analytics
    await analytics.close()


async def test_every_column_of_every_view_says_what_it_is(analytics: Analytics) -> None:
    rows = await analytics.query(
        "SELECT table, name, comment FROM system.columns"
        " WHERE database = 'bursar' AND has({views:Array(String)}, table)",
        {"views": list(VIEWS)},
    )
    assert {row["table"] for row in rows} == set(VIEWS)
    assert [row for row in rows if len(row["comment"]) < 4] == []


async def test_rows_by_model_add_up_to_the_chargeback_and_to_the_ledger(analytics: Analytics) -> None:
    asked = "SELECT sum(total_cost_usd) AS t, sum(list_cost_usd) AS l, sum(expired_cost_usd) AS e, sum(requests) AS r"
    by_model = await analytics.query(f"{asked} FROM bursar.chargeback_monthly_by_model")
    assert by_model == await analytics.query(f"{asked} FROM bursar.chargeback_monthly")
    ledger = sum(event.cost_nusd for event in events() if event.provider != "simulator") - 500_000_003
    assert by_model[0]["t"] == Decimal(ledger).scaleb(-9)
    assert by_model[0]["r"] == 7
    (opus,) = await analytics.query(
        "SELECT * FROM bursar.chargeback_monthly_by_model WHERE model = 'claude-opus-4-8' AND month = '2026-11-01'"
    )
    assert (opus["billed_cost_usd"], opus["list_cost_usd"]) == (Decimal("0.5"), Decimal("1.5"))
    assert (opus["customer"], opus["team"], opus["project"], opus["cost_center"]) == (
        "acme",
        "platform-engineering",
        "p",
        "c",
    )


async def test_kinds_of_tokens_are_rows(analytics: Analytics) -> None:
    rows = await analytics.query(
        "SELECT token_kind, sum(quantity) AS q FROM bursar.chargeback_monthly_by_token_kind"
        " WHERE month = '2026-11-01' GROUP BY token_kind ORDER BY token_kind"
    )
    # Five requests of the month have counts: 1, 2, 3, 5 and the subscription's 8.
    assert {row["token_kind"]: row["q"] for row in rows} == {
        "cache_read": 7,
        "input": 50,
        "output": 100,
        "web_search": 2,
    }


async def test_what_nobody_can_be_charged_by(analytics: Analytics) -> None:
    rows = await analytics.query(
        "SELECT missing, virtual_key, requests, total_cost_usd FROM bursar.unattributed_monthly"
    )
    assert sorted((row["missing"], row["requests"]) for row in rows) == [
        ("cost_center", 1),
        ("owner", 1),
        ("project", 1),
    ]
    assert {row["total_cost_usd"] for row in rows} == {Decimal("1.000000006")}


async def test_guesses_and_corrections_stand_apart(analytics: Analytics) -> None:
    (expired,) = await analytics.query("SELECT * FROM bursar.expired_holds_monthly")
    assert (expired["requests"], expired["charged_usd"]) == (1, Decimal("1.000000005"))
    (correction,) = await analytics.query("SELECT * FROM bursar.corrections_monthly")
    assert (str(correction["corrected_month"]), str(correction["usage_month"])) == ("2026-12-01", "2026-11-01")
    assert (correction["billed_cost_usd"], correction["reason"]) == (Decimal("-0.500000003"), "price")


async def test_the_providers_bill_is_what_went_there_on_our_account(analytics: Analytics) -> None:
    rows = await analytics.query(
        "SELECT sum(requests) AS r, sum(estimated) AS e, sum(billed_cost_usd) AS b FROM bursar.provider_bill_daily"
    )
    (row,) = rows
    ledger = sum(event.cost_nusd for event in events() if event.provider != "simulator") - 500_000_003
    assert (row["r"], row["e"], row["b"]) == (6, 2, Decimal(ledger).scaleb(-9))
