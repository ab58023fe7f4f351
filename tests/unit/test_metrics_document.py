"""docs/metrics.md says what the services expose; alerts and dashboards use nothing else, in queries that parse."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bursar_admin import metrics as admin
from bursar_aggregator import metrics as aggregator
from bursar_common import otlp_metrics
from bursar_common.metrics import Metric
from bursar_common.metrics_document import document, main
from bursar_common.metrics_endpoint import COMMON
from bursar_edge import metrics as edge
from bursar_enforcer import metrics as enforcer
from tests.harness import promtool
from tests.harness.promql import named_in
from tests.harness.require import CHECKOUT

DOCUMENT = CHECKOUT / "docs" / "metrics.md"
PROMETHEUS = CHECKOUT / "deploy" / "prometheus"
DASHBOARDS = sorted((CHECKOUT / "deploy" / "grafana").glob("*.json"))
SERVICES = {
    "edge-proxy": edge.METRICS,
    "budget-enforcer": enforcer.METRICS,
    "usage-aggregator": aggregator.METRICS,
    "admin-api": admin.METRICS,
}
ANEW = (
    "edge-proxy=bursar_edge.metrics",
    "budget-enforcer=bursar_enforcer.metrics",
    "usage-aggregator=bursar_aggregator.metrics",
    "admin-api=bursar_admin.metrics",
)
PROMETHEUS_OWN = {"instance", "job"}


def every_metric() -> list[Metric]:
    return [*COMMON, *(metric for listed in SERVICES.values() for metric in listed), *otlp_metrics.METRICS]


def series() -> dict[str, set[str]]:
    """What can be selected -> its labels."""
    found: dict[str, set[str]] = {"up": set()}
    for metric in every_metric():
        labels = {"service", *metric.labels}
        if metric.kind == "histogram":
            found |= {f"{metric.name}_{part}": labels for part in ("sum", "count")}
            found[f"{metric.name}_bucket"] = labels | {"le"}
        else:
            found[metric.name] = labels
    return found


def check_names(query: str) -> None:
    known = series()
    named = named_in(query)
    assert named.metrics, f"no metric in {query}"
    for metric, labels in named.metrics.items():
        assert metric in known, f"{metric} is exposed by nobody: {query}"
        assert labels <= known[metric] | PROMETHEUS_OWN, f"{metric} lacks {labels - known[metric]}: {query}"
    grouped = set().union(*(known[metric] for metric in named.metrics)) | PROMETHEUS_OWN
    assert named.grouped <= grouped, f"nothing has {named.grouped - grouped}: {query}"


def rules() -> list[dict[str, Any]]:
    read = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"]]


def expressions(dashboard: Path) -> Iterator[str]:
    for panel in json.loads(dashboard.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def filled_in(query: str) -> str:
    """As Grafana sends it."""
    return re.sub(r"\$\w+", ".*", query.replace("$__rate_interval", "5m").replace("$__range", "24h"))


# ---- the document


def test_the_document_is_made_from_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Anew: python -m bursar_common.metrics_document (with the words of ANEW) > docs/metrics.md"""
    assert main(ANEW) == 0
    assert DOCUMENT.read_text(encoding="utf-8") == capsys.readouterr().out == document(SERVICES)


def test_every_metric_is_in_the_document() -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    assert all(f"| `{metric.name}` | {metric.kind} |" in page for metric in every_metric())


def test_queries_of_the_document_name_what_there_is() -> None:
    queries = re.findall(r"^\| [^|`]+ \| `(.+)` \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    assert len(queries) >= 5
    for query in queries:
        check_names(query)


def test_links_of_the_document_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", DOCUMENT.read_text(encoding="utf-8")):
        assert (DOCUMENT.parent / link).exists(), link


def test_a_metric_of_two_services_is_refused() -> None:
    with pytest.raises(ValueError, match="bursar_edge_requests_total"):
        document({"a": edge.METRICS, "b": edge.METRICS})


@pytest.mark.parametrize("metric", every_metric(), ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"(bursar|process)_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert not {"service", "le", "job", "instance"} & set(metric.labels)


# ---- alerts and dashboards


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_names_what_there_is(rule: dict[str, Any]) -> None:
    check_names(rule["expr"])
    assert rule["labels"]["severity"] in ("page", "ticket", "info")
    told = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    # A label that is not kept by the query would be told as nothing.
    kept = named_in(rule["expr"]).grouped
    assert told <= (kept or PROMETHEUS_OWN), told - kept


def test_there_are_two_dashboards() -> None:
    assert [path.stem for path in DASHBOARDS] == ["reliability", "spend"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_names_what_there_is(path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    queries = list(expressions(path))
    assert len(queries) > 15
    for query in queries:
        check_names(filled_in(query))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", path.read_text(encoding="utf-8")))
    assert used - {"__rate_interval", "__range", "__all"} == variables
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            check_names(f"count by ({label}) ({filled_in(selector)})")
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_of_a_dashboard_do_not_overlap(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_takes_every_query_of_the_dashboards(tmp_path: Path) -> None:
    recorded = [
        {"record": f"dashboard:query:{number}", "expr": filled_in(query)}
        for number, query in enumerate(query for path in DASHBOARDS for query in expressions(path))
    ]
    file = tmp_path / "dashboards.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": recorded}]}), encoding="utf-8")
    promtool.check(["check", "rules", str(file)])


def test_prometheus_takes_rules_and_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, folder)
    (folder / "metrics-token").write_text("token", encoding="utf-8")
    promtool.check(["check", "rules", str(folder / "rules.yml")])
    promtool.check(["check", "config", str(folder / "prometheus.yml")])


def test_alerts_fire_when_they_should() -> None:
    promtool.check(["test", "rules", str(PROMETHEUS / "rules.test.yml")])


# ---- the reader of queries itself


def test_names_in_a_query_are_found() -> None:
    named = named_in('topk(3, sum by (a, b) (rate(x_total{c="by (z)",d=~"q"}[5m] offset 1h)) / on (e) y > bool 1.5)')
    assert named.metrics == {"x_total": {"c", "d"}, "y": set()}
    assert named.grouped == {"a", "b", "e"}


@pytest.mark.parametrize(
    "query",
    [
        "no_such_metric",
        "up{no_such_label='x'}",
        "sum by (no_such_label) (up)",
        "sum(bursar_edge_added_latency_seconds)",
    ],
)
def test_what_is_not_there_is_noticed(query: str) -> None:
    with pytest.raises(AssertionError):
        check_names(query)
