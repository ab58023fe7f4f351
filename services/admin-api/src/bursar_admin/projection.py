"""What the governance topic says, folded in memory, with the indices that commands and lists need.

A fold of the log's own verdicts (:func:`bursar_common.governance.project`): an event is applied here exactly if it is
applied by every other reader. Nothing here validates.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from bursar_common.events import GovernanceData
from bursar_common.finance import ALLOCATION, PERIOD_CLOSE, Allocation, PeriodClose
from bursar_common.governance import (
    CONFIG_ID,
    Applied,
    Config,
    Customer,
    Provider,
    Rejected,
    Team,
    User,
    VirtualKey,
    project,
    read_document,
)

Document = Customer | Team | User | VirtualKey | Provider | Config | PeriodClose | Allocation
D = TypeVar("D", bound=Document)


class Projection:
    """Entities by id, name, parent, key hash; versions of everything."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.customers: dict[str, Customer] = {}
        self.teams: dict[str, Team] = {}
        self.users: dict[str, User] = {}
        self.virtual_keys: dict[str, VirtualKey] = {}
        self.providers: dict[str, Provider] = {}
        self.configs: dict[str, Config] = {}
        self.closes: dict[str, PeriodClose] = {}
        self.allocations: dict[str, Allocation] = {}
        self._by_entity: dict[str, dict[str, Any]] = {
            "customer": self.customers,
            "team": self.teams,
            "user": self.users,
            "virtual_key": self.virtual_keys,
            "provider": self.providers,
            "config": self.configs,
            PERIOD_CLOSE: self.closes,
            ALLOCATION: self.allocations,
        }
        self._ordered: dict[str, list[str]] = {entity: [] for entity in self._by_entity}
        self._names: dict[tuple[str, str, str], str] = {}
        self._hmacs: dict[str, str] = {}
        self._children: dict[str, dict[str, set[str]]] = {}

    # -- the fold ------------------------------------------------------------------------------------------------

    def apply(self, event: GovernanceData) -> Applied | Rejected:
        """Judge one event and, where it applies, take it over."""
        verdict = project(event, self.versions)
        if isinstance(verdict, Rejected):
            return verdict
        self.versions.update(verdict.versions)
        store = self._by_entity.get(verdict.entity)
        if store is None:
            return verdict  # an entity of a newer release: its versions count, its content is not ours
        before = store.pop(verdict.entity_id, None)
        if before is not None:
            self._unindex(verdict.entity, before)
        document = None
        if verdict.document is not None:
            # Unreadable here, judged alike everywhere: such an entity is known by its version only.
            with suppress(msgspec.ValidationError, ValueError):
                document = read_document(verdict.entity, verdict.document)
        if document is not None:
            store[verdict.entity_id] = document
            self._index(verdict.entity, verdict.entity_id, document)
        elif before is not None:
            self._drop(self._ordered[verdict.entity], verdict.entity_id)
        return verdict

    def _index(self, entity: str, entity_id: str, document: Any) -> None:
        ordered = self._ordered[entity]
        at = bisect_left(ordered, entity_id)
        if at == len(ordered) or ordered[at] != entity_id:
            insort(ordered, entity_id)
        if entity == "config":
            return
        self._names[entity, parent_of(document), document.name] = entity_id
        for parent in self._parents(document):
            self._children.setdefault(parent, {}).setdefault(entity, set()).add(entity_id)
        if isinstance(document, VirtualKey):
            self._hmacs[document.hmac] = entity_id

    def _unindex(self, entity: str, document: Any) -> None:
        if entity == "config":
            return
        name = (entity, parent_of(document), document.name)
        if self._names.get(name) == document.id:
            del self._names[name]
        for parent in self._parents(document):
            children = self._children.get(parent, {}).get(entity)
            if children is not None:
                children.discard(document.id)
        if isinstance(document, VirtualKey) and self._hmacs.get(document.hmac) == document.id:
            del self._hmacs[document.hmac]

    @staticmethod
    def _drop(ordered: list[str], entity_id: str) -> None:
        at = bisect_left(ordered, entity_id)
        if at < len(ordered) and ordered[at] == entity_id:
            del ordered[at]

    @staticmethod
    def _parents(document: Any) -> Iterator[str]:
        """Everything that cannot be deleted while ``document`` exists."""
        for field in ("customer_id", "team_id", "user_id"):
            parent = getattr(document, field, "")
            if parent:
                yield parent
        if isinstance(document, VirtualKey):
            for config in document.provider_configs or ():
                yield provider_key(config.provider)
        if isinstance(document, Allocation):
            yield from bearers(document)

    # -- questions -----------------------------------------------------------------------------------------------

    def version(self, version_id: str) -> int:
        """0: never written."""
        return self.versions.get(version_id, 0)

    def entities(self, entity: str) -> dict[str, Any]:
        return self._by_entity[entity]

    def document(self, entity: str, entity_id: str) -> Any | None:
        """The entity, where there is one and this release keeps its kind."""
        return self._by_entity.get(entity, {}).get(entity_id)

    def ordered(self, entity: str) -> list[str]:
        """Ids, oldest first."""
        return self._ordered[entity]

    def named(self, entity: str, parent_id: str, name: str) -> str | None:
        """The id of the entity of that name below that parent."""
        return self._names.get((entity, parent_id, name))

    def provider_named(self, name: str) -> Provider | None:
        entity_id = self.named("provider", "", name)
        return self.providers.get(entity_id) if entity_id else None

    def with_hmac(self, hmac: str) -> str | None:
        return self._hmacs.get(hmac)

    def children(self, parent_id: str, entity: str) -> set[str]:
        return self._children.get(parent_id, {}).get(entity, set())

    def config(self) -> Config:
        return self.configs.get(CONFIG_ID) or Config()


def bearers(allocation: Allocation) -> set[str]:
    """Ids of the owners that an allocation names: the shared key, and who bears a part."""
    named = {part.team_id or part.customer_id for part in allocation.parts}
    return (named | {allocation.virtual_key_id}) - {""}


def parent_of(document: Any) -> str:
    """Whose name space the entity's name is in; empty: the installation's."""
    return getattr(document, "team_id", "") or getattr(document, "customer_id", "")


def provider_key(name: str) -> str:
    """The id under which keys that use a provider are its children (configs refer to providers by name)."""
    return f"provider:{name}"


def children_version(parent_id: str) -> str:
    return f"{parent_id}:children"


def space_version(entity: str, parent_id: str) -> str:
    """The version that collides for two writers of one name space."""
    return children_version(parent_id) if parent_id else f"root:{entity}"
