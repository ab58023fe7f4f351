"""The governance log as people read it: who did what to whom, when, and what changed. Pure; fed by the journal.

The newest events are kept in memory as they are applied, because only the fold knows which of them had an effect and
what stood there before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bursar_admin.errors import HIDDEN
from bursar_admin.event_index import EventIndex
from bursar_admin.projection import Projection
from bursar_common.events import Envelope, GovernanceData
from bursar_common.governance import Applied, Rejected

MAX_KEPT: Final = 20_000
"""Events kept: years of a company's changes, some 40 MB at worst. Older ones stay in the log."""
MAX_WHOLE_BYTES: Final = 64 << 10
"""Longest event whose document is kept whole; a price book's (200 kB) is not."""
MAX_CHANGES: Final = 200
"""Changed fields noted of one event: a provider may bring hundreds of price overrides at once."""
MAX_DEPTH: Final = 12
"""Levels of a document that are looked into; ours have four, and a stranger's must not stop the fold."""
ABOUT: Final = ("customer_id", "team_id", "user_id", "virtual_key_id", "default_virtual_key_id")
"""Fields of a document that name whom it belongs to, or is about."""
_SECRET: Final = {"hmac": "value"}
"""Fields that are never shown, and what they are called to people."""
_UNTOLD: Final = frozenset({"id", "created_at_s", "anchored_at_s"})
"""Fields that say nothing to people."""
_MISSING: Final = object()


@dataclass(frozen=True)
class Change:
    """One field that differs; None: it was, or is, absent."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Entry:
    """One event and what it did."""

    offset: int
    id: str
    time: str
    type: str
    entity: str
    entity_id: str
    name: str
    actor: str
    action: str
    overtaken_by: str
    """The version that was not as the writer saw it; empty: the event took effect."""
    owners: frozenset[str]
    """Ids of everyone it is about: the entity, and whom it belonged and belongs to."""
    changes: tuple[Change, ...]
    document: Mapping[str, Any] | None
    """The whole entity after it, without secrets; None: deleted, or too long to be kept."""
    seen: Mapping[str, int]


class Chronicle:
    """The newest entries, in the order of the log."""

    def __init__(self, most: int = MAX_KEPT) -> None:
        self._most = most
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._letters: dict[str, Entry] = {}
        self.index = EventIndex()
        """Places in the log of all events, for those that are not kept."""
        self.forgotten = 0
        """Events that were dropped from the beginning: they are read from the log when somebody asks."""

    def note(
        self,
        offset: int,
        envelope: Envelope,
        data: GovernanceData,
        verdict: Applied | Rejected,
        before: Any | None,
        projection: Projection,
    ) -> None:
        """Take an event down. ``before``: the entity's document before it; ``projection``: as it is after it."""
        entry = entry_of(offset, envelope, data, verdict, before, projection)
        self._entries[entry.id] = entry
        self.index.add(
            offset,
            entry.id,
            entry.entity_id,
            overtaken_by=verdict.version_id if isinstance(verdict, Rejected) else "",
            had_before=before is not None,
            exists=data.document is not None,
        )
        if entry.entity == "dead_letter" and not entry.overtaken_by:
            self._letters[entry.entity_id] = entry
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
            self.forgotten += 1

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def oldest_kept(self) -> int:
        """The offset of the first event that is kept."""
        return next(iter(self._entries.values())).offset

    @property
    def oldest_time(self) -> str:
        """When the first event that is kept happened."""
        return next(iter(self._entries.values())).time

    def newest_first(self) -> Iterator[Entry]:
        return reversed(self._entries.values())

    def find(self, event_id: str) -> Entry | None:
        return self._entries.get(event_id)

    def retry_of(self, letter_id: str) -> Entry | None:
        """The event that says that a dead letter was appended again."""
        return self._letters.get(letter_id)

    @property
    def retried(self) -> int:
        """Dead letters that were appended again."""
        return len(self._letters)


