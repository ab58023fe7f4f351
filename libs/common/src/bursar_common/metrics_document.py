"""``docs/metrics.md``, made from the services' definitions so that page and code cannot differ.

``python -m bursar_common.metrics_document edge-proxy=bursar_edge.metrics ... > docs/metrics.md``"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence

from bursar_common import otlp_metrics
from bursar_common.metrics import SERVICE_LABEL, Metric
from bursar_common.metrics_endpoint import COMMON

_INTRODUCTION = """\
# Metrics

Every service answers `GET /metrics` on its own listener: in OpenMetrics 1.0 to those who ask for it in `Accept`, as
Prometheus does, else in Prometheus' text format 0.0.4. On one machine `/metrics` on the public port is all services'
together. Every sample carries the label `service`, so queries, alerts and dashboards are the same in both shapes.

- Scrape: [`deploy/prometheus/prometheus.yml`](../deploy/prometheus/prometheus.yml) is an example for both shapes, with
  [alert rules](../deploy/prometheus/rules.yml). Scrape with `honor_labels: true`, so that `service` stays ours.
- Look: [`deploy/grafana`](../deploy/grafana) has a dashboard for spend and one for reliability; import the files, or
  point a dashboard provider of Grafana at the folder.
- Push instead: the same metrics over OTLP, see [telemetry.md](telemetry.md).

## Who may read

Names of teams and keys, and what they spend, are told, so not everybody may read. A key's value, a credential, a prompt
is never among them; of people there is nothing.

| where | who |
|---|---|
| anywhere | who sends `BURSAR_METRICS_TOKEN` as `Authorization: Bearer`: it opens `/metrics` and nothing else. Services' own internal token is taken, too |
| one machine, public port | besides, whoever may use the admin API: with the admin token, or without one from this machine |
| a service's listener on loopback, with no metrics token set | anybody on this machine who reaches it by a name of this machine |

## How many series

A request's metrics carry `provider`, `model` (the one that served), `customer`, `team` and `key` (names; a key without
one: its id); a label without a value is left out. `BURSAR_METRICS_TAGS=environment,ticket` adds a label `tag_<name>` for
each of up to eight tags (or `project`, `repository`, `branch`, `environment`, `cost_center`) to the metrics marked
*and tags* below; dots and dashes of the name become underscores, and 64 characters of the value are told.

An edge tells at most `BURSAR_METRICS_LABEL_SETS` (1,000) combinations of these apart, of some 65 series each. What
comes beyond is counted with `customer`, `team`, `key` and tags `other`, for up to 100 combinations of provider and
model, then with everything `other`: sums stay right. `bursar_edge_overflowed_requests_total` counts such requests. A
model or provider that only the caller knows (it was refused for it) is `other`, too. Enforcers show at most as many
budgets and rate limits, those nearest to their limit; `bursar_enforcer_limits_not_shown` counts the others.

Counters begin at 0 when a process starts, and edges each count their own requests: use `rate` or `increase`, and `sum`.
Budgets and holds are the ledger's, the same at every enforcer; so is the aggregators' lag: use `max`. Figures asked of
Redis or the log are kept for 5 s. What a month cost exactly is told by the log and ClickHouse, not by metrics.

## Queries to begin with

| question | query |
|---|---|
| dollars an hour by team | `sum by (customer, team) (rate(bursar_edge_cost_usd_total[5m])) * 3600` |
| cache hit ratio of the last hour by team | `sum by (team) (rate(bursar_edge_tokens_total{kind="cache_read"}[1h])) / sum by (team) (rate(bursar_edge_tokens_total{kind!="output"}[1h]))` |
| budgets nearly spent | `max by (owner_kind, owner, budget) (bursar_enforcer_budget_used_ratio) > 0.9` |
| refusals by reason | `sum by (reason) (rate(bursar_edge_refusals_total[5m]))` |
| 95th percentile of the latency we add | `histogram_quantile(0.95, sum by (le) (rate(bursar_edge_added_latency_seconds_bucket[5m])))` |
"""  # noqa: E501 - rows of a table are one line


def document(services: Mapping[str, Sequence[Metric]]) -> str:
    """The whole page. Raises ValueError naming a metric that two services define, or one without help."""
    seen: dict[str, str] = {}
    parts = [_INTRODUCTION]
    sections = {
        "Every service": tuple(COMMON),
        **{service: tuple(metrics) for service, metrics in services.items()},
        "While traces or metrics are exported over OTLP": tuple(otlp_metrics.METRICS),
    }
    for title, metrics in sections.items():
        parts.append(f"## {title}\n")
        parts.append("| name | kind | labels | what |\n|---|---|---|---|")
        for metric in metrics:
            if metric.name in seen or not metric.help.endswith("."):
                raise ValueError(f"{metric.name} is defined twice, or does not say what it counts")
            seen[metric.name] = title
            parts.append(_row(metric))
        parts.append("")
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    if metric.tags:
        labels += ", *and tags*"
    what = metric.help.replace("|", "\\|")
    if metric.buckets:
        what += " Buckets: " + ", ".join(f"{bound:g}" for bound in metric.buckets) + "."
    return f"| `{metric.name}` | {metric.kind} | {labels} | {what} |"


def main(arguments: Sequence[str]) -> int:
    """``<service>=<module with METRICS>`` each."""
    services = {}
    for argument in arguments:
        service, _, module = argument.partition("=")
        services[service] = importlib.import_module(module).METRICS
    print(document(services), end="")  # noqa: T201
    return 0


assert SERVICE_LABEL == "service"  # the text above names it

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
