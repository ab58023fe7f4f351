from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_common.catalogue import build_book
from bursar_common.governance import Provider
from bursar_common.money import MAX_NUSD
from bursar_common.pricing import CompiledModel, PriceBook, RateCard, ScaledRates, cost, token_cost
from bursar_common.wire import Features, ServerTool, UsageCounts
from bursar_enforcer.bound import (
    IMAGE_TOKENS_HIGH,
    IMAGE_TOKENS_STANDARD,
    REQUEST_TOKENS,
    TOKENS_PER_TOOL,
    UNSTATED_USES,
    Figures,
    bound_nusd,
    expected_nusd,
    expected_tokens,
    figures,
    follow,
    has_no_bound,
    most_input_tokens,
)
from bursar_enforcer.expectation import Expectation

NOW_MS = 1_795_253_475_000
PROVIDER = Provider(id="p", name="anthropic", kind="anthropic", created_at_s=0)
BOOK = build_book(PROVIDER)
MODELS = [model.id for model in BOOK.models]


def model(name: str, book: PriceBook = BOOK) -> CompiledModel:
    found = book.find(name)
    assert found is not None
    return found


OPUS = model("claude-opus-4-8")


def test_the_dearest_of_each_rate_up_to_a_prompt() -> None:
    """Tiers need not rise in every rate."""
    low, high, top = ScaledRates(1, 9, 3, 4, 5, 6), ScaledRates(2, 1, 3, 9, 5, 6), ScaledRates(0, 2, 8, 1, 7, 0)
    card = RateCard.of(((-1, low), (200, high), (500, top)))
    assert [card.up_to(tokens) for tokens in (0, 200)] == [low, low]
    assert card.up_to(201) == card.up_to(500) == (2, 9, 3, 9, 5, 6)
    assert card.up_to(501) == (2, 9, 8, 9, 7, 6)


def test_the_first_request_of_claude_code() -> None:
    """76 kB, 64,000 tokens asked for, on Opus: the architecture's example of why not the bound is held."""
    bound = bound_nusd(BOOK, OPUS, Features(text_bytes=76_000), 64_000, strict=False, started_at_ms=NOW_MS)
    assert bound == (38_000 + REQUEST_TOKENS) * 6_250 + 64_000 * 25_000 == 1_843_750_000
    expected = expected_nusd(
        BOOK, OPUS, Features(text_bytes=76_000), Expectation(0, 0, 19_000, 4_000, False), started_at_ms=NOW_MS
    )
    assert expected == 19_000 * 6_250 + 4_000 * 25_000


def test_every_byte_counts_under_strict_and_half_of_them_elsewhere() -> None:
    features = Features(text_bytes=10_001)
    assert most_input_tokens(OPUS, features, strict=True) == 10_001 + REQUEST_TOKENS
    assert most_input_tokens(OPUS, features, strict=False) == 5_001 + REQUEST_TOKENS


@pytest.mark.parametrize(
    ("name", "per_image"),
    [
        ("claude-3-haiku", IMAGE_TOKENS_STANDARD),
        ("claude-haiku-4-5", IMAGE_TOKENS_STANDARD),
        ("claude-sonnet-4-6", IMAGE_TOKENS_STANDARD),
        ("claude-opus-4-0", IMAGE_TOKENS_STANDARD),
        ("claude-opus-4-7", IMAGE_TOKENS_HIGH),
        ("claude-opus-5", IMAGE_TOKENS_HIGH),
        ("claude-haiku-5-5", IMAGE_TOKENS_HIGH),
        ("claude-fable-5-2", IMAGE_TOKENS_HIGH),
    ],
)
def test_images_count_at_the_models_maximum(name: str, per_image: int) -> None:
    assert most_input_tokens(model(name), Features(images=3), strict=True) == 3 * per_image + REQUEST_TOKENS


def test_tools_documents_and_urls() -> None:
    assert most_input_tokens(OPUS, Features(tools=24), strict=True) == 24 * TOKENS_PER_TOOL + REQUEST_TOKENS
    for media in (
        Features(documents=1),
        Features(url_sources=1),
        Features(documents=5, images=9),
        Features(images=9999),
    ):
        assert most_input_tokens(OPUS, media, strict=True) == 1_000_000 + REQUEST_TOKENS
        assert most_input_tokens(model("claude-haiku-4-5"), media, strict=False) == 200_000 + REQUEST_TOKENS


