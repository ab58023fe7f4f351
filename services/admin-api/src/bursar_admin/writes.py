"""From an entity before and after to the event that says so: which versions it judged by, and which it raises.

The rules are the log's only protection against two writers: a name is unique because everyone who takes or frees one
raises the version of its name space; an owner with children cannot be deleted because taking a parent raises
``<parent>:children``, which the deletion has seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from bursar_admin.limits import depends_on_zone
from bursar_admin.projection import Projection, bearers, children_version, parent_of, space_version
from bursar_common.events import GovernanceData
from bursar_common.finance import ALLOCATION, Allocation
from bursar_common.governance import CONFIG_ID, Config, VirtualKey, effective_timezone

Action = Literal["created", "changed", "deleted", "retried"]


@dataclass(frozen=True)
class Write:
    """One event to append."""

    action: Action
    data: GovernanceData

    @property
    def entity_id(self) -> str:
        return self.data.entity_id


@dataclass(frozen=True)
class NoChange:
    """The entity already is as asked; nothing is written."""

    entity: str
    entity_id: str


Decision = Write | NoChange


def write(
    projection: Projection,
    entity: str,
    before: Any | None,
    after: Any | None,
    actor: str,
    *,
    also_seen: Iterator[str] | tuple[str, ...] = (),
) -> Decision:
    """The event that turns ``before`` (None: nothing) into ``after`` (None: deleted)."""
    entity_id: str = CONFIG_ID if entity == "config" else (before if after is None else after).id  # type: ignore[union-attr]
    if before == after:
        return NoChange(entity, entity_id)
    seen = {entity_id, *also_seen}
    bumps: set[str] = set()
    if entity != "config":
        spaces_before = {(space_version(entity, parent_of(before)), before.name)} if before else set()
        spaces_after = {(space_version(entity, parent_of(after)), after.name)} if after else set()
        changed_spaces = {space for space, _ in spaces_before ^ spaces_after}
        seen |= changed_spaces
        bumps |= changed_spaces
    parents_before, parents_after = set(_parents(projection, before)), set(_parents(projection, after))
    seen |= parents_after
    # Whether an allocation stands in the way of a deletion depends on its months, too: each change of one is seen.
    touched = parents_before | parents_after if entity == ALLOCATION else parents_before ^ parents_after
    bumps |= {children_version(parent) for parent in touched}
    hashes = _hmacs(before) ^ _hmacs(after)
    seen |= hashes
    bumps |= hashes
    if after is None:
        seen.add(children_version(entity_id))
    elif _zone_limits(after) - (_zone_limits(before) if before else set()):
        # Whoever changes the zone above must notice that a limit now depends on it.
        givers = set(_zone_givers(projection, after))
        seen |= givers
        bumps |= {children_version(parent) for parent in givers}
    action: Action = "deleted" if after is None else "created" if before is None else "changed"
    return Write(
        action,
        GovernanceData(
            entity=entity,
            entity_id=entity_id,
            actor=actor,
            seen={version_id: projection.version(version_id) for version_id in sorted(seen)},
            bumps=tuple(sorted(bumps - {entity_id})),
            document=msgspec.to_builtins(after) if after is not None else None,
        ),
    )


def _parents(projection: Projection, document: Any | None) -> Iterator[str]:
    """Ids of all entities that ``document`` refers to."""
    if document is None:
        return
    for field in ("customer_id", "team_id", "user_id", "default_virtual_key_id"):
        parent = getattr(document, field, "")
        if parent:
            yield parent
    if isinstance(document, VirtualKey):
        for config in document.provider_configs or ():
            provider = projection.provider_named(config.provider)
            if provider is not None:
                yield provider.id
    if isinstance(document, Allocation):
        yield from bearers(document)


def _hmacs(document: Any | None) -> set[str]:
    return {f"hmac:{document.hmac}"} if isinstance(document, VirtualKey) else set()


def _zone_limits(document: Any) -> set[str]:
    """Ids of the limits whose windows depend on a time zone."""
    if isinstance(document, Config):
        return set()
    return {limit_id for limit_id, window, aligned in limits_of(document) if depends_on_zone(window, aligned)}


def limits_of(document: Any) -> Iterator[tuple[str, str, bool]]:
    """(limit id, window, aligned) of every limit of an entity, those of provider configs included."""
    for owner in (document, *(getattr(document, "provider_configs", None) or ())):
        for budget in getattr(owner, "budgets", ()):
            yield budget.id, budget.window, budget.calendar_aligned
        limit = getattr(owner, "rate_limit", None)
        if limit is not None:
            if limit.token_window:
                yield limit.token_limit_id, limit.token_window, limit.calendar_aligned
            if limit.request_window:
                yield limit.request_limit_id, limit.request_window, limit.calendar_aligned


def _zone_givers(projection: Projection, document: Any) -> Iterator[str]:
    """Owners above ``document`` whose time zone its windows follow, or would."""
    team = projection.teams.get(getattr(document, "team_id", ""))
    if team is not None:
        yield team.id
        if team.customer_id:
            yield team.customer_id
    if getattr(document, "customer_id", ""):
        yield document.customer_id


def zone_of(projection: Projection, document: Any) -> str:
    """The time zone of the windows of a customer, team or key ("" is UTC)."""
    if hasattr(document, "timezone"):
        team = document if hasattr(document, "customer_id") else None
        customer = projection.customers.get(document.customer_id) if team is not None else document
        return effective_timezone(team, customer)
    team = projection.teams.get(document.team_id)
    customer_id = team.customer_id if team is not None else document.customer_id
    return effective_timezone(team, projection.customers.get(customer_id))


def limits_below(projection: Projection, owner: Any) -> Iterator[tuple[str, Any]]:
    """(entity, document) of everything below ``owner`` whose windows follow ``owner``'s time zone."""
    for team_id in sorted(projection.children(owner.id, "team")):
        team = projection.teams[team_id]
        if not team.timezone:
            if _zone_limits(team):
                yield "team", team
            yield from limits_below(projection, team)
    for key_id in sorted(projection.children(owner.id, "virtual_key")):
        key = projection.virtual_keys[key_id]
        if _zone_limits(key) and (not key.team_id or key.team_id == owner.id):
            yield "virtual_key", key


def zones_below(projection: Projection, owner: Any) -> Iterator[str]:
    """Versions that change when a limit below ``owner`` begins to depend on its time zone."""
    yield children_version(owner.id)
    for team_id in projection.children(owner.id, "team"):
        yield children_version(team_id)
