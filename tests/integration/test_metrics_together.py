"""A whole Bursar with traffic, in both shapes: what its metrics tell is what was sent, and Prometheus' checker has
nothing to say about any page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import ClientSession

from bursar_common.wire import INTERNAL_TOKEN_HEADER
from tests.harness import promtool
from tests.harness.gateway import Gateway
from tests.harness.processes import eventually
from tests.harness.scraping import Scraped, scrape

SERVICES = ("edge-proxy", "budget-enforcer", "usage-aggregator", "admin-api")
MODEL = "claude-sonnet-4-6"


@dataclass
class Watched:
    gateway: Gateway
    pages: dict[str, str]
    """Base address of each service's page; on one machine all have the same one."""

    async def scrape(self, session: ClientSession) -> dict[str, Scraped]:
        headers = {INTERNAL_TOKEN_HEADER: self.gateway.internal_token}
        found = {base: await scrape(session, base, **headers) for base in set(self.pages.values())}
        return {service: found[base] for service, base in self.pages.items()}


@pytest.fixture(params=["one_machine", pytest.param("cluster", marks=pytest.mark.kafka)])
async def watched(request: pytest.FixtureRequest) -> AsyncIterator[Watched]:
    shape = request.getfixturevalue(request.param)
    async with shape.gateway() as gateway:
        if request.param == "one_machine":
            pages = dict.fromkeys(SERVICES, gateway.url)
        else:
            parts = zip(SERVICES, ("edge", "enforcer", "aggregator", "admin"), strict=True)
            pages = {service: f"http://{shape.addresses[part]}" for service, part in parts}
        yield Watched(gateway, pages)


async def test_what_was_sent_is_what_is_told(watched: Watched) -> None:
    gateway = watched.gateway
    await gateway.reset_simulator()
    customer = await gateway.create_customer("metered inc", budget={"max_limit": 100, "reset_duration": "1M"})
    team = await gateway.create_team("meters", customer_id=customer["id"])
    budget = {"max_limit": 5, "reset_duration": "1d"}
    key = await gateway.create_key("metered", team_id=team["id"], budget=budget)
    spent_out = await gateway.create_key("spent out", team_id=team["id"], budget=budget | {"max_limit": 0.000001})
    for number in range(6):
        answer = await gateway.message(key.value, model=MODEL, stream=number % 2 == 0)
        assert answer.status == 200, answer.body
    refused = await gateway.message(spent_out.value, model=MODEL)
    assert refused.status >= 400
    stranger = await gateway.message("sk-bf-nobody", model=MODEL)
    assert stranger.status == 401
    rows = await gateway.usage_rows(key.id, at_least=6)
    mine = {"customer": "metered inc", "team": "meters", "key": "metered"}

    async with ClientSession() as session:

        async def settled() -> dict[str, Scraped] | None:
            pages = await watched.scrape(session)
            enforcer, aggregator = pages["budget-enforcer"], pages["usage-aggregator"]
            done = (
                enforcer.one("bursar_enforcer_open_holds") == 0
                and aggregator.one("bursar_aggregator_log_lag_records") == 0
                and enforcer.sum("bursar_enforcer_log_lag_records") == 0
                # On one machine a page leaves out who did not answer in time.
                and all(pages[each].one("bursar_ready", service=each) == 1 for each in SERVICES)
            )
            # Budgets' figures are kept for some seconds.
            spent = enforcer.all("bursar_enforcer_budget_spent_usd", key="metered")
            cost = sum(row["cost_nusd"] for row in rows) / 1e9
            return pages if done and spent and round(spent[0][1], 9) == round(cost, 9) else None

        pages = await eventually(settled, 60)
        edge, enforcer = pages["edge-proxy"], pages["budget-enforcer"]

        assert edge.sum("bursar_edge_requests_total", **mine, outcome="completed") == 6
        for kind in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output"):
            counted = sum(row[f"{kind}_tokens"] or 0 for row in rows)
            assert edge.sum("bursar_edge_tokens_total", **mine, kind=kind) == counted
        cost_nusd = sum(row["cost_nusd"] for row in rows)
        assert cost_nusd > 0
        assert round(edge.sum("bursar_edge_cost_usd_total", **mine) * 1e9) == cost_nusd
        assert edge.sum("bursar_edge_added_latency_seconds_count", **mine) == 6
        assert edge.sum("bursar_edge_time_to_first_token_seconds_count", **mine) == 3
        assert edge.sum("bursar_edge_refusals_total", key="spent out") == 1
        assert edge.sum("bursar_edge_refusals_total", reason="unknown_key") == 1
        assert edge.one("bursar_edge_settle_lag_seconds_count") >= 6
        used = cost_nusd / 5e9
        assert enforcer.one("bursar_enforcer_budget_used_ratio", key="metered") == pytest.approx(used)
        assert enforcer.one("bursar_enforcer_budget_remaining_ratio", key="metered") == pytest.approx(1 - used)
        assert enforcer.one("bursar_enforcer_budget_used_ratio", owner_kind="customer", owner="metered inc") > 0
        assert pages["usage-aggregator"].one("bursar_aggregator_rows_total") >= 7
        assert pages["admin-api"].one("bursar_admin_owners", kind="team") >= 1
        made = pages["admin-api"].sum(
            "bursar_admin_requests_total", method="POST", route="/api/governance/virtual-keys"
        )
        assert made >= 2
        for service in SERVICES:
            assert pages[service].one("bursar_ready", service=service) == 1
            assert pages[service].one("process_cpu_seconds_total", service=service) > 0
        for page in pages.values():
            assert "sk-bf" not in page.text
            assert gateway.internal_token not in page.text


async def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    headers = {INTERNAL_TOKEN_HEADER: watched.gateway.internal_token}
    async with ClientSession(headers=headers) as session:
        for base in set(watched.pages.values()):
            async with session.get(f"{base}/metrics") as answer:
                assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
                text = await answer.text()
            assert text.count("bursar_ready{") == list(watched.pages.values()).count(base)
            promtool.check(["check", "metrics"], text=text)


async def test_one_machine_lets_in_whom_the_admin_api_lets_in(one_machine) -> None:
    async with ClientSession() as session:
        async with session.get(f"{one_machine.url}/metrics") as answer:
            assert answer.status == 200  # loopback, and no admin token is set
        async with session.get(f"{one_machine.url}/metrics", headers={"host": "evil.example"}) as answer:
            assert answer.status == 403
        async with session.get(f"{one_machine.url}/metrics", headers={"origin": "https://evil.example"}) as answer:
            assert answer.status == 403
