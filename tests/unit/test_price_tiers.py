"""Tiers of a price, of models that have some and of those that have none."""

from __future__ import annotations

from typing import Any

from bursar_admin.queries.token_costs import own_tiers, rates_of, tiers_of
from bursar_common.catalogue import build_book
from bursar_common.governance import Provider

BOOK = build_book(Provider(id="p", name="anthropic", kind="anthropic", created_at_s=0))
AT_MS = 1_795_252_211_123
TIERS = tiers_of([BOOK])


def combination(model: str, reach: int, first_ms: int = AT_MS) -> dict[str, Any]:
    return {
        "provider": "anthropic", "model": model, "speed": "", "inference_geo": "", "tier": reach, "first_ms": first_ms,
    }  # fmt: skip


def own(*combinations: dict[str, Any]) -> dict[tuple[str, int], int]:
    rates = rates_of(combinations, lambda _: BOOK, TIERS)
    return {(key.split("\n")[1], int(key.split("\n")[4])): tier for key, tier in own_tiers(rates).items()}


def test_a_tier_is_the_prices_own() -> None:
    assert TIERS == [100_000, 200_000]
    found = own(
        combination("claude-opus-4-8", 0),
        combination("claude-opus-4-8", 2),
        combination("claude-haiku-5-5", 2),  # no request of the month is below
        combination("claude-sonnet-4-5", 1),
        combination("claude-sonnet-4-5", 2),
    )
    assert found == {
        ("claude-opus-4-8", 0): 0, ("claude-opus-4-8", 1): 0, ("claude-opus-4-8", 2): 0,
        ("claude-haiku-5-5", 0): 0, ("claude-haiku-5-5", 1): 1, ("claude-haiku-5-5", 2): 1,
        ("claude-sonnet-4-5", 0): 0, ("claude-sonnet-4-5", 1): 0, ("claude-sonnet-4-5", 2): 1,
    }  # fmt: skip


def test_a_price_that_changed_in_the_month_makes_no_tier() -> None:
    """Opus 4.6 lost its tier in March 2026: requests of the month are priced as of the first of them."""
    change_ms = 1_773_360_000_000
    found = own(combination("claude-opus-4-6", 0, change_ms), combination("claude-opus-4-6", 2, change_ms + 1))
    assert set(found.values()) == {0}
    found = own(combination("claude-opus-4-6", 0, change_ms - 1), combination("claude-opus-4-6", 2, change_ms))
    assert found[("claude-opus-4-6", 2)] == 1


def test_months_closed_by_a_release_before_have_rates_of_what_occurred_only() -> None:
    same, other = (1, 2, 3, 4, 5, 6), (2, 4, 6, 8, 10, 6)
    rates = {"a\nm\n\n\n2": same, "a\nm\n\n\n0": same, "a\nn\n\n\n1": other, "a\no\n\n\n0": same, "a\no\n\n\n2": other}
    assert own_tiers(rates) == {
        "a\nm\n\n\n2": 0, "a\nm\n\n\n0": 0, "a\nn\n\n\n1": 1, "a\no\n\n\n0": 0, "a\no\n\n\n2": 1,
    }  # fmt: skip
    assert list(own_tiers(rates)) == list(rates)  # bound beside the rates, in their order
