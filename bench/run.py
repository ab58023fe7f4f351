"""``make bench``: measure everything of the table, print it, keep it in ``bench/results/`` and write docs/figures.md.

``--only cpu,latency,sse,first-byte,decisions,aggregator,memory`` picks measures; ``--quick`` is a smoke run whose
figures mean nothing; ``--profile edge`` (or enforcer) profiles that service under the small and the large body instead.
"""

from __future__ import annotations

import argparse
import json
import platform
import pstats
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import aggregator_rate, figures_page, memory
from bench.figure import HEADINGS, Figure
from bench.hot_path import EDGE_PATH, QUICK, HotPath, Sizes
from bench.processes import BENCH, Failed, Load, Processes
from bench.stack import Gateway, start_references

MEASURES = ("cpu", "latency", "sse", "first-byte", "decisions", "aggregator", "memory")
PROFILE_LINES = 45


def measure_hot_path(folder: Path, wanted: set[str], sizes: Sizes, take: Callable[..., None]) -> None:
    """Everything that needs the gateway's own stack; one set of processes for all of it."""
    with Processes(folder) as processes:
        references = start_references(processes, folder)
        gateway = Gateway(processes, folder, references.upstream)
        gateway.start()
        governed = gateway.govern("bench", rate_limits="all")
        path = HotPath(processes, references, gateway, governed, sizes)
        path.warm_up()
        if "cpu" in wanted:
            take(path.per_request, "small", 2.6)
            take(path.per_request, "large", 1.7)
            path.use(gateway.govern("published", rate_limits="key"))
            for body, target in (("small", 2.6), ("large", 1.7)):
                take(path.per_request, body, target, "budgets on 4 levels, rate limits on the key")
            path.use(governed)
        if "latency" in wanted:
            take(path.added_latency)
        if "sse" in wanted:
            take(path.per_event)
        if "first-byte" in wanted:
            take(path.first_byte)
        if "decisions" in wanted:
            key = gateway.govern("decisions", rate_limits="none")
            processes.stop("edge", "admin-api", "aggregator")
            take(path.decisions, key, folder / "redis.sock")


def profile(folder: Path, service: str, sizes: Sizes) -> None:
    """Print where a service spends its time under load. cProfile slows Python down about twofold: read the shares."""
    with Processes(folder) as processes:
        references = start_references(processes, folder)
        gateway = Gateway(processes, folder, references.upstream)
        gateway.start(profile=service)
        key = gateway.govern("bench", rate_limits="all")
        for body, requests in (("small", sizes.small_requests * 2), ("large", sizes.large_requests)):
            arguments = ("--requests", str(requests), "--body", body)
            Load(gateway.port, *arguments, "--path", EDGE_PATH, "--header", f"Authorization: Bearer {key.value}").go()
        processes.stop(service)
        for order in ("tottime", "cumulative"):
            pstats.Stats(str(folder / f"{service}.prof")).strip_dirs().sort_stats(order).print_stats(PROFILE_LINES)


def table(figures: list[Figure]) -> str:
    """The figures as aligned text."""
    lines = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rows.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(rows)


def machine() -> str:
    """The kind of machine, without its name."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = f"{len(names)} x {names[0]}" if names else model
    except OSError:
        pass
    return f"{model}, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", choices=("edge", "enforcer"))
    parser.add_argument("--no-page", action="store_true", help="leave docs/figures.md alone")
    options = parser.parse_args()
    wanted = set(options.only.split(","))
    if wanted - set(MEASURES):
        parser.error(f"unknown measures {sorted(wanted - set(MEASURES))}; there are {', '.join(MEASURES)}")
    sizes = QUICK if options.quick else Sizes()
    figures: list[Figure] = []
    failed = False

    def take(measure: Callable[..., Figure], *arguments: object) -> None:
        nonlocal failed
        began = time.monotonic()
        try:
            figure = measure(*arguments)
        except Failed as error:
            failed = True
            print(f"FAILED {measure.__name__}{arguments}: {error}", file=sys.stderr, flush=True)
            return
        figures.append(figure)
        print(f"{'  '.join(figure.cells())}  {figure.note}  ({time.monotonic() - began:.0f} s)", flush=True)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bursar-bench-")))
        if options.profile:
            profile(folder, options.profile, sizes)
            return 0
        print(machine(), flush=True)
        try:
            if wanted - {"aggregator", "memory"}:
                (folder / "stack").mkdir()
                measure_hot_path(folder / "stack", wanted, sizes, take)
            if "memory" in wanted:
                (folder / "memory").mkdir()
                take(memory.at_rest, folder / "memory")
            if "aggregator" in wanted:
                (folder / "aggregator").mkdir()
                take(aggregator_rate.events_per_second, folder / "aggregator", 1 if options.quick else 3)
        except Exception:
            failed = True
            traceback.print_exc()
    print("\n" + table(figures))
    now = datetime.now(UTC)
    document = {
        "at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "quick": options.quick,
        "figures": [
            {
                **figure._asdict(),
                "target": figure.target.text(),
                "detail": dict(figure.detail),
                "reached": figure.reached,
            }
            for figure in figures
        ],
    }
    results = BENCH / "results"
    results.mkdir(exist_ok=True)
    (results / f"{now:%Y%m%dT%H%M%SZ}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    if not options.quick and not options.no_page and not failed and wanted == set(MEASURES):
        figures_page.write(document, figures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
