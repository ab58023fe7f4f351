"""Usage and cost in the shape of the provider's Admin API: buckets, groups, filters, pages, and the ledger's sums."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bursar_common.clock import SystemClock
from bursar_common.events import Usage
from bursar_common.wire import Amounts
from tests.harness.admin import Admin, running_admin
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.usage_events import usage

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_795_219_200_000
"""2026-11-21T00:00:00Z"""
USAGE = "/v1/organizations/usage_report/messages"
COST = "/v1/organizations/cost_report"
CODE = "/v1/organizations/usage_report/claude_code"
DAY = "starting_at=2026-11-21T00:00:00Z&ending_at=2026-11-22T00:00:00Z"


def events() -> list[Usage]:
    day_two = {"started_at_ms": START_MS + DAY_MS + HOUR_MS}
    base = {"service_tier": "standard", "session_id": "s1", "user_id": "u1"}
    return [
        usage(1, **base, started_at_ms=START_MS, cache_read_tokens=1_000, cache_write_1h_tokens=50, web_searches=3),
        usage(2, **base, started_at_ms=START_MS + HOUR_MS, model="claude-opus-4-8", input_tokens=250_000,
              inference_geo="not_available"),
        usage(3, **base | {"team_id": "team-2", "virtual_key_id": "key-2", "virtual_key": "bob", "session_id": "s2"},
              started_at_ms=START_MS + 2 * HOUR_MS, cost_nusd=123, list_cost_nusd=200),
        usage(4, **base, started_at_ms=START_MS + 3 * HOUR_MS, outcome="expired", estimated=True, input_tokens=None,
              output_tokens=None),
        usage(5, **base, **day_two),
        usage(6, **base, started_at_ms=START_MS, provider="simulator"),
        usage(7, **base, started_at_ms=START_MS, outcome="refused", cost_nusd=0, list_cost_nusd=0, amounts=Amounts()),
        usage(8, **base, started_at_ms=START_MS, billing="imported", cost_nusd=0),
        usage(9, **base, started_at_ms=START_MS, billing="subscription", cost_nusd=0),
        usage(10, **base, started_at_ms=START_MS, outcome="upstream_error", model="claude-haiku-4-5", cost_nusd=0,
              list_cost_nusd=0, amounts=Amounts(r=1), input_tokens=None, output_tokens=None),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path_factory.mktemp("organizations")) as front:
        asyncio.run(front.prepare(events()))
        yield front


class ClockOfTheMonthAfter(SystemClock):
    """All events have happened."""

    def now_ms(self) -> int:
        return START_MS + 40 * DAY_MS


async def get(admin: Admin, path: str, expected: int = 200) -> Any:
    status, answer, _ = await admin.call("GET", path)
    assert status == expected, answer
    return answer


def billed(*numbers: int) -> Decimal:
    """Cents of the events of these numbers."""
    chosen = [event for event in events() if int(event.request_id[-4:], 16) in numbers]
    assert len(chosen) == len(numbers)
    return Decimal(sum(event.cost_nusd for event in chosen)).scaleb(-7)


async def test_usage_by_day_is_what_was_metered(front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        answer = await get(admin, f"{USAGE}?{DAY}")
        assert (answer["has_more"], answer["next_page"]) == (False, None)
        (bucket,) = answer["data"]
        assert (bucket["starting_at"], bucket["ending_at"]) == ("2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z")
        (result,) = bucket["results"]
        assert result == {
            "uncached_input_tokens": 250_030, "cache_read_input_tokens": 1_000, "output_tokens": 80,
            "cache_creation": {"ephemeral_1h_input_tokens": 50, "ephemeral_5m_input_tokens": 0},
            "server_tool_use": {"web_search_requests": 3}, "api_key_id": None, "workspace_id": None, "account_id": None,
            "model": None, "service_tier": None, "context_window": None, "inference_geo": None, "speed": None,
            "service_account_id": None,
        }  # fmt: skip


async def test_groups_and_filters(front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        grouped = await get(admin, f"{USAGE}?{DAY}&group_by[]=model&group_by[]=context_window&group_by[]=inference_geo")
        found = [(r["model"], r["context_window"], r["uncached_input_tokens"]) for r in grouped["data"][0]["results"]]
        assert found == [("claude-opus-4-8", "200k-1M", 250_000), ("claude-sonnet-4-6", "0-200k", 30)]
        assert {r["inference_geo"] for r in grouped["data"][0]["results"]} == {"not_available"}
        one = await get(admin, f"{USAGE}?{DAY}&api_key_ids[]=key-2&group_by=workspace_id&group_by=api_key_id")
        assert [(r["workspace_id"], r["api_key_id"]) for r in one["data"][0]["results"]] == [("team-2", "key-2")]
        none = await get(admin, f"{USAGE}?{DAY}&models[]={quote(chr(39) + ' OR 1=1 --')}&models[]=%5C")
        assert none["data"][0]["results"] == []


async def test_pages_go_through_all_buckets_once(front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        asked = "starting_at=2026-11-21T00:20:00Z&ending_at=2026-11-22T12:00:00Z&bucket_width=1h&limit=10"
        buckets, page, pages = [], "", 0
        while True:
            answer = await get(admin, f"{USAGE}?{asked}{page}")
            buckets += answer["data"]
            pages += 1
            if not answer["has_more"]:
                break
            page = f"&page={answer['next_page']}"
        assert pages == 4
        starts = [bucket["starting_at"] for bucket in buckets]
        assert len(starts) == len(set(starts)) == 36
        assert starts[0] == "2026-11-21T00:00:00Z"  # snapped to the hour
        assert sum(r["output_tokens"] for b in buckets for r in b["results"]) == 100
        stranger = await get(admin, f"{USAGE}?{DAY}{page}", 400)
        assert stranger["error"]["field"] == "page"


async def test_cost_is_the_ledgers_in_cents_however_it_is_split(front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        (day,) = (await get(admin, f"{COST}?{DAY}"))["data"]
        assert [Decimal(result["amount"]) for result in day["results"]] == [billed(1, 2, 3, 4, 9)]
        assert day["results"][0]["currency"] == "USD"
        (day,) = (await get(admin, f"{COST}?{DAY}&group_by[]=workspace_id"))["data"]
        assert {r["workspace_id"]: Decimal(r["amount"]) for r in day["results"]} == {
            "team-1": billed(1, 2, 4, 9), "team-2": billed(3),
        }  # fmt: skip
        (day,) = (await get(admin, f"{COST}?{DAY}&group_by[]=description&group_by[]=workspace_id"))["data"]
        assert sum(Decimal(result["amount"]) for result in day["results"]) == billed(1, 2, 3, 4, 9)
        by_type = {(r["model"], r["token_type"], r["cost_type"]) for r in day["results"]}
        assert ("claude-opus-4-8", "uncached_input_tokens", "tokens") in by_type
        assert ("claude-sonnet-4-6", "cache_creation.ephemeral_1h_input_tokens", "tokens") in by_type
        assert (None, None, "web_search") in by_type
        assert not [r for r in day["results"] if r["model"] == "claude-haiku-4-5"]  # failed: no charge at all
        assert ("claude-sonnet-4-6", None, "tokens") in by_type  # the expired hold: nobody knows its tokens
        opus = [r for r in day["results"] if r["model"] == "claude-opus-4-8"]
        assert {r["context_window"] for r in opus} == {"200k-1M"}
        assert {r["description"] for r in opus} == {
            "Claude Opus 4.8 Usage - Input Tokens", "Claude Opus 4.8 Usage - Output Tokens",
        }  # fmt: skip
        assert {r["inference_geo"] for r in opus} == {"not_available"}
        dear, cheap = sorted((Decimal(r["amount"]) for r in opus), reverse=True)
        assert dear > cheap * 2_000  # 250,000 in at $5 against 20 out at $25


async def test_claude_code_by_person(front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=front.url, clock=ClockOfTheMonthAfter()) as admin:
        answer = await get(admin, f"{CODE}?starting_at=2026-11-21")
        assert not answer["has_more"]
        records = {(r["actor"]["api_key_name"], r["customer_type"]): r for r in answer["data"]}
        assert set(records) == {("alice-claude-code", "api"), ("alice-claude-code", "subscription"), ("bob", "api")}
        bob = records["bob", "api"]
        assert bob["core_metrics"]["num_sessions"] == 1
        assert bob["core_metrics"]["lines_of_code"] == {"added": None, "removed": None}
        (model,) = bob["model_breakdown"]
        assert model["tokens"] == {"input": 10, "output": 20, "cache_read": 0, "cache_creation": 0}
        assert model["estimated_cost"] == {"currency": "USD", "amount": 0.00002}
        first = await get(admin, f"{CODE}?starting_at=2026-11-21&limit=2")
        assert first["has_more"]
        rest = await get(admin, f"{CODE}?starting_at=2026-11-21&limit=2&page={first['next_page']}")
        assert [len(first["data"]), len(rest["data"]), rest["has_more"]] == [2, 1, False]
        await get(admin, f"{CODE}?starting_at=2026-11-20&page={first['next_page']}", 400)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (USAGE, "starting_at"),
        (f"{USAGE}?starting_at=2026-13-01T00:00:00Z", "starting_at"),
        (f"{USAGE}?starting_at=1969-01-01", "starting_at"),
        (f"{USAGE}?starting_at=2026-11-02&ending_at=2026-11-01", "ending_at"),
        (f"{USAGE}?{DAY}&bucket_width=1w", "bucket_width"),
        (f"{USAGE}?{DAY}&limit=32", "limit"),
        (f"{USAGE}?{DAY}&limit=-1", "limit"),
        (f"{USAGE}?{DAY}&group_by[]=team", "group_by"),
        (f"{USAGE}?{DAY}&team=x", "team"),
        (f"{USAGE}?{DAY}&page=page_", "page"),
        (f"{USAGE}?{DAY}&page=page_WzEsIngiXQ", "page"),
        (f"{USAGE}?{DAY}&page=x&page=y", "page"),
        (f"{COST}?{DAY}&bucket_width=1h", "bucket_width"),
        (f"{COST}?{DAY}&group_by[]=model", "group_by"),
        (f"{CODE}?starting_at=2026-11-31", "starting_at"),
        (f"{CODE}?starting_at=2026-11-21&limit=1001", "limit"),
    ],
)
async def test_a_wrong_question_names_the_field(tmp_path: Path, path: str, field: str) -> None:
    async with running_admin(tmp_path) as admin:
        answer = await get(admin, path, 400)
        assert answer["error"]["field"] == field
        assert (answer["type"], answer["error"]["type"]) == ("error", "invalid_request_error")
        assert answer["request_id"] == answer["error"]["request_id"] != ""


async def test_every_error_has_the_providers_envelope_and_other_paths_have_ours(tmp_path: Path) -> None:
    async with running_admin(tmp_path, admin_token="the-token") as admin:
        token = {"x-api-key": "the-token"}
        for path, headers, status in (
            (f"{USAGE}?{DAY}", {}, 401), (f"{USAGE}?{DAY}", token, 503), ("/v1/organizations/nothing", token, 404),
        ):  # fmt: skip
            code, answer, _ = await admin.call("GET", path, headers=headers)
            assert (code, answer["type"], sorted(answer)) == (status, "error", ["error", "request_id", "type"])
            assert answer["error"]["message"]
        code, answer, _ = await admin.call("GET", "/api/nothing", headers=token)
        assert (code, sorted(answer)) == (404, ["error"])


async def test_without_clickhouse_it_says_so_and_with_a_token_it_asks(tmp_path: Path) -> None:
    async with running_admin(tmp_path, admin_token="the-token") as admin:
        assert (await get(admin, f"{USAGE}?{DAY}", 401))["error"]["type"] == "authentication_error"
        for headers in ({"x-api-key": "the-token"}, {"Authorization": "Bearer the-token"}):
            status, answer, _ = await admin.call("GET", f"{USAGE}?{DAY}", headers=headers)
            assert (status, answer["error"]["type"]) == (503, "unavailable_error")
