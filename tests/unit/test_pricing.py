from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from genai_prices.data import providers
from genai_prices.types import Usage as CatalogueUsage
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_common.catalogue import build_book, catalogue_models
from bursar_common.governance import PriceOverride, Provider
from bursar_common.price_documents import BookDocument, Clause, Model, Period, Rates, Tier
from bursar_common.pricing import NAMES_CACHED, Cost, PriceBook, allowed, cost, round_half_even
from bursar_common.wire import UsageCounts

CATALOGUE = next(provider for provider in providers if provider.id == "anthropic")
NOW_MS = 1_795_253_475_000  # 2026-11-21


def provider(**changes: Any) -> Provider:
    return Provider(id="p", name="anthropic", kind="anthropic", created_at_s=0, **changes)


BOOK = build_book(provider())


def price(book: PriceBook, model: str, counts: UsageCounts, **options: Any) -> Cost:
    found = cost(book, model, counts, **{"started_at_ms": NOW_MS, **options})
    assert found is not None
    return found


def test_the_worked_example() -> None:
    counts = UsageCounts(
        input_tokens=12, cache_write_5m_tokens=5000, cache_read_tokens=15_000, output_tokens=7, thinking_tokens=3
    )
    assert price(BOOK, "claude-opus-4-8", counts) == Cost(38_985_000, 38_985_000)


# The catalogue package is the independent judge of every model, date, tier and speed.

TOKENS = st.one_of(
    st.integers(0, 3_000), st.sampled_from([100_000, 100_001, 200_000, 200_001]), st.integers(0, 2_000_000)
)
DAYS = st.dates(date(2024, 1, 1), date(2027, 12, 31))


def nano(total: Decimal) -> int:
    scaled = Fraction(total) * 10**9
    return round_half_even(scaled.numerator, scaled.denominator)


@settings(deadline=None, max_examples=600)
@given(
    st.sampled_from(CATALOGUE.models),
    DAYS,
    st.integers(0, 86_399),
    st.tuples(TOKENS, TOKENS, TOKENS, TOKENS, TOKENS),
    st.integers(0, 20),
    st.sampled_from(["", "standard", "fast"]),
    st.booleans(),
)
def test_every_model_costs_what_the_catalogue_says(
    info: Any, day: date, second: int, tokens: tuple[int, ...], searches: int, speed: str, batch: bool
) -> None:
    stated = (info.prices if not isinstance(info.prices, list) else info.prices[0].prices).__dict__
    plain, read, write_5m, write_1h, output = tokens
    if "cache_read_mtok" not in stated:  # such models cache nothing; our fall-backs are tested below
        read = write_5m = write_1h = 0
    if "web_searches_kcount" not in stated:
        searches = 0
    variants = {next(iter(variant.when.values())) for variant in info.price_variants or ()}
    when = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + second
    at = datetime.fromtimestamp(when, UTC)
    context = {}
    if speed == "fast":
        if "fast" not in variants:
            return
        context, batch = {"speed": "fast"}, False
    elif batch:
        active = [v for v in info.price_variants or () if v.when == {"processing": "batch"}]
        if not active or (active[0].constraint and not active[0].constraint.active(at)):
            return
        context = {"processing": "batch"}
    usage = CatalogueUsage(
        input_tokens=plain + read + write_5m + write_1h,
        cache_read_tokens=read,
        cache_write_tokens=write_5m + write_1h,
        cache_write_1h_tokens=write_1h,
        output_tokens=output,
        web_searches=searches,
    )
    expected = info.calc_price(usage, CATALOGUE, genai_request_timestamp=at, price_context=context).total_price
    counts = UsageCounts(plain, read, write_5m, write_1h, output, output // 2, searches)
    found = cost(BOOK, info.id, counts, started_at_ms=int(when * 1000), speed=speed, batch=batch)
    assert found == Cost(nano(expected), nano(expected))


def names() -> list[str]:
    spelled = [name for model in catalogue_models("anthropic")[1] for name in model.match.literals() | {model.id}]
    endings = ["", "-20250514", "@20250514", "-latest", "-2026-01-02", "-5", "[1m]", "-fast", "0"]
    return sorted({name + ending for name in spelled for ending in endings})


def test_names_are_matched_as_the_catalogue_does() -> None:
    judged = 0
    for name in [*names(), "gpt-5", "", "claude", "opus", "anthropic/claude-opus-4-8", "us.anthropic.claude-v2:1"]:
        for written in (name, name.upper()):
            theirs, ours = CATALOGUE.find_model(written), BOOK.find(written)
            assert (ours.id if ours else None) == (theirs.id if theirs else None), written
            judged += theirs is not None
    assert judged > 300


@settings(deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"claude-(opus|sonnet|haiku)-[0-9](-[0-9])?(-20[0-9]{6})?", fullmatch=True))
def test_any_text_is_matched_as_the_catalogue_does(name: str) -> None:
    theirs, ours = CATALOGUE.find_model(name), BOOK.find(name)
    assert (ours.id if ours else None) == (theirs.id if theirs else None)


