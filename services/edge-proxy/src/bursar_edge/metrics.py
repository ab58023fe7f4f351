"""The edge's metrics: their definitions. Pure."""

from __future__ import annotations

from bursar_common.metrics import Metric

OWNERS = ("provider", "model", "customer", "team", "key")

REQUESTS = Metric(
    name="bursar_edge_requests_total",
    kind="counter",
    help="Paid requests by how they ended: the usage event's outcome, or refused before they were sent.",
    labels=(*OWNERS, "outcome"),
    tags=True,
)
REFUSALS = Metric(
    name="bursar_edge_refusals_total",
    kind="counter",
    help="Refusals by reason (docs/refusals.md). Without a key: nobody's, or before anybody was asked.",
    labels=(*OWNERS, "reason"),
    tags=True,
)
TOKENS = Metric(
    name="bursar_edge_tokens_total",
    kind="counter",
    help="Tokens by kind (input, cache_read, cache_write_5m, cache_write_1h, output); the kinds add up.",
    labels=(*OWNERS, "kind"),
    tags=True,
)
THINKING = Metric(
    name="bursar_edge_thinking_tokens_total",
    kind="counter",
    help="Thinking tokens, as far as the provider tells; they are part of the output tokens.",
    labels=OWNERS,
    tags=True,
)
SEARCHES = Metric(
    name="bursar_edge_web_searches_total",
    kind="counter",
    help="Web searches that the provider made and bills.",
    labels=OWNERS,
    tags=True,
)
COST = Metric(
    name="bursar_edge_cost_usd_total",
    kind="counter",
    help="Billed cost in dollars: what budgets are charged. Corrections made later are not in it.",
    labels=OWNERS,
    tags=True,
)
LIST_COST = Metric(
    name="bursar_edge_list_cost_usd_total",
    kind="counter",
    help="Cost in dollars before discounts; for subscriptions and callers' own keys what it would have cost.",
    labels=OWNERS,
    tags=True,
)
CACHE_HITS = Metric(
    name="bursar_edge_cache_hit_ratio",
    kind="gauge",
    help="Part of all prompt tokens since start that was read from the provider's cache, 0 to 1.",
    labels=OWNERS,
    tags=True,
)
ADDED = Metric(
    name="bursar_edge_added_latency_seconds",
    kind="histogram",
    help="From having a request whole to sending it on: admission, and waiting for money that others hold.",
    labels=OWNERS,
    tags=True,
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 15.0, 60.0),
)
UPSTREAM = Metric(
    name="bursar_edge_upstream_latency_seconds",
    kind="histogram",
    help="From sending a request on to the end of the provider's answer.",
    labels=OWNERS,
    tags=True,
    buckets=(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
)
FIRST_TOKEN = Metric(
    name="bursar_edge_time_to_first_token_seconds",
    kind="histogram",
    help="Of streamed answers: from having the request whole to the first byte of the answer's body.",
    labels=OWNERS,
    tags=True,
    buckets=(0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
)
INTER_TOKEN = Metric(
    name="bursar_edge_inter_token_latency_seconds",
    kind="histogram",
    help="Of completed streamed answers: time after the first byte by output tokens after the first, one each.",
    labels=OWNERS,
    tags=True,
    buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0),
)
SETTLE_LAG = Metric(
    name="bursar_edge_settle_lag_seconds",
    kind="histogram",
    help="From an answer's end to the enforcer's word that its hold is settled.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0),
)
UNPRICED = Metric(
    name="bursar_edge_unpriced_answers_total",
    kind="counter",
    help="Answers served by a model without a price, charged at the most they could have cost.",
    labels=("model",),
)
TAGS_DROPPED = Metric(
    name="bursar_edge_tags_dropped_total",
    kind="counter",
    help="Tags that requests carried beyond the twenty allowed.",
)
CONTENT = Metric(
    name="bursar_edge_content_records_total",
    kind="counter",
    help="Requests whose content was to be stored: stored, lost (the outbox had no room), failed (a fault of ours).",
    labels=("result",),
)
CONTENT_LEFT_OUT = Metric(
    name="bursar_edge_content_left_out_bytes_total",
    kind="counter",
    help="Bytes of prompts and answers that are not stored, because the memory for them was in use.",
)
LABEL_SETS = Metric(
    name="bursar_edge_label_sets",
    kind="gauge",
    help="Label sets told apart since start.",
)
OVERFLOWED = Metric(
    name="bursar_edge_overflowed_requests_total",
    kind="counter",
    help="Requests and refusals counted under other, because BURSAR_METRICS_LABEL_SETS was reached.",
)
ACTIVE = Metric(
    name="bursar_edge_active_requests",
    kind="gauge",
    help="Requests being answered, of any kind.",
)
OUTBOX = Metric(
    name="bursar_edge_outbox_events",
    kind="gauge",
    help="Events in the outbox that are not in the log yet. On one machine 0: the outbox is the log.",
)
OUTBOX_AGE = Metric(
    name="bursar_edge_outbox_oldest_seconds",
    kind="gauge",
    help="Age of the oldest of them; 0 where there is none.",
)
OUTBOX_WRITABLE = Metric(
    name="bursar_edge_outbox_writable",
    kind="gauge",
    help="1 while the outbox takes events, else 0: requests are refused.",
)
QUEUED = Metric(
    name="bursar_edge_enforcer_queue_operations",
    kind="gauge",
    help="Operations waiting to be sent to the enforcer.",
)
TURNS = Metric(
    name="bursar_edge_waiting_turns",
    kind="gauge",
    help="Requests waiting for money or room that running ones hold.",
)

METRICS = (
    REQUESTS, REFUSALS, TOKENS, THINKING, SEARCHES, COST, LIST_COST, CACHE_HITS,
    ADDED, UPSTREAM, FIRST_TOKEN, INTER_TOKEN, SETTLE_LAG, UNPRICED, TAGS_DROPPED, CONTENT,
    CONTENT_LEFT_OUT, LABEL_SETS, OVERFLOWED, ACTIVE, OUTBOX, OUTBOX_AGE, OUTBOX_WRITABLE, QUEUED, TURNS,
)  # fmt: skip
"""All of the edge's own, for the document."""
