"""The measures of the request's way: CPU per request and per event, added latency, time to first byte, decisions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.decisions import Decisions
from bench.figure import Figure, Target
from bench.measure import CpuMeter, alternate, pair
from bench.processes import Load, Processes
from bench.redis_server import PIPELINE, BareScript
from bench.stack import BESIDE, GOVERNED, Gateway, Key, References

EDGE_PATH = "/anthropic/v1/messages"
SETTLE_WAIT_S = 0.15
"""After the last answer: time in which the last events are recorded and settled, charged to the requests."""


class Sizes(NamedTuple):
    """How much of everything; the whole stays within a few minutes on two busy cores."""

    rounds: int = 5
    small_requests: int = 2500
    large_requests: int = 1000
    lone_requests: int = 600
    stream_events: int = 600
    streams: int = 32
    first_byte_requests: int = 160
    decision_batches: int = 12


QUICK = Sizes(2, 600, 300, 200, 100, 32, 48, 4)


class HotPath:
    """The measures, on one running stack."""

    def __init__(self, processes: Processes, references: References, gateway: Gateway, key: Key, sizes: Sizes) -> None:
        self.processes = processes
        self.references = references
        self.gateway = gateway
        self.sizes = sizes
        self.use(key)

    def use(self, key: Key) -> None:
        """Requests carry this key from now on."""
        self.to_edge = ["--path", EDGE_PATH, "--header", f"Authorization: Bearer {key.value}"]

    def warm_up(self) -> None:
        """Fill connection pools, caches and the branch predictors before anything is measured."""
        for body, requests in (("small", 600), ("large", 200)):
            Load(self.references.bare, "--requests", str(requests), "--body", body).go()
            Load(self.gateway.port, "--requests", str(requests), "--body", body, *self.to_edge).go()

    def _bare(self, *arguments: str) -> Callable[[], tuple[dict[str, float], dict[str, Any]]]:
        return self._run(self.references.bare, {"bare": self.processes.pid("bare")}, arguments)

    def _edge(self, *arguments: str) -> Callable[[], tuple[dict[str, float], dict[str, Any]]]:
        return self._run(self.gateway.port, self.gateway.pids(), (*arguments, *self.to_edge))

    def _run(
        self, port: int, pids: dict[str, int], arguments: tuple[str, ...]
    ) -> Callable[[], tuple[dict[str, float], dict[str, Any]]]:
        def run() -> tuple[dict[str, float], dict[str, Any]]:
            load, meter = Load(port, *arguments), CpuMeter(pids)
            meter.start()
            figures = load.go()
            time.sleep(SETTLE_WAIT_S)
            return meter.read(), figures

        return run

    def per_request(self, body: str, target: float, governed: str = "") -> Figure:
        """CPU time per JSON request at 32 connections, against the bare proxy. ``governed`` says by what, where that is
        less than everything."""
        requests = self.sizes.small_requests if body == "small" else self.sizes.large_requests
        arguments = ("--requests", str(requests), "--body", body)
        bare, edge = alternate(self.sizes.rounds, self._bare(*arguments), self._edge(*arguments))
        result = pair(
            [cpu["bare"] / requests * 1e6 for cpu, _ in bare],
            [sum(cpu[name] for name in GOVERNED) / requests * 1e6 for cpu, _ in edge],
        )
        return Figure(
            f"{'90 B' if body == 'small' else '100 kB'} body, JSON answer, 32 connections, "
            f"{governed + ', ' if governed else ''}CPU per request",
            "bare aiohttp proxy",
            Target("at most", target, "x"),
            "us",
            *result[:3],
            detail={
                "ratios": result.ratios,
                "parts_us": {name: _median(cpu[name] / requests * 1e6 for cpu, _ in edge) for name in GOVERNED},
                "beside_us": {name: _median(cpu[name] / requests * 1e6 for cpu, _ in edge) for name in BESIDE},
                "requests_per_s": _median(requests / figures["wall_s"] for _, figures in edge),
                "bare_requests_per_s": _median(requests / figures["wall_s"] for _, figures in bare),
                "latency_p50_ms": _median(figures["latency_p50_ms"] for _, figures in edge),
            },
        )

    def added_latency(self) -> Figure:
        """Median latency added to a lone request, against the bare proxy."""
        arguments = ("--requests", str(self.sizes.lone_requests), "--connections", "1")
        bare, edge = alternate(self.sizes.rounds, self._bare(*arguments), self._edge(*arguments))
        reference = [figures["latency_p50_ms"] for _, figures in bare]
        ours = [figures["latency_p50_ms"] for _, figures in edge]
        added = [mine - theirs for mine, theirs in zip(ours, reference, strict=True)]
        return Figure(
            "one request at a time, p50 latency added",
            "bare aiohttp proxy",
            Target("at most", 1.2, "ms"),
            "ms",
            _median(reference),
            _median(ours),
            _median(added),
            detail={"added_ms": added},
        )

    def per_event(self) -> Figure:
        """CPU time per relayed event at 32 streams, against nginx unbuffered."""
        target = Target("at most", 2.0, "x")
        measure = f"SSE relay, {self.sizes.streams} streams, CPU per event"
        if self.references.nginx is None:
            return Figure(measure, "nginx, unbuffered", target, "us", note="nginx is not installed")
        arguments = (
            *("--connections", str(self.sizes.streams), "--requests", str(self.sizes.streams)),
            *("--events", str(self.sizes.stream_events), "--every-us", "5000", "--stagger-ms", "1"),
        )
        events = self.sizes.streams * self.sizes.stream_events
        nginx, edge = alternate(
            self.sizes.rounds,
            self._run(self.references.nginx, {"nginx": self.processes.pid("nginx")}, arguments),
            self._edge(*arguments),
        )
        result = pair(
            [cpu["nginx"] / events * 1e6 for cpu, _ in nginx],
            [sum(cpu[name] for name in GOVERNED) / events * 1e6 for cpu, _ in edge],
        )
        return Figure(
            measure,
            "nginx, unbuffered",
            target,
            "us",
            *result[:3],
            detail={
                "ratios": result.ratios,
                "parts_us": {name: _median(cpu[name] / events * 1e6 for cpu, _ in edge) for name in GOVERNED},
            },
        )

    def first_byte(self) -> Figure:
        """Median time to the first body byte of a stream added to the upstream's own, 100 kB bodies, 8 streams."""
        arguments = (
            *("--connections", "8", "--requests", str(self.sizes.first_byte_requests), "--body", "large"),
            *("--events", "20", "--every-us", "5000", "--stagger-ms", "10"),
        )
        direct, edge = alternate(
            self.sizes.rounds, self._run(self.references.upstream, {}, arguments), self._edge(*arguments)
        )
        reference = [figures["first_byte_p50_ms"] for _, figures in direct]
        ours = [figures["first_byte_p50_ms"] for _, figures in edge]
        added = [mine - theirs for mine, theirs in zip(ours, reference, strict=True)]
        return Figure(
            "time to first byte added, p50, 100 kB body, 8 streams",
            "direct to the upstream",
            Target("at most", 3.0, "ms"),
            "ms",
            _median(reference),
            _median(ours),
            _median(added),
            detail={"added_ms": added},
        )

    def decisions(self, key: Key, redis_socket: Path) -> Figure:
        """Admissions per second through the enforcer, 4 levels, against the bare script in the same Redis."""
        batches = self.sizes.decision_batches
        bare = BareScript(redis_socket)
        client = Decisions(self.gateway.folder / "enforcer.sock", self.gateway.internal_token, key.value)
        meter = CpuMeter({name: self.processes.pid(name) for name in ("enforcer", "redis")})
        cpu_us: list[dict[str, float]] = []
        releases: list[float] = []

        def reference() -> float:
            began = time.perf_counter()
            made = bare.decide(batches * 4)
            return made / (time.perf_counter() - began)

        def ours() -> float:
            meter.start()
            made, took_s = client.admit(batches)
            cpu_us.append({name: spent / made * 1e6 for name, spent in meter.read().items()})
            given_back, back_s = client.release_all()
            releases.append(given_back / back_s)
            return made / took_s

        client.admit(1)
        client.release_all()
        result = pair(*alternate(self.sizes.rounds, reference, ours))
        bare.close()
        return Figure(
            "decisions per second, 4 levels, enforcer alone",
            f"bare Lua script, {PIPELINE} pipelined",
            Target("at least", 15.0, "%"),
            "/s",
            result.reference,
            result.ours,
            result.ratio * 100,
            detail={
                "ratios": result.ratios,
                "parts_us": {name: _median(each[name] for each in cpu_us) for name in ("enforcer", "redis")},
                "releases_per_s": _median(releases),
            },
        )


def _median(values: Any) -> float:
    return float(statistics.median(values))
