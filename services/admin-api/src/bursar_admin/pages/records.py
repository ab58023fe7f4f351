"""A request as pages show it: the REST API's record, with what is worked out from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KINDS = (
    ("input_tokens", "Input"),
    ("cache_read_tokens", "Cache read"),
    ("cache_write_5m_tokens", "Cache write, 5 min"),
    ("cache_write_1h_tokens", "Cache write, 1 h"),
    ("output_tokens", "Output"),
)
OUTCOMES = {
    "completed": ("good", "completed"),
    "interrupted": ("warn", "interrupted"),
    "refused": ("bad", "refused"),
    "upstream_error": ("bad", "upstream error"),
    "unreadable": ("warn", "unreadable"),
    "unknown": ("warn", "unknown"),
    "expired": ("warn", "expired"),
    "not_sent": ("", "not sent"),
}
"""Outcome to mark and word."""


@dataclass(frozen=True)
class Record:
    row: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.row[name]
        except KeyError:
            raise AttributeError(name) from None

    @classmethod
    def of_answer(cls, answer: dict[str, Any]) -> Record:
        return cls(answer.get("log") or answer)

    @property
    def id(self) -> str:
        return str(self.row["id"])

    @property
    def who(self) -> str:
        return str(self.row.get("user") or self.row.get("virtual_key") or "")

    @property
    def mark(self) -> tuple[str, str]:
        """(class, word) of the outcome."""
        outcome = str(self.row["outcome"])
        return OUTCOMES.get(outcome, ("", outcome))

    @property
    def cached(self) -> int | None:
        counts = [self.row.get(name) for name, _ in KINDS[1:4]]
        known = [int(count) for count in counts if count is not None]
        return sum(known) if known else None

    @property
    def rate(self) -> int | None:
        """Output tokens a second, from the first token on."""
        latency: int | None = self.row.get("latency_ms")
        first: int | None = self.row.get("time_to_first_token_ms")
        output: int | None = self.row.get("output_tokens")
        if not output or latency is None or first is None or latency <= first:
            return None
        return round(output * 1000 / (latency - first))

    @property
    def correctable(self) -> bool:
        """Whether the REST API takes a correction of it: it was charged to somebody, and not by the simulator."""
        return self.row["outcome"] != "refused" and not self.row.get("simulated")

    @property
    def unpaid(self) -> bool:
        """Whether nobody paid us for it: the list price is shown as what it would have cost."""
        return self.row.get("billing") not in ("metered", None) or self.row.get("provider") == "simulator"


def records_of(answer: dict[str, Any]) -> list[Record]:
    return [Record(row) for row in answer["logs"]]
