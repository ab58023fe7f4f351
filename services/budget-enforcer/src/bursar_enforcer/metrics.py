"""The enforcer's metrics: their definitions. Pure."""

from __future__ import annotations

from bursar_common.metrics import Metric

OWNER = ("owner_kind", "owner", "customer", "team", "key", "window")
"""Whose limit: ``virtual_key``, ``provider_config``, ``team`` or ``customer``, its name, and who it stands below."""

OPERATIONS = Metric(
    name="bursar_enforcer_operations_total",
    kind="counter",
    help="Operations that edges and admin-api sent, by kind.",
    labels=("operation",),
)
ANSWERS = Metric(
    name="bursar_enforcer_answers_total",
    kind="counter",
    help="Answers by kind. A request that waits for others' holds is answered reserved each time it asks.",
    labels=("answer",),
)
BATCH = Metric(
    name="bursar_enforcer_batch_seconds",
    kind="histogram",
    help="Time to decide a batch of operations, Redis included.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0),
)
OPEN = Metric(
    name="bursar_enforcer_admission_open",
    kind="gauge",
    help="1 while admission is open; 0 while Redis is being made good, or is not there.",
)
HOLDS = Metric(name="bursar_enforcer_open_holds", kind="gauge", help="Holds of requests in flight, of all edges.")
OLDEST = Metric(
    name="bursar_enforcer_stalest_hold_seconds",
    kind="gauge",
    help="Since the last renewal of the hold that was renewed longest ago; 0 where there is none.",
)
EXPIRED = Metric(
    name="bursar_enforcer_holds_expired_total",
    kind="counter",
    help="Holds that nobody renewed and this enforcer expired, charged at what they held.",
)
LAG = Metric(
    name="bursar_enforcer_log_lag_records",
    kind="gauge",
    help="Records of a topic that the ledger has not applied yet, over all partitions.",
    labels=("topic",),
)
BUDGET_LIMIT = Metric(
    name="bursar_enforcer_budget_limit_usd",
    kind="gauge",
    help="A budget's limit in dollars.",
    labels=(*OWNER, "budget", "enforcement"),
)
BUDGET_SPENT = Metric(
    name="bursar_enforcer_budget_spent_usd",
    kind="gauge",
    help="Spent in the budget's present window, in dollars.",
    labels=(*OWNER, "budget", "enforcement"),
)
BUDGET_HELD = Metric(
    name="bursar_enforcer_budget_held_usd",
    kind="gauge",
    help="Held for requests in flight, in dollars.",
    labels=(*OWNER, "budget", "enforcement"),
)
BUDGET_USED = Metric(
    name="bursar_enforcer_budget_used_ratio",
    kind="gauge",
    help="Spent by limit: 1 is all of it.",
    labels=(*OWNER, "budget", "enforcement"),
)
BUDGET_REMAINING = Metric(
    name="bursar_enforcer_budget_remaining_ratio",
    kind="gauge",
    help="What is neither spent nor held, by limit; never below 0.",
    labels=(*OWNER, "budget", "enforcement"),
)
BUDGET_RESETS = Metric(
    name="bursar_enforcer_budget_reset_timestamp_seconds",
    kind="gauge",
    help="Unix time at which the budget's next window begins.",
    labels=(*OWNER, "budget", "enforcement"),
)
RATE_USED = Metric(
    name="bursar_enforcer_rate_limit_used_ratio",
    kind="gauge",
    help="Of a rate limit (unit: tokens, requests), used in its present window by limit.",
    labels=(*OWNER, "limit", "unit"),
)
NOT_SHOWN = Metric(
    name="bursar_enforcer_limits_not_shown",
    kind="gauge",
    help="Budgets and rate limits beyond BURSAR_METRICS_LABEL_SETS: shown are those nearest to their limit.",
)

METRICS = (
    OPERATIONS, ANSWERS, BATCH, OPEN, HOLDS, OLDEST, EXPIRED, LAG, BUDGET_LIMIT, BUDGET_SPENT, BUDGET_HELD,
    BUDGET_USED, BUDGET_REMAINING, BUDGET_RESETS, RATE_USED, NOT_SHOWN,
)  # fmt: skip
"""All of the enforcer's own, for the document."""
