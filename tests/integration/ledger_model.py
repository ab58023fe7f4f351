"""An independent model of the ledger: Python integers, a dictionary per counter, rules as the design words them.

It shares no code with the enforcer's scripts and is the judge in the state-machine and concurrency tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Amounts = dict[str, int]
"""Charge by unit: n, t, T, r."""


@dataclass(frozen=True)
class ModelLimit:
    """``mode``: standard, strict, observe, tokens, requests."""

    unit: str
    mode: str
    limit: int
    max_overshoot: int | None = None


@dataclass
class ModelCounter:
    spent: int = 0
    holds: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Open holds: request -> (expected, bound)."""

    @property
    def held(self) -> int:
        return sum(expected for expected, _ in self.holds.values())

    @property
    def exposed(self) -> int:
        return sum(bound for _, bound in self.holds.values())

    def figures(self) -> tuple[int, int, int, int]:
        return self.spent, self.held, self.exposed, len(self.holds)


@dataclass
class Closing:
    rank: int
    amounts: Amounts
    counters: tuple[str, ...]


Decision = tuple[str, str, int]
"""(admitted | refused | again | gone, code, index of the limit from 1; for admitted of the first without room)"""


class LedgerModel:
    def __init__(self) -> None:
        self.counters: dict[str, ModelCounter] = {}
        self.holds: dict[str, tuple[str, ...]] = {}
        self.closed: dict[str, Closing] = {}

    def counter(self, name: str) -> ModelCounter:
        return self.counters.setdefault(name, ModelCounter())

    def admit(self, request: str, chain: list[tuple[str, ModelLimit, int, int]]) -> Decision:
        """``chain``: (counter, limit, expected, bound), narrowest first."""
        if request in self.closed:
            return "gone", str(self.closed[request].rank), 0
        if request in self.holds:
            return "again", "", 0
        would = 0
        waiting = 0
        for index, (name, limit, expected, bound) in enumerate(chain, 1):
            code = self._judge(self.counter(name), limit, expected, bound)
            if code and limit.mode == "observe":
                would = would or index
            elif code == "reserved":
                waiting = waiting or index
            elif code:
                return "refused", code, index
        if waiting:
            return "refused", "reserved", waiting
        self.holds[request] = tuple(name for name, *_ in chain)
        for name, _, expected, bound in chain:
            self.counter(name).holds[request] = (expected, bound)
        return "admitted", "", would

    def _judge(self, counter: ModelCounter, limit: ModelLimit, expected: int, bound: int) -> str:
        most = limit.limit
        if limit.mode == "requests":
            return "spent" if counter.spent + counter.held + 1 > most else ""
        if counter.spent >= most:
            return "spent"
        if limit.mode == "tokens" and expected > most and counter.spent == 0:
            return "reserved" if counter.holds else ""
        if counter.spent + expected > most:
            return "large"
        reserved = counter.spent + counter.held + expected > most
        if limit.mode == "strict":
            if counter.spent + bound > most:
                return "large"
            reserved |= counter.spent + counter.exposed + bound > most
        elif limit.max_overshoot is not None and counter.holds:
            reserved |= counter.spent + counter.exposed + bound > most + limit.max_overshoot
        return "reserved" if reserved else ""

    def renew(self, request: str, hold: dict[str, tuple[int, int]]) -> str:
        if request in self.closed:
            return "gone"
        for name in self.holds.get(request, ()):
            self.counter(name).holds.pop(request)
        self.holds[request] = tuple(hold)
        for name, amounts in hold.items():
            self.counter(name).holds[request] = amounts
        return "renewed"

    def close(self, request: str, rank: int, amounts: Amounts, counters: tuple[str, ...]) -> str:
        before = self.closed.get(request)
        if before is not None:
            if rank <= before.rank:
                return "kept"
            for name in before.counters:
                self.counter(name).spent -= before.amounts[name[0]]
        for name in self.holds.pop(request, ()):
            self.counter(name).holds.pop(request)
        for name in counters:
            self.counter(name).spent += amounts[name[0]]
        self.closed[request] = Closing(rank, amounts, counters)
        return "closed_now"
