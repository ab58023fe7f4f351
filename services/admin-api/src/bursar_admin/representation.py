"""From documents and balances to answers. Pure.

Never in an answer: a key's hash, a credential's value. A figure the ledger did not give is null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bursar_admin.answers import (
    BudgetAnswer,
    CustomerAnswer,
    PreviousWindowAnswer,
    PriceOverrideAnswer,
    ProviderAnswer,
    ProviderConfigAnswer,
    RateLimitAnswer,
    TeamAnswer,
    UserAnswer,
    VirtualKeyAnswer,
)
from bursar_admin.limits import previous_window_of, window_of
from bursar_admin.projection import Projection
from bursar_admin.writes import zone_of
from bursar_common.clock import rfc3339
from bursar_common.governance import (
    Budget,
    Customer,
    PriceOverride,
    Provider,
    ProviderConfig,
    RateLimit,
    Team,
    User,
    VirtualKey,
    content_stored,
)
from bursar_common.money import dollars_float
from bursar_common.scopes import Unit, counter_id
from bursar_common.windows import bounds, parse_window
from bursar_common.wire import Balance

Half = tuple[str, int, int]
"""Counter id, window start and end (Unix s)."""


class Figures:
    """What the ledger said about counters; ``balances`` None: it could not be asked."""

    def __init__(self, balances: Mapping[str, Balance] | None) -> None:
        self._balances = balances

    @property
    def known(self) -> bool:
        return self._balances is not None

    def charged(self, counter: str) -> Balance | None:
        """The counter's balance; None where the ledger has none, or could not be asked."""
        balance = self._balances.get(counter) if self._balances is not None else None
        # A counter that does not exist is answered with zeros; one that was charged or admitted on never is.
        if balance is None or balance == Balance(counter, 0, 0, 0):
            return None
        return balance

    def spent(self, counter: str) -> int | None:
        if self._balances is None:
            return None
        balance = self._balances.get(counter)
        return balance.spent if balance is not None else 0

    def held(self, counter: str) -> int | None:
        if self._balances is None:
            return None
        balance = self._balances.get(counter)
        return balance.held if balance is not None else 0


def counters_of(projection: Projection, document: Any, now_s: int) -> Iterator[str]:
    """Ids of the counters of an entity's limits in their current windows, and of its budgets' in the windows before."""
    if isinstance(document, User | Provider):
        return
    zone = zone_of(projection, document)
    for owner in (document, *(getattr(document, "provider_configs", None) or ())):
        for budget in owner.budgets:
            yield _budget_half(budget, zone, now_s)[0]
            previous = _previous_half(budget, zone, now_s)
            if previous is not None:
                yield previous[0]
        if owner.rate_limit is not None:
            for half in (_token_half(owner.rate_limit, zone, now_s), _request_half(owner.rate_limit, zone, now_s)):
                if half is not None:
                    yield half[0]


def _budget_half(budget: Budget, zone: str, now_s: int) -> Half:
    start_s, end_s = window_of(budget, zone, now_s)
    return counter_id("n", budget.id, start_s, end_s), start_s, end_s


def _previous_half(budget: Budget, zone: str, now_s: int) -> Half | None:
    window = previous_window_of(budget, zone, now_s)
    return None if window is None else (counter_id("n", budget.id, *window), *window)


def _token_half(limit: RateLimit, zone: str, now_s: int) -> Half | None:
    unit: Unit = "T" if limit.count_cache_reads else "t"
    return _half(unit, limit, limit.token_limit_id, limit.token_window, zone, now_s)


def _request_half(limit: RateLimit, zone: str, now_s: int) -> Half | None:
    return _half("r", limit, limit.request_limit_id, limit.request_window, zone, now_s)


def _half(unit: Unit, limit: RateLimit, limit_id: str, text: str, zone: str, now_s: int) -> Half | None:
    if not text:
        return None
    window = parse_window(text, limit.calendar_aligned)
    start_s, end_s = bounds(window, limit.calendar_aligned, limit.anchored_at_s, zone, now_s)
    return counter_id(unit, limit_id, start_s, end_s), start_s, end_s


def _time(at_s: int | None) -> str | None:
    return None if at_s is None else rfc3339(at_s * 1000)


def _made(at_s: int) -> str:
    return rfc3339(at_s * 1000)


def _money(nusd: int | None) -> float | None:
    return None if nusd is None else dollars_float(nusd)


def budget_answer(budget: Budget, zone: str, figures: Figures, now_s: int) -> BudgetAnswer:
    counter, start_s, end_s = _budget_half(budget, zone, now_s)
    spent, held = figures.spent(counter), figures.held(counter)
    return {
        "id": budget.id,
        "max_limit": dollars_float(budget.limit_nusd),
        "limit_nusd": budget.limit_nusd,
        "reset_duration": budget.window,
        "calendar_aligned": budget.calendar_aligned,
        "enforcement": budget.enforcement,
        "max_overshoot": _money(budget.max_overshoot_nusd),
        "current_usage": _money(spent),
        "held": _money(held),
        "spent_nusd": spent,
        "held_nusd": held,
        "window_start": _made(start_s),
        "window_end": _made(end_s),
        "previous_window": _previous_window(budget, zone, figures, now_s),
    }


def _previous_window(budget: Budget, zone: str, figures: Figures, now_s: int) -> PreviousWindowAnswer | None:
    half = _previous_half(budget, zone, now_s)
    if half is None:
        return None
    counter, start_s, end_s = half
    balance = figures.charged(counter)
    if balance is None and figures.known:
        return None
    return {
        "window_start": _made(start_s),
        "window_end": _made(end_s),
        "spent_nusd": balance.spent if balance else None,
        "open_holds": balance.open_holds if balance else None,
        "overshoot_nusd": max(0, balance.spent - budget.limit_nusd) if balance else None,
        "overshoot_bound_nusd": balance.overshoot_bound if balance else None,
    }


