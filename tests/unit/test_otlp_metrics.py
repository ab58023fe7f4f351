"""Metrics as OpenTelemetry's exporter encodes them."""

from __future__ import annotations

import asyncio

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from bursar_common.delivery import Delivery, NotSent
from bursar_common.metrics import NO_LABELS, Family, Histogram, Labels, Metric
from bursar_common.otlp import destination
from bursar_common.otlp_exporters import Source
from bursar_common.otlp_metrics import MetricsPush, open_metrics_push
from bursar_common.otlp_points import Since, of_now

REQUESTS = Metric(name="bursar_requests_total", kind="counter", help="Requests.", labels=("team",))
COST = Metric(name="bursar_cost_usd_total", kind="counter", help="Cost.")
HELD = Metric(name="bursar_holds", kind="gauge", help="Holds.")
LATENCY = Metric(name="bursar_latency_seconds", kind="histogram", help="Latency.", buckets=(0.1, 1.0))
CORE, DATA = Labels([("team", "core")]), Labels([("team", 'dä"ta')])


SOURCE = Source({"a": "b"}, "bursar", "1")


def read(since, *families, now_ns=2000):
    said = [
        points
        for metric, samples in families
        if (points := since.points(metric, [(labels, of_now(value)) for labels, value in samples], now_ns)).points
    ]
    (scope,) = encode_metrics(SOURCE.metrics(said, delta=since.delta)).resource_metrics[0].scope_metrics
    return {each.name: each for each in scope.metrics}


def test_cumulative_figures():
    since = Since(delta=False, start_ns=1000)
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.5, 0.6, 7.0):
        histogram.observe(value)
    got = read(
        since,
        (REQUESTS, [(CORE, 3), (DATA, 4)]),
        (COST, [(NO_LABELS, 0.25)]),
        (HELD, [(NO_LABELS, -2)]),
        (LATENCY, [(CORE, histogram)]),
        (Metric(name="none", kind="gauge", help="Nothing."), []),
    )
    assert set(got) == {"bursar_requests_total", "bursar_cost_usd_total", "bursar_holds", "bursar_latency_seconds"}
    requests = got["bursar_requests_total"].sum
    assert requests.is_monotonic
    assert requests.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert [(point.attributes[0].value.string_value, point.as_int) for point in requests.data_points] == [
        ("core", 3),
        ('dä"ta', 4),
    ]
    assert {(p.start_time_unix_nano, p.time_unix_nano) for p in requests.data_points} == {(1000, 2000)}
    assert got["bursar_requests_total"].description == "Requests."
    assert got["bursar_cost_usd_total"].unit == "{USD}"
    assert got["bursar_cost_usd_total"].sum.data_points[0].as_double == 0.25
    assert got["bursar_holds"].gauge.data_points[0].as_int == -2
    assert got["bursar_holds"].gauge.data_points[0].time_unix_nano == 2000
    latency = got["bursar_latency_seconds"]
    assert latency.unit == "s"
    (point,) = latency.histogram.data_points
    assert (list(point.bucket_counts), list(point.explicit_bounds)) == ([1, 2, 1], [0.1, 1.0])
    assert (point.count, round(point.sum, 6)) == (4, 8.15)
    assert point.attributes[0].key == "team"


def test_deltas_are_what_came_since_what_last_arrived():
    since = Since(delta=True, start_ns=1000)
    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.5)

    def figures(count, now_ns):
        got = read(since, (REQUESTS, [(CORE, count), (DATA, 0)]), (LATENCY, [(CORE, histogram)]), now_ns=now_ns)
        requests = got.get("bursar_requests_total")
        latency = got.get("bursar_latency_seconds")
        return (
            [point.as_int for point in requests.sum.data_points] if requests else [],
            [list(point.bucket_counts) for point in latency.histogram.data_points] if latency else [],
            [point.start_time_unix_nano for point in requests.sum.data_points] if requests else [],
        )

    assert figures(3, 2000) == ([3], [[0, 1, 0]], [1000])
    since.lost()
    assert figures(4, 3000) == ([4], [[0, 1, 0]], [1000])
    since.delivered()
    since.begin_interval(3000)
    assert figures(4, 4000) == ([], [], [])
    since.delivered()
    since.begin_interval(4000)
    histogram.observe(5.0)
    assert figures(9, 5000) == ([5], [[0, 0, 1]], [4000])


class Some:
    """Stands for a service's metrics."""

    def __init__(self, count):
        self.count = count

    async def families(self):
        many = [(Labels([("team", str(number))]), number) for number in range(self.count)]
        return [Family(REQUESTS, iter(many)), Family(HELD, [(NO_LABELS, 1)])]


class Taken:
    """Stands for an exporter."""

    def __init__(self):
        self.requests = []
        self.works = True
        self.closed = False

    def send(self, batch):
        self.requests.append(encode_metrics(batch))
        if not self.works:
            raise NotSent("status 503", retryable=True)
        return 0

    def close(self):
        self.closed = True


async def test_many_points_go_in_several_requests_and_the_last_ones_at_the_end():
    taken = Taken()
    to = destination({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, "metrics", [])
    push = MetricsPush(
        Some(15_000),
        Delivery(taken, to),
        Since(delta=True, start_ns=0),
        lambda points: SOURCE.metrics(points, delta=True),
        interval_s=0.01,
    )
    taken.works = False
    push.start()
    async with asyncio.timeout(20):
        while not taken.requests:
            await asyncio.sleep(0.01)
    taken.works = True
    await push.stop()
    assert taken.closed
    assert push.failures >= 1
    assert all(each.ByteSize() < 500_000 for each in taken.requests)
    metrics = [metric for each in taken.requests for metric in each.resource_metrics[0].scope_metrics[0].metrics]
    assert {each.name for each in metrics} == {"bursar_requests_total", "bursar_holds"}
    arrived = {}
    for metric in metrics:
        for point in metric.sum.data_points:
            arrived[point.attributes[0].value.string_value] = point.as_int
    assert arrived == {str(number): number for number in range(1, 15_000)}


def test_off_without_an_endpoint():
    assert open_metrics_push({}, "edge-proxy", Some(1)) is None
    assert open_metrics_push({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, "x", Some(1)) is None