def test_server_tools_read_a_full_window_at_every_use_and_searches_are_paid() -> None:
    tools = Features(server_tools=(ServerTool("web_search", 3), ServerTool("web_fetch", 2)))
    assert most_input_tokens(OPUS, tools, strict=True) == 6_000_000
    assert bound_nusd(BOOK, OPUS, tools, 0, strict=False, started_at_ms=NOW_MS) == 6_000_000 * 6_250 + 3 * 10_000_000
    unstated = Features(server_tools=(ServerTool("web_search"),))
    assert most_input_tokens(OPUS, unstated, strict=False) == (1 + UNSTATED_USES) * 1_000_000


@pytest.mark.parametrize(
    ("features", "name"),
    [
        (Features(), ""),
        (Features(server_tools=(ServerTool("web_search", 5),)), ""),
        (Features(server_tools=(ServerTool("web_search", 5), ServerTool("web_fetch"))), "web_fetch"),
        (Features(unbounded="mcp_servers"), "mcp_servers"),
        (Features(unbounded="compact_20260112", server_tools=(ServerTool("web_fetch"),)), "compact_20260112"),
        (Features(betas=("compact-2026-01-12", "context-management-2025-06-27")), ""),
    ],
)
def test_what_has_no_bound_is_named_and_a_beta_header_alone_decides_nothing(features: Features, name: str) -> None:
    assert has_no_bound(features) == name


@pytest.mark.parametrize(
    ("features", "strict", "per_token"),
    [
        (Features(), False, 6_250),
        (Features(cache_ttl_1h=True), False, 10_000),
        (Features(speed="fast"), False, 12_500),
        (Features(speed="fast", cache_ttl_1h=True), False, 20_000),
        (Features(geo="us"), False, 6_875),
        (Features(), True, 6_875),
        (Features(geo="global"), True, 6_250),
    ],
)
def test_the_dearest_rate_that_a_request_can_meet(features: Features, strict: bool, per_token: int) -> None:
    """Under strict the US-only rate counts where the request names no geography: an account's default may be it."""
    bound = bound_nusd(BOOK, OPUS, features, 0, strict=strict, started_at_ms=NOW_MS)
    assert bound == REQUEST_TOKENS * per_token


def test_a_tier_within_reach_counts() -> None:
    haiku = model("claude-haiku-5-5")
    below = bound_nusd(BOOK, haiku, Features(text_bytes=99_000, geo="x"), 1_000, strict=True, started_at_ms=NOW_MS)
    above = bound_nusd(BOOK, haiku, Features(text_bytes=99_001, geo="x"), 1_000, strict=True, started_at_ms=NOW_MS)
    assert below == 100_000 * 125 + 1_000 * 500
    assert above == 100_001 * 625 + 1_000 * 2_500


def test_the_bound_is_a_billed_amount_and_fits_a_counter() -> None:
    half = build_book(Provider(id="p", name="anthropic", kind="anthropic", created_at_s=0, discount_percent="50"))
    features = Features(text_bytes=1)
    opus = model("claude-opus-4-8", half)
    assert bound_nusd(half, opus, features, 1, strict=False, started_at_ms=NOW_MS) == (1_001 * 6_250 + 25_000) // 2
    huge = Features(server_tools=(ServerTool("web_search", 10**15),))
    assert bound_nusd(BOOK, OPUS, huge, 10**18, strict=True, started_at_ms=NOW_MS) == MAX_NUSD
    assert bound_nusd(BOOK, OPUS, Features(), 10**18, strict=False, started_at_ms=NOW_MS) < MAX_NUSD
    assert bound_nusd(BOOK, OPUS, Features(), -5, strict=False, started_at_ms=NOW_MS) == REQUEST_TOKENS * 6_250


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(MODELS),
    st.integers(0, 1_500_000),
    st.integers(0, 30),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from(["", "fast"]),
    st.sampled_from(["", "us"]),
    st.integers(0, 128_000),
    st.data(),
)
def test_nothing_a_request_can_use_costs_more_than_its_strict_bound(
    name: str, text: int, tools: int, images: int, ttl_1h: bool, speed: str, served_geo: str, max_tokens: int, data: Any
) -> None:
    """Any split of any prompt that fits its bytes, its tools and images, with any output up to max_tokens."""
    priced = model(name)
    features = Features(text_bytes=text, tools=tools, images=images, cache_ttl_1h=ttl_1h, speed=speed)
    most = most_input_tokens(priced, features, strict=True)
    assert most >= text + images * 1_568 + tools * 735
    plain = data.draw(st.integers(0, most))
    read = data.draw(st.integers(0, most - plain))
    written = data.draw(st.integers(0, most - plain - read))
    counts = UsageCounts(
        input_tokens=plain,
        cache_read_tokens=read,
        cache_write_5m_tokens=0 if ttl_1h else written,
        cache_write_1h_tokens=written if ttl_1h else 0,
        output_tokens=min(data.draw(st.integers(0, max_tokens)), priced.context_window),
    )
    paid = cost(BOOK, name, counts, started_at_ms=NOW_MS, speed=speed, inference_geo=served_geo)
    assert paid is not None
    bound = bound_nusd(BOOK, priced, features, max_tokens, strict=True, started_at_ms=NOW_MS)
    assert paid.billed_nusd <= bound
    # What was said so far: counts of the cache may come late, so it may be any part of what is said in the end.
    seen = UsageCounts(
        input_tokens=data.draw(st.integers(0, plain)),
        cache_read_tokens=data.draw(st.integers(0, read)),
        cache_write_5m_tokens=data.draw(st.integers(0, counts.cache_write_5m_tokens)),
        cache_write_1h_tokens=data.draw(st.integers(0, counts.cache_write_1h_tokens)),
        output_tokens=data.draw(st.integers(0, counts.output_tokens)),
    )
    expectation = Expectation(*data.draw(st.tuples(*[st.integers(0, 2_000_000)] * 4)), ttl_1h)
    followed = follow(
        BOOK, priced, features, max_tokens, expectation, seen, prompt_known=data.draw(st.booleans()), strict=True,
        started_at_ms=NOW_MS, speed=speed, inference_geo=served_geo,
    )  # fmt: skip
    assert paid.billed_nusd <= followed.bound_nusd <= bound
    assert followed.expected_nusd == followed.bound_nusd


