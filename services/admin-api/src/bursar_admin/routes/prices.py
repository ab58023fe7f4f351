"""``/api/providers/{id}/prices``: the price book that requests of now are priced by, model by model."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.log_answers import ModelPriceAnswer, PricesAnswer, RateAnswer
from bursar_admin.prices import book_of
from bursar_admin.requests import check_query, json_answer
from bursar_admin.routes import Route
from bursar_admin.routes.providers import KIND, Providers
from bursar_common.governance import Provider
from bursar_common.price_documents import Model, Tier
from bursar_common.pricing import PriceBook

RATES: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search")


def routes(desk: Desk) -> list[Route]:
    providers = Providers(desk, KIND)

    async def get(request: web.Request) -> web.Response:
        check_query(request)
        provider: Provider = providers.find(request.match_info["id"])
        return json_answer(prices_answer(provider, book_of(provider), desk.now_s()))

    return [
        Route(
            "GET", f"{KIND.path}/{{id}}/prices", get, "get_provider_prices",
            "Prices of every model in force now: list, and billed after the discount.", PricesAnswer,
        )
    ]  # fmt: skip


def prices_answer(provider: Provider, book: PriceBook, now_s: int) -> PricesAnswer:
    payable = (Decimal(100) - Decimal(book.document.discount_percent)) / 100
    overridden = {override.model.lower() for override in provider.price_overrides}
    models: list[ModelPriceAnswer] = []
    for model in book.document.models:
        tiers = _tiers_at(model, now_s)
        models.append(
            {
                "id": model.id,
                "display_name": model.display_name or model.id,
                "context_window": model.context_window,
                "overridden": model.id.lower() in overridden,
                "list": [_rates(tier, Decimal(1)) for tier in tiers],
                "billed": [_rates(tier, payable) for tier in tiers],
            }
        )
    return {
        "provider": provider.name,
        "price_book_id": book.id,
        "catalogue_version": book.document.catalogue_version,
        "discount_percent": book.document.discount_percent,
        "unpriced_models": book.document.unpriced_models,
        "models": models,
    }


def _tiers_at(model: Model, now_s: int) -> tuple[Tier, ...]:
    """The standard tiers of the period that is in force."""
    current = model.periods[0]
    for period in model.periods[1:]:
        if period.from_s <= now_s:
            current = period
    return current.standard


def _rates(tier: Tier, factor: Decimal) -> RateAnswer:
    rates: dict[str, Any] = {name: _text(Decimal(getattr(tier.rates, name)) * factor) for name in RATES}
    return {"over_tokens": tier.over if tier.over >= 0 else None, **rates}  # type: ignore[typeddict-item]


def _text(rate: Decimal) -> str:
    text = f"{rate:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
