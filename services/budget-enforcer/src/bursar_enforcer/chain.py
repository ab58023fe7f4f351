"""From a key's policy and a model to the limits that apply, and their counters of now. Pure.

A :class:`Way` is everything about an admission that the key and the model decide; what windows decide is its
:class:`~bursar_enforcer.plan.Plan`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from bursar_common.governance import (
    Budget,
    Config,
    Customer,
    Provider,
    ProviderConfig,
    RateLimit,
    Team,
    VirtualKey,
    content_stored,
    effective_timezone,
)
from bursar_common.pricing import CompiledModel, PriceBook, allowed
from bursar_common.scopes import OWNER_ORDER, OwnerKind, Unit
from bursar_common.wire import Owners, Refused, Route
from bursar_enforcer.plan import Limit, Plan, make_plan

if TYPE_CHECKING:
    from bursar_enforcer.admitted import Answer

MAX_CHOICES = 256
"""Models remembered per key; names come from clients."""


class Way:
    """Where requests of one key for one model go, and what limits them. ``plan`` is renewed as windows roll."""

    __slots__ = (
        "answer",
        "book",
        "config",
        "content",
        "facts",
        "limits",
        "model",
        "owners",
        "plan",
        "provider",
        "route",
        "strict",
        "versions",
    )

    def __init__(
        self,
        *,
        owners: Owners,
        route: Route,
        provider: Provider,
        book: PriceBook,
        model: CompiledModel,
        config: ProviderConfig | None,
        limits: tuple[Limit, ...],
        versions: dict[str, str],
        content: bool = False,
    ) -> None:
        self.owners = owners
        self.route = route
        self.provider = provider
        self.book = book
        self.model = model
        self.config = config
        self.limits = limits
        self.strict = next((limit for limit in limits if limit.mode == "S"), None)
        self.versions = versions
        self.content = content
        """Prompt and answer are to be stored."""
        self.plan: Plan | None = None
        self.answer: Answer | None = None
        """What its admissions are answered, made at first use and anew for each plan."""
        self.facts = b""
        """The part of the usage event that all requests of this way share, as JSON; made at first use."""

    @property
    def client_pays(self) -> bool:
        """The caller's own login or key goes upstream: money is metered, not charged."""
        return self.config is not None and self.config.credential == "client"

    def plan_at(self, now_s: int) -> Plan:
        plan = self.plan
        if plan is None or not plan.from_s <= now_s < plan.until_s:
            plan = self.plan = make_plan(self.limits, self.versions, now_s)
        return plan


class KeyPolicy:
    """Everything that judges the requests of one key, as read at ``versions``. Immutable but for remembered ways."""

    __slots__ = ("books", "changes", "content", "customer", "key", "owners", "providers", "team", "versions", "ways")

    def __init__(
        self,
        key: VirtualKey,
        team: Team | None,
        customer: Customer | None,
        providers: tuple[Provider, ...],
        books: dict[str, PriceBook],
        versions: dict[str, str],
        changes: bytes,
        config: Config | None = None,
    ) -> None:
        self.content = content_stored(config or Config(), team, key)
        self.changes = changes
        """Count of policy changes up to which ``versions`` are known to be right; moved on by admissions."""
        self.key = key
        self.team = team
        self.customer = customer
        self.providers = providers
        self.books = books
        self.versions = versions
        self.owners = Owners(
            virtual_key_id=key.id,
            virtual_key=key.name,
            team_id=team.id if team else "",
            team=team.name if team else "",
            customer_id=customer.id if customer else "",
            customer=customer.name if customer else "",
            user_id=key.user_id,
        )
        self.ways: dict[tuple[str, str], Choice] = {}

    def way(self, provider: str, model: str) -> Choice:
        """:func:`choose`, remembered."""
        choice = self.ways.get((provider, model))
        if choice is None:
            if len(self.ways) >= MAX_CHOICES:
                self.ways.clear()
            choice = self.ways[provider, model] = choose(self, provider, model)
        return choice


Choice: TypeAlias = Way | Refused


def refuse_key(policy: KeyPolicy, now_s: int) -> Refused | None:
    """Why the key may do nothing at all, or None."""
    key = policy.key
    owners = policy.owners
    if not key.is_active:
        return Refused("inactive_key", owner_kind="virtual_key", owner=key.name, owners=owners)
    if key.expires_at_s is not None and now_s >= key.expires_at_s:
        return Refused(
            "expired_key", owner_kind="virtual_key", owner=key.name, resets_at_s=key.expires_at_s, owners=owners
        )
    if key.team_id and policy.team is None:
        return Refused("inactive_owner", owner_kind="team", owner=key.team_id, owners=owners)
    customer_id = key.customer_id or (policy.team.customer_id if policy.team else "")
    if customer_id and policy.customer is None:
        return Refused("inactive_owner", owner_kind="customer", owner=customer_id, owners=owners)
    return None


class Candidate(NamedTuple):
    config: ProviderConfig | None
    provider: Provider
    book: PriceBook

    @property
    def models(self) -> tuple[str, ...] | None:
        return None if self.config is None else self.config.allowed_models