def test_looking_up_endless_names_keeps_memory_bounded() -> None:
    book = PriceBook.decode(BOOK.encode())
    for number in range(NAMES_CACHED * 2 + 10):
        book.find(f"nobody-{number}")
    assert len(book._names) <= NAMES_CACHED
    assert book.find("claude-opus-4-8") is book.find("CLAUDE-OPUS-4-8")


def test_an_unknown_model_has_no_price() -> None:
    counts = UsageCounts(input_tokens=1)
    assert cost(BOOK, "gpt-5", counts, started_at_ms=NOW_MS) is None
    assert cost(BOOK, "", counts, started_at_ms=NOW_MS) is None
    iterations = [("claude-opus-4-8", counts), ("gpt-5", counts)]
    assert cost(BOOK, "claude-opus-4-8", counts, started_at_ms=NOW_MS, iterations=iterations) is None


@pytest.mark.parametrize(
    ("model", "dearest", "family"),
    [
        ("claude-opus-9", "claude-3-opus-latest", "opus"),
        ("claude-HAIKU-9", "claude-haiku-4-5", "haiku"),
        ("claude-sonnet-9", "claude-3-sonnet", "sonnet"),
        ("claude-mythos-9", "claude-mythos-5-2", "mythos"),
        ("unheard-of", "claude-3-opus-latest", ""),
    ],
)
def test_an_unpriced_model_may_be_the_dearest_of_its_family(model: str, dearest: str, family: str) -> None:
    book = build_book(provider(unpriced_models="dearest_of_family"))
    found, expected = book.find(model), book.find(dearest)
    assert found is not None
    assert expected is not None
    tokens = UsageCounts(input_tokens=1_000, output_tokens=1_000)
    assert price(book, model, tokens) == price(book, expected.id, tokens)
    costs = [price(book, member.id, tokens).list_nusd for member in book.models if family in member.id]
    assert price(book, model, tokens).list_nusd == max(costs)
    assert book.listed(model) is None


# Multipliers


def test_us_only_inference_is_a_tenth_dearer_but_its_searches_are_not() -> None:
    tokens, searches = UsageCounts(input_tokens=1_000, output_tokens=100), UsageCounts(web_searches=3)
    both = UsageCounts(input_tokens=1_000, output_tokens=100, web_searches=3)
    assert price(BOOK, "claude-opus-4-8", tokens).list_nusd == 7_500_000
    assert price(BOOK, "claude-opus-4-8", tokens, inference_geo="us").list_nusd == 8_250_000
    assert price(BOOK, "claude-opus-4-8", searches, inference_geo="us").list_nusd == 30_000_000
    assert price(BOOK, "claude-opus-4-8", both, inference_geo="us").list_nusd == 38_250_000
    for geo in ("", "global", "not_available"):
        assert price(BOOK, "claude-opus-4-8", tokens, inference_geo=geo).list_nusd == 7_500_000


def test_fast_mode_doubles_tokens_also_where_the_catalogue_has_no_fast_price() -> None:
    both = UsageCounts(1_000, 2_000, 3_000, 4_000, 500, 0, 2)
    for model in ("claude-opus-4-8", "claude-opus-5-5", "claude-sonnet-4-6", "claude-haiku-5-5"):
        slow, fast = price(BOOK, model, both), price(BOOK, model, both, speed="fast")
        assert fast.list_nusd - 20_000_000 == 2 * (slow.list_nusd - 20_000_000), model


