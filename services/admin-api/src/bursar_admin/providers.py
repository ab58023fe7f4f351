"""Commands on providers and on the configuration. Pure."""

from __future__ import annotations

from bursar_admin.addresses import UpstreamRules, check_base_url, check_credential
from bursar_admin.errors import bad_field
from bursar_admin.limits import Moment
from bursar_admin.owners import check_name, check_version, find
from bursar_admin.prices import book_of, check_models
from bursar_admin.projection import Projection, provider_key
from bursar_admin.schemas import ConfigBody, PriceOverrideBody, ProviderBody
from bursar_admin.writes import Decision, write
from bursar_common.events import GovernanceData
from bursar_common.governance import CONFIG_ID, Config, PriceOverride, Provider

FIRST_PROVIDER = "anthropic"
FIRST_CREDENTIAL = "env:BURSAR_ANTHROPIC_API_KEY,env:ANTHROPIC_API_KEY"
"""Both are tried in this order; which names may be read at all is the edge's setting."""


def create_provider(projection: Projection, body: ProviderBody, rules: UpstreamRules, moment: Moment) -> Decision:
    assert body.name is not None
    if "/" in body.name or "," in body.name or " " in body.name:
        raise bad_field("name", "stands before a model's name", body.name, "no space, comma or slash in it")
    check_name(projection, "provider", "", body.name)
    blank = Provider(id=moment.mint(), name=body.name, kind=body.kind or "anthropic", created_at_s=moment.now_s)
    return write(projection, "provider", None, _changed(projection, blank, body, rules), moment.actor)


def change_provider(
    projection: Projection, provider_id: str, body: ProviderBody, rules: UpstreamRules, moment: Moment
) -> Decision:
    before: Provider = find(projection, "provider", provider_id)
    check_version(projection, "provider", provider_id, body.version)
    if body.name is not None and body.name != before.name:
        raise bad_field("name", "cannot change: keys refer to providers by name", body.name, before.name)
    if body.kind is not None and body.kind != before.kind:
        raise bad_field("kind", "cannot change", body.kind, before.kind)
    after = _changed(projection, before, body, rules)
    if after.base_url != before.base_url and body.credential is None:
        raise bad_field(
            "credential",
            "is required again when base_url changes, so that no credential is sent to an address unawares",
            None,
            "the reference to use at the new address",
        )
    return write(projection, "provider", before, after, moment.actor)


def _changed(projection: Projection, before: Provider, body: ProviderBody, rules: UpstreamRules) -> Provider:
    after = Provider(
        id=before.id,
        name=before.name,
        kind=before.kind,
        created_at_s=before.created_at_s,
        base_url=check_base_url(body.base_url or "", rules) if body.given("base_url") else before.base_url,
        credential=check_credential(body.credential, rules) if body.credential is not None else before.credential,
        price_overrides=tuple(_override(item) for item in body.price_overrides or ())
        if body.given("price_overrides")
        else before.price_overrides,
        discount_percent=(body.discount_percent or "0") if body.given("discount_percent") else before.discount_percent,
        unpriced_models=(body.unpriced_models or "refuse") if body.given("unpriced_models") else before.unpriced_models,
    )
    seen: set[tuple[str, int]] = set()
    for index, override in enumerate(after.price_overrides):
        if (override.model, override.effective_from_s) in seen:
            raise bad_field(
                f"price_overrides[{index}]", "repeats a model and date", override.model, "each model and date once"
            )
        seen.add((override.model, override.effective_from_s))
    try:
        book_of(after)
    except (ValueError, ArithmeticError) as error:
        raise bad_field("price_overrides", f"cannot be made into a price book: {error}", None, "see docs") from None
    if after.price_overrides != before.price_overrides or after.unpriced_models != before.unpriced_models:
        _check_still_priced(projection, after)
    return after


def _check_still_priced(projection: Projection, provider: Provider) -> None:
    """A key's allow-list must not lose the price of a model it names."""
    names: dict[str, None] = {}
    for key_id in sorted(projection.children(provider_key(provider.name), "virtual_key")):
        for config in projection.virtual_keys[key_id].provider_configs or ():
            if config.provider == provider.name:
                names.update(dict.fromkeys(config.allowed_models or ()))
    check_models(provider, tuple(names), "price_overrides")


def _override(item: PriceOverrideBody) -> PriceOverride:
    return PriceOverride(
        model=item.model,
        input=item.input,
        output=item.output,
        cache_read=item.cache_read or "",
        cache_write_5m=item.cache_write_5m or "",
        cache_write_1h=item.cache_write_1h or "",
        web_search=item.web_search or "",
        effective_from_s=item.effective_from or 0,
        context_window=item.context_window,
    )


def change_config(projection: Projection, body: ConfigBody, moment: Moment) -> Decision:
    check_version(projection, "config", CONFIG_ID, body.version)
    stored = projection.configs.get(CONFIG_ID)
    before, given = stored or Config(), body.client_config
    enforce = given.enforce_auth_on_inference
    key_id = before.default_virtual_key_id
    path = "client_config.default_virtual_key_id"
    if given.given("default_virtual_key_id"):
        key_id = given.default_virtual_key_id or ""
        if key_id and key_id not in projection.virtual_keys:
            raise bad_field(path, "there is no such virtual key", key_id, "the id of a virtual key, or null")
    after = Config(
        enforce_auth_on_inference=before.enforce_auth_on_inference if enforce is None else enforce,
        default_virtual_key_id=key_id,
        content=(given.content or "off") if given.given("content") else before.content,
    )
    if not after.enforce_auth_on_inference and not key_id:
        raise bad_field(
            path,
            "is required while enforce_auth_on_inference is off: requests without a key are booked on it",
            given.default_virtual_key_id,
            "the id of a virtual key",
        )
    return write(projection, "config", stored, after, moment.actor)


def first_events(projection: Projection, moment: Moment) -> list[GovernanceData]:
    """What an empty installation begins with. Every replica that starts may write these; the log accepts one of each,
    and a provider deleted on purpose does not come back."""
    events: list[GovernanceData] = []
    if projection.version("root:provider") == 0:
        provider = Provider(
            id=moment.mint(),
            name=FIRST_PROVIDER,
            kind="anthropic",
            created_at_s=moment.now_s,
            credential=FIRST_CREDENTIAL,
        )
        decision = write(projection, "provider", None, provider, "system")
        events.append(decision.data)  # type: ignore[union-attr]
    if projection.version(CONFIG_ID) == 0:
        decision = write(projection, "config", None, Config(), "system")
        events.append(decision.data)  # type: ignore[union-attr]
    return events
