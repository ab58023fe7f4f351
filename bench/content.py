"""What storing content costs: ``python -m bench.content`` (best with ``nice -n -15``), two to four minutes.

CPU time of the edge per relayed event, and of edge, enforcer and Redis per request, with content off and on, each the
median over interleaved rounds (off on, on off, ...). On includes everything: chunks held on to while they pass, and,
after the answer, reading them, taking secrets out, encoding and appending. How much of it is the first of the two is
measured without a gateway at the end: the one thing that happens while a client waits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import payloads
from bench.hot_path import EDGE_PATH, SETTLE_WAIT_S
from bench.measure import CpuMeter, alternate
from bench.processes import Load, Processes
from bench.stack import GOVERNED, Gateway, Key, start_references
from bursar_edge.keeping import Keeping

Side = Callable[[], tuple[dict[str, float], dict[str, Any]]]
WORK_WAIT_S = 0.6
"""After the last answer: time in which content is worked through, and charged."""


def side(gateway: Gateway, key: Key, *arguments: str) -> Side:
    """One run with a key."""

    def run() -> tuple[dict[str, float], dict[str, Any]]:
        load = Load(gateway.port, *arguments, "--path", EDGE_PATH, "--header", f"Authorization: Bearer {key.value}")
        meter = CpuMeter({name: gateway.pids()[name] for name in (*GOVERNED, "aggregator")})
        meter.start()
        figures = load.go()
        time.sleep(SETTLE_WAIT_S + WORK_WAIT_S)
        return meter.read(), figures

    return run


def compare(what: str, unit: int, rounds: int, off: Side, on: Side, parts: tuple[str, ...]) -> None:
    """Print both sides' CPU time per ``unit`` of work, in microseconds."""
    without, with_ = alternate(rounds, off, on)

    def median(runs: list[tuple[dict[str, float], dict[str, Any]]]) -> float:
        return statistics.median(sum(cpu[part] for part in parts) / unit * 1e6 for cpu, _ in runs)

    ratios = [
        sum(b[0][part] for part in parts) / sum(a[0][part] for part in parts)
        for a, b in zip(without, with_, strict=True)
    ]
    slow = [statistics.median(figures["latency_p50_ms"] for _, figures in runs) for runs in (without, with_)]
    print(
        f"{what:52} off {median(without):8.1f} us  on {median(with_):8.1f} us  x {statistics.median(ratios):.2f}"
        f"   p50 off {slow[0]:.1f} ms, on {slow[1]:.1f} ms",
        flush=True,
    )


class Boundless:
    """Memory without an end, and a reader that reads nothing."""

    def take(self, size: int) -> bool:
        return True

    def give_back(self, size: int) -> None: ...

    def feed(self, chunk: bytes) -> None: ...

    def end(self) -> None: ...


def keeping_us(answers: int = 200, events: int = 400) -> float:
    """CPU microseconds that keeping an event costs while it passes, beyond a call of a function."""
    event = payloads.sse_delta()
    frame = b"%x\r\n%b\r\n" % (len(event), event)

    def pass_on(_frame: bytes) -> bool:
        return True

    def spent(keep: bool) -> float:
        began = time.process_time()
        for _ in range(answers):
            quick = Keeping(Boundless(), Boundless()).over(pass_on) if keep else pass_on
            for _ in range(events):
                quick(frame)
        return time.process_time() - began

    runs = [(spent(True), spent(False)) for _ in range(5)]
    return statistics.median(kept - bare for kept, bare in runs) / answers / events * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--events", type=int, default=600)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--only", choices=("sse", "json"), help="one of the two")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as name, Processes(Path(name)) as processes:
        folder = Path(name)
        references = start_references(processes, folder)
        gateway = Gateway(processes, folder, references.upstream)
        gateway.start()
        off, on = gateway.govern("off", rate_limits="all"), gateway.govern("on", rate_limits="all")
        gateway.call("PATCH", f"/api/governance/virtual-keys/{on.id}", {"content": "on"})
        for key in (off, on):
            side(gateway, key, "--requests", "300", "--body", "small")()
        edge = ("edge",)
        stream = (
            *("--connections", str(options.streams), "--requests", str(options.streams)),
            *("--events", str(options.events), "--every-us", "5000", "--stagger-ms", "1"),
        )
        events = options.streams * options.events
        if options.only != "json":
            compare("SSE relay, per event, edge", events, options.rounds, side(gateway, off, *stream),
                    side(gateway, on, *stream), edge)  # fmt: skip
        for body in () if options.only == "sse" else ("small", "large"):
            plain = ("--requests", str(options.requests), "--body", body)
            compare(f"JSON request, {body} body, edge + enforcer + Redis", options.requests, options.rounds,
                    side(gateway, off, *plain), side(gateway, on, *plain), GOVERNED)  # fmt: skip
        request_id = gateway.call("GET", f"/api/logs?limit=1&key={on.id}")["logs"][0]["id"]
        stored = gateway.call("GET", f"/api/logs/{request_id}")["log"]["content"]
        if stored is None:
            print("nothing was stored: these figures mean nothing", file=sys.stderr)
            return 1
    print(f"{'of that, keeping an event while it passes':52} on {keeping_us():8.2f} us", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
