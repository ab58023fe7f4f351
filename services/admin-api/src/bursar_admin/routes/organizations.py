"""``/v1/organizations/...``: usage and cost in the shape of the provider's Usage and Cost Admin API, so that tools made
for it read Bursar. A workspace is a team, an API key a virtual key, an account a user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.queries.organizations import (
    DIMENSIONS,
    Buckets,
    claude_code_models,
    claude_code_report,
    condition_of,
    cost_report,
    cost_report_by_kind,
    usage_report,
)
from bursar_admin.queries.token_costs import UNKNOWN
from bursar_admin.report_query import page_token, read_page, read_report
from bursar_admin.requests import check_query, json_answer
from bursar_admin.routes import Parameter, Route
from bursar_admin.token_prices import TokenPrices

USAGE_PATH = "/v1/organizations/usage_report/messages"
COST_PATH = "/v1/organizations/cost_report"
CLAUDE_CODE_PATH = "/v1/organizations/usage_report/claude_code"

USAGE_FILTERS = {
    "api_key_ids": "api_key_id",
    "workspace_ids": "workspace_id",
    "account_ids": "account_id",
    "service_account_ids": "service_account_id",
    "models": "model",
    "service_tiers": "service_tier",
    "context_window": "context_window",
    "inference_geos": "inference_geo",
    "speeds": "speed",
}
COST_GROUPS = ("workspace_id", "description")
DEFAULT_RECORDS, MOST_RECORDS = 20, 1000

_LIST = {"type": "array", "items": {"type": "string"}}
_TIME = (
    Parameter("starting_at", "Start of the first bucket, RFC 3339; snapped to the bucket's start in UTC."),
    Parameter("ending_at", "End, RFC 3339; by default now."),
    Parameter("limit", "Buckets of one page: 7 to 31 days, 24 to 168 hours, 60 to 1440 minutes.", {"type": "integer"}),
    Parameter("page", "next_page of the answer before."),
    Parameter("bucket_width", "1d, 1h or 1m (cost: 1d).", {"type": "string", "default": "1d"}),
)
USAGE_QUERY = (
    *_TIME,
    Parameter("group_by[]", f"Any of {', '.join(DIMENSIONS)}.", _LIST),
    *(Parameter(f"{name}[]", f"Only these values of {of}.", _LIST) for name, of in USAGE_FILTERS.items()),
)
COST_QUERY = (*_TIME, Parameter("group_by[]", "workspace_id, description or both.", _LIST))
CLAUDE_CODE_QUERY = (
    Parameter("starting_at", "The UTC day, YYYY-MM-DD."),
    Parameter("limit", "Records of one page, 20 by default, at most 1000.", {"type": "integer"}),
    Parameter("page", "next_page of the answer before."),
)

TOKEN_TYPES = {
    "input": ("uncached_input_tokens", "Input Tokens"),
    "cache_read": ("cache_read_input_tokens", "Input Tokens, Cache Hit"),
    "cache_write_5m": ("cache_creation.ephemeral_5m_input_tokens", "Input Tokens, Cache Write (5m)"),
    "cache_write_1h": ("cache_creation.ephemeral_1h_input_tokens", "Input Tokens, Cache Write (1h)"),
    "output": ("output_tokens", "Output Tokens"),
}


class Organizations:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.prices = TokenPrices(desk)

    def routes(self) -> list[Route]:
        return [
            Route("GET", USAGE_PATH, self.usage, "organization_usage_report",
                  "Tokens in time buckets, as the provider's Usage Admin API.", dict[str, Any], query=USAGE_QUERY),
            Route("GET", COST_PATH, self.cost, "organization_cost_report",
                  "Billed cost by day in cents, as the provider's Cost Admin API.", dict[str, Any], query=COST_QUERY),
            Route("GET", CLAUDE_CODE_PATH, self.claude_code, "organization_claude_code_report",
                  "Claude Code's use by person on one day; what Bursar cannot know is null.",
                  dict[str, Any], query=CLAUDE_CODE_QUERY),
        ]  # fmt: skip

    async def usage(self, request: web.Request) -> web.Response:
        asked = read_report(
            request.query, now_s=self.desk.now_s(), widths=("1m", "1h", "1d"), groups=tuple(DIMENSIONS),
            filters=USAGE_FILTERS,
        )  # fmt: skip
        rows = await self.desk.analytics.rows(*usage_report(asked.buckets, asked.filters, asked.group_by))
        results = [(row["bucket_s"], _usage_result(row, asked.group_by)) for row in rows]
        return json_answer(_pages(asked.buckets, results, asked.next_page))

    async def cost(self, request: web.Request) -> web.Response:
        asked = read_report(request.query, now_s=self.desk.now_s(), widths=("1d",), groups=COST_GROUPS, filters={})
        by_workspace = "workspace_id" in asked.group_by
        if "description" in asked.group_by:
            condition, bound = condition_of(asked.buckets, {})
            tiers, rates, _ = await self.prices.rates(condition, bound)
            rows = await self.desk.analytics.rows(*cost_report_by_kind(asked.buckets, by_workspace, tiers, rates))
            results = [(row["bucket_s"], self._cost_by_kind(row)) for row in rows]
        else:
            rows = await self.desk.analytics.rows(*cost_report(asked.buckets, by_workspace))
            results = [(row["bucket_s"], _cost_result(row)) for row in rows]
        return json_answer(_pages(asked.buckets, results, asked.next_page))

    def _cost_by_kind(self, row: Mapping[str, Any]) -> dict[str, Any]:
        kind, name = row["token_kind"], self.prices.display_name(row["model"])
        geo = f" ({row['inference_geo']})" if row["inference_geo"] else ""
        token_type, words = TOKEN_TYPES.get(kind, (None, "Estimated, Counts Unknown"))
        searches = kind == "web_search"
        return {
            **_cost_result(row),
            "description": "Web Search Usage" if searches else f"{name} Usage{geo} - {words}",
            "cost_type": "web_search" if searches else "tokens",
            "model": None if searches else row["model"] or None,
            "service_tier": None if searches else row["service_tier_"] or None,
            "context_window": None if searches or kind == UNKNOWN else row["context_window"],
            "inference_geo": None if searches else row["inference_geo"] or "not_available",
            "token_type": token_type,
        }

    async def claude_code(self, request: web.Request) -> web.Response:
        query = check_query(request, CLAUDE_CODE_QUERY)
        day = query.get("starting_at", "")
        try:
            datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise bad_field("starting_at", "is not a day", day, "a UTC day, such as 2026-11-01") from None
        limit = query.get("limit", str(DEFAULT_RECORDS))
        if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MOST_RECORDS):
            raise bad_field("limit", "must be a number of records", limit, f"1 to {MOST_RECORDS}")
        offset = read_page(query["page"], day) if "page" in query else 0
        actors = await self.desk.analytics.rows(*claude_code_report(day, int(limit) + 1, offset))
        more = len(actors) > int(limit)
        actors = actors[: int(limit)]
        models: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        if actors:
            keys = sorted({actor["virtual_key_id"] for actor in actors})
            for row in await self.desk.analytics.rows(*claude_code_models(day, keys)):
                of = (row["user_id"], row["virtual_key_id"], row["customer_type"])
                models.setdefault(of, []).append(_model_breakdown(row))
        return json_answer(
            {
                "data": [
                    self._record(day, a, models.get((a["user_id"], a["virtual_key_id"], a["customer_type"]), []))
                    for a in actors
                ],
                "has_more": more,
                "next_page": page_token(offset + int(limit), day) if more else None,
            }
        )

    def _record(self, day: str, actor: Mapping[str, Any], models: list[dict[str, Any]]) -> dict[str, Any]:
        user = self.desk.projection.users.get(actor["user_id"])
        who = (
            {"type": "user_actor", "email_address": user.email}
            if user is not None and user.email
            else {"type": "api_actor", "api_key_name": actor["virtual_key_name"]}
        )
        return {
            "actor": who,
            "date": f"{day}T00:00:00Z",
            "organization_id": "bursar",
            "customer_type": actor["customer_type"],
            "subscription_type": None,
            "terminal_type": None,
            "core_metrics": {
                "num_sessions": actor["sessions"],
                "lines_of_code": {"added": None, "removed": None},
                "commits_by_claude_code": None,
                "pull_requests_by_claude_code": None,
            },
            "tool_actions": {},
            "model_breakdown": models,
        }


def _usage_result(row: Mapping[str, Any], group_by: Sequence[str]) -> dict[str, Any]:
    return {
        "uncached_input_tokens": row["input"],
        "cache_creation": {
            "ephemeral_1h_input_tokens": row["cache_write_1h"],
            "ephemeral_5m_input_tokens": row["cache_write_5m"],
        },
        "cache_read_input_tokens": row["cache_read"],
        "output_tokens": row["output"],
        "server_tool_use": {"web_search_requests": row["web_searches"]},
        **{name: (row[f"g_{name}"] or None) if name in group_by else None for name in DIMENSIONS},
    }


def _cost_result(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "currency": "USD",
        "amount": cents(int(row["billed"])),
        "workspace_id": row.get("g_workspace_id") or None,
        "description": None,
        "cost_type": None,
        "context_window": None,
        "model": None,
        "service_tier": None,
        "token_type": None,
        "inference_geo": None,
    }


def _model_breakdown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": row["model"],
        "tokens": {name: row[name] for name in ("input", "output", "cache_read", "cache_creation")},
        "estimated_cost": {"currency": "USD", "amount": row["list_nusd"] / 10_000_000},
    }


def cents(nusd: int) -> str:
    """The API's amounts: cents as exact decimal text."""
    text = f"{Decimal(nusd).scaleb(-7):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _pages(buckets: Buckets, results: list[tuple[int, dict[str, Any]]], next_page: str | None) -> dict[str, Any]:
    """Every bucket of the page, empty ones too."""
    by_bucket: dict[int, list[dict[str, Any]]] = {}
    for start_s, result in results:
        by_bucket.setdefault(int(start_s), []).append(result)
    width_s = (buckets.end_s - buckets.start_s) // buckets.count if buckets.count else 0
    return {
        "data": [
            {
                "starting_at": _moment(start_s),
                "ending_at": _moment(start_s + width_s),
                "results": by_bucket.get(start_s, []),
            }
            for start_s in buckets.starts_s
        ],
        "has_more": next_page is not None,
        "next_page": next_page,
    }


def _moment(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def routes(desk: Desk) -> list[Route]:
    return Organizations(desk).routes()
