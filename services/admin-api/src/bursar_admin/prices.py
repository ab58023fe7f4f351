"""Which models a provider has a price for. Pure: a book is compiled from the provider's document alone."""

from __future__ import annotations

import difflib
from functools import lru_cache

from bursar_admin.errors import Problem, invalid
from bursar_common.catalogue import build_book
from bursar_common.governance import Provider
from bursar_common.pricing import PriceBook

BOOKS_CACHED = 32
"""Price books kept compiled; there are a few providers, and each change of one makes another."""
MAX_NEAR = 5
"""Models suggested for a name that has no price."""


@lru_cache(maxsize=BOOKS_CACHED)
def book_of(provider: Provider) -> PriceBook:
    """Raises ValueError where an override cannot be compiled."""
    return build_book(provider)


def check_models(provider: Provider, names: tuple[str, ...], path: str) -> None:
    """Raises Refusal (400) for names that have no price at this provider: an allow-list with a misspelled model would
    silently allow nothing."""
    book = book_of(provider)
    unpriced = [(index, name) for index, name in enumerate(names) if book.find(name) is None]
    if not unpriced:
        return
    known = [model.id for model in book.models]
    raise invalid(
        *(
            Problem(
                "has no price in the catalogue or in the provider's price_overrides",
                f"{path}[{index}]",
                name,
                difflib.get_close_matches(name, known, n=MAX_NEAR, cutoff=0.4) or known,
            )
            for index, name in unpriced
        )
    )