def test_token_limits_hold_the_expectation() -> None:
    assert expected_tokens(Expectation(1, 20, 300, 4_000, False)) == (4_301, 4_321)


def test_what_a_request_holds_at_admission() -> None:
    expectation = Expectation(10, 95_000, 5_000, 1_000, False)
    features = Features(text_bytes=400_000)
    standard = figures(BOOK, OPUS, features, 64_000, expectation, strict=False, started_at_ms=NOW_MS)
    assert standard == Figures(
        10 * 5_000 + 95_000 * 500 + 5_000 * 6_250 + 1_000 * 25_000,
        (200_000 + REQUEST_TOKENS) * 6_250 + 64_000 * 25_000,
        6_010,
        101_010,
    )
    strict = figures(BOOK, OPUS, features, 64_000, expectation, strict=True, started_at_ms=NOW_MS)
    assert strict.expected_nusd == strict.bound_nusd > standard.bound_nusd


@given(
    st.sampled_from(MODELS),
    st.tuples(*[st.integers(0, 400_000)] * 3, st.integers(0, 64_000), st.booleans()),
    st.sampled_from(["", "fast"]),
    st.sampled_from(["", "us"]),
)
def test_an_expectation_costs_what_its_usage_would(
    name: str, tokens: tuple[int, int, int, int, bool], speed: str, geo: str
) -> None:
    """Admission multiplies the expectation itself; settlements are priced from usage. Same tokens, same money."""
    expectation = Expectation(*tokens)
    features = Features(speed=speed, geo=geo)
    card = model(name).rates(NOW_MS, speed=speed, inference_geo=geo)
    cost_nusd = BOOK.billed_up_nusd(token_cost(card, expectation.counts()))
    assert expected_nusd(BOOK, model(name), features, expectation, started_at_ms=NOW_MS) == cost_nusd
    for strict in (False, True):
        held = figures(BOOK, model(name), features, 1_000, expectation, strict=strict, started_at_ms=NOW_MS)
        bound = bound_nusd(BOOK, model(name), features, 1_000, strict=strict, started_at_ms=NOW_MS)
        assert held.bound_nusd == max(bound, cost_nusd)
        assert held.expected_nusd == (held.bound_nusd if strict else cost_nusd)


def test_a_bound_is_never_below_what_is_expected() -> None:
    dense = Expectation(0, 0, 500_000, 10, False)
    held = figures(BOOK, OPUS, Features(text_bytes=100), 10, dense, strict=False, started_at_ms=NOW_MS)
    assert held.expected_nusd == held.bound_nusd == 500_000 * 6_250 + 250_000


# Following the stream

EXPECTATION = Expectation(0, 0, 25_000, 4_000, False)
FEATURES = Features(text_bytes=100_000)


