"""Prices: an immutable price book, and the exact cost of a request by it.

A book is named by the hash of all it contains, so an event that names its book can be priced again at any time. It is
compiled from the catalogue and a provider's overrides in :mod:`bursar_common.catalogue`; this module only reads it,
and does not load the catalogue.

A request's cost is the sum over kinds of tokens x decimal rate, rounded once, half-even, to whole nano-dollars.
The sum is exact: rates are scaled to integers (``PriceBook.scale`` parts of a nano-dollar), nothing is a float.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec

from bursar_common.price_documents import BookDocument, Model, Rates, spelled_names, undated
from bursar_common.wire import UsageCounts

NAMES_CACHED = 4096
"""Model names whose look-up is remembered; names come from clients, so the cache has an end (then it starts anew)."""
US_ONLY_GEO = "us"
"""``inference_geo`` of US-only inference: every token rate x 1.1, web search not."""
FAST_SPEED = "fast"
"""``speed`` of fast mode: the catalogue's own rates, else every token rate x 2, web search not."""

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_FAMILIES = ("opus", "sonnet", "haiku", "fable", "mythos")


class ScaledRates(NamedTuple):
    """``1 / book.scale`` nano-dollars per token (``web_search``: per search)."""

    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int
    web_search: int


class RateCard(NamedTuple):
    """Rates of one model at one time, speed and geography; ``tiers`` rise by ``over``."""

    tiers: tuple[tuple[int, ScaledRates], ...]
    dearest: tuple[tuple[int, ScaledRates], ...]
    """The same steps, each with the dearest of every rate up to it."""

    @classmethod
    def of(cls, tiers: tuple[tuple[int, ScaledRates], ...]) -> RateCard:
        """The card of these tiers, the first of which holds for any prompt."""
        dearest = [tiers[0]]
        for over, rates in tiers[1:]:
            dearest.append((over, ScaledRates(*map(max, dearest[-1][1], rates))))
        return cls(tiers, tuple(dearest))

    def at(self, prompt_tokens: int) -> ScaledRates:
        """Rates of a request with a prompt of that size."""
        rates = self.tiers[0][1]
        for over, dearer in self.tiers[1:]:
            if prompt_tokens > over:
                rates = dearer
        return rates

    def up_to(self, prompt_tokens: int) -> ScaledRates:
        """The dearest of each rate that a prompt of at most that size can meet."""
        rates = self.dearest[0][1]
        for over, dearer in self.dearest[1:]:
            if prompt_tokens > over:
                rates = dearer
        return rates


class Cost(NamedTuple):
    """Nano-dollars before and after the provider's discount."""

    list_nusd: int
    billed_nusd: int


class CompiledModel:
    """A model ready for arithmetic. Immutable but for a memo of at most periods x 8 rate cards."""

    __slots__ = ("_cards", "_scale", "_starts_ms", "context_window", "display_name", "id", "model")

    def __init__(self, model: Model, scale: int) -> None:
        self.model = model
        self.id = model.id
        self.display_name = model.display_name
        self.context_window = model.context_window
        self._scale = scale
        self._starts_ms = [period.from_s * 1000 for period in model.periods[1:]]
        self._cards: dict[tuple[int, bool, bool, bool], RateCard] = {}

    def rates(self, started_at_ms: int, *, speed: str = "", inference_geo: str = "", batch: bool = False) -> RateCard:
        """The rates in force when a request started. Multipliers combine."""
        index = bisect_right(self._starts_ms, started_at_ms) if self._starts_ms else 0
        key = (index, speed == FAST_SPEED, inference_geo == US_ONLY_GEO, batch)
        card = self._cards.get(key)
        if card is None:
            card = self._cards[key] = self._card(*key)
        return card

    def _card(self, index: int, fast: bool, us_only: bool, batch: bool) -> RateCard:
        period = self.model.periods[index]
        tiers, factor = period.standard, Decimal(1)
        if fast:
            tiers, factor = (period.fast, factor) if period.fast else (tiers, factor * 2)
        if batch:
            # The catalogue's batch rates are for the standard speed only.
            tiers, factor = (period.batch, factor) if period.batch and not fast else (tiers, factor / 2)
        if us_only:
            factor *= Decimal("1.1")
        return RateCard.of(tuple((tier.over, self._scaled(tier.rates, factor)) for tier in tiers))

    def _scaled(self, rates: Rates, factor: Decimal) -> ScaledRates:
        # A dollar per million tokens is 1,000 nano-dollars a token; per thousand searches, 1,000,000 a search.
        per_token = factor * 1000 * self._scale
        return ScaledRates(
            _whole(Decimal(rates.input) * per_token),
            _whole(Decimal(rates.cache_read) * per_token),
            _whole(Decimal(rates.cache_write_5m) * per_token),
            _whole(Decimal(rates.cache_write_1h) * per_token),
            _whole(Decimal(rates.output) * per_token),
            _whole(Decimal(rates.web_search) * 1_000_000 * self._scale),
        )


