"""``/api/governance/virtual-keys/quota``: what the key that asks may still spend."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from aiohttp import web

from bursar_admin.answers import QuotaAnswer, QuotaUsageAnswer
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.key_access import asking_key
from bursar_admin.projection import Projection
from bursar_admin.queries.quota import usage_since
from bursar_admin.quota import budgets_of, rate_limits_of, usd
from bursar_admin.quota import documents_of as chain_documents
from bursar_admin.representation import Figures, counters_of
from bursar_admin.requests import check_query, json_answer
from bursar_admin.routes import Parameter, Route
from bursar_admin.writes import zone_of
from bursar_common.clock import rfc3339
from bursar_common.governance import VirtualKey

PATH = "/api/governance/virtual-keys/quota"
MAX_DAYS_BACK = 400
"""How far back ``since`` may reach: as long as the log is kept by default."""

_RUN = re.compile(r"[!-~]{1,200}")
QUERY = (
    Parameter("since", "Usage from this moment on, Unix seconds; by default the start of the owner's day."),
    Parameter("run", "Usage of requests tagged `bursar-run` with this value only."),
)


class Quota:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET", PATH, self.get, "get_quota",
                "What the virtual key that asks (Authorization: Bearer, x-api-key or x-bf-vk) may still spend: its own "
                "limits and those of its provider configs, team and customer.",
                QuotaAnswer, query=QUERY, key_page=True,
            )
        ]  # fmt: skip

    async def get(self, request: web.Request) -> web.Response:
        desk = self.desk
        now_s = desk.now_s()
        key = asking_key(desk, request)
        query = check_query(request, QUERY)
        projection = desk.projection
        since_s = _since(query.get("since"), now_s, zone_of(projection, key))
        run = query.get("run", "")
        if run and not _RUN.fullmatch(run):
            raise bad_field("run", "must be a tag's value", run, "1 to 200 visible ASCII characters")
        documents = chain_documents(projection, key)
        counters = [counter for document in documents for counter in counters_of(projection, document, now_s)]
        balances = await desk.enforcer.balances(counters)
        figures = Figures(balances)
        answer: QuotaAnswer = {
            "virtual_key": _who(projection, key),
            "balances": "live" if balances is not None else "unavailable",
            "as_of": rfc3339(desk.clock.now_ms()),
            "budgets": budgets_of(projection, key, figures, now_s),
            "rate_limits": rate_limits_of(projection, key, figures, now_s),
            "usage": await self._usage(key, since_s, run),
        }
        return json_answer(answer)

    async def _usage(self, key: VirtualKey, since_s: int, run: str) -> QuotaUsageAnswer | None:
        rows = await self.desk.spending.rows(*usage_since(key.id, since_s * 1000, run))
        if rows is None:
            return None

        def total(name: str) -> int:
            return sum(int(row[name]) for row in rows)

        cost, list_cost = total("cost_nusd"), total("list_cost_nusd")
        return {
            "since": rfc3339(since_s * 1000),
            "requests": total("requests"),
            "refused": total("refused"),
            "cost_nusd": cost,
            "cost_usd": usd(cost) or "",
            "list_cost_nusd": list_cost,
            "list_cost_usd": usd(list_cost) or "",
            "input_tokens": total("input_tokens"),
            "cache_read_tokens": total("cache_read_tokens"),
            "cache_write_5m_tokens": total("cache_write_5m_tokens"),
            "cache_write_1h_tokens": total("cache_write_1h_tokens"),
            "output_tokens": total("output_tokens"),
            "by_model": [
                {
                    "model": row["model"],
                    "requests": int(row["requests"]),
                    "list_cost_nusd": int(row["list_cost_nusd"]),
                    "output_tokens": int(row["output_tokens"]),
                }
                for row in rows
            ],
        }


def _who(projection: Projection, key: VirtualKey) -> Any:
    team = projection.teams.get(key.team_id)
    customer = projection.customers.get(team.customer_id if team is not None else key.customer_id)
    return {
        "id": key.id,
        "name": key.name,
        "team": team.name if team is not None else None,
        "customer": customer.name if customer is not None else None,
        "expires_at": None if key.expires_at_s is None else rfc3339(key.expires_at_s * 1000),
    }


def _since(text: str | None, now_s: int, zone: str) -> int:
    """Unix seconds. Raises Refusal (400)."""
    if text is None:
        now = datetime.fromtimestamp(now_s, ZoneInfo(zone) if zone else UTC)
        return int(now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp())
    earliest = now_s - MAX_DAYS_BACK * 86_400
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and earliest <= int(text) <= now_s + 60):
        raise bad_field("since", "must be a moment in Unix seconds", text, f"{earliest} to {now_s}")
    return int(text)


def routes(desk: Desk) -> list[Route]:
    return Quota(desk).routes()
