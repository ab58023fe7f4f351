"""The text of /metrics, judged by the reference parsers of both formats."""

from __future__ import annotations

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from bursar_common.metrics import (
    END,
    LINES_AT_ONCE,
    OTHER,
    Counts,
    Family,
    Histogram,
    Labels,
    Metric,
    joined,
    one,
    render,
    wants_openmetrics,
)

REQUESTS = Metric(name="t_requests_total", kind="counter", help="Requests.", labels=("team", "why"))
DEPTH = Metric(name="t_depth", kind="gauge", help='Depth of a \\ "queue".')
WAIT = Metric(name="t_wait_seconds", kind="histogram", help="Waits.", labels=("team",), buckets=(0.1, 1.0))
NASTY = 'a"b\\c\nd {e="f"} \udcff é'


def text(*families: Family, openmetrics: bool, service: str = "one") -> str:
    return b"".join([*render(service, families, openmetrics=openmetrics), END if openmetrics else b""]).decode()


def waits(*values: float) -> Histogram:
    histogram = Histogram(WAIT.buckets)
    for value in values:
        histogram.observe(value)
    return histogram


@pytest.mark.parametrize("openmetrics", [True, False])
def test_what_is_written_is_read_back(openmetrics: bool) -> None:
    requests = Counts(REQUESTS)
    requests.add(NASTY, "x")
    requests.add(NASTY, "x", number=2)
    page = text(
        requests.family(),
        one(DEPTH, 2.5),
        Family(WAIT, [(Labels([("team", "a")]), waits(0.1, 0.5, 7.0))]),
        openmetrics=openmetrics,
    )
    read = read_openmetrics if openmetrics else read_text
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in read(page)
        for sample in family.samples
    }
    nasty = NASTY.replace("\udcff", "?")
    assert samples == {
        ("t_requests_total", (("service", "one"), ("team", nasty), ("why", "x"))): 3,
        ("t_depth", (("service", "one"),)): 2.5,
        ("t_wait_seconds_bucket", (("le", "0.1"), ("service", "one"), ("team", "a"))): 1,
        ("t_wait_seconds_bucket", (("le", "1.0"), ("service", "one"), ("team", "a"))): 2,
        ("t_wait_seconds_bucket", (("le", "+Inf"), ("service", "one"), ("team", "a"))): 3,
        ("t_wait_seconds_sum", (("service", "one"), ("team", "a"))): 7.6,
        ("t_wait_seconds_count", (("service", "one"), ("team", "a"))): 3,
    }


def test_openmetrics_tells_the_unit() -> None:
    (family,) = read_openmetrics(text(Family(WAIT, [(Labels([("team", "a")]), waits())]), openmetrics=True))
    assert (family.name, family.type, family.unit, family.documentation) == (
        "t_wait_seconds",
        "histogram",
        "seconds",
        "Waits.",
    )


def test_figures_that_are_no_numbers_are_written_as_the_formats_have_them() -> None:
    page = text(one(DEPTH, math.nan), openmetrics=False)
    assert page.endswith("} NaN\n")
    assert text(one(DEPTH, math.inf), openmetrics=False).endswith("} +Inf\n")
    assert text(one(DEPTH, True), openmetrics=False).endswith("} 1\n")


def test_label_sets_beyond_the_bound_are_counted_under_other() -> None:
    requests = Counts(REQUESTS, most=2)
    for team in ("a", "b", "c", "d", "a"):
        requests.add(team, "x")
    assert (requests.of("a", "x"), requests.of("b", "x"), requests.of(OTHER, OTHER)) == (2, 1, 2)
    assert requests.of("c", "x") == 0


def test_a_label_forgotten_is_an_error() -> None:
    with pytest.raises(ValueError, match="t_requests_total"):
        Counts(REQUESTS).add("a")


def test_a_large_page_comes_in_pieces() -> None:
    samples = [(Labels([("team", str(number)), ("why", "x")]), number) for number in range(3 * LINES_AT_ONCE)]
    pieces = list(render("one", [Family(REQUESTS, samples)], openmetrics=False))
    assert len(pieces) == 4
    (family,) = read_text(b"".join(pieces).decode())
    assert sum(sample.value for sample in family.samples) == sum(range(3 * LINES_AT_ONCE))


@pytest.mark.parametrize("openmetrics", [True, False])
def test_pages_joined_name_each_metric_once(openmetrics: bool) -> None:
    first = b"".join(render("one", [one(DEPTH, 1)], openmetrics=openmetrics))
    extra = Family(WAIT, [(Labels([("team", "a")]), waits(1.0))])
    second = b"".join(render("two", [one(DEPTH, 2), extra], openmetrics=openmetrics))
    page = b"".join(joined([first, second])) + (END if openmetrics else b"")
    families = {f.name: f for f in (read_openmetrics if openmetrics else read_text)(page.decode())}
    assert [(s.labels["service"], s.value) for s in families["t_depth"].samples] == [("one", 1.0), ("two", 2.0)]
    assert len(families["t_wait_seconds"].samples) == 5
    assert page.count(b"# TYPE t_depth") == 1


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8,text/plain;version=0.0.4;q=0.5", True),
        ("text/plain;q=0.5, Application/OpenMetrics-Text;q=0.9", True),
        ("application/openmetrics-text;q=0", False),
    ],
)
def test_openmetrics_is_for_those_who_ask(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted
