"""Compiles the price catalogue (the ``genai-prices`` package) and a provider's own prices into a price book.

Loading the catalogue takes some 30 MB; services that only apply a book import
:mod:`bursar_common.pricing` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import msgspec

from bursar_common.governance import PriceOverride, Provider
from bursar_common.price_documents import (
    DEFAULT_CONTEXT_WINDOW,
    BookDocument,
    Clause,
    Model,
    Period,
    Rates,
    Tier,
    spelled_names,
    undated,
)
from bursar_common.pricing import PriceBook

CACHE_READ_OF_INPUT = Decimal("0.1")
CACHE_WRITE_5M_OF_INPUT = Decimal("1.25")
CACHE_WRITE_1H_OF_INPUT = Decimal(2)
"""The provider's usual multiples of the input rate (its prompt caching documentation): where neither catalogue nor
override states a rate."""
WEB_SEARCH_PER_THOUSAND = Decimal(10)
"""Dollars, the same for every model (the provider's price list): where the catalogue lacks it, old models mostly."""
MAX_RATE = Decimal(1_000_000)
"""Dollars per million tokens; keeps a mistyped override from overflowing an amount."""
MAX_RATE_DECIMALS = 12
BASE_TIER = -1
"""``over`` of the tier that every prompt is in."""

_BEGINNING = date(1970, 1, 1)
_KINDS: dict[str, Callable[[Decimal], Decimal]] = {
    "cache_read": lambda rate: rate * CACHE_READ_OF_INPUT,
    "cache_write_5m": lambda rate: rate * CACHE_WRITE_5M_OF_INPUT,
    "cache_write_1h": lambda rate: rate * CACHE_WRITE_1H_OF_INPUT,
}
_CATALOGUE_KEYS = {
    "input": ("input_mtok",),
    "cache_read": ("cache_read_mtok",),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok",),
    "output": ("output_mtok",),
    "web_search": ("web_searches_kcount",),
}


@lru_cache(maxsize=256)
def build_book(provider: Provider) -> PriceBook:
    """The price book of a provider entity: its kind's catalogue, its overrides and its discount.

    An override of a model the catalogue knows under that name replaces the model's rates, under all its names, from
    ``effective_from_s`` on; any other makes a model of its own, matched by its name and, unless that is dated, its
    dated forms. An override is a list price; one negotiated relative to the list is the provider's
    ``discount_percent``. Raises ValueError naming the rate that is no decimal number of dollars, or a discount
    outside 0 to 100."""
    version, catalogue = catalogue_models(provider.kind)
    listed = list(catalogue)
    own: dict[str, list[PriceOverride]] = {}
    for override in sorted(provider.price_overrides, key=lambda override: override.effective_from_s):
        name = override.model.lower()
        index = next((i for i, model in enumerate(catalogue) if name in spelled_names(model)), None)
        if index is None:
            own.setdefault(name, []).append(override)
        else:
            listed[index] = _overridden(listed[index], override)
    document = BookDocument(
        catalogue_version=version,
        kind=provider.kind,
        models=(
            # The longest name first: a dated override is narrower than an undated one.
            *(_own_model(name, own[name]) for name in sorted(own, key=lambda name: (-len(name), name))),
            *listed,
        ),
        discount_percent=str(_decimal(provider.discount_percent, "discount_percent", Decimal(100))),
        unpriced_models=provider.unpriced_models,
    )
    return PriceBook.of(document)


@lru_cache(maxsize=8)
def catalogue_models(kind: str) -> tuple[str, tuple[Model, ...]]:
    """The catalogue's version and its models of one provider kind, in the catalogue's order. Raises ValueError for a
    kind it does not have."""
    import genai_prices
    from genai_prices.data import providers

    for provider in providers:
        if provider.id == kind:
            return genai_prices.__version__, tuple(_model(info) for info in provider.models)
    raise ValueError(f"the price catalogue has no provider {kind!r}")


def _model(info: Any) -> Model:
    variants = info.price_variants or []
    conditional = info.prices if isinstance(info.prices, list) else []
    starts = {_BEGINNING}
    for priced in (*conditional, *variants):
        if priced.constraint is not None:
            starts.add(_start_date(info.id, priced.constraint))
    contexts = {tuple(variant.when.items()) for variant in variants}
    unknown = contexts - {(("speed", "fast"),), (("processing", "batch"),)}
    if unknown:
        raise ValueError(f"the price catalogue has prices of {info.id} for {unknown}, which this release cannot apply")
    periods = []
    for start in sorted(starts):
        at = datetime(start.year, start.month, start.day, tzinfo=UTC)

        def tiers(context: dict[str, str] | None, at: datetime = at) -> tuple[Tier, ...]:
            return _catalogue_tiers(info.get_prices(at, context))

        standard = tiers(None)
        fast, batch = tiers({"speed": "fast"}), tiers({"processing": "batch"})
        periods.append(
            Period(
                from_s=int(at.timestamp()),
                standard=standard,
                fast=fast if fast != standard else (),
                batch=batch if batch != standard else (),
            )
        )
    return Model(
        id=info.id,
        match=_clause(info.match),
        periods=tuple(periods),
        display_name=info.name or info.id,
        context_window=info.context_window or DEFAULT_CONTEXT_WINDOW,
    )


def _start_date(model_id: str, constraint: Any) -> date:
    start = getattr(constraint, "start_date", None)
    if not isinstance(start, date):
        raise ValueError(
            f"the price catalogue has a price of {model_id} by time of day, which this release cannot apply"
        )
    return start


def _clause(clause: Any) -> Clause:
    (name, value), *_ = vars(clause).items()
    if name == "or_":
        return Clause("any", parts=tuple(_clause(part) for part in value))
    if name == "and_":
        return Clause("all", parts=tuple(_clause(part) for part in value))
    if name == "regex":
        return Clause("regex", text=value)
    return Clause(name, text=value.lower())


def _catalogue_tiers(prices: Any) -> tuple[Tier, ...]:
    stated = {
        kind: next((price for key in keys if (price := getattr(prices, key, None)) is not None), None)
        for kind, keys in _CATALOGUE_KEYS.items()
    }
    overs = {BASE_TIER}
    for price in stated.values():
        overs.update(tier.start for tier in getattr(price, "tiers", ()))
    return tuple(
        Tier(over, _filled({kind: _price_over(price, over) for kind, price in stated.items() if price is not None}))
        for over in sorted(overs)
    )


def _price_over(price: Any, over: int) -> Decimal:
    """The catalogue's rate for a prompt just above ``over`` tokens."""
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if over >= tier.start]
    rate: Decimal = reached[-1] if reached else price.base
    return rate


