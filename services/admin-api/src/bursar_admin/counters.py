"""The counters a request was charged to, as people know them: whose limit, which window, how much. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bursar_admin.projection import Projection
from bursar_admin.quota import usd
from bursar_common.clock import rfc3339
from bursar_common.governance import Budget, RateLimit
from bursar_common.scopes import Counter, parse_counter_id

_COLUMNS: Final = {"n": "charged_n", "t": "charged_t", "T": "charged_tokens", "r": "charged_r"}
_UNITS: Final = {
    "n": "nano-dollars",
    "t": "tokens without cache reads",
    "T": "tokens with cache reads",
    "r": "requests",
}


def _limits(projection: Projection) -> Iterator[tuple[str, str, Any, tuple[Budget, ...], RateLimit | None]]:
    for kind, documents in (
        ("virtual_key", projection.virtual_keys),
        ("team", projection.teams),
        ("customer", projection.customers),
    ):
        for document in documents.values():
            yield kind, document.name, document, document.budgets, document.rate_limit
            for config in getattr(document, "provider_configs", None) or ():
                yield (
                    "provider_config",
                    f"{document.name}: {config.provider}",
                    config,
                    config.budgets,
                    config.rate_limit,
                )


def charges_of(projection: Projection, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a counter, in the order of the event; owners that are gone have ``owner`` null."""
    counters: list[tuple[str, Counter | None]] = []
    for text in row["charged_to"]:
        try:
            counters.append((text, parse_counter_id(text)))
        except ValueError:
            counters.append((text, None))
    wanted = {counter.limit_id for _, counter in counters if counter is not None}
    found: dict[str, dict[str, Any]] = {}
    for kind, name, document, budgets, rate_limit in _limits(projection):
        owner = {"kind": kind, "id": document.id, "name": name}
        for budget in budgets:
            if budget.id in wanted:
                found[budget.id] = {
                    "owner": owner, "limit": "budget", "reset_duration": budget.window,
                    "enforcement": budget.enforcement, "limit_nusd": budget.limit_nusd,
                    "limit_usd": usd(budget.limit_nusd),
                }  # fmt: skip
        if rate_limit is not None:
            halves = (
                (rate_limit.token_limit_id, "tokens", rate_limit.token_window, rate_limit.token_max),
                (rate_limit.request_limit_id, "requests", rate_limit.request_window, rate_limit.request_max),
            )
            for limit_id, what, window, most in halves:
                if limit_id and limit_id in wanted:
                    found[limit_id] = {"owner": owner, "limit": what, "reset_duration": window, "max": most}
    answers = []
    for text, counter in counters:
        if counter is None:
            answers.append({"counter": text, "owner": None})
            continue
        amount = row[_COLUMNS[counter.unit]]
        answers.append(
            {
                "counter": text,
                "limit_id": counter.limit_id,
                "owner": None,
                **found.get(counter.limit_id, {}),
                "unit": _UNITS[counter.unit],
                "amount": amount,
                "amount_usd": usd(amount) if counter.unit == "n" else None,
                "window_start": rfc3339(counter.window_start_s * 1000),
                "window_end": rfc3339(counter.window_end_s * 1000),
            }
        )
    return answers
