"""FOCUS files of a month with every kind of row: CSV and Parquet, 1.2 and 1.3, alike, by the rules, to the ledger."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import DAY_MS, Finance, running_finance
from tests.harness.patience import patient_admin
from tests.harness.usage_events import STARTED_AT_MS, request_id, usage

FORMULAS = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\tx", "\rx")
MOMENTS = {"BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"}
COSTS = {"BilledCost", "EffectiveCost", "ListCost", "ContractedCost"}
DECIMALS = COSTS | {
    "ConsumedQuantity", "PricingQuantity", "ContractedUnitPrice", "ListUnitPrice",
}  # fmt: skip
COUNTS = {"x_Requests", "x_EstimatedRequests"}
NEVER_NULL = COSTS | MOMENTS | COUNTS | {
    "BillingAccountId", "BillingAccountType", "BillingCurrency", "ChargeCategory", "ChargeDescription",
    "ChargeFrequency", "InvoiceIssuerName", "PricingCurrency", "ProviderName", "PublisherName", "ServiceCategory",
    "ServiceName", "ServiceSubcategory", "x_BelongsToMonth", "x_ChargeKind",
}  # fmt: skip
PRICED = ("PricingCategory", "PricingQuantity", "PricingUnit", "ListUnitPrice", "ContractedUnitPrice", "SkuId",
          "SkuMeter", "SkuPriceId", "SkuPriceDetails")  # fmt: skip
"""Not null where ChargeCategory is Usage or Purchase, unless it corrects."""
CONSUMED = ("ConsumedQuantity", "ConsumedUnit")
"""Not null where ChargeCategory is Usage, else null."""
TOGETHER = (
    ("PricingQuantity", "PricingUnit"), ("ConsumedQuantity", "ConsumedUnit"), ("RegionId", "RegionName"),
    ("SkuPriceId", "SkuPriceDetails"), ("SubAccountId", "SubAccountType"), ("ResourceId", "ResourceType"),
)  # fmt: skip
ALLOWED = {
    "BillingCurrency": {"USD"}, "PricingCurrency": {"USD"}, "ChargeCategory": {"Usage", "Purchase", "Adjustment"},
    "ChargeClass": {None, "Correction"}, "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {None, "Standard"}, "ServiceCategory": {"AI and Machine Learning"},
    "ServiceSubcategory": {"Generative AI"},
}  # fmt: skip
CATEGORY = {
    "usage": {"Usage"}, "expired_hold": {"Adjustment"}, "split": {"Adjustment"}, "correction": {"Adjustment"},
    "fee": {"Purchase"}, "commitment": {"Purchase"},
}  # fmt: skip


@pytest.fixture
async def finance(tmp_path: Path) -> AsyncIterator[Finance]:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path, front) as finance:
            yield finance


async def fill(finance: Finance) -> None:
    """Every kind of row, in November and, late or corrected, in December."""
    team = (await finance.admin.create("teams", name="=Team"))["team"]["id"]
    key = (await finance.admin.create("virtual-keys", name="shared"))["virtual_key"]["id"]
    part = {"team_id": team, "percent": "100"}
    beside: tuple[dict[str, Any], ...] = (
        {"name": "split", "kind": "split", "virtual_key_id": key, "parts": [part]},
        {"name": "=fee", "kind": "fee", "amount": 30.01, "parts": [{"team_id": team, "seats": 3}]},
        {"name": "commitment", "kind": "commitment", "amount": 500, "to_month": "2026-11", "parts": [part]},
    )
    for body in beside:
        status, answer, _ = await finance.admin.call(
            "POST", "/api/finance/allocations", {"from_month": "2026-11", **body}
        )
        assert status == 200, answer
    failed: dict[str, Any] = {
        "input_tokens": None, "output_tokens": None, "cost_nusd": 0, "list_cost_nusd": 0, "status": 529,
    }  # fmt: skip
    guess: dict[str, Any] = {"input_tokens": None, "output_tokens": None, "estimated": True, "outcome": "expired"}
    await finance.append(
        *(usage(n, project=text, cost_center=text, user_id=text) for n, text in enumerate(FORMULAS)),
        usage(10, virtual_key_id=key, virtual_key="shared", cache_read_tokens=7, web_searches=2, cost_nusd=99),
        usage(11, model="claude-opus-4-8", speed="fast", inference_geo="us", service_tier="priority"),
        usage(12, model="claude-haiku-4-5", inference_geo="not_available"),
        usage(13, team_id="", team="", provider_credential="-1.5"),
        usage(14, **guess),
        usage(15, outcome="upstream_error", model="claude-haiku-4-5", **failed),
        usage(16),
        usage(17, **guess),
    )
    status, closed = await finance.close("2026-11")
    assert status == 200, closed
    finance.clock.at_ms = STARTED_AT_MS + 45 * DAY_MS
    await finance.append(usage(17, cost_nusd=3), usage(18, cost_nusd=5), usage(19, started_at_ms=finance.clock.at_ms))
    status, answer, _ = await finance.admin.call(
        "POST", "/api/finance/corrections", {"request_id": request_id(16), "cost_nusd": -7, "reason": "credit"}
    )
    assert status == 200, answer
    await finance.written("bursar.corrections.v1", "bursar-usage-aggregator-books")


async def files(finance: Finance, month: str, version: str) -> tuple[list[dict[str, str]], pa.Table]:
    path = f"/api/exports/focus?month={month}&version={version}"
    text: Any = await finance.get(path)
    async with finance.admin.session.get(f"http://admin{path}&format=parquet", headers={"Host": "localhost"}) as answer:
        assert answer.status == 200
        body = await answer.read()
    return list(csv.DictReader(io.StringIO(text, newline=""))), pq.read_table(io.BytesIO(body))


@pytest.mark.timeout(600)  # eight exports, each some dozen statements over the books, on a busy machine
async def test_every_kind_of_row_in_both_files(finance: Finance, monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)
    await fill(finance)
    kinds = set()
    for month, version in (("2026-12", "1.2"), ("2026-11", "1.2"), ("2026-11", "1.3")):
        manifest: Any = await finance.get(f"/api/exports/focus/manifest?month={month}")
        lines, table = await files(finance, month, version)
        check_types(table.schema)
        rows = table.to_pylist()
        assert [as_csv(row) for row in rows] == lines
        for row in rows:
            check(row)
            assert ("ServiceProviderName" in row) == (version == "1.3")
            assert row["BillingPeriodStart"].strftime("%Y-%m") == month
        assert sum(row["BilledCost"] for row in rows) == Decimal(manifest["billed_usd"])
        assert sum(row["ListCost"] for row in rows) == Decimal(manifest["list_usd"])
        kinds |= {(row["x_ChargeKind"], row["ChargeCategory"], row["ChargeClass"]) for row in rows}
        assert "not_available" not in str(rows)
        if month == "2026-11":
            assert {row["x_Project"] for row in rows} >= set(FORMULAS)
            assert {line["x_Project"] for line in lines} >= {f"'{text}" for text in FORMULAS}
            assert {line["BillingAccountId"] for line in lines} >= {"-1.5"}
            assert "'=fee, monthly fee" in {line["ChargeDescription"] for line in lines}
            assert sum(row["x_Requests"] for row in rows) == manifest["requests"] - 1  # one failed and cost nothing
    assert kinds == {
        ("usage", "Usage", None), ("expired_hold", "Adjustment", None), ("split", "Adjustment", None),
        ("fee", "Purchase", None), ("commitment", "Purchase", None), ("usage", "Usage", "Correction"),
        ("correction", "Adjustment", "Correction"),
    }  # fmt: skip


def check_types(schema: pa.Schema) -> None:
    for field in schema:
        if field.name in MOMENTS:
            assert pa.types.is_timestamp(field.type), field
        elif field.name in DECIMALS:
            assert pa.types.is_decimal(field.type), field
        elif field.name in COUNTS:
            assert pa.types.is_integer(field.type), field
        else:
            assert pa.types.is_string(field.type), field


def check(row: Mapping[str, Any]) -> None:
    """Rules of the columns: who may be null, allowed values, what is a product of what."""
    assert not [name for name in NEVER_NULL if row[name] in (None, "")], row
    for name, allowed in ALLOWED.items():
        assert row[name] in allowed, (name, row)
    assert not [pair for pair in TOGETHER if (row[pair[0]] is None) != (row[pair[1]] is None)], row
    assert "" not in [value for name, value in row.items() if name not in ("BillingAccountName",)], row
    kind, category, corrects = row["x_ChargeKind"], row["ChargeCategory"], row["ChargeClass"] == "Correction"
    assert category in CATEGORY[kind], row
    assert (category == "Usage") == (row["ConsumedQuantity"] is not None), row
    priced = category in ("Usage", "Purchase")
    assert [name for name in PRICED if (row[name] is not None) != priced] == [], row
    assert not (category == "Purchase" and row["ChargeFrequency"] == "Usage-Based"), row
    period = row["BillingPeriodStart"], row["BillingPeriodEnd"]
    assert period[0].day == period[1].day == 1
    assert row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= period[1]
    assert corrects == (row["ChargePeriodEnd"] <= period[0]) == (row["x_BelongsToMonth"] < f"{period[0]:%Y-%m}")
    if priced:
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            assert row[price] >= 0 or corrects
            assert abs(row[price] * row["PricingQuantity"] - row[cost]) < Decimal("1e-9"), row
        assert all(name.startswith("x_") for name in json.loads(row["SkuPriceDetails"]))
    if row["Tags"] is not None:
        assert all(isinstance(value, str) and value for value in json.loads(row["Tags"]).values())


def as_csv(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of Parquet as the CSV has it: no nulls, no formulas."""
    return {name: _as_csv(name, value) for name, value in row.items()}


def _as_csv(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        assert (value.utcoffset(), value.microsecond) == (timedelta(), 0)
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    text = str(value)
    return f"'{text}" if re.match(r"[-=+@\t\r\n]", text) and not re.fullmatch(r"-\d+(\.\d+)?", text) else text
