"""What a request can cost at most, what it is expected to cost, and how both follow its stream.

``bound`` is what ``max_overshoot`` and ``strict`` limits rely on: under ``strict`` it must never be exceeded, so it
takes the dearest of everything the request leaves open. Elsewhere it only sizes the overshoot, and bytes count half.
Figures are billed nano-dollars, rounded up.
"""

from __future__ import annotations

import re

import msgspec

from bursar_common.money import MAX_NUSD
from bursar_common.pricing import US_ONLY_GEO, CompiledModel, PriceBook, RateCard, ScaledRates, token_cost
from bursar_common.wire import Features, UsageCounts
from bursar_enforcer.expectation import Expectation

BYTES_PER_TOKEN_STANDARD = 2
"""Text has 3 to 5 bytes a token; other scripts, numbers and base64 come near 2. ``strict`` takes 1: a tokenizer of
bytes never makes more tokens than there are bytes."""
REQUEST_TOKENS = 1_000
"""Instructions the provider adds by itself: up to 675 tokens for tool use, 499 for computer use, less for others
(its tool use pricing table)."""
TOKENS_PER_TOOL = 750
"""Definitions that the provider adds for a tool named by type: 245 (bash), 700 (text editor), 735 (computer). Other
tools' definitions are in the body and counted with its bytes; features do not tell them apart."""
IMAGE_TOKENS_STANDARD = 1_600
IMAGE_TOKENS_HIGH = 4_784
"""Most tokens one image can be: patches of 28 x 28 pixels, resized to at most 1,568 pixels on the long edge and about
1,600 tokens; 2,576 pixels and 92 x 52 patches on later models (the provider's vision guide)."""
_STANDARD_IMAGES = re.compile(r"claude-(v1$|2|3|(opus|sonnet)-4-[0-6]$|haiku-4)")
"""Catalogue ids of the models that see images in the lower resolution; any other counts as seeing the higher."""
UNSTATED_USES = 10
"""Uses of a server tool that sets no ``max_uses``, where that is allowed (not under ``strict``)."""
WEB_SEARCH_PREFIX = "web_search"
OUTPUT_AHEAD_PERCENT = 125
OUTPUT_AHEAD_TOKENS = 500
"""While an answer is produced, its hold stays this far ahead: a quarter more, and at least what a fast model produces
in some seconds; renewals come every 10 s."""


class Figures(msgspec.Struct, gc=False, frozen=True):
    """What a request holds: billed nano-dollars, and tokens without (``t``) and with (``T``) cache reads.
    ``expected_nusd <= bound_nusd``; under ``strict`` they are equal."""

    expected_nusd: int
    bound_nusd: int
    expected_t: int
    expected_T: int


def has_no_bound(features: Features) -> str:
    """Name of the first feature that leaves the cost open, else empty. ``strict`` limits refuse such a request."""
    if features.unbounded:
        return features.unbounded
    return next((tool.name for tool in features.server_tools if tool.max_uses is None), "")


def bound_nusd(
    book: PriceBook,
    model: CompiledModel,
    features: Features,
    max_tokens: int,
    *,
    strict: bool,
    started_at_ms: int,
) -> int:
    """The most the request can cost. Under ``strict`` only meaningful where :func:`has_no_bound` is empty.

    Input is every byte of text (half of them unless ``strict``), a fixed amount per tool, each image at the model's
    maximum; documents, URLs and files fill the context window; every use of a server tool reads a full window again.
    All of it at the dearest rate it can meet: cache writes, the highest tier within reach, fast mode if asked for, the
    US-only rate too under ``strict`` where the request does not name a geography (an account's default may)."""
    return _bound_by(_bound_card(model, features, strict, started_at_ms), book, model, features, max_tokens, strict)


def _bound_by(
    card: RateCard, book: PriceBook, model: CompiledModel, features: Features, max_tokens: int, strict: bool
) -> int:
    input_tokens = most_input_tokens(model, features, strict=strict)
    rates = card.up_to(input_tokens)
    total = input_tokens * _dearest_input(rates, features) + _most_output(model, max_tokens) * rates.output
    if features.server_tools:
        total += _searches(features) * rates.web_search
    return min(book.billed_up_nusd(total), MAX_NUSD)