def test_multipliers_combine() -> None:
    tokens = UsageCounts(input_tokens=1_000)
    assert price(BOOK, "claude-opus-4-8", tokens, speed="fast", inference_geo="us").list_nusd == 11_000_000
    assert price(BOOK, "claude-opus-4-8", tokens, batch=True, inference_geo="us").list_nusd == 2_750_000
    assert price(BOOK, "claude-opus-4-8", tokens, batch=True, speed="fast").list_nusd == 5_000_000


def test_a_tier_reprices_the_whole_request_above_its_prompt_size() -> None:
    below = UsageCounts(input_tokens=1, cache_read_tokens=99_998, cache_write_5m_tokens=1, output_tokens=1_000)
    above = UsageCounts(input_tokens=2, cache_read_tokens=99_998, cache_write_5m_tokens=1, output_tokens=1_000)
    assert price(BOOK, "claude-haiku-5-5", below).list_nusd == nano(
        Decimal("0.0000001") + Decimal("0.00000001") * 99_998 + Decimal("0.000000125") + Decimal("0.0005")
    )
    assert price(BOOK, "claude-haiku-5-5", above).list_nusd == nano(
        Decimal("0.0000005") * 2 + Decimal("0.00000005") * 99_998 + Decimal("0.000000625") + Decimal("0.0025")
    )


def test_the_price_in_force_when_the_request_started_applies() -> None:
    counts = UsageCounts(input_tokens=300_000)
    change_ms = int(datetime(2026, 3, 13, tzinfo=UTC).timestamp() * 1000)
    assert price(BOOK, "claude-opus-4-6", counts, started_at_ms=change_ms - 1).list_nusd == 3_000_000_000
    assert price(BOOK, "claude-opus-4-6", counts, started_at_ms=change_ms).list_nusd == 1_500_000_000


def test_rates_the_catalogue_lacks_are_the_usual_multiples() -> None:
    """claude-2: 8 dollars a million in, no cache, no search price."""
    each = [
        UsageCounts(cache_read_tokens=1000),
        UsageCounts(cache_write_5m_tokens=1000),
        UsageCounts(cache_write_1h_tokens=1000),
        UsageCounts(web_searches=1),
    ]
    assert [price(BOOK, "claude-2", counts).list_nusd for counts in each] == [
        800_000,
        10_000_000,
        16_000_000,
        10_000_000,
    ]


# Iterations


def test_iterations_are_priced_each_by_its_model_and_prompt_size_and_rounded_once() -> None:
    haiku_small, haiku_large = UsageCounts(input_tokens=90_000), UsageCounts(input_tokens=110_000)
    opus = UsageCounts(input_tokens=1_000, output_tokens=10)
    iterations = [("claude-haiku-5-5", haiku_small), ("claude-haiku-5-5", haiku_large), ("", opus)]
    top = UsageCounts(input_tokens=5, output_tokens=7, web_searches=1)
    found = price(BOOK, "claude-opus-4-8", top, iterations=iterations)
    assert found.list_nusd == 9_000_000 + 55_000_000 + 5_000_000 + 250_000 + 10_000_000


def test_iterations_do_not_round_one_by_one() -> None:
    book = build_book(provider(price_overrides=(PriceOverride(model="tiny", input="0.0004", output="1"),)))
    one = UsageCounts(input_tokens=1)  # 0.4 nano-dollars
    assert price(book, "tiny", one).list_nusd == 0
    assert price(book, "tiny", one, iterations=[("", one)] * 5).list_nusd == 2


# Discounts, rounding and overrides


def test_billed_cost_is_the_exact_list_cost_less_the_discount_rounded_once() -> None:
    override = PriceOverride(model="tiny", input="0.0005", output="1")
    book = build_book(provider(discount_percent="50", price_overrides=(override,)))
    assert price(book, "tiny", UsageCounts(input_tokens=3)) == Cost(2, 1)  # 1.5 -> 2, 0.75 -> 1
    assert price(book, "tiny", UsageCounts(input_tokens=1)) == Cost(0, 0)  # 0.5 -> 0 (even), 0.25 -> 0
    assert price(book, "tiny", UsageCounts(input_tokens=6)) == Cost(3, 2)  # 3, 1.5 -> 2 (even)


