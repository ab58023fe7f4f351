"""Counts answers. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from bursar_admin.metrics import REQUESTS, SECONDS
from bursar_common.metrics import OTHER, Counts, Family, Histogram, Labels

STREAMS = frozenset({"/ws", "/api/logs/stream"})
"""Routes whose answers last as long as somebody watches."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


class Meter:
    """Routes are ours, so label sets are few: routes by methods by statuses."""

    def __init__(self) -> None:
        self._requests = Counts(REQUESTS, most=2_000)
        self._seconds: dict[str, Histogram] = {}

    def answered(self, method: str, route: str, status: int, took_s: float) -> None:
        """A request was answered. ``route`` empty: there is none."""
        route = route or OTHER
        self._requests.add(method if method in _METHODS else OTHER, route, str(status))
        if route in STREAMS:
            return
        histogram = self._seconds.get(route)
        if histogram is None:
            histogram = self._seconds[route] = Histogram(SECONDS.buckets)
        histogram.observe(took_s)

    def families(self) -> Iterator[Family]:
        yield self._requests.family()
        yield Family(SECONDS, [(Labels([("route", route)]), each) for route, each in self._seconds.items()])
