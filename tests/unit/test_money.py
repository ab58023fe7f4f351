from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_common.money import MAX_DOLLARS, MAX_NUSD, dollars, dollars_float, parse_nusd, sentence


@pytest.mark.parametrize(
    ("given_dollars", "nusd"),
    [
        (0, 0),
        (100, 100_000_000_000),
        (100.00, 100_000_000_000),
        (0.1, 100_000_000),
        (0.1 + 0.2, None),
        ("0.000000001", 1),
        ("1e-9", 1),
        (1e-9, 1),
        ("1e3", 1_000_000_000_000),
        (Decimal("12.345678901"), 12_345_678_901),
        ("-0", 0),
        (MAX_DOLLARS, MAX_NUSD),
        ("9000000000.000000000", MAX_NUSD),
        (8_000_000, 8_000_000_000_000_000),
        (8_000_000_000.5, 8_000_000_000_500_000_000),
    ],
)
def test_dollars_are_read_exactly(given_dollars: object, nusd: int | None) -> None:
    if nusd is None:
        with pytest.raises(ValueError, match="at most 9 decimals"):
            parse_nusd(given_dollars)
    else:
        assert parse_nusd(given_dollars) == nusd


@pytest.mark.parametrize(
    "refused",
    [
        float("nan"), float("inf"), float("-inf"), "NaN", "Infinity", "sNaN", -1, -0.01, "-1e-9",
        "9000000000.000000001",
        9_000_000_001,
        pytest.param(10**6000, id="huge"), pytest.param(-(10**6000), id="-huge"),
        "1e99999999", "1e-10", 0.1234567891, "", " ", "x", "1_000", "١", "1,5",
        "1" * 100, True, None, [], {}, b"1", 1j,
    ],
)  # fmt: skip
def test_anything_else_is_refused_naming_what_is_allowed(refused: object) -> None:
    with pytest.raises(ValueError, match="max_limit is a number of dollars from 0 to 9,000,000,000") as caught:
        parse_nusd(refused, what="max_limit")
    assert len(str(caught.value)) < 250


@given(st.integers(0, MAX_NUSD))
def test_to_dollars_and_back(nusd: int) -> None:
    assert parse_nusd(dollars(nusd)) == nusd
    assert parse_nusd(str(dollars(nusd))) == nusd
    assert Fraction(dollars(nusd)) == Fraction(nusd, 10**9)


@given(st.integers(0, 10**14))
def test_a_float_of_up_to_15_digits_comes_back_the_same(nusd: int) -> None:
    assert parse_nusd(dollars_float(nusd)) == nusd


@pytest.mark.parametrize(
    ("nusd", "text"),
    [
        (0, "$0.00"),
        (730_000_000, "$0.73"),
        (1_234_560_000_000, "$1,234.56"),
        (3_100_000, "$0.0031"),
        (3_123_456, "$0.0031"),
        (9_960_000, "$0.01"),
        (9_940_000, "$0.0099"),
        (10_000_000, "$0.01"),
        (1, "$0.000000001"),
        (125_000_000, "$0.12"),
        (135_000_000, "$0.14"),
        (-500_000_000, "-$0.50"),
        (MAX_NUSD, "$9,000,000,000.00"),
    ],
)
def test_sentences(nusd: int, text: str) -> None:
    assert sentence(nusd) == text


@given(st.integers(1, MAX_NUSD))
def test_a_sentence_is_within_half_of_its_last_digit(nusd: int) -> None:
    text = sentence(nusd)
    shown = Decimal(text.lstrip("$").replace(",", ""))
    assert shown > 0
    if nusd >= 10_000_000:
        assert abs(shown - dollars(nusd)) <= Decimal("0.005")
    else:
        assert abs(shown - dollars(nusd)) <= dollars(nusd) / 20
