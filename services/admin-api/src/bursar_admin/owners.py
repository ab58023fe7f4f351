"""Commands on customers, teams and users, and what all commands share. Pure: (projection, request, moment) -> decision.

A command returns what is to be written, or raises :class:`bursar_admin.errors.Refusal`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bursar_admin.closing import in_the_way
from bursar_admin.errors import bad_field, conflict, not_found
from bursar_admin.limits import Moment, Zones, merge_budgets, merge_rate_limit
from bursar_admin.projection import Projection, provider_key
from bursar_admin.schemas import CustomerBody, Limited, TeamBody, UserBody
from bursar_admin.writes import Decision, limits_below, write, zone_of, zones_below
from bursar_common.finance import ALLOCATION
from bursar_common.governance import Customer, Team, User

MAX_NAMED_CHILDREN = 20
"""Children named in a 409; enough to act on."""

NOUNS = {
    "customer": "customer",
    "team": "team",
    "user": "user",
    "virtual_key": "virtual key",
    "provider": "provider",
    "config": "configuration",
    "allocation": "allocation",
    "period_close": "closed month",
}


def find(projection: Projection, entity: str, entity_id: str) -> Any:
    """The document. Raises Refusal (404)."""
    document = projection.entities(entity).get(entity_id)
    if document is None:
        raise not_found(NOUNS[entity], entity_id)
    return document


def check_version(projection: Projection, entity: str, entity_id: str, expected: int | None) -> None:
    """Raises Refusal (409) when the entity is no longer the one the caller read."""
    current = projection.version(entity_id)
    if expected is not None and expected != current:
        raise conflict(
            f"The {NOUNS[entity]} has changed: it is at version {current}, not {expected}. Read it again.",
            version=current,
        )


def check_name(projection: Projection, entity: str, parent_id: str, name: str, own_id: str = "") -> None:
    """Raises Refusal (409) when another entity of the kind has the name below the same parent."""
    existing = projection.named(entity, parent_id, name)
    if existing is not None and existing != own_id:
        raise conflict(f"There is already a {NOUNS[entity]} named {name!r} here.", existing_id=existing)


def reference(projection: Projection, entity: str, field: str, entity_id: str | None) -> str:
    """A referred-to id that exists, or "". Raises Refusal (400)."""
    if entity_id is None:
        return ""
    if entity_id not in projection.entities(entity):
        raise bad_field(field, f"there is no such {NOUNS[entity]}", entity_id, f"the id of a {NOUNS[entity]}, or null")
    return entity_id


def check_childless(projection: Projection, entity: str, document: Any) -> None:
    """Raises Refusal (409) naming what still belongs to the entity."""
    parents = [document.id] + ([provider_key(document.name)] if entity == "provider" else [])
    found = [
        (child_entity, projection.entities(child_entity)[child_id])
        for parent in parents
        for child_entity in ("team", "user", "virtual_key")
        for child_id in sorted(projection.children(parent, child_entity))
    ]
    if found:
        count = f"{len(found)} {'child' if len(found) == 1 else 'children'}"
        refuse_children(f"The {NOUNS[entity]} {document.name!r} still has {count}", found)


def check_unallocated(projection: Projection, entity: str, document: Any) -> None:
    """Raises Refusal (409) naming the allocations that charge the entity, or divide what it costs."""
    found: list[tuple[str, Any]] = [(ALLOCATION, each) for each in in_the_way(projection, document.id)]
    if found:
        count = f"{len(found)} allocation{'' if len(found) == 1 else 's'}"
        refuse_children(f"The {NOUNS[entity]} {document.name!r} is named by {count} (end or delete them first)", found)


def refuse_children(message: str, found: list[tuple[str, Any]]) -> None:
    """Raises Refusal (409) with a bounded list of the entities in the way."""
    named = found[:MAX_NAMED_CHILDREN]
    listed = ", ".join(f"{NOUNS[kind]} {child.name!r}" for kind, child in named)
    more = f" and {len(found) - len(named)} more" if len(found) > len(named) else ""
    raise conflict(
        f"{message}: {listed}{more}.",
        children=[{"kind": kind, "id": child.id, "name": child.name} for kind, child in named],
        children_count=len(found),
    )


def with_limits(document: Any, body: Limited, path: str, zones: Zones, moment: Moment) -> Any:
    """The document with the budgets and rate limit that the body asks for."""
    return msgspec.structs.replace(
        document,
        budgets=merge_budgets(document.budgets, body, path, zones, moment),
        rate_limit=merge_rate_limit(document.rate_limit, body, path, zones, moment),
    )


def _check_zone_below(projection: Projection, entity: str, document: Any, zones: Zones) -> tuple[str, ...]:
    """Versions to have seen when a zone changes; none where it does not. Raises Refusal (409) when limits below would
    jump to other windows, in which nothing would be counted as spent."""
    if zones.before == zones.after:
        return ()
    below = list(limits_below(projection, document))
    if below:
        refuse_children(
            f"The time zone of the {NOUNS[entity]} {document.name!r} cannot change while limits below it are counted "
            "by its calendar; remove those limits first",
            below,
        )
    return tuple(zones_below(projection, document))


def create_customer(projection: Projection, body: CustomerBody, moment: Moment) -> Decision:
    assert body.name is not None
    check_name(projection, "customer", "", body.name)
    document = Customer(id=moment.mint(), name=body.name, created_at_s=moment.now_s, timezone=body.timezone or "")
    zone = zone_of(projection, document)
    after = with_limits(document, body, "", Zones(zone, zone), moment)
    return write(projection, "customer", None, after, moment.actor)


def change_customer(projection: Projection, customer_id: str, body: CustomerBody, moment: Moment) -> Decision:
    before: Customer = find(projection, "customer", customer_id)
    check_version(projection, "customer", customer_id, body.version)
    after = msgspec.structs.replace(
        before,
        name=body.name if body.name is not None else before.name,
        timezone=(body.timezone or "") if body.given("timezone") else before.timezone,
    )
    check_name(projection, "customer", "", after.name, customer_id)
    zones = Zones(zone_of(projection, before), zone_of(projection, after))
    seen = _check_zone_below(projection, "customer", before, zones)
    after = with_limits(after, body, "", zones, moment)
    return write(projection, "customer", before, after, moment.actor, also_seen=seen)


def create_team(projection: Projection, body: TeamBody, moment: Moment) -> Decision:
    assert body.name is not None
    customer_id = reference(projection, "customer", "customer_id", body.customer_id)
    check_name(projection, "team", customer_id, body.name)
    document = Team(
        id=moment.mint(),
        name=body.name,
        created_at_s=moment.now_s,
        customer_id=customer_id,
        timezone=body.timezone or "",
        content=body.content or "",
    )
    zone = zone_of(projection, document)
    after = with_limits(document, body, "", Zones(zone, zone), moment)
    return write(projection, "team", None, after, moment.actor)


def change_team(projection: Projection, team_id: str, body: TeamBody, moment: Moment) -> Decision:
    before: Team = find(projection, "team", team_id)
    check_version(projection, "team", team_id, body.version)
    after = msgspec.structs.replace(
        before,
        name=body.name if body.name is not None else before.name,
        customer_id=reference(projection, "customer", "customer_id", body.customer_id)
        if body.given("customer_id")
        else before.customer_id,
        timezone=(body.timezone or "") if body.given("timezone") else before.timezone,
        content=(body.content or "") if body.given("content") else before.content,
    )
    check_name(projection, "team", after.customer_id, after.name, team_id)
    zones = Zones(zone_of(projection, before), zone_of(projection, after))
    seen = _check_zone_below(projection, "team", before, zones)
    after = with_limits(after, body, "", zones, moment)
    return write(projection, "team", before, after, moment.actor, also_seen=seen)


def create_user(projection: Projection, body: UserBody, moment: Moment) -> Decision:
    assert body.name is not None
    team_id = reference(projection, "team", "team_id", body.team_id)
    check_name(projection, "user", team_id, body.name)
    after = User(id=moment.mint(), name=body.name, created_at_s=moment.now_s, email=body.email or "", team_id=team_id)
    return write(projection, "user", None, after, moment.actor)


def change_user(projection: Projection, user_id: str, body: UserBody, moment: Moment) -> Decision:
    before: User = find(projection, "user", user_id)
    check_version(projection, "user", user_id, body.version)
    after = msgspec.structs.replace(
        before,
        name=body.name if body.name is not None else before.name,
        email=(body.email or "") if body.given("email") else before.email,
        team_id=reference(projection, "team", "team_id", body.team_id) if body.given("team_id") else before.team_id,
    )
    check_name(projection, "user", after.team_id, after.name, user_id)
    return write(projection, "user", before, after, moment.actor)


def delete(projection: Projection, entity: str, entity_id: str, version: int | None, moment: Moment) -> Decision:
    """Delete a customer, team, user, key or provider that nothing depends on: no child, no allocation that goes on."""
    before = find(projection, entity, entity_id)
    check_version(projection, entity, entity_id, version)
    check_childless(projection, entity, before)
    check_unallocated(projection, entity, before)
    seen: tuple[str, ...] = ()
    if entity == "virtual_key":
        if projection.config().default_virtual_key_id == entity_id:
            raise conflict(
                f"The virtual key {before.name!r} is the configured default key; name another in /api/config first."
            )
        seen = ("config",)
    return write(projection, entity, before, None, moment.actor, also_seen=seen)