def following(seen: UsageCounts, *, prompt_known: bool = True, strict: bool = False, **options: Any) -> Figures:
    features = options.pop("features", FEATURES)
    max_tokens = options.pop("max_tokens", 64_000)
    return follow(
        BOOK, OPUS, features, max_tokens, EXPECTATION, seen, prompt_known=prompt_known, strict=strict,
        started_at_ms=NOW_MS, **options,
    )  # fmt: skip


def test_before_the_first_usage_a_renewal_holds_what_admission_held() -> None:
    admitted = figures(BOOK, OPUS, FEATURES, 64_000, EXPECTATION, strict=False, started_at_ms=NOW_MS)
    assert following(UsageCounts(), prompt_known=False) == admitted
    strict = figures(BOOK, OPUS, FEATURES, 64_000, EXPECTATION, strict=True, started_at_ms=NOW_MS)
    assert following(UsageCounts(), prompt_known=False, strict=True) == strict


def test_after_message_start_the_input_is_exact_and_the_bound_shrinks() -> None:
    seen = UsageCounts(input_tokens=3, cache_read_tokens=20_000, cache_write_1h_tokens=100, output_tokens=1)
    prompt = 3 * 5_000 + 20_000 * 500 + 100 * 10_000
    followed = following(seen)
    assert followed == Figures(prompt + 4_000 * 25_000, prompt + 64_000 * 25_000, 4_103, 24_103)


def test_under_strict_the_bound_stays_since_counts_of_the_cache_may_come_late() -> None:
    seen = UsageCounts(input_tokens=3, output_tokens=1)
    admitted = figures(BOOK, OPUS, FEATURES, 64_000, EXPECTATION, strict=True, started_at_ms=NOW_MS)
    strict = following(seen, strict=True, inference_geo="", speed="standard")
    assert strict.expected_nusd == strict.bound_nusd == admitted.bound_nusd


@pytest.mark.parametrize(
    ("produced", "held_output"),
    [(0, 4_000), (2_799, 4_000), (2_800, 4_000), (2_804, 4_005), (40_000, 50_500), (60_000, 64_000), (70_000, 70_000)],
)
def test_output_is_kept_ahead_of_what_was_produced(produced: int, held_output: int) -> None:
    followed = following(UsageCounts(output_tokens=produced))
    assert followed.expected_nusd == held_output * 25_000
    assert followed.bound_nusd == max(64_000, produced) * 25_000
    assert followed.expected_t == held_output


def test_searches_made_are_held_and_server_tools_keep_the_first_bound() -> None:
    features = Features(text_bytes=100, server_tools=(ServerTool("web_search", 2),))
    seen = UsageCounts(input_tokens=50, web_searches=1)
    followed = following(seen, features=features)
    assert followed.expected_nusd == 50 * 5_000 + 4_000 * 25_000 + 10_000_000
    assert followed.bound_nusd == 3_000_000 * 6_250 + 64_000 * 25_000 + 2 * 10_000_000
    more = following(UsageCounts(web_searches=7), features=features)
    assert more.bound_nusd == 3_000_000 * 6_250 + 64_000 * 25_000 + 7 * 10_000_000


def test_speed_and_geography_are_those_that_were_served() -> None:
    seen = UsageCounts(input_tokens=1_000, output_tokens=1)
    asked = Features(text_bytes=4_000, speed="fast")
    assert following(seen, features=asked).expected_nusd == 2 * following(seen).expected_nusd
    assert following(seen, features=asked, speed="standard").expected_nusd == following(seen).expected_nusd
    us_only = following(seen, inference_geo="us").expected_nusd
    assert us_only == following(seen).expected_nusd * 11 // 10


@settings(deadline=None)
@given(st.lists(st.integers(0, 5_000), max_size=30), st.integers(1, 100_000), st.booleans())
def test_as_a_stream_goes_on_the_expectation_only_grows_and_covers_what_was_produced(
    steps: list[int], max_tokens: int, strict: bool
) -> None:
    produced, last = 0, 0
    for step in steps:
        produced = min(produced + step, max_tokens)
        seen = UsageCounts(input_tokens=9, cache_read_tokens=1_000, output_tokens=produced)
        held = following(seen, max_tokens=max_tokens, strict=strict)
        paid = cost(BOOK, OPUS.id, seen, started_at_ms=NOW_MS)
        assert paid is not None
        assert paid.billed_nusd <= held.expected_nusd <= held.bound_nusd
        assert held.expected_nusd >= last
        last = held.expected_nusd