def most_input_tokens(model: CompiledModel, features: Features, *, strict: bool) -> int:
    """The most prompt tokens the request can be billed for, over all passes that server tools make."""
    window = model.context_window
    text = features.text_bytes if strict else -(-features.text_bytes // BYTES_PER_TOKEN_STANDARD)
    if features.documents or features.url_sources:
        # A document has up to hundreds of pages, each text and image; what a URL holds is anyone's guess.
        media = window
    elif not features.images:
        media = 0
    else:
        per_image = IMAGE_TOKENS_STANDARD if _STANDARD_IMAGES.match(model.id) else IMAGE_TOKENS_HIGH
        media = min(features.images * per_image, window)
    sent = text + media + REQUEST_TOKENS + features.tools * TOKENS_PER_TOOL
    if not features.server_tools:
        return sent
    return max(sent, window * (1 + _uses(features)))


def expected_nusd(
    book: PriceBook, model: CompiledModel, features: Features, expectation: Expectation, *, started_at_ms: int
) -> int:
    """What the request is expected to cost."""
    return _expected_by(_bound_card(model, features, False, started_at_ms), book, expectation)


def _expected_by(card: RateCard, book: PriceBook, expectation: Expectation) -> int:
    """:func:`~bursar_common.pricing.token_cost` of ``expectation.counts()``, billed."""
    fresh, read, written = expectation.input_tokens, expectation.cache_read_tokens, expectation.cache_write_tokens
    rates = card.at(fresh + read + written)
    total = fresh * rates.input + read * rates.cache_read + expectation.output_tokens * rates.output
    total += written * (rates.cache_write_1h if expectation.ttl_1h else rates.cache_write_5m)
    return min(book.billed_up_nusd(total), MAX_NUSD)


def expected_tokens(expectation: Expectation) -> tuple[int, int]:
    """Tokens expected, without and with cache reads (counter units ``t`` and ``T``)."""
    without = expectation.input_tokens + expectation.cache_write_tokens + expectation.output_tokens
    return without, without + expectation.cache_read_tokens


def figures(
    book: PriceBook,
    model: CompiledModel,
    features: Features,
    max_tokens: int,
    expectation: Expectation,
    *,
    strict: bool,
    started_at_ms: int,
) -> Figures:
    """What a request holds at admission on limits of the given strictness."""
    card = _bound_card(model, features, False, started_at_ms)
    expected = _expected_by(card, book, expectation)
    # Only strictness can make the bound's rates others than those expected, see :func:`_asked_geo`.
    bound_card = _bound_card(model, features, True, started_at_ms) if strict else card
    bound = _bound_by(bound_card, book, model, features, max_tokens, strict)
    return _figures(expected, bound, expected_tokens(expectation), strict)


def follow(
    book: PriceBook,
    model: CompiledModel,
    features: Features,
    max_tokens: int,
    expectation: Expectation,
    seen: UsageCounts,
    *,
    prompt_known: bool,
    strict: bool,
    started_at_ms: int,
    speed: str | None = None,
    inference_geo: str | None = None,
) -> Figures:
    """What a running request holds, from the usage seen so far.

    ``seen.output_tokens`` is what was produced. Once ``message_start`` was seen (``prompt_known``) the input is
    exact, and ``speed`` and ``inference_geo`` are what it says (None: what the request asked for); but server tools
    and features without bound can still make the input grow, and counts of the cache may come late, so in these cases
    and under ``strict`` the bound keeps the first figure for it. Nothing is ever below what was produced: a running
    request is not cut."""
    produced = seen.output_tokens
    ahead = max(expectation.output_tokens, produced * OUTPUT_AHEAD_PERCENT // 100 + OUTPUT_AHEAD_TOKENS)
    output = max(min(ahead, max_tokens), produced)
    most_output = max(_most_output(model, max_tokens), produced)
    speed = features.speed if speed is None or not prompt_known else speed
    geo = _asked_geo(features, strict) if inference_geo is None or not prompt_known else inference_geo
    card = model.rates(started_at_ms, speed=speed, inference_geo=geo)
    prompt = seen if prompt_known else expectation.counts()
    counts = UsageCounts(
        input_tokens=prompt.input_tokens,
        cache_read_tokens=prompt.cache_read_tokens,
        cache_write_5m_tokens=prompt.cache_write_5m_tokens,
        cache_write_1h_tokens=prompt.cache_write_1h_tokens,
        output_tokens=output,
    )
    expected = token_cost(card, counts) + seen.web_searches * card.tiers[0][1].web_search
    if prompt_known and not strict and not features.server_tools and not features.unbounded:
        rates = card.at(prompt.prompt_tokens)
        bound = expected + (most_output - output) * rates.output
    else:
        bound_card = _bound_card(model, features, strict, started_at_ms)
        input_tokens = most_input_tokens(model, features, strict=strict)
        if prompt_known or not strict:
            input_tokens = max(input_tokens, prompt.prompt_tokens)
        rates = bound_card.up_to(input_tokens)
        bound = input_tokens * _dearest_input(rates, features) + most_output * rates.output
        bound += max(_searches(features), seen.web_searches) * rates.web_search
        if strict:
            expected = min(expected, bound)  # what is held under a strict limit does not grow by an expectation
    without = counts.prompt_tokens - counts.cache_read_tokens + output
    return _figures(
        min(book.billed_up_nusd(expected), MAX_NUSD),
        min(book.billed_up_nusd(bound), MAX_NUSD),
        (without, without + counts.cache_read_tokens),
        strict,
    )


def _figures(expected: int, bound: int, tokens: tuple[int, int], strict: bool) -> Figures:
    # An expectation from a dense prompt can pass the bound of a standard limit, which counts bytes.
    bound = max(bound, expected)
    return Figures(bound if strict else expected, bound, *tokens)


def _bound_card(model: CompiledModel, features: Features, strict: bool, started_at_ms: int) -> RateCard:
    return model.rates(started_at_ms, speed=features.speed, inference_geo=_asked_geo(features, strict))


def _asked_geo(features: Features, strict: bool) -> str:
    return features.geo or (US_ONLY_GEO if strict else "")


def _dearest_input(rates: ScaledRates, features: Features) -> int:
    dearest = max(rates.input, rates.cache_read, rates.cache_write_5m)
    return max(dearest, rates.cache_write_1h) if features.cache_ttl_1h else dearest


def _most_output(model: CompiledModel, max_tokens: int) -> int:
    """``max_tokens``; asking for more than the context window is refused by the provider."""
    return max(0, min(max_tokens, model.context_window))


def _uses(features: Features) -> int:
    return sum(_uses_of(tool.max_uses) for tool in features.server_tools)


def _searches(features: Features) -> int:
    return sum(_uses_of(tool.max_uses) for tool in features.server_tools if tool.name.startswith(WEB_SEARCH_PREFIX))


def _uses_of(max_uses: int | None) -> int:
    return UNSTATED_USES if max_uses is None else max(0, max_uses)
