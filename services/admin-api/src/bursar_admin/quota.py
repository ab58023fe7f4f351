"""What one virtual key may still spend: its own limits and those above it, up to its own customer. Pure.

Whoever holds a key may read this: figures of the key's chain and nothing else of the installation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bursar_admin.answers import QuotaBudgetAnswer, QuotaOwner, QuotaRateLimitAnswer
from bursar_admin.projection import Projection
from bursar_admin.representation import Figures, budget_answer, rate_limit_answer
from bursar_admin.writes import zone_of
from bursar_common.governance import VirtualKey
from bursar_common.money import dollars


def chain_of(projection: Projection, key: VirtualKey) -> Iterator[tuple[QuotaOwner, Any, str]]:
    """(who, its document or provider config, its time zone): the key, its provider configs, its team, its customer."""
    zone = zone_of(projection, key)
    yield {"kind": "virtual_key", "id": key.id, "name": key.name}, key, zone
    for config in key.provider_configs or ():
        yield {"kind": "provider_config", "id": config.id, "name": config.provider}, config, zone
    team = projection.teams.get(key.team_id)
    if team is not None:
        yield {"kind": "team", "id": team.id, "name": team.name}, team, zone_of(projection, team)
    customer = projection.customers.get(team.customer_id if team is not None else key.customer_id)
    if customer is not None:
        yield {"kind": "customer", "id": customer.id, "name": customer.name}, customer, zone_of(projection, customer)


def documents_of(projection: Projection, key: VirtualKey) -> list[Any]:
    """The documents whose counters have to be asked for (provider configs are part of the key's)."""
    return [document for owner, document, _ in chain_of(projection, key) if owner["kind"] != "provider_config"]


def budgets_of(projection: Projection, key: VirtualKey, figures: Figures, now_s: int) -> list[QuotaBudgetAnswer]:
    """Every budget a request of the key is charged to, the key's own first."""
    found: list[QuotaBudgetAnswer] = []
    for owner, document, zone in chain_of(projection, key):
        for budget in document.budgets:
            answer = budget_answer(budget, zone, figures, now_s)
            spent, held = answer["spent_nusd"], answer["held_nusd"]
            left = None if spent is None or held is None else max(0, budget.limit_nusd - spent - held)
            found.append(
                {
                    "id": budget.id,
                    "owner": owner,
                    "enforcement": budget.enforcement,
                    "window": budget.window,
                    "calendar_aligned": budget.calendar_aligned,
                    "limit_nusd": budget.limit_nusd,
                    "spent_nusd": spent,
                    "held_nusd": held,
                    "left_nusd": left,
                    "limit_usd": usd(budget.limit_nusd),
                    "spent_usd": usd(spent),
                    "held_usd": usd(held),
                    "left_usd": usd(left),
                    "window_start": answer["window_start"],
                    "resets_at": answer["window_end"],
                }
            )
    return found


def rate_limits_of(projection: Projection, key: VirtualKey, figures: Figures, now_s: int) -> list[QuotaRateLimitAnswer]:
    """Every limit on tokens or requests that counts the key's requests."""
    found: list[QuotaRateLimitAnswer] = []
    for owner, document, zone in chain_of(projection, key):
        answer: Any = rate_limit_answer(document.rate_limit, zone, figures, now_s)
        if answer is None:
            continue
        for half in ("token", "request"):
            window, limit = answer[f"{half}_reset_duration"], answer[f"{half}_max_limit"]
            if window is None or limit is None:
                continue
            spent, held = answer[f"{half}_current_usage"], answer[f"{half}_held"]
            found.append(
                {
                    "id": answer["id"],
                    "owner": owner,
                    "unit": "tokens" if half == "token" else "requests",
                    "count_cache_reads": answer["count_cache_reads"] if half == "token" else False,
                    "window": window,
                    "calendar_aligned": answer["calendar_aligned"],
                    "limit": limit,
                    "spent": spent,
                    "held": held,
                    "left": None if spent is None or held is None else max(0, limit - spent - held),
                    "window_start": answer[f"{half}_window_start"],
                    "resets_at": answer[f"{half}_window_end"],
                }
            )
    return found


def usd(nusd: int | None) -> str | None:
    """Dollars as exact decimal text; None stays unknown."""
    return None if nusd is None else f"{dollars(nusd):f}"