@settings(deadline=None, max_examples=100)
@given(
    st.decimals(0, 1000, places=12, allow_nan=False),
    st.decimals(0, 1000, places=7, allow_nan=False),
    st.decimals(0, 100, places=5, allow_nan=False),
    st.integers(0, 10**7),
    st.integers(0, 10**6),
    st.sampled_from(["", "us"]),
)
def test_any_decimal_rate_is_exact(
    input_rate: Decimal, output_rate: Decimal, discount: Decimal, plain: int, output: int, geo: str
) -> None:
    override = PriceOverride(model="own-model", input=f"{input_rate:f}", output=f"{output_rate:f}")
    book = build_book(provider(price_overrides=(override,), discount_percent=f"{discount:f}"))
    exact = (Fraction(input_rate) * plain + Fraction(output_rate) * output) * 1000
    exact *= Fraction(11, 10) if geo else 1
    billed = exact * (100 - Fraction(discount)) / 100
    assert price(book, "own-model", UsageCounts(input_tokens=plain, output_tokens=output), inference_geo=geo) == Cost(
        *(round_half_even(each.numerator, each.denominator) for each in (exact, billed))
    )


@given(st.integers(0, 10**20), st.integers(1, 10**9))
def test_half_even(parts: int, whole: int) -> None:
    assert round_half_even(parts, whole) == round(Fraction(parts, whole))


@given(st.integers(0, 10**25))
def test_rounding_up_is_never_below_rounding(scaled: int) -> None:
    book = build_book(provider(discount_percent="12.5"))
    assert 0 <= book.billed_up_nusd(scaled) - book.billed_nusd(scaled) <= 1


