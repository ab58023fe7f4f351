"""Rows to the JSON of answers: money as whole nano-dollars and as exact decimal text, times as RFC 3339. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bursar_admin.quota import usd
from bursar_common.clock import rfc3339
from bursar_common.events import Usage

COUNTS: Final = (
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "web_searches",
)  # fmt: skip
_TOTAL: Final = COUNTS[:5]
_PLAIN: Final = (
    "customer", "customer_id", "team", "team_id", "virtual_key", "virtual_key_id", "session_id", "agent_id",
    "parent_agent_id", "project", "repository", "branch", "environment", "cost_center", "tags", "provider", "model",
    "requested_model", "stream", "effort", "speed", "outcome", "status", "error_type", "refused_by", "would_refuse",
    "estimated", "billing", "price_book_id", "tools_offered", "tool_uses",
)  # fmt: skip


def log_entry(row: Mapping[str, Any], user: str) -> dict[str, Any]:
    """One request of a page; ``user``: the person's name of today."""
    return {
        "id": row["request_id"],
        "started_at": rfc3339(row["started_at_ms"]),
        "started_at_ms": row["started_at_ms"],
        "user": user,
        "user_id": row["user_id"],
        **{name: row[name] for name in _PLAIN},
        "simulated": row["provider"] == "simulator",
        "tokens": total_tokens(row),
        **{name: row[name] for name in COUNTS},
        "cost_nusd": row["cost_nusd"],
        "cost_usd": usd(row["cost_nusd"]),
        "list_cost_nusd": row["list_cost_nusd"],
        "list_cost_usd": usd(row["list_cost_nusd"]),
        "corrections": row.get("corrections", 0),
        **money("corrected", row.get("corrected_nusd", 0)),
        "latency_ms": row["latency_ms"],
        "time_to_first_token_ms": row["time_to_first_token_ms"],
    }


def event_row(usage: Usage) -> dict[str, Any]:
    """An event as a row of the table has it."""
    names = ("request_id", "started_at_ms", "user_id", *_PLAIN, *COUNTS)
    return {
        **{name: getattr(usage, name) for name in names},
        **{name: getattr(usage, name) for name in ("cost_nusd", "list_cost_nusd", "latency_ms")},
        "time_to_first_token_ms": usage.time_to_first_token_ms,
    }


def total_tokens(row: Mapping[str, Any]) -> int | None:
    """Tokens of all kinds; None where one is unknown."""
    counts = [row[name] for name in _TOTAL]
    return None if any(count is None for count in counts) else sum(counts)


def money(prefix: str, nusd: int | None) -> dict[str, Any]:
    return {f"{prefix}_nusd": nusd, f"{prefix}_usd": usd(nusd)}


def sums_json(sums: Mapping[str, int]) -> dict[str, Any]:
    """Sums of many requests."""
    read, prompt = sums["cache_read_tokens"], sum(sums[name] for name in COUNTS[:4])
    return {
        "requests": sums["requests"],
        "refused": sums["refused"],
        "errors": sums["errors"],
        "estimated": sums["estimated"],
        "without_counts": sums["without_counts"],
        "tokens": sum(sums[name] for name in _TOTAL),
        **{name: sums[name] for name in COUNTS},
        **money("cost", sums["cost_nusd"]),
        **money("list_cost", sums["list_cost_nusd"]),
        "cache_hit_rate": read / prompt if prompt else None,
    }
