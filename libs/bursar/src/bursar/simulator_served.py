"""What the simulator served: one record a request and running totals, for tests to compare with the ledger."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import msgspec

from bursar.simulator_answer import Counts

DEFAULT_RECORDS = 100_000
"""Records kept; older ones are forgotten, totals are not. One takes about 2 kB."""
MAX_NAMES = 1000
"""Different paths and models told apart in the totals."""


class Served(msgspec.Struct):
    """One request and what became of it. ``usage`` is what the provider bills: all of a completed answer, what was
    produced so far of a cut one, zero where no usage left the simulator."""

    index: int
    request_id: str
    method: str
    path: str
    """Raw, with the query."""
    headers: list[tuple[str, str]]
    """As received, in order, names in their spelling (latin-1)."""
    body_bytes: int
    body_sha256: str
    model: str = ""
    served_model: str = ""
    message_id: str = ""
    stream: bool = False
    status: int = 0
    outcome: str = "open"
    """``open``, ``completed``, ``cut`` (by the plan), ``client_gone``, ``error``."""
    usage: Counts = Counts()
    iterations: list[dict[str, Any]] = []
    events_sent: int = 0
    answer_bytes: int = 0
    answer_sha256: str = ""
    """Over the bytes of the body as sent (after compression), without transfer framing."""


class Answering:
    """Keeps a record up to date while its answer is written."""

    def __init__(self, record: Served, served: ServedRequests) -> None:
        self.record = record
        self._served = served
        self._hash = hashlib.sha256()

    def wrote(self, data: bytes) -> None:
        self._hash.update(data)
        self.record.answer_bytes += len(data)

    def close(self, outcome: str) -> None:
        """The answer is over; the first call decides."""
        if self.record.outcome != "open":
            return
        self.record.outcome = outcome
        self.record.answer_sha256 = self._hash.hexdigest()
        self._served.add_to_totals(self.record)


class ServedRequests:
    """Records (bounded) and totals since the start or the last reset."""

    def __init__(self, most: int = DEFAULT_RECORDS) -> None:
        self._most = most
        self.reset()

    def reset(self) -> None:
        self.records: deque[Served] = deque(maxlen=self._most)
        self._next = 0
        self._requests: dict[str, int] = {}
        self._outcomes: dict[str, int] = {}
        self._usage: dict[str, int] = dict.fromkeys(Counts.__struct_fields__, 0)
        self._by_model: dict[str, dict[str, int]] = {}

    def take_index(self) -> int:
        self._next += 1
        return self._next - 1

    def begin(self, record: Served) -> Answering:
        self.records.append(record)
        kind = record.path.partition("?")[0]
        if kind not in self._requests and len(self._requests) >= MAX_NAMES:
            kind = "(others)"
        self._requests[kind] = self._requests.get(kind, 0) + 1
        return Answering(record, self)

    def add_to_totals(self, record: Served) -> None:
        self._outcomes[record.outcome] = self._outcomes.get(record.outcome, 0) + 1
        if not record.model:
            return
        name = record.served_model or record.model
        if name not in self._by_model and len(self._by_model) >= MAX_NAMES:
            name = "(others)"
        model = self._by_model.setdefault(name, dict.fromkeys((*Counts.__struct_fields__, "requests"), 0))
        model["requests"] += 1
        for name in Counts.__struct_fields__:
            value = getattr(record.usage, name)
            self._usage[name] += value
            model[name] += value

    def totals(self) -> dict[str, Any]:
        return {
            "requests": sum(self._requests.values()),
            "by_path": self._requests,
            "open": sum(record.outcome == "open" for record in self.records),
            "outcomes": self._outcomes,
            "usage": self._usage,
            "by_model": self._by_model,
        }
