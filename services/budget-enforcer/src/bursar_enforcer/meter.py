"""Counts batches of operations. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bursar_common.metrics import Family, Histogram, Labels, one
from bursar_common.wire import (
    Admit,
    Admitted,
    Authorize,
    Authorized,
    Balances,
    Closed,
    GovernancePosition,
    Invalid,
    Ok,
    Position,
    Refused,
    Release,
    Renew,
    Reserved,
    Unavailable,
)
from bursar_enforcer.metrics import ANSWERS, BATCH, EXPIRED, OPERATIONS
from bursar_enforcer.operations import Settle

_OPERATIONS: dict[type[Any], str] = {
    Admit: "admit",
    Authorize: "authorize",
    Renew: "renew",
    Settle: "settle",
    Release: "release",
    Balances: "balances",
    GovernancePosition: "governance_position",
}
_ANSWERS: dict[type[Any], str] = {
    msgspec.Raw: "admitted",
    Admitted: "admitted",
    Refused: "refused",
    Reserved: "reserved",
    Ok: "ok",
    Closed: "closed",
    Unavailable: "unavailable",
    Invalid: "invalid",
    Authorized: "authorized",
    Position: "position",
}
"""What is encoded already is an admission: only those are worth it."""


class Meter:
    """Of one event loop."""

    def __init__(self) -> None:
        self._operations: Counter[type[Any]] = Counter()
        self._answers: Counter[type[Any]] = Counter()
        self._batch = Histogram(BATCH.buckets)
        self._expired = 0

    def decided(self, operations: Sequence[Any], answers: Sequence[Any], took_s: float) -> None:
        """A batch was answered."""
        self._operations.update(map(type, operations))
        self._answers.update(map(type, answers))
        self._batch.observe(took_s)

    def add_expired(self, count: int) -> None:
        """Holds were expired."""
        self._expired += count

    def families(self) -> Iterator[Family]:
        yield Family(
            OPERATIONS,
            [(Labels([("operation", name)]), self._operations[kind]) for kind, name in _OPERATIONS.items()],
        )
        answers: Counter[str] = Counter()
        for kind, name in _ANSWERS.items():
            answers[name] += self._answers[kind]
        yield Family(ANSWERS, [(Labels([("answer", name)]), count) for name, count in answers.items()])
        yield one(BATCH, self._batch)
        yield one(EXPIRED, self._expired)