def _filled(stated: dict[str, Decimal]) -> Rates:
    for kind, of_input in _KINDS.items():
        stated.setdefault(kind, of_input(stated["input"]))
    stated.setdefault("web_search", WEB_SEARCH_PER_THOUSAND)
    return Rates(**{kind: _text(rate) for kind, rate in stated.items()})


def _overridden(model: Model, override: PriceOverride) -> Model:
    """``model`` with the override's rates from its date on. Rates it leaves out stay the catalogue's."""
    given = _given(override)
    before = [period for period in model.periods if period.from_s < override.effective_from_s]
    reached = [period for period in model.periods if period.from_s <= override.effective_from_s]
    in_force = reached[-1] if reached else model.periods[0]
    later = [period for period in model.periods if period.from_s > override.effective_from_s]
    replaced = []
    for period in (Period(override.effective_from_s, in_force.standard), *later):
        standard = tuple(
            Tier(
                tier.over,
                Rates(**{**msgspec.structs.asdict(tier.rates), **{kind: _text(rate) for kind, rate in given.items()}}),
            )
            for tier in period.standard
        )
        # Fast and batch rates of the catalogue belong to its own standard rates: multiples of the new ones instead.
        replaced.append(Period(period.from_s, standard))
    return Model(
        id=model.id,
        match=model.match,
        periods=(*before, *replaced),
        display_name=model.display_name,
        context_window=override.context_window or model.context_window,
    )


def _own_model(name: str, overrides: list[PriceOverride]) -> Model:
    plain = undated(name)
    dated = tuple(Clause("regex", text=rf"^{_escaped(name)}{form}$") for form in (r"[-@]\d{8}", r"-\d{4}-\d\d-\d\d"))
    return Model(
        id=name,
        match=Clause("any", parts=(Clause("equals", text=name), *(dated if plain == name else ()))),
        periods=tuple(
            Period(override.effective_from_s, (Tier(BASE_TIER, _filled(_given(override))),)) for override in overrides
        ),
        display_name=overrides[-1].model,
        context_window=overrides[-1].context_window or DEFAULT_CONTEXT_WINDOW,
    )


def _escaped(name: str) -> str:
    return "".join(char if char.isalnum() else f"\\{char}" for char in name)


def _given(override: PriceOverride) -> dict[str, Decimal]:
    given = {}
    for kind in _CATALOGUE_KEYS:
        text = getattr(override, kind)
        if text:
            given[kind] = _decimal(text, f"price_overrides[{override.model}].{kind}", MAX_RATE)
    for kind in ("input", "output"):
        if kind not in given:
            raise ValueError(f"price_overrides[{override.model}].{kind} is missing")
    return given


def _decimal(text: str, what: str, maximum: Decimal) -> Decimal:
    allowed = f"{what} is a decimal number from 0 to {maximum:,} with at most {MAX_RATE_DECIMALS} decimals"
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{allowed}; given was {text[:32]!r}") from None
    if not number.is_finite() or not 0 <= number <= maximum:
        raise ValueError(f"{allowed}; given was {text[:32]!r}")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > MAX_RATE_DECIMALS:
        raise ValueError(f"{allowed}; given was {text[:32]!r}")
    return Decimal(_text(number))


def _text(number: Decimal) -> str:
    """The shortest plain form, so that equal prices make equal books."""
    text = f"{number.normalize():f}"
    return "0" if text == "-0" else text
