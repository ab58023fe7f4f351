"""Price books by id, as requests name them: today's are compiled here, former ones are asked of the enforcer."""

from __future__ import annotations

from typing import Final

import msgspec

from bursar_admin.enforcer import Enforcer
from bursar_admin.prices import book_of
from bursar_admin.projection import Projection
from bursar_common.pricing import PriceBook

BOOKS_KEPT: Final = 64
"""Former books kept: each change of a provider's prices makes one, of some 200 kB."""


class Books:
    def __init__(self, projection: Projection, enforcer: Enforcer) -> None:
        self._projection = projection
        self._enforcer = enforcer
        self._kept: dict[str, PriceBook] = {}

    async def find(self, book_id: str) -> PriceBook | None:
        """None: nobody knows it now."""
        if not book_id:
            return None
        for provider in self._projection.providers.values():
            try:
                book = book_of(provider)
            except ValueError:
                continue
            if book.id == book_id:
                return book
        kept = self._kept.get(book_id)
        if kept is not None:
            return kept
        encoded = await self._enforcer.price_book(book_id)
        if encoded is None:
            return None
        try:
            book = PriceBook.decode(encoded)
        except (msgspec.MsgspecError, ValueError):
            return None
        if book.id != book_id:
            return None
        if len(self._kept) >= BOOKS_KEPT:
            self._kept.clear()
        self._kept[book_id] = book
        return book
