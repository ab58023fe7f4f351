"""Pages of what happened: the governance log and the corrections of requests, merged by time or sorted. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bursar_admin.chronicle import Entry
from bursar_admin.past import PastPage

SORTS: Final = ("time", "entity", "action", "name", "actor")
END: Final = 1 << 62
"""Behind everything: where the first page begins."""
SortKey = tuple[str, str, str]
_VALUES: Final[dict[str, Callable[[Entry], str]]] = {
    "time": lambda entry: "",
    "entity": lambda entry: entry.entity,
    "action": lambda entry: entry.action,
    "name": lambda entry: entry.name.casefold(),
    "actor": lambda entry: entry.actor,
}


@dataclass(frozen=True)
class Place:
    """Where a page ended, newest first: before these offsets of the governance log and of the corrections."""

    offset: int = END
    correction: int = END


@dataclass(frozen=True)
class EventPage:
    entries: list[Entry]
    following: list[int | str] | None
    """Of the cursor; None: there is nothing behind it."""


def merged(governance: PastPage, corrections: Sequence[Entry], place: Place, limit: int) -> EventPage:
    """A page of both, newest first. Each keeps its own order, which is that of its topic; they are merged by time.

    ``governance``: up to ``limit`` + 1 entries before the place; where it stopped looking, corrections older than that
    wait for the next page. ``corrections``: those before the place that fit, newest first."""
    taken: list[Entry] = []
    before, before_correction = place.offset, place.correction
    mine, theirs = list(governance.entries), list(corrections)
    at_mine = at_theirs = 0
    while len(taken) < limit:
        one = mine[at_mine] if at_mine < len(mine) else None
        two = theirs[at_theirs] if at_theirs < len(theirs) else None
        if one is None and two is not None and _waits(governance, two):
            two = None
        if one is None and two is None:
            break
        if two is None or (one is not None and one.time >= two.time):
            assert one is not None
            taken.append(one)
            before, at_mine = one.offset, at_mine + 1
        else:
            taken.append(two)
            before_correction, at_theirs = two.offset, at_theirs + 1
    if at_mine == len(mine) and governance.stopped_at is not None:
        before = governance.stopped_at
    more = at_mine < len(mine) or at_theirs < len(theirs) or governance.stopped_at is not None
    return EventPage(taken, [before, before_correction] if more else None)


def _waits(governance: PastPage, correction: Entry) -> bool:
    """Whether governance events that were not looked at may be newer than a correction."""
    return governance.stopped_at is not None and correction.time < (governance.looked_back_to or "~")


def sort_key(entry: Entry, sort_by: str) -> SortKey:
    return _VALUES[sort_by](entry), entry.time, entry.id


def sorted_page(
    entries: Sequence[Entry], sort_by: str, descending: bool, place: SortKey | None, limit: int
) -> EventPage:
    """A page of everything there is, sorted; of alike ones by time."""
    keyed = sorted(((sort_key(entry, sort_by), entry) for entry in entries), key=lambda each: each[0])
    if descending:
        keyed.reverse()
    if place is not None:
        keyed = [(key, entry) for key, entry in keyed if (key < place if descending else key > place)]
    shown = keyed[:limit]
    return EventPage([entry for _, entry in shown], list(shown[-1][0]) if len(keyed) > limit else None)
