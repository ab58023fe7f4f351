"""Commands on virtual keys. Pure; a key's value never comes here, only the keyed hash it is stored as."""

from __future__ import annotations

import msgspec

from bursar_admin.errors import bad_field, conflict
from bursar_admin.limits import Moment, Zones, merge_budgets, merge_rate_limit
from bursar_admin.owners import check_name, check_version, find, reference
from bursar_admin.prices import check_models
from bursar_admin.projection import Projection
from bursar_admin.schemas import NewVirtualKeyBody, ProviderConfigBody, VirtualKeyBody
from bursar_admin.writes import Decision, write, zone_of
from bursar_common.clock import rfc3339
from bursar_common.governance import ProviderConfig, VirtualKey


def create_key(projection: Projection, body: NewVirtualKeyBody, hmac: str, moment: Moment) -> Decision:
    """``hmac``: the keyed hash of the new value."""
    assert body.name is not None
    blank = VirtualKey(id=moment.mint(), name=body.name, hmac=hmac, created_at_s=moment.now_s)
    if body.expires_at is not None and body.expires_at <= moment.now_s:
        raise bad_field("expires_at", "is in the past", rfc3339(body.expires_at * 1000), "a time to come, or null")
    after = _changed(projection, blank, body, moment)
    check_name(projection, "virtual_key", after.team_id or after.customer_id, after.name)
    _check_hash_free(projection, hmac)
    return write(projection, "virtual_key", None, after, moment.actor)


def change_key(projection: Projection, key_id: str, body: VirtualKeyBody, moment: Moment) -> Decision:
    before: VirtualKey = find(projection, "virtual_key", key_id)
    check_version(projection, "virtual_key", key_id, body.version)
    after = _changed(projection, before, body, moment)
    check_name(projection, "virtual_key", after.team_id or after.customer_id, after.name, key_id)
    return write(projection, "virtual_key", before, after, moment.actor)


def rotate_key(projection: Projection, key_id: str, hmac: str, version: int | None, moment: Moment) -> Decision:
    """Give the key another value; the one before stops working at once."""
    before: VirtualKey = find(projection, "virtual_key", key_id)
    check_version(projection, "virtual_key", key_id, version)
    _check_hash_free(projection, hmac)
    return write(projection, "virtual_key", before, msgspec.structs.replace(before, hmac=hmac), moment.actor)


def _check_hash_free(projection: Projection, hmac: str) -> None:
    existing = projection.with_hmac(hmac)
    if existing is not None:
        raise conflict("A virtual key with this value exists already.", existing_id=existing)


def _changed(projection: Projection, before: VirtualKey, body: VirtualKeyBody, moment: Moment) -> VirtualKey:
    team_id, customer_id = _placed(projection, before, body)
    after = msgspec.structs.replace(
        before,
        name=body.name if body.name is not None else before.name,
        description=(body.description or "") if body.given("description") else before.description,
        team_id=team_id,
        customer_id=customer_id,
        user_id=reference(projection, "user", "user_id", body.user_id) if body.given("user_id") else before.user_id,
        is_active=body.is_active if body.is_active is not None else before.is_active,
        expires_at_s=body.expires_at if body.given("expires_at") else before.expires_at_s,
        content=(body.content or "") if body.given("content") else before.content,
    )
    zones = Zones(zone_of(projection, before), zone_of(projection, after))
    return msgspec.structs.replace(
        after,
        budgets=merge_budgets(before.budgets, body, "", zones, moment),
        rate_limit=merge_rate_limit(before.rate_limit, body, "", zones, moment),
        provider_configs=_configs(projection, before, body, zones, moment),
    )


def _placed(projection: Projection, before: VirtualKey, body: VirtualKeyBody) -> tuple[str, str]:
    """(team, customer) of the key. In a team the customer is the team's and not stored a second time."""
    team_id = reference(projection, "team", "team_id", body.team_id) if body.given("team_id") else before.team_id
    named = reference(projection, "customer", "customer_id", body.customer_id)
    if team_id:
        team_customer = projection.teams[team_id].customer_id
        if body.given("customer_id") and named != team_customer and (named or not body.given("team_id")):
            raise bad_field(
                "customer_id",
                "is not the customer of the key's team",
                body.customer_id,
                team_customer or "absent: the team belongs to no customer",
            )
        return team_id, ""
    return "", named if body.given("customer_id") else before.customer_id


def _configs(
    projection: Projection, before: VirtualKey, body: VirtualKeyBody, zones: Zones, moment: Moment
) -> tuple[ProviderConfig, ...] | None:
    existing = before.provider_configs
    if not body.given("provider_configs"):
        if existing is None or (zones.before == zones.after and body.calendar_aligned is None):
            return existing
        # Moved to another time zone, or aligned as a whole: the windows of the configs' own limits move, too.
        return tuple(
            _config_limits(
                config,
                ProviderConfigBody(provider=config.provider).model_copy(update=_default(body)),
                "",
                zones,
                moment,
            )
            for config in existing
        )
    if body.provider_configs is None:
        return None
    named: set[str] = set()
    result: list[ProviderConfig] = []
    for index, item in enumerate(body.provider_configs):
        path = f"provider_configs[{index}]"
        if item.provider in named:
            raise bad_field(f"{path}.provider", "stands twice in the list", item.provider, "each provider once")
        named.add(item.provider)
        if item.calendar_aligned is None:
            item = item.model_copy(update=_default(body))
        result.append(_config(projection, existing or (), item, path, zones, moment))
    return tuple(result)


def _default(body: VirtualKeyBody) -> dict[str, bool]:
    """A key's ``calendar_aligned`` is the default of its provider configs, too."""
    return {} if body.calendar_aligned is None else {"calendar_aligned": body.calendar_aligned}


def _config(
    projection: Projection,
    existing: tuple[ProviderConfig, ...],
    item: ProviderConfigBody,
    path: str,
    zones: Zones,
    moment: Moment,
) -> ProviderConfig:
    provider = projection.provider_named(item.provider)
    if provider is None:
        names = sorted(entity.name for entity in projection.providers.values())
        raise bad_field(f"{path}.provider", "there is no such provider", item.provider, names)
    old = next((config for config in existing if config.provider == item.provider), None)
    if item.id is not None and (old is None or old.id != item.id):
        raise bad_field(f"{path}.id", "is not this key's config for that provider", item.id, [c.id for c in existing])
    if item.allowed_models is not None:
        check_models(provider, item.allowed_models, f"{path}.allowed_models")
    base = old or ProviderConfig(id=moment.mint(), provider=item.provider)
    changed = msgspec.structs.replace(
        base,
        weight=item.weight if item.weight is not None else base.weight,
        allowed_models=item.allowed_models if item.given("allowed_models") else base.allowed_models,
        credential=item.credential or base.credential,
    )
    return _config_limits(changed, item, f"{path}.", zones, moment)


def _config_limits(
    config: ProviderConfig, body: ProviderConfigBody, path: str, zones: Zones, moment: Moment
) -> ProviderConfig:
    return msgspec.structs.replace(
        config,
        budgets=merge_budgets(config.budgets, body, path, zones, moment),
        rate_limit=merge_rate_limit(config.rate_limit, body, path, zones, moment),
    )
