"""What the edge counts of a request, from its usage event."""

from __future__ import annotations

from typing import Any

import pytest

from bursar_common.events import Usage
from bursar_common.metrics import OTHER, Histogram
from bursar_common.wire import Owners
from bursar_edge.meter import MAX_OVERFLOW_SETS, Meter, tag_labels
from bursar_edge.metrics import METRICS, OWNERS

ALICE = {"provider": "anthropic", "model": "claude-sonnet-4-6", "customer": "acme", "team": "platform", "key": "alice"}


def usage(**changes: Any) -> Usage:
    fields: dict[str, Any] = {
        "request_id": "r",
        "started_at_ms": 1_000,
        "virtual_key_id": "key-1",
        "virtual_key": "alice",
        "team": "platform",
        "customer": "acme",
        "provider": "anthropic",
        "model": "claude-sonnet-4-6",
        "outcome": "completed",
        "stream": True,
        "input_tokens": 10,
        "cache_read_tokens": 60,
        "cache_write_5m_tokens": 20,
        "cache_write_1h_tokens": 10,
        "output_tokens": 21,
        "thinking_tokens": 5,
        "web_searches": 1,
        "cost_nusd": 1_500_000,
        "list_cost_nusd": 2_000_000,
        "latency_ms": 2_400,
        "time_to_first_token_ms": 400,
    }
    return Usage(**fields | changes)


