"""admin-api's metrics: their definitions. Pure."""

from __future__ import annotations

from bursar_common.metrics import Metric

REQUESTS = Metric(
    name="bursar_admin_requests_total",
    kind="counter",
    help="Requests answered, by route (its path with names for what varies) and status.",
    labels=("method", "route", "status"),
)
SECONDS = Metric(
    name="bursar_admin_request_seconds",
    kind="histogram",
    help="Time to answer a request, by route; live streams are left out.",
    labels=("route",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
WATCHERS = Metric(name="bursar_admin_live_watchers", kind="gauge", help="Connections that watch requests live.")
WATCHERS_DROPPED = Metric(
    name="bursar_admin_live_dropped_total",
    kind="counter",
    help="Requests that a live connection was not shown, because its reader was too slow; the reader is told.",
)
LAG = Metric(
    name="bursar_admin_governance_lag_records",
    kind="gauge",
    help="Records of the governance topic that this process has not read yet.",
)
OWNERS = Metric(
    name="bursar_admin_owners",
    kind="gauge",
    help="Owners by kind: customer, team, user, virtual_key, provider.",
    labels=("kind",),
)

METRICS = (REQUESTS, SECONDS, WATCHERS, WATCHERS_DROPPED, LAG, OWNERS)
"""All of admin-api's own, for the document."""