def test_an_override_of_a_known_model_replaces_its_rates_under_all_its_names_from_its_date() -> None:
    override = PriceOverride(model="claude-opus-4-8", input="4", output="20", effective_from_s=NOW_MS // 1000)
    book = build_book(provider(price_overrides=(override,)))
    counts = UsageCounts(input_tokens=1000, cache_read_tokens=1000)
    for name in ("claude-opus-4-8", "claude-opus-4-8-20260401", "Claude-4-8-opus"):
        assert price(book, name, counts).list_nusd == 4_000_000 + 500_000  # cache reads stay the catalogue's
        assert price(book, name, counts, started_at_ms=NOW_MS - 1000).list_nusd == 5_000_000 + 500_000
        assert price(book, name, counts, speed="fast").list_nusd == 9_000_000
    assert price(book, "claude-opus-4-7", counts) == price(BOOK, "claude-opus-4-7", counts)


def test_an_override_from_the_day_of_a_catalogue_change_keeps_the_new_rates_it_leaves_out() -> None:
    change_s = int(datetime(2026, 3, 13, tzinfo=UTC).timestamp())
    override = PriceOverride(model="claude-opus-4-6", input="4", output="20", effective_from_s=change_s)
    book = build_book(provider(price_overrides=(override,)))
    counts = UsageCounts(input_tokens=300_000, cache_read_tokens=1000)  # above the tier that ended that day
    assert price(book, "claude-opus-4-6", counts, started_at_ms=change_s * 1000).list_nusd == 1_200_000_000 + 500_000
    before = price(book, "claude-opus-4-6", counts, started_at_ms=change_s * 1000 - 1)
    assert before == price(BOOK, "claude-opus-4-6", counts, started_at_ms=change_s * 1000 - 1)
    assert [period.from_s for period in book.listed("claude-opus-4-6").model.periods].count(change_s) == 1  # type: ignore[union-attr]


def test_overrides_apply_in_the_order_of_their_dates() -> None:
    overrides = (
        PriceOverride(model="claude-opus-4-8", input="1", output="1", effective_from_s=3_000_000_000),
        PriceOverride(model="claude-opus-4-8", input="4", output="20", effective_from_s=NOW_MS // 1000),
        PriceOverride(model="own", input="7", output="7", effective_from_s=3_000_000_000),
        PriceOverride(model="own", input="8", output="8", effective_from_s=0),
    )
    book, counts = build_book(provider(price_overrides=overrides)), UsageCounts(input_tokens=1000)
    later = 3_000_000_000_000
    assert [price(book, "claude-opus-4-8", counts, started_at_ms=t).list_nusd for t in (0, NOW_MS, later)] == [
        5_000_000, 4_000_000, 1_000_000,
    ]  # fmt: skip
    assert [price(book, "own", counts, started_at_ms=t).list_nusd for t in (0, later - 1, later)] == [
        8_000_000, 8_000_000, 7_000_000,
    ]  # fmt: skip


def test_an_override_of_an_unknown_model_is_a_model_of_its_own() -> None:
    overrides = (
        PriceOverride(model="House.Model", input="2", output="3", context_window=128_000),
        PriceOverride(model="claude-3-5-sonnet-20240620", input="30", output="1"),
    )
    book = build_book(provider(price_overrides=overrides))
    found = book.find("house.model-20270101")
    assert found is not None
    assert (found.id, found.context_window, found.display_name) == ("house.model", 128_000, "House.Model")
    assert book.find("house.model-mini") is None
    assert book.find("housexmodel") is None
    counts = UsageCounts(cache_read_tokens=1000, cache_write_5m_tokens=1000, cache_write_1h_tokens=1000, web_searches=1)
    assert price(book, "house.model", counts).list_nusd == 200_000 + 2_500_000 + 4_000_000 + 10_000_000
    one = UsageCounts(input_tokens=1000)
    assert price(book, "claude-3-5-sonnet-20240620", one).list_nusd == 30_000_000
    assert price(book, "claude-3-5-sonnet-20241022", one).list_nusd == 3_000_000


@pytest.mark.parametrize("rate", ["", "x", "-1", "NaN", "Infinity", "1000001", "0.0000000000001", "1e-30", "1,5"])
def test_a_rate_that_is_no_price_is_refused_by_name(rate: str) -> None:
    with pytest.raises(ValueError, match=r"price_overrides\[m\]\.input"):
        build_book(provider(price_overrides=(PriceOverride(model="m", input=rate, output="1"),)))


@pytest.mark.parametrize("discount", ["-1", "100.1", "x", "NaN", ""])
def test_a_discount_outside_its_range_is_refused(discount: str) -> None:
    with pytest.raises(ValueError, match="discount_percent is a decimal number from 0 to 100"):
        build_book(provider(discount_percent=discount))


# Books


def test_a_book_survives_being_stored_and_is_named_by_its_content() -> None:
    again = PriceBook.decode(BOOK.encode())
    assert (again.id, again.encode()) == (BOOK.id, BOOK.encode())
    counts = UsageCounts(1, 2, 3, 4, 5)
    assert price(again, "claude-opus-4-8", counts) == price(BOOK, "claude-opus-4-8", counts)
    assert len(BOOK.id) == 32
    with pytest.raises(msgspec.MsgspecError):
        PriceBook.decode(b'{"models":3}')


def test_books_differ_by_anything_that_changes_a_price_and_by_nothing_else() -> None:
    override = PriceOverride(model="m", input="1", output="1")
    different = [
        provider(),
        provider(discount_percent="1"),
        provider(unpriced_models="dearest_of_family"),
        provider(price_overrides=(override,)),
        provider(price_overrides=(PriceOverride(model="m", input="1", output="1", cache_read="0.2"),)),
    ]
    assert len({build_book(each).id for each in different}) == len(different)
    same = Provider(
        id="q", name="other", kind="anthropic", created_at_s=9, base_url="https://x", credential="env:A",
        discount_percent="0.0", price_overrides=(),
    )  # fmt: skip
    assert build_book(same).id == BOOK.id
    written = PriceOverride(model="M", input="1.00", output="01")
    assert build_book(provider(price_overrides=(written,))).document.models[0].periods == (
        build_book(provider(price_overrides=(override,))).document.models[0].periods
    )


def test_every_catalogue_model_is_there_with_its_context_window() -> None:
    assert [model.id for model in BOOK.models] == [info.id for info in CATALOGUE.models]
    for model, info in zip(BOOK.models, CATALOGUE.models, strict=True):
        assert model.context_window == (info.context_window or 1_000_000)
        assert model.display_name == info.name or info.name is None
    assert BOOK.document.catalogue_version


def test_every_kind_of_clause() -> None:
    def clause(op: Any, text: str = "", *parts: Clause) -> Clause:
        return Clause(op, text, parts)

    both = clause("all", "", clause("contains", "b"), clause("ends_with", "c"))
    either = clause("any", "", clause("equals", "x"), clause("starts_with", "y"), clause("regex", "^z[0-9]$"), both)
    assert [name for name in ("x", "xx", "ya", "z1", "z12", "abc", "acb", "") if either.matches(name)] == [
        "x", "ya", "z1", "abc",
    ]  # fmt: skip


def test_a_rate_with_more_digits_than_others_widens_the_scale() -> None:
    rates = Rates("0.123456789012", "1", "1", "1", "1", "1")
    model = Model("m", Clause("equals", "m"), (Period(0, (Tier(-1, rates),)),))
    book = PriceBook.of(BookDocument("1", "anthropic", (model,)))
    assert price(book, "m", UsageCounts(input_tokens=10**9)).list_nusd == 123_456_789_012


# Allow-lists


@pytest.mark.parametrize(
    ("model", "names", "permitted"),
    [
        ("claude-sonnet-4-6", ["claude-sonnet-4-6"], True),
        ("claude-sonnet-4-6-20260301", ["claude-sonnet-4-6"], True),
        ("Claude-Sonnet-4-6", ["claude-SONNET-4-6"], True),
        ("claude-sonnet-4-6", ["claude-opus-4-6", "claude-sonnet-4-6"], True),
        ("claude-opus-4-5", ["claude-opus-4"], False),
        ("claude-opus-4-5-20251101", ["claude-opus-4"], False),
        ("claude-opus-4-20250514", ["claude-opus-4"], True),
        ("claude-opus-4-20250514", ["claude-opus-4-0"], True),
        ("claude-3-5-haiku-20241022", ["claude-3-5-haiku-latest"], True),
        ("claude-sonnet-4-6", ["claude-sonnet-4-6-20260301"], False),
        ("claude-sonnet-4-6-20260302", ["claude-sonnet-4-6-20260301"], False),
        ("claude-opus-5-5-20261001", ["claude-opus-5"], False),
        ("claude-opus-5-5", ["claude-opus-5"], False),
        ("claude-opus-4-8-fast", ["claude-opus-4-8"], False),
        ("claude-opus-4-8", ["claude-4-8-opus"], False),
        ("claude-opus-4-8", [], False),
        ("claude-opus-4-8", ["*"], True),
        ("gpt-5", ["*"], False),
        ("gpt-5", ["gpt-5"], True),
        ("gpt-5-20260101", ["gpt-5"], False),
        ("claude-opus-4-8", ["claude-*"], False),
    ],
)
def test_allow_lists(model: str, names: list[str], permitted: bool) -> None:
    assert allowed(model, names, BOOK) is permitted


def test_a_dated_model_with_a_price_of_its_own_is_still_a_dated_form() -> None:
    override = PriceOverride(model="claude-3-5-sonnet-20240620", input="30", output="1")
    book = build_book(provider(price_overrides=(override,)))
    assert allowed("claude-3-5-sonnet-20240620", ["claude-3-5-sonnet"], book)
    assert not allowed("claude-3-5-sonnet-20240620", ["claude-3-5-haiku"], book)


def test_no_allow_list_permits_every_priced_model() -> None:
    assert allowed("claude-opus-4-8", None, BOOK)
    assert not allowed("gpt-5", None, BOOK)
    assert allowed("gpt-5", None, build_book(provider(unpriced_models="dearest_of_family")))
    assert not allowed("claude-opus-9", ["claude-sonnet-9"], build_book(provider(unpriced_models="dearest_of_family")))
