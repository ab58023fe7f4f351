"""The edge's /metrics: what was sent through it is what is told, and who may read."""

from __future__ import annotations

import json

from aiohttp import ClientSession, web
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bursar_common import wire
from bursar_common.metrics import END, OPENMETRICS_TYPE
from bursar_common.settings import Settings
from bursar_edge import metrics_endpoint
from tests.harness.edge_stand_ins import (
    MODEL,
    OWNERS,
    SMALL,
    START,
    TOKEN,
    delta,
    finish,
    post,
)
from tests.harness.edge_stand_ins import patient_world as world
from tests.harness.waiting import eventually

ALICE = {"service": "edge-proxy", "provider": "anthropic", "model": MODEL, "team": "platform", "key": "alice"}
STREAM = SMALL[:-1] + b',"stream":true}'


async def scrape(url, **headers):
    async with ClientSession() as session:
        async with session.get(f"{url}/metrics", headers={"accept": OPENMETRICS_TYPE} | headers) as answer:
            return answer.status, (await answer.read()).decode(), answer.headers["content-type"]


async def samples(url, **headers):
    status, text, content_type = await scrape(url, **headers)
    assert status == 200, text
    assert content_type == OPENMETRICS_TYPE
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def at(found, name, **labels):
    return found[f"bursar_edge_{name}", frozenset(labels.items())]


async def settled(w, count):
    async def lag():
        found = await samples(w.url)
        lags = at(found, "settle_lag_seconds_count", service="edge-proxy")
        return lags == count and at(found, "outbox_events", service="edge-proxy") == 0 and found

    return await eventually(lag, 60)


async def test_what_was_sent_is_told(tmp_path):
    async with world(tmp_path, settings={"metrics_tags": "ticket"}) as w:
        await w.raw(post(SMALL))
        w.upstream.streams(START, delta("Hello"), delta(" there"), finish(42))
        await w.raw(post(STREAM, "x-bursar-tag-ticket: T-1"))
        w.enforcer.decide = lambda ask: wire.Refused("budget_spent", owner_kind="team", owner="platform", owners=OWNERS)
        await w.raw(post(SMALL))
        await w.raw(post(b"{"))
        await w.raw(post(SMALL, path="/anthropic/v1/nothing"))
        found = await settled(w, 2)
        cost = sum(usage.cost_nusd for _, usage in await w.events(3))
    tagged = ALICE | {"tag_ticket": "T-1"}
    assert at(found, "requests_total", **ALICE, outcome="completed") == 1
    assert at(found, "requests_total", **tagged, outcome="completed") == 1
    assert at(found, "tokens_total", **ALICE, kind="input") == 12
    assert at(found, "tokens_total", **ALICE, kind="output") == 7
    assert at(found, "tokens_total", **tagged, kind="cache_read") == 15000
    assert at(found, "tokens_total", **tagged, kind="cache_write_5m") == 5000
    assert at(found, "tokens_total", **tagged, kind="output") == 42
    assert round((at(found, "cost_usd_total", **ALICE) + at(found, "cost_usd_total", **tagged)) * 1e9) == cost > 0
    assert at(found, "cache_hit_ratio", **tagged) == 15000 / 20012
    refused = {name: value for name, value in ALICE.items() if name != "provider"}
    assert at(found, "requests_total", **refused, outcome="refused") == 1
    assert at(found, "refusals_total", **refused, reason="budget_spent") == 1
    assert at(found, "refusals_total", service="edge-proxy", reason="bad_request") == 1
    assert at(found, "refusals_total", service="edge-proxy", reason="not_supported") == 1
    for name in (
        "added_latency_seconds",
        "upstream_latency_seconds",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
    ):
        assert at(found, f"{name}_count", **tagged) == 1
    assert at(found, "added_latency_seconds_sum", **tagged) > 0
    assert at(found, "upstream_latency_seconds_sum", **tagged) > 0
    assert at(found, "outbox_events", service="edge-proxy") == 0
    assert at(found, "outbox_writable", service="edge-proxy") == 1
    assert found["bursar_ready", frozenset({("service", "edge-proxy")})] == 1
    assert found["process_resident_memory_bytes", frozenset({("service", "edge-proxy")})] > 1 << 20


