"""A service's metrics as they are pushed: figures of a moment, or what came since the last push that arrived. Pure but
for that memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bursar_common.metrics import Histogram, Labels, Metric
from bursar_common.metrics import Value as Living

REQUEST_BYTES = 400_000
"""Of one export, about; more goes in several. The smallest limit of a well-known receiver is 500 kB, uncompressed."""
_POINT_BYTES, _LABEL_BYTES, _BUCKET_BYTES = 40, 12, 18
"""What a point, a label beside its words, and a bucket take at most."""


class Buckets(NamedTuple):
    """A histogram's figures of a moment."""

    counts: tuple[int, ...]
    sum: float


Figure = int | float | Buckets
Point = tuple[Labels, Figure]


class Points(NamedTuple):
    """Some of a metric's points, and the time they are of, in Unix nanoseconds."""

    metric: Metric
    points: Sequence[Point]
    start_ns: int
    now_ns: int


def of_now(value: Living) -> Figure:
    """A figure that does not change any more."""
    return Buckets(tuple(value.counts), value.sum) if isinstance(value, Histogram) else value


class Since:
    """Counters and histograms as sums since the process began, or under ``delta`` as what came since what last
    arrived: what could not be delivered is in the next push."""

    def __init__(self, *, delta: bool, start_ns: int) -> None:
        self.delta = delta
        self._start_ns = start_ns
        self._delivered: dict[tuple[str, tuple[tuple[str, str], ...]], Figure] = {}
        self._pending: dict[tuple[str, tuple[tuple[str, str], ...]], Figure] = {}

    def points(self, metric: Metric, points: Sequence[Point], now_ns: int) -> Points:
        """What there is to say; under ``delta`` without points where nothing came."""
        if self.delta and metric.kind != "gauge":
            points = [
                (labels, came) for labels, figure in points if (came := self._came(metric, labels, figure)) is not None
            ]
        return Points(metric, points, self._start_ns, now_ns)

    def _came(self, metric: Metric, labels: Labels, figure: Figure) -> Figure | None:
        key = (metric.name, labels.pairs)
        self._pending[key] = figure
        before = self._delivered.get(key)
        if isinstance(figure, Buckets):
            if isinstance(before, Buckets):
                counts = tuple([now - then for now, then in zip(figure.counts, before.counts, strict=True)])
                figure = Buckets(counts, figure.sum - before.sum)
            return figure if any(figure.counts) else None
        if before is not None and not isinstance(before, Buckets):
            figure -= before
        return figure or None

    def delivered(self) -> None:
        """What was said since the last call of this or of ``lost`` has arrived."""
        self._delivered.update(self._pending)
        self._pending.clear()

    def lost(self) -> None:
        """It has not: the next figures contain it."""
        self._pending.clear()

    def begin_interval(self, now_ns: int) -> None:
        """Everything has arrived: what comes next came after ``now_ns``."""
        if self.delta:
            self._start_ns = now_ns


def in_requests(metrics: Sequence[tuple[Metric, Sequence[Point]]]) -> Iterator[list[tuple[Metric, list[Point]]]]:
    """The points in portions of REQUEST_BYTES, a metric that does not fit into one in several."""
    portion: list[tuple[Metric, list[Point]]] = []
    size = 0
    for metric, points in metrics:
        some: list[Point] = []
        for point in points:
            some.append(point)
            size += _bytes_of(point)
            if size >= REQUEST_BYTES:
                portion.append((metric, some))
                yield portion
                portion, some, size = [], [], 0
        if some:
            portion.append((metric, some))
    if portion:
        yield portion


def _bytes_of(point: Point) -> int:
    labels, figure = point
    words = len(labels.text) if labels.text.isascii() else len(labels.text.encode("utf-8", "replace"))
    buckets = len(figure.counts) * _BUCKET_BYTES if isinstance(figure, Buckets) else 0
    return _POINT_BYTES + words + _LABEL_BYTES * len(labels.pairs) + buckets
