"""Metrics as OTLP bytes, read back with the protobuf library."""

from __future__ import annotations

import asyncio

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from bursar_common.metrics import NO_LABELS, Family, Histogram, Labels, Metric
from bursar_common.otlp_metrics import Encoder, MetricsPush, metrics_request, open_metrics_push
from bursar_common.spans import resource

REQUESTS = Metric(name="bursar_requests_total", kind="counter", help="Requests.", labels=("team",))
COST = Metric(name="bursar_cost_usd_total", kind="counter", help="Cost.")
HELD = Metric(name="bursar_holds", kind="gauge", help="Holds.")
LATENCY = Metric(name="bursar_latency_seconds", kind="histogram", help="Latency.", buckets=(0.1, 1.0))
CORE, DATA = Labels([("team", "core")]), Labels([("team", 'dä"ta')])


def read(encoder, *families, now_ns=2000):
    entries = [
        encoder.metric(metric, points)
        for metric, samples in families
        if (points := encoder.points(metric, samples, now_ns))
    ]
    got = ExportMetricsServiceRequest.FromString(metrics_request(resource({"a": "b"}), "1", entries))
    (scope,) = got.resource_metrics[0].scope_metrics
    return {each.name: each for each in scope.metrics}


def test_cumulative_figures_are_what_the_protobuf_library_reads():
    encoder = Encoder(delta=False, start_ns=1000)
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.5, 0.6, 7.0):
        histogram.observe(value)
    got = read(
        encoder,
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
    encoder = Encoder(delta=True, start_ns=1000)
    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.5)

    def figures(count, now_ns):
        got = read(encoder, (REQUESTS, [(CORE, count), (DATA, 0)]), (LATENCY, [(CORE, histogram)]), now_ns=now_ns)
        requests = got.get("bursar_requests_total")
        latency = got.get("bursar_latency_seconds")
        return (
            [point.as_int for point in requests.sum.data_points] if requests else [],
            [list(point.bucket_counts) for point in latency.histogram.data_points] if latency else [],
            [point.start_time_unix_nano for point in requests.sum.data_points] if requests else [],
        )

    assert figures(3, 2000) == ([3], [[0, 1, 0]], [1000])
    encoder.lost()
    assert figures(4, 3000) == ([4], [[0, 1, 0]], [1000])
    encoder.delivered()
    encoder.begin_interval(3000)
    assert figures(4, 4000) == ([], [], [])
    encoder.delivered()
    encoder.begin_interval(4000)
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
    """Stands for a delivery."""

    def __init__(self):
        self.bodies = []
        self.works = True
        self.closed = False
        self.stopping = asyncio.Event()

    async def pause(self, for_s):
        await self.stopping.wait()

    async def deliver(self, body, *, tries):
        self.bodies.append(body)
        return b"" if self.works else None

    async def close(self):
        self.closed = True


async def test_many_points_go_in_several_requests_and_the_last_ones_at_the_end():
    taken = Taken()
    push = MetricsPush(
        Some(15_000), taken, Encoder(delta=True, start_ns=0), resource({"service.name": "x"}), interval_s=60
    )
    push.start()
    taken.works = False
    await push.push()
    taken.works = True
    taken.bodies.clear()
    await push.stop()
    assert taken.closed
    assert len(taken.bodies) == 2
    assert all(len(body) < 500_000 for body in taken.bodies)
    got = [ExportMetricsServiceRequest.FromString(body) for body in taken.bodies]
    metrics = [metric for each in got for metric in each.resource_metrics[0].scope_metrics[0].metrics]
    assert [each.name for each in metrics] == ["bursar_requests_total", "bursar_requests_total", "bursar_holds"]
    points = [point for each in metrics[:2] for point in each.sum.data_points]
    assert sum(point.as_int for point in points) == sum(range(15_000))


def test_off_without_an_endpoint():
    assert open_metrics_push({}, "edge-proxy", Some(1)) is None
    assert open_metrics_push({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, "x", Some(1)) is None