def rate_limit_answer(limit: RateLimit | None, zone: str, figures: Figures, now_s: int) -> RateLimitAnswer | None:
    if limit is None:
        return None
    token, request = _token_half(limit, zone, now_s), _request_half(limit, zone, now_s)
    return {
        "id": limit.id,
        "calendar_aligned": limit.calendar_aligned,
        "count_cache_reads": limit.count_cache_reads,
        "token_max_limit": limit.token_max,
        "token_reset_duration": limit.token_window or None,
        "token_current_usage": figures.spent(token[0]) if token else None,
        "token_held": figures.held(token[0]) if token else None,
        "token_window_start": _time(token[1]) if token else None,
        "token_window_end": _time(token[2]) if token else None,
        "request_max_limit": limit.request_max,
        "request_reset_duration": limit.request_window or None,
        "request_current_usage": figures.spent(request[0]) if request else None,
        "request_held": figures.held(request[0]) if request else None,
        "request_window_start": _time(request[1]) if request else None,
        "request_window_end": _time(request[2]) if request else None,
    }


def _budgets(owner: Any, zone: str, figures: Figures, now_s: int) -> list[BudgetAnswer]:
    return [budget_answer(budget, zone, figures, now_s) for budget in owner.budgets]


def customer_answer(projection: Projection, document: Customer, figures: Figures, now_s: int) -> CustomerAnswer:
    zone = zone_of(projection, document)
    return {
        "id": document.id,
        "name": document.name,
        "timezone": document.timezone,
        "budgets": _budgets(document, zone, figures, now_s),
        "rate_limit": rate_limit_answer(document.rate_limit, zone, figures, now_s),
        "created_at": _made(document.created_at_s),
        "version": projection.version(document.id),
    }


def team_answer(projection: Projection, document: Team, figures: Figures, now_s: int) -> TeamAnswer:
    zone = zone_of(projection, document)
    return {
        "id": document.id,
        "name": document.name,
        "customer_id": document.customer_id or None,
        "timezone": document.timezone,
        "budgets": _budgets(document, zone, figures, now_s),
        "rate_limit": rate_limit_answer(document.rate_limit, zone, figures, now_s),
        "content": document.content or None,
        "created_at": _made(document.created_at_s),
        "version": projection.version(document.id),
    }


def user_answer(projection: Projection, document: User, figures: Figures, now_s: int) -> UserAnswer:
    return {
        "id": document.id,
        "name": document.name,
        "email": document.email,
        "team_id": document.team_id or None,
        "created_at": _made(document.created_at_s),
        "version": projection.version(document.id),
    }


def _config(config: ProviderConfig, zone: str, figures: Figures, now_s: int) -> ProviderConfigAnswer:
    return {
        "id": config.id,
        "provider": config.provider,
        "weight": config.weight,
        "allowed_models": ["*"] if config.allowed_models is None else list(config.allowed_models),
        "credential": config.credential,
        "budgets": _budgets(config, zone, figures, now_s),
        "rate_limit": rate_limit_answer(config.rate_limit, zone, figures, now_s),
    }


def key_answer(projection: Projection, document: VirtualKey, figures: Figures, now_s: int) -> VirtualKeyAnswer:
    zone = zone_of(projection, document)
    team = projection.teams.get(document.team_id)
    configs = document.provider_configs
    return {
        "id": document.id,
        "name": document.name,
        "description": document.description,
        "is_active": document.is_active,
        "team_id": document.team_id or None,
        "customer_id": (team.customer_id if team is not None else document.customer_id) or None,
        "user_id": document.user_id or None,
        "expires_at": _time(document.expires_at_s),
        "provider_configs": None if configs is None else [_config(c, zone, figures, now_s) for c in configs],
        "budgets": _budgets(document, zone, figures, now_s),
        "rate_limit": rate_limit_answer(document.rate_limit, zone, figures, now_s),
        "content": document.content or None,
        "content_stored": content_stored(projection.config(), team, document),
        "created_at": _made(document.created_at_s),
        "version": projection.version(document.id),
    }


def _override(override: PriceOverride) -> PriceOverrideAnswer:
    return {
        "model": override.model,
        "input": override.input,
        "output": override.output,
        "cache_read": override.cache_read or None,
        "cache_write_5m": override.cache_write_5m or None,
        "cache_write_1h": override.cache_write_1h or None,
        "web_search": override.web_search or None,
        "effective_from": _time(override.effective_from_s or None),
        "context_window": override.context_window,
    }


def provider_answer(projection: Projection, document: Provider, figures: Figures, now_s: int) -> ProviderAnswer:
    return {
        "id": document.id,
        "name": document.name,
        "kind": document.kind,
        "base_url": document.base_url or None,
        "credential": document.credential,
        "price_overrides": [_override(override) for override in document.price_overrides],
        "discount_percent": document.discount_percent,
        "unpriced_models": document.unpriced_models,
        "created_at": _made(document.created_at_s),
        "version": projection.version(document.id),
    }


Represent = Callable[[Projection, Any, Figures, int], Mapping[str, Any]]
"""One of the functions above."""
REPRESENT: dict[str, Represent] = {
    "customer": customer_answer,
    "team": team_answer,
    "user": user_answer,
    "virtual_key": key_answer,
    "provider": provider_answer,
}
