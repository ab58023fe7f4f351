"""Where each governance event stands in the log, and what stood before it: enough to show old ones again. Pure.

Only the fold knows whether an event took effect and what it replaced. Of events too old to be kept whole in memory this
much is kept, some 24 bytes each; the rest is read from the log when somebody asks.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import sha256
from typing import Final

MAX_INDEXED: Final = 2_000_000
"""Events whose places are known: some 50 MB, decades of a company's changes. Of older ones nothing is told."""
TRIMMED_AT_ONCE: Final = 50_000
"""Oldest places given up together: each trim moves the arrays."""
NONE: Final = -1


class EventIndex:
    """Places of events, in the order of the log."""

    def __init__(self, most: int = MAX_INDEXED) -> None:
        self._most = most
        self._offsets = array("q")
        self._before = array("q")
        self._ids = array("Q")
        self._overtaken: dict[int, str] = {}
        self._document_at: dict[str, int] = {}
        self.trimmed = False
        """Events older than the first place are not known any more."""

    def add(
        self, offset: int, event_id: str, entity_id: str, *, overtaken_by: str, had_before: bool, exists: bool
    ) -> None:
        """``had_before``: the entity was there before the event; ``exists``: it is after it."""
        self._offsets.append(offset)
        self._before.append(self._document_at.get(entity_id, NONE) if had_before else NONE)
        self._ids.append(_short(event_id))
        if overtaken_by:
            self._overtaken[offset] = overtaken_by
        elif exists:
            self._document_at[entity_id] = offset
        else:
            self._document_at.pop(entity_id, None)
        if len(self._offsets) > self._most:
            self._trim(max(1, min(TRIMMED_AT_ONCE, self._most // 10)))

    def _trim(self, count: int) -> None:
        for offset in self._offsets[:count]:
            self._overtaken.pop(offset, None)
        for places in (self._offsets, self._before, self._ids):
            del places[:count]
        self.trimmed = True

    def __len__(self) -> int:
        return len(self._offsets)

    def last_before(self, offset: int, count: int) -> list[int]:
        """Up to ``count`` offsets of events right before a place, oldest first."""
        end = bisect_left(self._offsets, offset)
        return list(self._offsets[max(0, end - count) : end])

    def before(self, offset: int) -> int | None:
        """The offset of the event whose document the one at ``offset`` replaced, or met; None: there was none."""
        at = bisect_left(self._offsets, offset)
        found = self._before[at] if at < len(self._offsets) and self._offsets[at] == offset else NONE
        return None if found == NONE else found

    def overtaken_by(self, offset: int) -> str:
        return self._overtaken.get(offset, "")

    def places_of(self, event_id: str) -> list[int]:
        """Offsets where an event of that id may stand: ids are told apart by 64 bits only."""
        wanted, start = _short(event_id), 0
        found: list[int] = []
        while True:
            try:
                at = self._ids.index(wanted, start)
            except ValueError:
                return found
            found.append(self._offsets[at])
            start = at + 1


def _short(event_id: str) -> int:
    return int.from_bytes(sha256(event_id.encode()).digest()[:8], "big")