def _whole(scaled: Decimal) -> int:
    number = int(scaled)
    if number != scaled:
        raise ValueError(f"a rate has more digits than the book's scale holds ({scaled})")
    return number


class PriceBook:
    """Immutable but for a bounded memo of look-ups. Make one with :meth:`of` or :meth:`decode`."""

    def __init__(self, document: BookDocument, encoded: bytes) -> None:
        self.document = document
        self._encoded = encoded
        self.id = hashlib.sha256(encoded).hexdigest()[:32]
        decimals = max((_decimals(rate) for rate in _all_rates(document)), default=0)
        # Two decimals more: one for x 1.1, one for x 0.5.
        self.scale: int = 10 ** (decimals + 2)
        self.models = tuple(CompiledModel(model, self.scale) for model in document.models)
        self._names: dict[str, CompiledModel | None] = {}
        payable = Decimal(100) - Decimal(document.discount_percent)
        if not 0 <= payable <= 100:
            raise ValueError(f"a discount is 0 to 100 percent; given was {document.discount_percent}")
        shift: int = 10 ** _decimals(document.discount_percent)
        self._billed_parts: int = int(payable * shift)
        self._billed_whole: int = 100 * shift * self.scale

    @classmethod
    def of(cls, document: BookDocument) -> PriceBook:
        """Raises ValueError (or decimal.InvalidOperation) where a rate or the discount is no decimal number."""
        return cls(document, msgspec.json.encode(document, order="sorted"))

    @classmethod
    def decode(cls, encoded: bytes) -> PriceBook:
        """Inverse of :meth:`encode`. Raises msgspec.DecodeError or ValidationError on anything else."""
        return cls.of(msgspec.json.decode(encoded, type=BookDocument))

    def encode(self) -> bytes:
        """Canonical JSON; :attr:`id` is its hash."""
        return self._encoded

    def find(self, name: str) -> CompiledModel | None:
        """The model that ``name`` is priced as; None: it has no price. Never a look-alike, unless the provider says
        ``unpriced_models: dearest_of_family``: then the dearest one of its family (of all, if it names none)."""
        try:
            return self._names[name]
        except KeyError:
            pass
        found = self.listed(name)
        if found is None and self.document.unpriced_models == "dearest_of_family":
            found = self._dearest_of_family(name.lower())
        if len(self._names) >= NAMES_CACHED:
            self._names.clear()
        self._names[name] = found
        return found

    def listed(self, name: str) -> CompiledModel | None:
        """The model that ``name`` itself names in the book, as the catalogue's package matches: lower-cased, in order,
        then once more with ``-20251211`` written ``-2025-12-11``."""
        lowered = name.lower()
        return self._first(lowered) or self._first(_COMPACT_DATE.sub(r"-\1-\2-\3", lowered))

    def billed_nusd(self, scaled: int) -> int:
        """Billed cost of a sum of :class:`ScaledRates`, rounded half-even."""
        return round_half_even(scaled * self._billed_parts, self._billed_whole)

    def billed_up_nusd(self, scaled: int) -> int:
        """Billed cost, rounded up: never less than :meth:`billed_nusd` of the same or a smaller sum."""
        return -(-scaled * self._billed_parts // self._billed_whole)

    def _first(self, lowered: str) -> CompiledModel | None:
        for model in self.models:
            if model.model.match.matches(lowered):
                return model
        return None

    def _dearest_of_family(self, lowered: str) -> CompiledModel | None:
        family = next((family for family in _FAMILIES if family in lowered), "")
        members = [model for model in self.models if family in model.id] or list(self.models)
        return max(members, key=_dearness, default=None)


def cost(
    book: PriceBook,
    model: str,
    counts: UsageCounts,
    *,
    started_at_ms: int,
    speed: str = "",
    inference_geo: str = "",
    iterations: Iterable[tuple[str, UsageCounts]] = (),
    batch: bool = False,
) -> Cost | None:
    """What a request costs; None where a model has no price (unknown is not free).

    ``model`` is the one that served, ``speed`` and ``inference_geo`` what the answer's usage says. Where there are
    ``iterations`` (model, or empty for ``model``; counts), their tokens are the bill in place of those in ``counts``,
    each at its own model's rates for its own prompt size; searches are always those of ``counts``."""
    found = book.find(model)
    if found is None:
        return None
    total = 0
    rates = None
    for own_model, own_counts in iterations:
        iterated = book.find(own_model) if own_model else found
        if iterated is None:
            return None
        card = iterated.rates(started_at_ms, speed=speed, inference_geo=inference_geo, batch=batch)
        total += token_cost(card, own_counts)
        rates = card
    card = found.rates(started_at_ms, speed=speed, inference_geo=inference_geo, batch=batch)
    if rates is None:
        total = token_cost(card, counts)
    if counts.web_searches:
        total += counts.web_searches * card.tiers[0][1].web_search
    return Cost(round_half_even(total, book.scale), book.billed_nusd(total))


def token_cost(card: RateCard, counts: UsageCounts) -> int:
    """Scaled cost of the tokens alone. Thinking tokens are output tokens already."""
    read, write_5m, write_1h = counts.cache_read_tokens, counts.cache_write_5m_tokens, counts.cache_write_1h_tokens
    tiers = card.tiers
    rates = tiers[0][1] if len(tiers) == 1 else card.at(counts.input_tokens + read + write_5m + write_1h)
    total = counts.input_tokens * rates.input + counts.output_tokens * rates.output
    if read:
        total += read * rates.cache_read
    if write_5m:
        total += write_5m * rates.cache_write_5m
    if write_1h:
        total += write_1h * rates.cache_write_1h
    return total


def allowed(model: str, allowed_models: Sequence[str] | None, book: PriceBook) -> bool:
    """Whether an allow-list permits a model: every priced one for None or ``*``, else those it names.

    A name permits itself, whatever its case, and, unless it is dated itself, its dated forms in the book:
    ``claude-sonnet-4-6`` permits ``claude-sonnet-4-6-20260301``; ``claude-opus-4`` does not permit
    ``claude-opus-4-5``."""
    if allowed_models is None or "*" in allowed_models:
        return book.find(model) is not None
    lowered = model.lower()
    stem = undated(lowered)
    for entry in allowed_models:
        name = entry.lower()
        if name == lowered:
            return True
        plain = name.removesuffix("-latest")
        if stem == lowered or undated(plain) != plain:
            continue
        found = book.listed(lowered)
        if found is not None and (plain == stem or {plain, stem} <= spelled_names(found.model)):
            return True
    return False


def round_half_even(parts: int, whole: int) -> int:
    """``parts / whole`` to the nearest integer, ties to the even one; ``whole`` above 0."""
    quotient, rest = divmod(parts, whole)
    if rest * 2 > whole or (rest * 2 == whole and quotient & 1):
        quotient += 1
    return quotient


def _dearness(model: CompiledModel) -> tuple[Decimal, Decimal]:
    rates = model.model.periods[-1].standard[-1].rates
    return Decimal(rates.output), Decimal(rates.input)


def _all_rates(document: BookDocument) -> Iterable[str]:
    for model in document.models:
        for period in model.periods:
            for tier in (*period.standard, *period.fast, *period.batch):
                yield from msgspec.structs.astuple(tier.rates)


def _decimals(number: str) -> int:
    exponent = Decimal(number).as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"a rate or discount is a decimal number; given was {number!r}")
    return max(0, -exponent)