def entry_of(
    offset: int,
    envelope: Envelope,
    data: GovernanceData,
    verdict: Applied | Rejected,
    before: Any | None,
    projection: Projection,
) -> Entry:
    old = told(msgspec.to_builtins(before)) if before is not None else {}
    new = told(data.document) if data.document is not None else {}
    rejected = verdict if isinstance(verdict, Rejected) else None
    keep = data.document is not None and len(envelope.data) <= MAX_WHOLE_BYTES
    return Entry(
        offset=offset,
        id=envelope.id,
        time=envelope.time,
        type=envelope.type,
        entity=data.entity,
        entity_id=data.entity_id,
        name=_name(data, old, new),
        actor=data.actor,
        action=_action(envelope.type, old, new),
        overtaken_by="" if rejected is None else public_version(rejected.version_id),
        owners=frozenset(_owners(data.entity_id, (old, new), projection)),
        changes=tuple(differences(old, new))[:MAX_CHANGES] if keep or data.document is None else (),
        document=plain(new) if keep else None,
        seen={public_version(version): number for version, number in data.seen.items()},
    )


def public_version(version_id: str) -> str:
    """A version id as it may be shown: a key's hash is left out."""
    return "hmac" if version_id.startswith("hmac:") else version_id


def told(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without what is secret: a hash is told apart from another, and no more."""
    shown = {name: value for name, value in document.items() if name not in _SECRET}
    for name, word in _SECRET.items():
        if document.get(name):
            shown[word] = _Hidden(str(document[name]))
    return shown


class _Hidden(str):
    """Compares by what it hides, and is written as hidden."""

    __slots__ = ()


def plain(value: Any, depth: int = 0) -> Any:
    """A value as it may be answered."""
    if isinstance(value, _Hidden):
        return HIDDEN
    if isinstance(value, Mapping | list | tuple) and depth >= MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return {name: plain(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, depth + 1) for each in value]
    return value


def _action(type_: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    parts = type_.split(".")
    action = parts[-2] if len(parts) >= 4 else type_
    if action == "changed" and old.get("value") != new.get("value") and "value" in old and "value" in new:
        return "rotated"
    return action


def _name(data: GovernanceData, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return str(new.get("name") or old.get("name") or {"config": "configuration"}.get(data.entity, data.entity_id))


def _owners(entity_id: str, documents: tuple[Mapping[str, Any], ...], projection: Projection) -> Iterator[str]:
    yield entity_id
    for document in documents:
        for field in ABOUT:
            if document.get(field):
                yield str(document[field])
        team = projection.teams.get(str(document.get("team_id", "")))
        if team is not None and team.customer_id:
            yield team.customer_id


def differences(old: Any, new: Any, path: str = "", depth: int = 0) -> Iterator[Change]:
    """Every field that differs, by its path. Items of lists are matched by their id, else by their place."""
    deeper = depth + 1
    if depth >= MAX_DEPTH:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            if name in _UNTOLD or (name == "name" and not path and old.get(name) == new.get(name)):
                continue
            where = f"{path}.{name}" if path else name
            yield from differences(old.get(name, _MISSING), new.get(name, _MISSING), where, deeper)
        return
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and (_items(old) or _items(new)):
        yield from _item_differences(old, new, path, deeper)
        return
    if old is _MISSING and isinstance(new, Mapping):
        yield from differences({}, new, path, deeper)
        return
    if old is _MISSING and isinstance(new, list | tuple) and _items(new):
        yield from _item_differences((), new, path, deeper)
        return
    if old != new:
        yield Change(path, None if old is _MISSING else plain(old), None if new is _MISSING else plain(new))


def _items(values: list[Any] | tuple[Any, ...]) -> bool:
    return bool(values) and all(isinstance(each, Mapping) for each in values)


def _item_differences(old: Any, new: Any, path: str, depth: int) -> Iterator[Change]:
    known = {_identity(each, index): each for index, each in enumerate(old)}
    for index, each in enumerate(new):
        before = known.pop(_identity(each, index), {})
        yield from differences(before, each, f"{path}[{index}]", depth)
    for gone in known.values():
        yield Change(path, plain(gone), None)


def _identity(item: Any, index: int) -> str:
    own = item.get("id") if isinstance(item, Mapping) else None
    return own if isinstance(own, str) else str(index)
