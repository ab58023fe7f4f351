"""What tables hold now, by the names of their parts: rows of a part never change, so while no part came or went no row
did. Pure.

Merging changes parts and no row that is read merged (``FINAL``): what was named by the parts before is asked again,
which costs time and changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bursar_admin.queries.ranges import Span

OF_SUMS: Final = (
    "usage_hours_touched", "usage_hours_built", "usage_days_built", "usage_left", "corrections", "schema_migrations",
)  # fmt: skip
"""Tables that say which sums are complete."""
OF_REQUESTS: Final = ("usage_events", "usage_recent")
"""Tables of requests. What is asked of one depends on both here: they get the same rows, one a moment later."""
STANDING_QUERY: Final = (
    # The path has the table's own id in it: a table of the same name may have had a part of the same name.
    "SELECT table, sipHash64(path, modification_time, rows, bytes_on_disk) AS part,"
    " toUnixTimestamp(min_time) AS from_s, toUnixTimestamp(max_time) AS to_s, toUnixTimestamp(now()) AS now_s"
    " FROM system.parts WHERE database = 'bursar' AND active"
    f" AND table IN ({', '.join(repr(name) for name in (*OF_SUMS, *OF_REQUESTS))})"
)


@dataclass(frozen=True)
class Part:
    name: int
    from_s: int
    """Of its first request, Unix seconds."""
    to_s: int
    """Of its last one, rounded down; 0: not known."""

    def overlaps(self, span: Span) -> bool:
        return not self.to_s or (self.from_s * 1000 < span.to_ms and span.from_ms < (self.to_s + 1) * 1000)


@dataclass(frozen=True)
class Standing:
    parts: Mapping[str, Sequence[Part]]
    """By table."""
    now_s: int
    """When it was asked, by ClickHouse's clock."""

    @property
    def sums(self) -> str:
        """Names the rows of the tables that say which sums are complete."""
        return _digest(f"{table}:{part.name}" for table in OF_SUMS for part in self.parts.get(table, ()))

    @property
    def left(self) -> str:
        """Names what is known of months that have left."""
        return _digest(str(part.name) for part in self.parts.get("usage_left", ()))

    def requests(self, spans: Iterable[Span]) -> str:
        """Names the requests in these stretches, as they stand with their corrections."""
        found = {f"corrections:{part.name}" for part in self.parts.get("corrections", ())}
        for span in spans:
            found.update(f"{table}:{part.name}" for table, part in self._in(span))
        return _digest(found)

    def clipped(self, spans: Iterable[Span]) -> tuple[Span, ...]:
        """The stretches without what is behind their last request: a range until now is then the same range a second
        later."""
        found = []
        for span in spans:
            parts = [part for _, part in self._in(span)]
            if not parts:
                continue
            until_ms = span.to_ms
            if all(part.to_s for part in parts):
                until_ms = min(until_ms, (max(part.to_s for part in parts) + 1) * 1000)
            found.append(span if until_ms == span.to_ms else type(span)(span.from_ms, until_ms))
        return tuple(found)

    def _in(self, span: Span) -> list[tuple[str, Part]]:
        return [(table, part) for table in OF_REQUESTS for part in self.parts.get(table, ()) if part.overlaps(span)]


def standing_of(rows: Iterable[Mapping[str, Any]]) -> Standing | None:
    """None: there is nothing yet."""
    parts: dict[str, list[Part]] = {}
    now_s = 0
    for row in rows:
        parts.setdefault(row["table"], []).append(Part(row["part"], row["from_s"], row["to_s"]))
        now_s = row["now_s"]
    return Standing(parts, now_s) if parts else None


def _digest(names: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=16).hexdigest()
