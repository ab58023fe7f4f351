"""The FOCUS export against the column rules of the specification (1.2), and against the ledger's sum."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from bursar_admin.queries import books
from bursar_common.clock import SystemClock
from bursar_common.events import Usage
from bursar_common.wire import Amounts
from tests.harness.admin import Admin, running_admin
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.patience import patient_admin
from tests.harness.usage_events import STARTED_AT_MS, usage

DAY_MS = 86_400_000
MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName",
    "PublisherName", "ServiceCategory", "ServiceName",
}  # fmt: skip
NEVER_NULL = (MANDATORY - {"BillingAccountName", "ChargeClass", "PricingQuantity", "PricingUnit"}) | {
    "BillingAccountType", "ChargeFrequency", "ServiceSubcategory", "PricingCurrency",
}  # fmt: skip
DECIMALS = {
    "BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "ConsumedQuantity", "PricingQuantity",
    "ContractedUnitPrice", "ListUnitPrice",
}  # fmt: skip
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"AI and Machine Learning"},
    "ServiceSubcategory": {"Generative AI"},
    "BillingCurrency": {"USD"},
}
FOR_USAGE = (
    "PricingQuantity", "PricingUnit", "ConsumedQuantity", "ConsumedUnit", "SkuId", "SkuPriceId", "ListUnitPrice",
    "ContractedUnitPrice", "PricingCategory", "SkuMeter",
)  # fmt: skip
"""MUST NOT be null when ChargeCategory is Usage."""
NUMBER = re.compile(r"-?\d+(\.\d+)?")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT00:00:00Z")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


class ClockOfTheMonthAfter(SystemClock):
    def now_ms(self) -> int:
        return STARTED_AT_MS + 40 * DAY_MS


def events() -> list[Usage]:
    base = {"project": 'p "quoted", ünïcode', "cost_center": "c", "customer_id": "cu", "customer": "acme, inc."}
    month_ago = STARTED_AT_MS - 30 * DAY_MS
    return [
        usage(1, **base, cache_read_tokens=1_234, cache_write_5m_tokens=77, cache_write_1h_tokens=5, web_searches=2),
        usage(2, **base, model="claude-opus-4-8", list_cost_nusd=1_700_000_001, speed="fast", inference_geo="us"),
        usage(3, **base, started_at_ms=STARTED_AT_MS - DAY_MS, model="claude-haiku-4-5", input_tokens=150_000,
              inference_geo="not_available"),
        usage(4, **base, outcome="expired", estimated=True, input_tokens=None, output_tokens=None),
        usage(5, team_id="", team="", project="", cost_center="", provider_credential="env:ANTHROPIC_API_KEY"),
        usage(6, **base, model="a-model-nobody-prices"),
        usage(7, **base, cost_nusd=1, list_cost_nusd=3),
        usage(8, **base, provider="simulator"),
        usage(9, **base, outcome="refused", cost_nusd=0, list_cost_nusd=0, amounts=Amounts()),
        usage(10, **base, billing="subscription", cost_nusd=0),
        usage(11, **base, billing="imported", cost_nusd=0),
        usage(12, **base, started_at_ms=month_ago),
        *(
            usage(number, **base, outcome=outcome, model="claude-haiku-4-5", cost_nusd=0, list_cost_nusd=0,
                  amounts=Amounts(r=1), input_tokens=None, output_tokens=None, status=529)
            for number, outcome in ((13, "upstream_error"), (14, "not_sent"))
        ),
        # Models with one price; with two, at 100,000; with two, at 200,000: each below and above.
        *(
            usage(20 + number, **base, model=model, cost_nusd=0, list_cost_nusd=0, input_tokens=tokens)
            for number, (model, tokens) in enumerate(
                (model, tokens)
                for model in ("claude-opus-4-8", "claude-haiku-5-5", "claude-sonnet-4-5")
                for tokens in (9, 150_000, 250_000)
            )
        ),
    ]  # fmt: skip


LEDGER_NUSD = sum(event.cost_nusd for event in events()[:7])


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path_factory.mktemp("focus")) as front:
        asyncio.run(front.prepare(events()))
        yield front


async def rows_of(admin: Admin, query: str) -> list[dict[str, str]]:
    status, text, headers = await admin.call("GET", f"/api/exports/focus?{query}")
    assert status == 200, text
    assert headers["Content-Type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(text)))


async def test_every_row_keeps_the_rules_and_the_sum_is_the_ledgers(front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        rows = await rows_of(admin, "month=2026-11")
        assert set(rows[0]) >= MANDATORY
        assert all(re.fullmatch(r"(x_)?[A-Z][A-Za-z]+", name) for name in rows[0])
        for row in rows:
            check(row)
        assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal(LEDGER_NUSD).scaleb(-9)
        listed = sum(event.list_cost_nusd for event in events()[:7])
        assert sum(Decimal(row["ListCost"]) for row in rows) == Decimal(listed).scaleb(-9)
        assert sum(int(row["x_Requests"]) for row in rows) == 7 + 9
        status, said, _ = await admin.call("GET", "/api/exports/focus/manifest?month=2026-11")
        assert (status, said["billed_nusd"], said["requests"], said["complete"]) == (200, LEDGER_NUSD, 9 + 9, True)
        assert said["log_positions"] == [{"topic": "bursar.usage.v1", "partition": 0, "next_offset": 14 + 9}]
        assert (said["state"], len(said["checksum"]), said["ledger_nusd"]) == ("open", 64, LEDGER_NUSD)
        (known,) = await front.query("SELECT checksum FROM bursar.month_checksums WHERE booked_month = '2026-11-01'")
        (priced,) = await front.query(books.price_books("2026-11")[0].replace("{month:String}", "'2026-11-01'"))
        assert (said["checksum"], said["price_books"]) == (known["checksum"], priced["price_books"])


def check(row: dict[str, str]) -> None:
    empty = [name for name in NEVER_NULL if row[name] == ""]
    assert not empty, f"{empty} must not be null: {row}"
    for name in DECIMALS:
        assert row[name] == "" or NUMBER.fullmatch(row[name]), (name, row[name])
    for name, allowed in ALLOWED.items():
        assert row[name] in allowed, (name, row[name])
    for name in ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"):
        assert MOMENT.fullmatch(row[name]), (name, row[name])
    assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
    if row["ChargeCategory"] == "Usage":
        missing = [name for name in FOR_USAGE if row[name] == ""]
        assert not missing, f"{missing} must not be null for Usage: {row}"
        quantity = Decimal(row["PricingQuantity"])
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            assert Decimal(row[price]) >= 0
            assert abs(quantity * Decimal(row[price]) - Decimal(row[cost])) < Decimal("1e-9"), row
        unit = int(row["PricingUnit"].split()[0])
        assert Decimal(row["ConsumedQuantity"]) == quantity * unit
        details = json.loads(row["SkuPriceDetails"])
        assert all(name.startswith("x_") and isinstance(value, str) for name, value in details.items())
        assert row["SkuPriceId"].startswith(row["SkuId"])
    else:
        assert [row[name] for name in FOR_USAGE] == [""] * len(FOR_USAGE)
    assert (row["SubAccountId"] == "") == (row["SubAccountType"] == "")
    if row["Tags"]:
        assert all(isinstance(value, str) and value for value in json.loads(row["Tags"]).values())


async def test_what_stands_in_the_rows(front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        rows = await rows_of(admin, "month=2026-11&version=1.3")
        assert (
            {row["ServiceProviderName"] for row in rows} == {row["HostProviderName"] for row in rows} == {"Anthropic"}
        )
        opus = [row for row in rows if row["SkuId"].startswith("claude-opus-4-8/")]
        assert {row["SkuPriceId"] for row in opus} == {
            "claude-opus-4-8/input/fast/us", "claude-opus-4-8/output/fast/us",
            "claude-opus-4-8/input", "claude-opus-4-8/output",
        }  # fmt: skip
        assert {row["RegionId"] for row in opus if "/us" in row["SkuPriceId"]} == {"us"}
        haiku = next(row for row in rows if row["SkuId"] == "claude-haiku-4-5/input")
        assert (haiku["PricingQuantity"], haiku["PricingUnit"]) == ("0.15", "1000000 Tokens")
        assert haiku["ChargePeriodStart"] == "2026-11-20T00:00:00Z"
        assert (haiku["SkuPriceId"], haiku["RegionId"]) == ("claude-haiku-4-5/input", "")
        assert (haiku["RegionName"], "not_available" in haiku["SkuPriceDetails"]) == ("", False)
        # A tier is the price's own; a model with one price has none, however long the prompt.
        tiers = {
            (row["SkuPriceId"], row["ConsumedQuantity"])
            for row in rows
            if row["SkuMeter"] == "Input Tokens" and row["SkuId"].startswith(("claude-haiku-5", "claude-sonnet-4-5"))
        }
        assert tiers == {
            ("claude-haiku-5-5/input", "9"), ("claude-haiku-5-5/input/tier1", "400000"),
            ("claude-sonnet-4-5/input", "150009"), ("claude-sonnet-4-5/input/tier1", "250000"),
        }  # fmt: skip
        assert [row["ConsumedQuantity"] for row in opus if row["SkuPriceId"] == "claude-opus-4-8/input"] == ["400009"]
        guesses = [row for row in rows if row["ChargeCategory"] == "Adjustment"]
        assert sorted(row["BilledCost"] for row in guesses) == ["1.000000005", "1.000000007"]
        tags = json.loads(next(row["Tags"] for row in rows if row["SubAccountName"]))
        assert tags == {"cost_center": "c", "project": 'p "quoted", ünïcode'}
        lone = [row for row in rows if row["SubAccountId"] == ""]
        assert {row["BillingAccountId"] for row in lone} == {"env:ANTHROPIC_API_KEY"}
        assert {row["x_CustomerName"] for row in rows} == {"acme, inc.", ""}
        before = await rows_of(admin, "month=2026-10")
        assert sum(Decimal(row["BilledCost"]) for row in before) == Decimal(events()[11].cost_nusd).scaleb(-9)
        assert await rows_of(admin, "month=2026-09") == []
        assert "ServiceProviderName" not in (await rows_of(admin, "month=2026-11"))[0]


async def test_a_large_month_is_put_together_day_by_day_to_the_same_rows(
    front: ClickHouseFront, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        at_once = await rows_of(admin, "month=2026-11")
        monkeypatch.setattr("bursar_admin.routes.exports.AT_ONCE", 0)
        monkeypatch.setattr("bursar_admin.routes.exports.DAY_MS", 10 * DAY_MS)
        assert await rows_of(admin, "month=2026-11") == at_once


async def test_parquet_has_the_same_rows(front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        async with admin.session.get(
            "http://admin/api/exports/focus?month=2026-11&format=parquet", headers={"Host": "localhost"}
        ) as answer:
            assert answer.status == 200
            body = await answer.read()
        assert body[:4] == body[-4:] == b"PAR1"
        names = list((await rows_of(admin, "month=2026-11"))[0])
        assert all(name.encode() in body for name in names)
        assert await parquet_sum(body) == Decimal(LEDGER_NUSD).scaleb(-9)


async def parquet_sum(body: bytes) -> Decimal:
    """Read back by ClickHouse itself, in a process of its own (one engine a process)."""
    code = (
        "import sys, chdb; sys.stdout.write(str(chdb.query("
        "\"SELECT sum(BilledCost) FROM file('\" + sys.argv[1] + \"', Parquet)\", 'CSV')))"
    )
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(body)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, file.name, stdout=asyncio.subprocess.PIPE
        )
        stdout, _ = await process.communicate()
    return Decimal(stdout.decode().strip())


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "month"), ("month=2026-13", "month"), ("month=2026-00", "month"), ("month=november", "month"),
        ("month=2027-03", "month"), ("month=2026-11-01", "month"), ("month=2026-11&format=xlsx", "format"),
        ("month=2026-11&version=0.5", "version"), ("month=2026-11&month=2026-10", "month"),
        ("month=2026-11&team=x", "team"),
    ],
)  # fmt: skip
async def test_months_that_do_not_exist(tmp_path: Path, query: str, field: str) -> None:
    async with running_admin(tmp_path, clock=ClockOfTheMonthAfter()) as admin:
        status, answer, _ = await admin.call("GET", f"/api/exports/focus?{query}")
        assert (status, answer["error"]["field"]) == (400, field)


async def test_without_clickhouse_it_is_an_answer_not_half_a_file(tmp_path: Path) -> None:
    async with running_admin(tmp_path, clock=ClockOfTheMonthAfter()) as admin:
        status, answer, _ = await admin.call("GET", "/api/exports/focus?month=2026-11")
        assert (status, answer["error"]["type"]) == (503, "unavailable_error")