def candidates(policy: KeyPolicy) -> list[Candidate]:
    """The providers a key may use, in its own order; those without a readable price book left out."""
    books = policy.books
    if policy.key.provider_configs is None:
        return [Candidate(None, provider, books[provider.id]) for provider in policy.providers if provider.id in books]
    by_name = {provider.name: provider for provider in policy.providers if provider.id in books}
    return [
        Candidate(config, by_name[config.provider], books[by_name[config.provider].id])
        for config in policy.key.provider_configs
        if config.provider in by_name
    ]


def choose(policy: KeyPolicy, provider: str, model: str) -> Choice:
    """The way of a request: the provider its prefix names, else the first that permits the model; or why not."""
    owners = policy.owners
    usable = candidates(policy)
    if provider:
        named = [c for c in usable if c.provider.name == provider]
        if not named:
            known = any(p.name == provider for p in policy.providers)
            return Refused(
                "provider_not_allowed" if known else "unknown_provider",
                subject=provider,
                allowed=tuple(c.provider.name for c in usable),
                owners=owners,
            )
        usable = named
    elif not usable:
        return Refused("provider_not_allowed", subject="", owners=owners)
    permitted_unpriced = False
    for candidate in usable:
        found = candidate.book.find(model)
        if not allowed(model, candidate.models, candidate.book):
            # Every priced model is allowed here, so what is not allowed has no price.
            permitted_unpriced |= found is None and (candidate.models is None or "*" in candidate.models)
            continue
        if found is None:
            permitted_unpriced = True
            continue
        return Way(
            owners=owners,
            route=route_of(candidate),
            provider=candidate.provider,
            book=candidate.book,
            model=found,
            config=candidate.config,
            limits=limits_of(policy, candidate.config),
            versions=policy.versions,
            content=policy.content,
        )
    if permitted_unpriced:
        return Refused("unpriced_model", subject=model, owners=owners)
    names = dict.fromkeys(name for c in usable for name in c.models or ())
    return Refused("model_not_allowed", subject=model, allowed=tuple(names), owners=owners)


def route_of(candidate: Candidate) -> Route:
    provider, config = candidate.provider, candidate.config
    client = config is not None and config.credential == "client"
    return Route(
        provider=provider.name,
        provider_id=provider.id,
        base_url=provider.base_url,
        credential="client" if client else provider.credential,
        kind=provider.kind,
    )


def limits_of(policy: KeyPolicy, config: ProviderConfig | None) -> tuple[Limit, ...]:
    """Every limit on the way, narrowest owner first, budgets before rate limits."""
    customer_zone = effective_timezone(None, policy.customer)
    team_zone = effective_timezone(policy.team, policy.customer)
    limits: list[Limit] = []
    for kind in OWNER_ORDER:
        owner: ProviderConfig | VirtualKey | Team | Customer | None
        if kind == "provider_config":
            owner, name, timezone = config, f"{policy.key.name}/{config.provider}" if config else "", team_zone
        elif kind == "virtual_key":
            owner, name, timezone = policy.key, policy.key.name, team_zone
        elif kind == "team":
            owner, name, timezone = policy.team, policy.team.name if policy.team else "", team_zone
        else:
            owner, name, timezone = policy.customer, policy.customer.name if policy.customer else "", customer_zone
        if owner is None:
            continue
        if not (config is not None and config.credential == "client"):
            limits.extend(_budget(budget, kind, name, timezone) for budget in owner.budgets)
        if owner.rate_limit is not None:
            limits.extend(_rate_limits(owner.rate_limit, kind, name, timezone))
    return tuple(limits)


def owner_limits(
    owner: ProviderConfig | VirtualKey | Team | Customer, kind: OwnerKind, name: str, timezone: str
) -> Iterable[Limit]:
    """The owner's own limits, for those who show them."""
    for budget in owner.budgets:
        yield _budget(budget, kind, name, timezone)
    if owner.rate_limit is not None:
        yield from _rate_limits(owner.rate_limit, kind, name, timezone)


def _budget(budget: Budget, kind: OwnerKind, owner: str, timezone: str) -> Limit:
    ceiling: int | None = None
    if budget.enforcement == "strict":
        ceiling = budget.limit_nusd
    elif budget.enforcement == "standard" and budget.max_overshoot_nusd is not None:
        ceiling = budget.limit_nusd + budget.max_overshoot_nusd
    return Limit(
        unit="n",
        limit_id=budget.id,
        owner_kind=kind,
        owner=owner,
        limit=budget.limit_nusd,
        window=budget.window,
        calendar_aligned=budget.calendar_aligned,
        anchored_at_s=budget.anchored_at_s,
        timezone=timezone,
        mode={"standard": "s", "strict": "S", "observe": "o"}[budget.enforcement],
        ceiling=ceiling,
    )


def _rate_limits(rate: RateLimit, kind: OwnerKind, owner: str, timezone: str) -> Iterable[Limit]:
    common = functools.partial(
        Limit,
        owner_kind=kind,
        owner=owner,
        calendar_aligned=rate.calendar_aligned,
        anchored_at_s=rate.anchored_at_s,
        timezone=timezone,
    )
    if rate.token_max is not None:
        unit: Unit = "T" if rate.count_cache_reads else "t"
        yield common(unit=unit, limit_id=rate.token_limit_id, limit=rate.token_max, window=rate.token_window, mode=unit)
    if rate.request_max is not None:
        yield common(
            unit="r", limit_id=rate.request_limit_id, limit=rate.request_max, window=rate.request_window, mode="r"
        )
