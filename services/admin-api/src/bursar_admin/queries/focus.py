"""A month of metered usage as rows of the FinOps Open Cost and Usage Specification (FOCUS). Pure.

One row a UTC day, owner, attribution, model and kind of token. ``BilledCost`` over all rows is the ledger's sum of the
month: the cost by kind is a division of it (see :mod:`bursar_admin.queries.token_costs`). What was charged for requests
whose tokens nobody knows is an ``Adjustment``: a usage row would need a quantity.
Source of columns and rules: FOCUS 1.2, specification/columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bursar_admin.queries.token_costs import PAID, UNKNOWN, Rates, by_kind

VERSIONS: Final = ("1.2", "1.3")
"""1.3 adds who provides and who hosts the service, in place of ProviderName and PublisherName, which it deprecates."""
FORMATS: Final = {"csv": "CSVWithNames", "parquet": "Parquet"}
PROVIDER_NAME: Final = "Anthropic"
"""Whose invoice it is: providers are of one kind only."""

METERED: Final = "billing = 'metered'"
_DIMENSIONS: Final = {
    "day": "toDate(started_at)",
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
}
_METERS: Final = (
    ("input", "Input Tokens"),
    ("cache_read", "Cache Read Tokens"),
    ("cache_write_5m", "Cache Write Tokens (5 minutes)"),
    ("cache_write_1h", "Cache Write Tokens (1 hour)"),
    ("output", "Output Tokens"),
    ("web_search", "Web Searches"),
)


def month_condition(from_ms: int, to_ms: int) -> tuple[str, dict[str, Any]]:
    """Metered requests of a stretch of time."""
    return (
        "started_at >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"
        f" AND started_at < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC') AND {METERED}",
        {"from_ms": from_ms, "to_ms": to_ms},
    )


def _text(expression: str) -> str:
    return f"CAST(nullIf({expression}, '') AS Nullable(String))"


def _usd(expression: str) -> str:
    return f"CAST(toDecimal128({expression}, 9) / 1000000000 AS Decimal(38, 9))"


def _price(nusd: str) -> str:
    """Dollars a pricing unit, 15 decimals: times the quantity it is the cost to less than a nano-dollar."""
    scaled = f"toInt128(intDiv(toInt256({nusd}) * unit * 1000000, toInt256(quantity)))"
    return f"if(counted, CAST(toDecimal128({scaled}, 15) / 1000000000000000 AS Decimal(38, 15)), NULL)"


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
        "BillingPeriodEnd": moment("addMonths(toStartOfMonth(day), 1)"),
        "BillingPeriodStart": moment("toStartOfMonth(day)"),
        "ChargeCategory": "if(counted, 'Usage', 'Adjustment')",
        "ChargeClass": "CAST(NULL AS Nullable(String))",
        "ChargeDescription": f"concat(model, ': ', if(counted, {meter}, 'charged estimate, tokens unknown'))",
        "ChargeFrequency": "'Usage-Based'",
        "ChargePeriodEnd": moment("addDays(day, 1)"),
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
        "PricingCategory": "if(counted, 'Standard', NULL)",
        "PricingCurrency": "'USD'",
        "PricingQuantity": "if(counted, CAST(toDecimal128(quantity, 6) / unit AS Decimal(38, 6)), NULL)",
        "PricingUnit": "if(counted, if(token_kind = 'web_search', '1000 Searches', '1000000 Tokens'), NULL)",
        "ProviderName": f"'{PROVIDER_NAME}'",
        "PublisherName": f"'{PROVIDER_NAME}'",
        "RegionId": _text("toString(inference_geo)"),
        "RegionName": _text("toString(inference_geo)"),
        "ResourceId": "toString(virtual_key_id)",
        "ResourceName": _text("toString(virtual_key)"),
        "ResourceType": "'Virtual Key'",
        "ServiceCategory": "'AI and Machine Learning'",
        "ServiceName": "'Claude API'",
        **({"ServiceProviderName": f"'{PROVIDER_NAME}'"} if version != "1.2" else {}),
        "ServiceSubcategory": "'Generative AI'",
        "SkuId": "if(counted, concat(model, '/', token_kind), NULL)",
        "SkuMeter": f"if(counted, {meter}, NULL)",
        "SkuPriceDetails": f"if(counted, toJSONString({details}), NULL)",
        "SkuPriceId": f"if(counted, {price_id}, NULL)",
        "SubAccountId": _text("toString(team_id)"),
        "SubAccountName": _text("toString(team)"),
        "SubAccountType": "if(team_id = '', NULL, 'Team')",
        "Tags": f"if(length({tags}) = 0, NULL, toJSONString({tags}))",
        "x_CostCenter": _text("toString(cost_center)"),
        "x_CustomerId": _text("toString(customer_id)"),
        "x_CustomerName": _text("toString(customer)"),
        "x_EstimatedRequests": "estimated",
        "x_Project": _text("toString(project)"),
        "x_Requests": "requests",
        "x_ServiceTier": _text("toString(tier_of_service)"),
        "x_UserId": _text("user_id"),
    }
    return found


def export(
    from_ms: int, to_ms: int, version: str, output: str, tiers: Sequence[int], rates: Rates
) -> tuple[str, dict[str, Any]]:
    """The rows of ``[from_ms, to_ms)``, in an order that is the same each time. Without a FORMAT clause."""
    condition, bound = month_condition(from_ms, to_ms)
    inner, parameters = by_kind(condition, bound, _DIMENSIONS, tiers, rates)
    listed = ",\n    ".join(f"{expression} AS {name}" for name, expression in columns(version, output).items())
    order = ", ".join([*_DIMENSIONS, "provider", "model", "speed", "inference_geo", "tier", "token_kind"])
    sql = f"""SELECT
    {listed}
FROM
(
    SELECT *, (token_kind != '{UNKNOWN}' AND quantity > 0) AS counted,
        toInt256(if(token_kind = 'web_search', 1000, 1000000)) AS unit
    FROM ({inner})
)
ORDER BY {order}"""
    return sql, parameters


def manifest(from_ms: int, to_ms: int) -> tuple[str, dict[str, Any]]:
    """What an export of that time is made from: the ledger's sums, price books, positions in the log."""
    condition, bound = month_condition(from_ms, to_ms)
    sql = f"""SELECT toString(sum(toInt128(cost_nusd))) AS billed_nusd,
    toString(sum(toInt128(list_cost_nusd))) AS list_nusd,
    count() AS requests, arraySort(groupUniqArray(price_book_id)) AS price_books
FROM bursar.usage
WHERE {condition} AND {PAID}"""
    return sql, bound


def positions(from_ms: int, to_ms: int) -> tuple[str, dict[str, Any]]:
    """Highest offset of each partition of the log that the time's rows were read from."""
    condition, bound = month_condition(from_ms, to_ms)
    sql = f"""SELECT log_topic, log_partition, max(log_offset) AS last_offset
FROM bursar.usage_events
WHERE {condition}
GROUP BY log_topic, log_partition
ORDER BY log_topic, log_partition"""
    return sql, bound
