"""A month of the books as rows of the FinOps Open Cost and Usage Specification (FOCUS). Pure.

One row a UTC day, owner, attribution, model and kind of token. ``BilledCost`` over all rows is the sum of the month's
metered charges: the cost by kind is a division of it (see :mod:`bursar_admin.queries.token_costs`). What was charged
for requests whose tokens nobody knows is an ``Adjustment``: a usage row would need a quantity. Charges that belong to
a month closed before are ``Correction`` rows. What is moved from a shared key is an ``Adjustment``, fees and
commitments are a ``Purchase``.
Source of columns and rules: FOCUS 1.2, specification/columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bursar_admin.queries.books import CHARGES, metered
from bursar_admin.queries.token_costs import UNKNOWN, Rates, by_kind
from bursar_admin.spreadsheet import cell_sql

VERSIONS: Final = ("1.2", "1.3")
"""1.3 adds who provides and who hosts the service, in place of ProviderName and PublisherName, which it deprecates."""
TEXTS: Final = (
    "BillingAccountId", "BillingAccountName", "ChargeDescription", "RegionId", "RegionName", "ResourceId",
    "ResourceName", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "x_AllocationId", "x_CostCenter",
    "x_CustomerId", "x_CustomerName", "x_Project", "x_ServiceTier", "x_UserId",
)  # fmt: skip
"""Columns that begin with what somebody named; objects in JSON begin with a brace."""
FORMATS: Final = {"csv": "CSVWithNames", "parquet": "Parquet"}
PROVIDER_NAME: Final = "Anthropic"
"""Whose invoice it is: providers are of one kind only."""

_DIMENSIONS: Final = {
    "day": "day",
    "customer_id": "customer_id",
    "customer": "customer",
    "team_id": "team_id",
    "team": "team",
    "virtual_key_id": "virtual_key_id",
    "virtual_key": "virtual_key",
    "user_id": "user_id",
    "project": "project",
    "repository": "repository",
    "environment": "environment",
    "cost_center": "cost_center",
    "credential": "provider_credential",
    "tier_of_service": "service_tier",
    "booked": "booked_month",
    "belongs_to": "belongs_to_month",
    "kind": "charge_kind",
}
_METERS: Final = (
    ("input", "Input Tokens"),
    ("cache_read", "Cache Read Tokens"),
    ("cache_write_5m", "Cache Write Tokens (5 minutes)"),
    ("cache_write_1h", "Cache Write Tokens (1 hour)"),
    ("output", "Output Tokens"),
    ("web_search", "Web Searches"),
)


def _text(expression: str) -> str:
    return f"CAST(nullIf({expression}, '') AS Nullable(String))"


def _usd(expression: str) -> str:
    return f"CAST(toDecimal128({expression}, 9) / 1000000000 AS Decimal(38, 9))"


def _price(nusd: str) -> str:
    """Dollars a pricing unit, 15 decimals: times the quantity it is the cost to less than a nano-dollar."""
    scaled = f"toInt128(intDiv(toInt256({nusd}) * unit * 1000000, toInt256(if(quantity = 0, 1, quantity))))"
    monthly = f"CAST(toDecimal128({nusd}, 15) / 1000000000 AS Decimal(38, 15))"
    each = f"CAST(toDecimal128({scaled}, 15) / 1000000000000000 AS Decimal(38, 15))"
    return f"multiIf(kind IN ('fee', 'commitment'), {monthly}, counted, {each}, NULL)"


def columns(version: str, output: str) -> dict[str, str]:
    """Column id to expression, in the order of the file."""

    def moment(of: str) -> str:
        # Parquet has no type for whole seconds.
        return f"toDateTime({of}, 'UTC')" if output == "csv" else f"toDateTime64({of}, 3, 'UTC')"

    kinds = ", ".join(f"'{kind}'" for kind, _ in _METERS)
    names = ", ".join(f"'{name}'" for _, name in _METERS)
    meter = f"transform(token_kind, [{kinds}], [{names}], '')"
    price_id = (
        "concat(model, '/', token_kind, if(speed != '', concat('/', speed), ''),"
        " if(inference_geo != '', concat('/', inference_geo), ''), if(tier > 0, concat('/tier', toString(tier)), ''))"
    )
    tags = (
        "mapFilter((name, value) -> value != '', map('project', toString(project), 'repository', toString(repository),"
        " 'environment', toString(environment), 'cost_center', toString(cost_center)))"
    )
    bought = "kind IN ('fee', 'commitment')"
    sku = "concat('allocation/', allocation_id)"
    details = (
        "mapFilter((name, value) -> value != '', map('x_Model', toString(model), 'x_TokenKind', toString(token_kind),"
        " 'x_Speed', toString(speed), 'x_InferenceGeo', toString(inference_geo), 'x_PromptTier', toString(tier)))"
    )
    found = {
        "BilledCost": _usd("billed_nusd"),
        "BillingAccountId": "if(credential = '', toString(provider), toString(credential))",
        "BillingAccountName": "toString(provider)",
        "BillingAccountType": "'Provider Credential'",
        "BillingCurrency": "'USD'",
        "BillingPeriodEnd": moment("addMonths(booked, 1)"),
        "BillingPeriodStart": moment("booked"),
        "ChargeCategory": f"multiIf({bought}, 'Purchase', counted, 'Usage', 'Adjustment')",
        "ChargeClass": "CAST(if(belongs_to < booked, 'Correction', NULL) AS Nullable(String))",
        "ChargeDescription": f"multiIf({bought}, concat(allocation, ', monthly ', kind), kind = 'split',"
        " concat('Split of a shared key: ', allocation), kind = 'correction',"
        " concat(model, ': correction of a charge'),"
        f" concat(model, ': ', if(counted, {meter}, 'charged estimate, tokens unknown')))",
        "ChargeFrequency": f"if({bought}, 'Recurring', 'Usage-Based')",
        "ChargePeriodEnd": moment("if(allocation_id = '', addDays(day, 1), addMonths(day, 1))"),
        "ChargePeriodStart": moment("day"),
        "ConsumedQuantity": "if(counted, toDecimal128(quantity, 0), NULL)",
        "ConsumedUnit": "if(counted, if(token_kind = 'web_search', 'Searches', 'Tokens'), NULL)",
        "ContractedCost": _usd("billed_nusd"),
        "ContractedUnitPrice": _price("billed_nusd"),
        "EffectiveCost": _usd("billed_nusd"),
        **({"HostProviderName": f"'{PROVIDER_NAME}'"} if version != "1.2" else {}),
        "InvoiceId": "CAST(NULL AS Nullable(String))",
        "InvoiceIssuerName": f"'{PROVIDER_NAME}'",
        "ListCost": _usd("list_nusd"),
        "ListUnitPrice": _price("list_nusd"),
        "PricingCategory": f"if(counted OR {bought}, 'Standard', NULL)",
        "PricingCurrency": "'USD'",
        "PricingQuantity": f"multiIf({bought}, toDecimal128(1, 6),"
        " counted, CAST(toDecimal128(quantity, 6) / unit AS Decimal(38, 6)), NULL)",
        "PricingUnit": f"multiIf({bought}, 'Months',"
        " counted, if(token_kind = 'web_search', '1000 Searches', '1000000 Tokens'), NULL)",
        "ProviderName": f"'{PROVIDER_NAME}'",
        "PublisherName": f"'{PROVIDER_NAME}'",
        "RegionId": _text("toString(inference_geo)"),
        "RegionName": _text("toString(inference_geo)"),
        "ResourceId": "if(virtual_key_id = '', allocation_id, toString(virtual_key_id))",
        "ResourceName": _text("if(virtual_key_id = '', allocation, toString(virtual_key))"),
        "ResourceType": "if(virtual_key_id = '', 'Allocation', 'Virtual Key')",
        "ServiceCategory": "'AI and Machine Learning'",
        "ServiceName": "'Claude API'",
        **({"ServiceProviderName": f"'{PROVIDER_NAME}'"} if version != "1.2" else {}),
        "ServiceSubcategory": "'Generative AI'",
        "SkuId": f"multiIf({bought}, {sku}, counted, concat(model, '/', token_kind), NULL)",
        "SkuMeter": f"multiIf({bought}, if(kind = 'fee', 'Monthly Fee', 'Monthly Commitment'), counted, {meter}, NULL)",
        "SkuPriceDetails": f"multiIf({bought}, toJSONString(map('x_Allocation', allocation)),"
        f" counted, toJSONString({details}), NULL)",
        "SkuPriceId": f"multiIf({bought}, {sku}, counted, {price_id}, NULL)",
        "SubAccountId": _text("toString(team_id)"),
        "SubAccountName": _text("toString(team)"),
        "SubAccountType": "if(team_id = '', NULL, 'Team')",
        "Tags": f"if(length({tags}) = 0, NULL, toJSONString({tags}))",
        "x_AllocationId": _text("allocation_id"),
        "x_BelongsToMonth": "formatDateTime(belongs_to, '%Y-%m')",
        "x_ChargeKind": "toString(kind)",
        "x_CostCenter": _text("toString(cost_center)"),
        "x_CustomerId": _text("toString(customer_id)"),
        "x_CustomerName": _text("toString(customer)"),
        "x_EstimatedRequests": "estimated",
        "x_Project": _text("toString(project)"),
        "x_Requests": "requests",
        "x_ServiceTier": _text("toString(tier_of_service)"),
        "x_UserId": _text("user_id"),
    }
    if output == "csv":
        found |= {name: cell_sql(found[name]) for name in TEXTS if name in found}
    return found


def export(
    month: str,
    from_ms: int | None,
    to_ms: int,
    version: str,
    output: str,
    tiers: Sequence[int],
    rates: Rates,
    *,
    last: bool,
) -> tuple[str, dict[str, Any]]:
    """What is booked in the month, of requests made in ``[from_ms, to_ms)``, in an order that is the same each time;
    ``last``: and what is charged beside requests. Without a FORMAT clause."""
    condition, bound = metered(month, from_ms, to_ms)
    inner, parameters = by_kind(condition, bound, _DIMENSIONS, tiers, rates, source=CHARGES)
    listed = ",\n    ".join(f"{expression} AS {name}" for name, expression in columns(version, output).items())
    order = [*_DIMENSIONS, "provider", "model", "speed", "inference_geo", "tier", "token_kind"]
    beside = f"UNION ALL\n    {_beside()}" if last else ""
    names = ", ".join([*order, *_MEASURES])
    sql = f"""SELECT
    {listed}
