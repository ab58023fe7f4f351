"""Memory of ``bursar up`` at rest: proportional set size of everything it started."""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path

from bench.figure import Figure, Target
from bench.measure import pss_bytes
from bench.processes import START_TIMEOUT_S, Failed, Processes, free_port

REST_S = 10.0
"""After everything is ready: until start-up's garbage has settled."""


def at_rest(folder: Path) -> Figure:
    """Start the whole gateway as a person would, wait, add up."""
    target = Target("at most", 700.0, "MB")
    measure = "memory of `bursar up` at rest, PSS"
    if not Path("/proc/self/smaps_rollup").exists():
        return Figure(measure, "-", target, "MB", note="this system does not report proportional set sizes")
    port = free_port()
    with Processes(folder) as processes:
        processes.start(
            "bursar",
            [
                *(sys.executable, "-m", "bursar", "up", "--home", str(folder / "home")),
                *("--port", str(port), "--clickhouse-port", str(free_port())),
            ],
        )
        processes.wait_port("bursar", port)
        _wait_healthy(processes, port)
        time.sleep(REST_S)
        sizes = pss_bytes(processes.pid("bursar"))
    total = sum(sizes.values()) / 1e6
    parts = {name: round(size / 1e6) for name, size in sorted(sizes.items(), key=lambda item: -item[1])}
    return Figure(measure, "-", target, "MB", None, total, total, detail={"parts_mb": parts})


def _wait_healthy(processes: Processes, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    last = ""
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            last = f"{answer.status} {answer.read()[:300]!r}"
            if answer.status == 200:
                return
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        finally:
            connection.close()
        time.sleep(0.2)
    raise Failed(f"`bursar up` is not healthy: {last} {processes.last_words('bursar')}")