def told(meter: Meter) -> dict[tuple[str, tuple[tuple[str, str], ...]], Any]:
    """Every sample by name and labels; a histogram as (count, sum)."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
    for metric, samples in meter.families():
        for labels, value in samples:
            key = (metric.name, tuple(sorted(labels.pairs)))
            assert key not in found
            found[key] = (sum(value.counts), round(value.sum, 6)) if isinstance(value, Histogram) else value
    return found


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return f"bursar_edge_{name}", tuple(sorted(labels.items()))


def test_a_finished_request_is_in_every_metric() -> None:
    meter = Meter()
    meter.finished(usage(), added_s=0.003, upstream_s=2.39)
    meter.finished(usage(outcome="interrupted"), added_s=0.001, upstream_s=1.0)
    found = told(meter)
    expected = {
        key("requests_total", **ALICE, outcome="completed"): 1,
        key("requests_total", **ALICE, outcome="interrupted"): 1,
        key("tokens_total", **ALICE, kind="input"): 20,
        key("tokens_total", **ALICE, kind="cache_read"): 120,
        key("tokens_total", **ALICE, kind="cache_write_5m"): 40,
        key("tokens_total", **ALICE, kind="cache_write_1h"): 20,
        key("tokens_total", **ALICE, kind="output"): 42,
        key("thinking_tokens_total", **ALICE): 10,
        key("web_searches_total", **ALICE): 2,
        key("cost_usd_total", **ALICE): 0.003,
        key("list_cost_usd_total", **ALICE): 0.004,
        key("cache_hit_ratio", **ALICE): 0.6,
        key("added_latency_seconds", **ALICE): (2, 0.004),
        key("upstream_latency_seconds", **ALICE): (2, 3.39),
        key("time_to_first_token_seconds", **ALICE): (2, 0.8),
        # Only of the completed one: 2 s for the 20 tokens after the first.
        key("inter_token_latency_seconds", **ALICE): (1, 0.1),
        key("settle_lag_seconds"): (0, 0.0),
        key("label_sets"): 1,
        key("overflowed_requests_total"): 0,
    }
    assert found == expected


def test_what_is_not_known_is_not_counted() -> None:
    meter = Meter()
    unknown = {"input_tokens": None, "cache_read_tokens": None, "output_tokens": None, "time_to_first_token_ms": None}
    meter.finished(usage(outcome="not_sent", **unknown, cost_nusd=0), added_s=None, upstream_s=None)
    meter.finished(usage(stream=False, output_tokens=1), added_s=None, upstream_s=None)
    found = told(meter)
    assert found[key("added_latency_seconds", **ALICE)] == (0, 0.0)
    assert found[key("time_to_first_token_seconds", **ALICE)] == (0, 0.0)
    assert found[key("tokens_total", **ALICE, kind="output")] == 1


def test_money_is_added_up_exactly() -> None:
    meter = Meter()
    for _ in range(10):
        meter.finished(usage(cost_nusd=100_000_001), added_s=None, upstream_s=None)
    assert told(meter)[key("cost_usd_total", **ALICE)] == 1.00000001


def test_refusals_by_reason_and_owner() -> None:
    meter = Meter()
    owners = Owners("key-1", "alice", "team-1", "platform", "customer-1", "acme")
    meter.refused("budget_spent", owners, model="claude-sonnet-4-6", decided=True)
    meter.refused("unpriced_model", owners, provider="made-up", model="made-up-123", decided=True)
    meter.refused("unknown_key", decided=True)
    meter.refused("bad_request")
    known = {name: value for name, value in ALICE.items() if name != "provider"}
    others = ALICE | {"provider": OTHER, "model": OTHER}
    assert told(meter) == {
        key("refusals_total", **known, reason="budget_spent"): 1,
        key("refusals_total", **others, reason="unpriced_model"): 1,
        key("refusals_total", reason="unknown_key"): 1,
        key("refusals_total", reason="bad_request"): 1,
        key("requests_total", **known, outcome="refused"): 1,
        key("requests_total", **others, outcome="refused"): 1,
        key("requests_total", outcome="refused"): 1,
        key("settle_lag_seconds"): (0, 0.0),
        key("label_sets"): 3,
        key("overflowed_requests_total"): 0,
    }


def test_beyond_the_bound_the_owners_are_other_and_then_everything_is() -> None:
    meter = Meter(most=10)
    for number in range(12):
        meter.finished(usage(virtual_key=f"k{number}"), added_s=None, upstream_s=None)
    for number in range(MAX_OVERFLOW_SETS + 50):
        meter.finished(usage(model=f"m{number}"), added_s=None, upstream_s=None)
    found = told(meter)
    others = dict.fromkeys(("customer", "team", "key"), OTHER)
    same = {"provider": "anthropic", "outcome": "completed"} | others
    assert found[key("requests_total", **same, model="claude-sonnet-4-6")] == 2
    assert found[key("requests_total", **same, model="m0")] == 1
    assert found[key("requests_total", **dict.fromkeys(OWNERS, OTHER), outcome="completed")] == 51
    assert found[key("overflowed_requests_total")] == 2 + MAX_OVERFLOW_SETS + 50
    assert found[key("label_sets")] == 10 + MAX_OVERFLOW_SETS + 1
    requests = [value for (name, _), value in found.items() if name == "bursar_edge_requests_total"]
    assert sum(requests) == 12 + MAX_OVERFLOW_SETS + 50


def test_chosen_tags_are_labels() -> None:
    meter = Meter(tags=tag_labels("ticket-id, environment,Cost-Center"))
    meter.finished(usage(tags={"ticket-id": "T-1", "other": "x"}, environment="ci"), added_s=None, upstream_s=None)
    owners = Owners("key-1", "alice", "team-1", "platform", "customer-1", "acme")
    meter.refused("budget_spent", owners, provider="anthropic", model="claude-sonnet-4-6", tags={"cost_center": "42"})
    found = told(meter)
    assert found[key("cost_usd_total", **ALICE, tag_ticket_id="T-1", tag_environment="ci")] == 0.0015
    assert found[key("refusals_total", **ALICE, tag_cost_center="42", reason="budget_spent")] == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a b", "letters, digits"),
        ("a{b}", "letters, digits"),
        ("a-b,a.b", "tag_a_b"),
        (",".join(f"t{n}" for n in range(9)), "at most 8"),
    ],
)
def test_tags_that_cannot_be_labels_are_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tag_labels(text)


def test_the_list_for_the_document_is_whole() -> None:
    meter = Meter()
    meter.finished(usage(), added_s=None, upstream_s=None)
    listed = {metric.name: metric for metric in METRICS}
    assert len(listed) == len(METRICS)
    assert all(listed[family.metric.name] is family.metric for family in meter.families())