FROM
(
    SELECT {names}, '' AS allocation_id, '' AS allocation, (token_kind != '{UNKNOWN}' AND quantity > 0) AS counted,
        toInt256(if(token_kind = 'web_search', 1000, 1000000)) AS unit
    FROM ({inner})
    {beside}
)
ORDER BY kind IN ('split', 'fee', 'commitment'), {", ".join(order)}, allocation_id"""
    return sql, parameters


_MEASURES: Final = ("requests", "estimated", "quantity", "list_nusd", "billed_nusd")


def _beside() -> str:
    """What is charged beside requests, in the shape of requests by kind of token: a row an owner and group."""
    given = {
        "day": "belongs_to_month", "customer_id": "customer_id", "customer": "customer", "team_id": "team_id",
        "team": "team", "virtual_key_id": "virtual_key_id", "project": "project", "cost_center": "cost_center",
        "provider": "provider", "model": "model", "booked": "booked_month", "belongs_to": "belongs_to_month",
        "kind": "charge_kind", "tier": "toUInt64(0)", "requests": "toInt64(0)", "estimated": "toUInt64(0)",
        "quantity": "toUInt64(0)", "list_nusd": "toInt128(sum(list_cost_nusd))",
        "billed_nusd": "toInt128(sum(cost_nusd))",
    }  # fmt: skip
    order = [*_DIMENSIONS, "provider", "model", "speed", "inference_geo", "tier", "token_kind"]
    listed = ", ".join(f"{given.get(name, _NOTHING)} AS {name}" for name in (*order, *_MEASURES))
    return f"""SELECT {listed}, allocation_id, any(allocation_name) AS allocation, false AS counted,
        toInt256(1000000) AS unit
    FROM (SELECT *, allocation AS allocation_name FROM bursar.allocated_charges)
    WHERE booked_month = toDate({{month:String}})
    GROUP BY booked_month, belongs_to_month, customer_id, customer, team_id, team, virtual_key_id, project, cost_center,
        provider, model, charge_kind, allocation_id"""


_NOTHING: Final = "''"
