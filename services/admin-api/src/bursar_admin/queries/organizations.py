"""Usage and cost in time buckets, as the provider's own Usage and Cost Admin API reports them. Pure.

Names of that API over ours: a workspace is a team, an API key a virtual key, an account a user.
Source: platform.claude.com/docs, Admin API, "Get Messages Usage Report" and "Get Cost Report".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bursar_admin.queries.token_costs import PAID, UNKNOWN, Rates, by_kind

WIDTHS_S: Final = {"1m": 60, "1h": 3600, "1d": 86_400}
LARGE_CONTEXT_TOKENS: Final = 200_000
"""Prompts above are ``200k-1M``."""

_PROMPT = (
    "ifNull(input_tokens, 0) + ifNull(cache_read_tokens, 0) + ifNull(cache_write_5m_tokens, 0)"
    " + ifNull(cache_write_1h_tokens, 0)"
)
DIMENSIONS: Final[Mapping[str, str]] = {
    "api_key_id": "virtual_key_id",
    "workspace_id": "team_id",
    "account_id": "user_id",
    "model": "model",
    "service_tier": "service_tier",
    "context_window": f"if({_PROMPT} > {LARGE_CONTEXT_TOKENS}, '200k-1M', '0-200k')",
    "inference_geo": "if(inference_geo = '', 'not_available', inference_geo)",
    "speed": "if(speed = '', 'standard', speed)",
    "service_account_id": "''",
}
"""What can be grouped and filtered by: its expression over ``bursar.usage``; an empty value is null in answers."""

NOT_IMPORTED = "billing != 'imported'"


@dataclass(frozen=True)
class Buckets:
    """``count`` buckets of a width from a moment on."""

    width: str
    start_s: int
    count: int

    @property
    def end_s(self) -> int:
        return self.start_s + self.count * WIDTHS_S[self.width]

    @property
    def starts_s(self) -> range:
        return range(self.start_s, self.end_s, WIDTHS_S[self.width])


def condition_of(buckets: Buckets, filters: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, Any]]:
    """The WHERE of a report, without :data:`PAID`."""
    parts = [
        "started_at >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')",
        "started_at < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')",
        NOT_IMPORTED,
    ]
    bound: dict[str, Any] = {"from_ms": buckets.start_s * 1000, "to_ms": buckets.end_s * 1000}
    for name, values in filters.items():
        if values:
            parts.append(f"has({{f_{name}:Array(String)}}, {DIMENSIONS[name]})")
            bound[f"f_{name}"] = list(values)
    return " AND ".join(parts), bound


def _bucket(buckets: Buckets) -> str:
    return f"toUnixTimestamp(toStartOfInterval(started_at, INTERVAL {WIDTHS_S[buckets.width]} SECOND, 'UTC'))"


def usage_report(
    buckets: Buckets, filters: Mapping[str, Sequence[str]], group_by: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Tokens by kind of every bucket and group that has any."""
    condition, bound = condition_of(buckets, filters)
    names = [f"g_{name}" for name in group_by]
    groups = "".join(f", {DIMENSIONS[name]} AS g_{name}" for name in group_by)
    sql = f"""SELECT {_bucket(buckets)} AS bucket_s{groups},
    toUInt64(ifNull(sum(input_tokens), 0)) AS input,
    toUInt64(ifNull(sum(cache_read_tokens), 0)) AS cache_read,
    toUInt64(ifNull(sum(cache_write_5m_tokens), 0)) AS cache_write_5m,
    toUInt64(ifNull(sum(cache_write_1h_tokens), 0)) AS cache_write_1h,
    toUInt64(ifNull(sum(output_tokens), 0)) AS output,
    toUInt64(ifNull(sum(web_searches), 0)) AS web_searches
FROM bursar.usage
WHERE {condition} AND {PAID}
GROUP BY {", ".join(["bucket_s", *names])}
HAVING input + cache_read + cache_write_5m + cache_write_1h + output + web_searches > 0
ORDER BY {", ".join(["bucket_s", *names])}"""
    return sql, bound


def cost_report(buckets: Buckets, by_workspace: bool) -> tuple[str, dict[str, Any]]:
    """Billed cost of every bucket (and team)."""
    condition, bound = condition_of(buckets, {})
    group = ", team_id AS g_workspace_id" if by_workspace else ""
    names = "bucket_s, g_workspace_id" if by_workspace else "bucket_s"
    sql = f"""SELECT {_bucket(buckets)} AS bucket_s{group}, toString(sum(toInt128(cost_nusd))) AS billed
FROM bursar.usage
WHERE {condition} AND {PAID}
GROUP BY {names}
ORDER BY {names}"""
    return sql, bound


def cost_report_by_kind(
    buckets: Buckets, by_workspace: bool, tiers: Sequence[int], rates: Rates
) -> tuple[str, dict[str, Any]]:
    """Billed cost of every bucket (and team), model, tier, window, region and kind of token."""
    condition, bound = condition_of(buckets, {})
    dimensions = {
        "bucket_s": _bucket(buckets),
        **({"g_workspace_id": "team_id"} if by_workspace else {}),
        "service_tier_": "service_tier",
        "context_window": DIMENSIONS["context_window"],
    }
    inner, parameters = by_kind(condition, bound, dimensions, tiers, rates)
    names = [*dimensions, "model", "inference_geo", "token_kind"]
    sql = f"""SELECT {", ".join(names)}, toString(sum(billed_nusd)) AS billed, sum(quantity) AS quantity
FROM ({inner})
GROUP BY {", ".join(names)}
HAVING token_kind != '{UNKNOWN}' OR sum(billed_nusd) != 0
ORDER BY {", ".join(names)}"""
    return sql, parameters


def claude_code_report(day: str, limit: int, offset: int) -> tuple[str, dict[str, Any]]:
    """Claude Code's requests of a UTC day, a row an actor, way of billing and model."""
    sql = f"""SELECT user_id, virtual_key_id, argMax(virtual_key, started_at) AS virtual_key_name,
    if(billing = 'subscription', 'subscription', 'api') AS customer_type,
    uniqExact(session_id) AS sessions,
    arraySort(groupUniqArray(model)) AS models
FROM bursar.usage
WHERE toDate(started_at) = toDate({{day:String}}) AND session_id != '' AND {NOT_IMPORTED} AND {PAID}
GROUP BY user_id, virtual_key_id, customer_type
ORDER BY user_id, virtual_key_id, customer_type
LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}"""
    return sql, {"day": day, "limit": limit, "offset": offset}


def claude_code_models(day: str, key_ids: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Tokens and list cost of these keys on that day by model."""
    sql = f"""SELECT user_id, virtual_key_id,
    if(billing = 'subscription', 'subscription', 'api') AS customer_type, model,
    toUInt64(ifNull(sum(input_tokens), 0)) AS input,
    toUInt64(ifNull(sum(output_tokens), 0)) AS output,
    toUInt64(ifNull(sum(cache_read_tokens), 0)) AS cache_read,
    toUInt64(ifNull(sum(cache_write_5m_tokens), 0) + ifNull(sum(cache_write_1h_tokens), 0)) AS cache_creation,
    toInt64(sum(list_cost_nusd)) AS list_nusd
FROM bursar.usage
WHERE toDate(started_at) = toDate({{day:String}}) AND session_id != '' AND {NOT_IMPORTED} AND {PAID}
    AND has({{key_ids:Array(String)}}, virtual_key_id)
GROUP BY user_id, virtual_key_id, customer_type, model
ORDER BY user_id, virtual_key_id, customer_type, model"""
    return sql, {"day": day, "key_ids": list(key_ids)}
