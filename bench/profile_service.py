"""Run a service under cProfile: ``profile_service.py <module> <file>``. The figures are written when it stops.

``python -m pstats <file>`` reads them; ``bench/run.py --profile edge`` prints the heaviest lines.
"""

from __future__ import annotations

import cProfile
import importlib
import sys
import time


def main() -> int:
    module, target = sys.argv[1], sys.argv[2]
    profiler = cProfile.Profile(
        time.thread_time
    )  # CPU time of the event loop's thread: waiting and other processes do not count
    try:
        return int(profiler.runcall(importlib.import_module(f"{module}.app").main))
    finally:
        profiler.dump_stats(target)


if __name__ == "__main__":
    sys.exit(main())