async def test_an_upstream_that_is_not_there_is_a_refusal_and_an_outcome(tmp_path):
    async with world(tmp_path, settings={"anthropic_base_url": "http://127.0.0.1:9"}) as w:
        await w.raw(post(SMALL))
        found = await settled(w, 1)
    assert at(found, "refusals_total", **ALICE, reason="upstream_unreachable") == 1
    assert at(found, "requests_total", **ALICE, outcome="not_sent") == 1
    assert at(found, "added_latency_seconds_count", **ALICE) == 0


async def test_no_secret_is_told(tmp_path):
    async with world(tmp_path) as w:
        await w.raw(post(SMALL))
        await settled(w, 1)
        _, text, _ = await scrape(w.url)
    assert "sk-" not in text
    assert TOKEN not in text


async def test_who_may_read_the_edge_of_a_cluster(tmp_path):
    settings = {"metrics_token": "for-prometheus"}
    async with world(tmp_path, settings=settings) as w:
        assert (await scrape(w.url))[0] == 401
        assert (await scrape(w.url, authorization="Bearer wrong"))[0] == 401
        assert (await scrape(w.url, authorization="Bearer for-prometheus"))[0] == 200
        assert (await scrape(w.url, **{wire.INTERNAL_TOKEN_HEADER: TOKEN}))[0] == 200
    async with world(tmp_path) as w:
        assert (await scrape(w.url, host="evil.example"))[0] == 401


class Others:
    """admin-api and aggregator of one machine, in one stand-in."""

    def __init__(self):
        self.verdict = 200
        self.asked = []

    async def start(self):
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = site.name

    async def _metrics(self, request):
        self.asked.append({name.lower(): value for name, value in request.headers.items()})
        if self.verdict != 200:
            return web.json_response({"error": {"type": "x"}}, status=self.verdict)
        text = '# HELP bursar_ready R.\n# TYPE bursar_ready gauge\nbursar_ready{service="admin-api"} 1\n'
        return web.Response(body=text.encode() + END, headers={"Content-Type": OPENMETRICS_TYPE})

    async def stop(self):
        await self._runner.cleanup()


async def test_one_machine_tells_all_services_and_admin_api_judges_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_endpoint, "ANSWER_S", 60.0)  # who is there answers, however long the machine pauses
    others = Others()
    await others.start()
    settings = {"single_machine": True, "admin_url": others.url, "metrics_token": "for-prometheus"}
    settings["aggregator_url"] = "http://127.0.0.1:9"  # not there
    try:
        async with world(tmp_path, settings=settings) as w:
            found = await samples(w.url, authorization="Bearer admin", origin="http://gateway")
            assert others.asked[0]["authorization"] == "Bearer admin"
            assert others.asked[0]["origin"] == "http://gateway"
            assert wire.INTERNAL_TOKEN_HEADER not in others.asked[0]
            ready = {dict(labels)["service"]: v for (name, labels), v in found.items() if name == "bursar_ready"}
            assert ready == {"edge-proxy": 1, "budget-enforcer": 0, "admin-api": 1, "usage-aggregator": 0}
            others.verdict = 403
            status, text, _ = await scrape(w.url)
            assert (status, json.loads(text)) == (403, {"error": {"type": "x"}})
            # The metrics token needs nobody's judgment.
            assert (await scrape(w.url, authorization="Bearer for-prometheus"))[0] == 200
            await others.stop()
            assert (await scrape(w.url))[0] == 503
            assert (await scrape(w.url, authorization="Bearer for-prometheus"))[0] == 200
    finally:
        await others.stop()


def test_settings_that_cannot_be_labels_are_refused_at_start(tmp_path):
    import pytest

    from bursar_common.settings import SettingsError
    from bursar_edge.app import Edge

    settings = Settings(home=tmp_path, enforcer_url="http://127.0.0.1:9", metrics_tags="a b")
    with pytest.raises(SettingsError, match="BURSAR_METRICS_TAGS"):
        Edge(settings, {})
