"""What a service counts, and how it is said to Prometheus. Pure.

A :class:`Metric` is a definition (each service's ``metrics.py`` lists its own; ``docs/metrics.md`` is made from them).
Counting is plain addition on objects that the caller keeps at hand; labels are put into words when somebody asks, and
the words of a label set are kept. Rendering comes in pieces, so that a large page never holds up a request.

Two formats: OpenMetrics 1.0 for those who ask for it, else Prometheus' own text format 0.0.4.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
"""Value of a label whose own value is beyond a bound."""
SERVICE_LABEL = "service"
"""Every sample carries it: on one machine all services' samples stand on one page."""
LINES_AT_ONCE = 400
"""Lines of one piece of a page: about a millisecond of the event loop."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Buckets of a duration nobody has said more about."""

_UNITS = ("seconds", "bytes", "ratio", "usd")


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric's definition."""

    name: str
    """As in queries, but for a histogram's ``_bucket``, ``_sum``, ``_count``. A counter's ends in ``_total``."""
    kind: Kind
    help: str
    """What it counts, in one sentence."""
    labels: tuple[str, ...] = ()
    """Beside ``service``."""
    tags: bool = False
    """Whether it also carries a label per name in ``BURSAR_METRICS_TAGS``."""
    buckets: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets, rising, without the last, endless one."""

    @property
    def unit(self) -> str:
        """The unit that the name ends with, empty if none."""
        stem = self.name.removesuffix("_total").rpartition("_")[2]
        return stem if stem in _UNITS else ""


class Labels:
    """A label set: names with values, and the words for it, made once."""

    __slots__ = ("pairs", "text")

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self.pairs = tuple(pairs)
        self.text = "".join([f',{name}="{escaped(value)}"' for name, value in self.pairs])

    def and_(self, name: str, value: str) -> Labels:
        """The set with one label more."""
        return Labels((*self.pairs, (name, value)))


NO_LABELS = Labels()


class Histogram:
    """How often a value fell into each bucket, and the sum of all values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Count:
    """A figure with its labels."""

    __slots__ = ("labels", "value")

    def __init__(self, labels: Labels = NO_LABELS) -> None:
        self.labels = labels
        self.value = 0

    def add(self, number: int = 1) -> None:
        self.value += number


class Counts:
    """Figures of one metric by the value of its labels; the caller's values must be few, or it sets ``most``."""

    __slots__ = ("_by_values", "_most", "metric")

    def __init__(self, metric: Metric, *, most: int = 1_000) -> None:
        """``most``: label sets kept; what comes beyond is counted under ``other``."""
        self.metric = metric
        self._most = most
        self._by_values: dict[tuple[str, ...], Count] = {}

    def add(self, *values: str, number: int = 1) -> None:
        """Count ``number`` more under these label values, one for each label of the metric."""
        found = self._by_values.get(values)
        if found is None:
            found = self._new(values)
        found.value += number

    def _new(self, values: tuple[str, ...]) -> Count:
        if len(values) != len(self.metric.labels):
            raise ValueError(f"{self.metric.name} has the labels {self.metric.labels}")
        if len(self._by_values) >= self._most:
            values = (OTHER,) * len(values)
            if (found := self._by_values.get(values)) is not None:
                return found
        count = Count(Labels(list(zip(self.metric.labels, values, strict=True))))
        self._by_values[values] = count
        return count

    def of(self, *values: str) -> int:
        """The figure as it stands."""
        found = self._by_values.get(values)
        return found.value if found is not None else 0

    def family(self) -> Family:
        return Family(self.metric, [(count.labels, count.value) for count in self._by_values.values()])


Value: TypeAlias = int | float | Histogram
Sample: TypeAlias = tuple[Labels, Value]


class Family(NamedTuple):
    """A metric and its samples of now. ``samples`` may be made as they are asked for; it is gone through once."""

    metric: Metric
    samples: Iterable[Sample]


def one(metric: Metric, value: Value) -> Family:
    """A family of a single sample without labels."""
    return Family(metric, ((NO_LABELS, value),))


def escaped(value: str) -> str:
    """A label's value as it stands between quotes."""
    if "\\" in value or '"' in value or "\n" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value.encode("utf-8", "replace").decode()


def render(service: str, families: Iterable[Family], *, openmetrics: bool) -> Iterator[bytes]:
    """A service's page in pieces of some LINES_AT_ONCE lines, without OpenMetrics' last line (``END``)."""
    lines: list[str] = []
    for metric, samples in families:
        lines += _head(metric, openmetrics)
        start = f'{metric.name}{{{SERVICE_LABEL}="{service}"'
        stem = f'{{{SERVICE_LABEL}="{service}"'
        for labels, value in samples:
            if isinstance(value, Histogram):
                lines += _histogram(metric.name, stem + labels.text, value)
            else:
                lines.append(f"{start}{labels.text}}} {number(value)}")
            if len(lines) >= LINES_AT_ONCE:
                lines.append("")
                yield "\n".join(lines).encode()
                lines = []
    if lines:
        lines.append("")
        yield "\n".join(lines).encode()


END = b"# EOF\n"
"""Last line of an OpenMetrics page."""


def _head(metric: Metric, openmetrics: bool) -> list[str]:
    name = metric.name.removesuffix("_total") if openmetrics and metric.kind == "counter" else metric.name
    help_ = metric.help.replace("\\", "\\\\").replace("\n", " ")
    if openmetrics:
        help_ = help_.replace('"', '\\"')
    head = [f"# HELP {name} {help_}", f"# TYPE {name} {metric.kind}"]
    if openmetrics and metric.unit:
        head.append(f"# UNIT {name} {metric.unit}")
    return head


def _histogram(name: str, labels: str, value: Histogram) -> list[str]:
    lines = []
    total = 0
    counts = tuple(value.counts)  # a moment: the sum may be a request ahead
    for bound, count in zip(value.bounds, counts, strict=False):
        total += count
        lines.append(f'{name}_bucket{labels},le="{bound}"}} {total}')
    total += counts[-1]
    lines.append(f'{name}_bucket{labels},le="+Inf"}} {total}')
    lines.append(f"{name}_sum{labels}}} {number(value.sum)}")
    lines.append(f"{name}_count{labels}}} {total}")
    return lines


def number(value: int | float) -> str:
    """A figure as both formats write it."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def wants_openmetrics(accept: str) -> bool:
    """Whether an ``Accept`` header names OpenMetrics (with a quality above 0)."""
    for part in accept.lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        if media_type == "application/openmetrics-text":
            return not any(each in ("q=0", "q=0.0", "q=0.00", "q=0.000") for each in parameters)
    return False


def joined(pages: Iterable[bytes]) -> Iterator[bytes]:
    """Several services' pages (:func:`render`) as one: a metric that several have stands once, with all samples."""
    blocks: dict[bytes, list[bytes]] = {}
    for page in pages:
        for block in page.split(b"# HELP ")[1:]:
            name = block.split(b" ", 1)[0]
            known = blocks.get(name)
            if known is None:
                blocks[name] = [b"# HELP ", block]
            else:
                known += [line + b"\n" for line in block.split(b"\n")[1:] if line and not line.startswith(b"#")]
    for parts in blocks.values():
        yield b"".join(parts)
