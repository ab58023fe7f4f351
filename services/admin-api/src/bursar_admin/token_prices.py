"""Rates by which the cost of requests is split into kinds of tokens: of the providers as governance has them now.

Only proportions within one request's cost come from here; amounts are always the ledger's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from bursar_admin.desk import Desk
from bursar_admin.prices import book_of
from bursar_admin.queries.token_costs import USAGE, Rates, Source, priced_alike, rates_of, tiers_of
from bursar_common.governance import Provider
from bursar_common.pricing import PriceBook

CATALOGUE = Provider(id="catalogue", name="catalogue", kind="anthropic", created_at_s=0)
"""For requests of providers that are no longer there."""


class PricedAlike(NamedTuple):
    tiers: list[int]
    rates: Rates
    requests: int
    """How many requests are meant."""


class TokenPrices:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def book(self, provider: str) -> PriceBook:
        """The price book of a provider by name, as it is now; the catalogue's where there is none."""
        document = self.desk.projection.provider_named(provider)
        with suppress(ValueError):
            return book_of(document or CATALOGUE)
        return book_of(CATALOGUE)

    def display_name(self, model: str) -> str:
        found = book_of(CATALOGUE).find(model)
        return (found.display_name if found is not None else "") or model or "Unknown model"

    async def rates(self, condition: str, parameters: Mapping[str, Any], source: Source = USAGE) -> PricedAlike:
        """Tiers, and the rates of every combination priced alike among the requests meant. Raises Refusal."""
        providers = self.desk.projection.providers.values()
        tiers = tiers_of([book_of(CATALOGUE), *(self.book(provider.name) for provider in providers)])
        combinations = await self.desk.analytics.rows(*priced_alike(condition, parameters, tiers, source))
        requests = sum(row["requests"] for row in combinations)
        return PricedAlike(tiers, rates_of(combinations, self.book, tiers), requests)
