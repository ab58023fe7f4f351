"""CPU time and memory of processes, and pairs of alternating rounds.

The machine may be busy with other things, so figures are CPU time rather than wall time where possible, and each
round measures the reference and ours one right after the other: noise that lasts longer than a round cancels out in
the round's ratio, and the median over the rounds leaves out the odd one.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

T = TypeVar("T")


def tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int) -> float:
    """CPU time, in seconds, of a process and of its living descendants, to the nanosecond where the system allows."""
    total = 0.0
    for each in tree(pid):
        try:
            # The clock id of another process's CPU time: see clock_getcpuclockid(3) and CPUCLOCK_SCHED in Linux.
            total += time.clock_gettime((~each << 3) | 2)
        except (OSError, OverflowError):
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(each).cpu_times()
                total += times.user + times.system
    return total


def pss_bytes(pid: int) -> dict[str, int]:
    """Proportional set size of each process of a tree, keyed ``<name>:<pid>``: shared pages are split among users."""
    sizes = {}
    for each in tree(pid):
        with contextlib.suppress(OSError, psutil.Error):
            words = psutil.Process(each).cmdline()
            name = next((w for w in words if w.startswith("bursar")), Path(words[0]).name if words else "?")
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii")
            kilobytes = next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
            sizes[f"{name}:{each}"] = int(kilobytes) * 1024
    return sizes


class CpuMeter:
    """CPU seconds spent by named processes since :meth:`start`."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.pids = pids
        self.before: dict[str, float] = {}

    def start(self) -> None:
        self.before = {name: cpu_s(pid) for name, pid in self.pids.items()}

    def read(self) -> dict[str, float]:
        return {name: cpu_s(pid) - self.before[name] for name, pid in self.pids.items()}


class Pair(NamedTuple):
    """The figures of alternating rounds: of the reference, of ours, and ours to the reference, each round's own."""

    reference: float
    ours: float
    ratio: float
    ratios: list[float]


def alternate(rounds: int, reference: Callable[[], T], ours: Callable[[], T]) -> tuple[list[T], list[T]]:
    """Run A B, B A, A B ...: neither side always comes second."""
    ones: list[T] = []
    others: list[T] = []
    for number in range(rounds):
        for which in ((0, 1), (1, 0))[number % 2]:
            (others if which else ones).append((ours if which else reference)())
    return ones, others


def pair(reference: Sequence[float], ours: Sequence[float]) -> Pair:
    """Medians of the rounds' figures and of the rounds' ratios."""
    ratios = [mine / theirs for mine, theirs in zip(ours, reference, strict=True)]
    return Pair(statistics.median(reference), statistics.median(ours), statistics.median(ratios), ratios)
