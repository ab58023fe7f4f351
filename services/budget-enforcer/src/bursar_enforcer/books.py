"""Price books: built from provider documents, kept in Redis under their hash, named once in the governance topic.

A book never changes, so a copy may be kept anywhere for ever; the edge prices by the copy that a hold names, and the
governance topic's copy explains an old price when nothing else is left.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog

from bursar_common.catalogue import build_book
from bursar_common.governance import Provider
from bursar_common.pricing import PriceBook
from bursar_enforcer import redis_names
from bursar_enforcer.ledger import Ledger

log = structlog.get_logger()

MAX_BOOKS = 256
"""Books kept in memory, some 0.5 MB each with their look-ups."""


class Books:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._by_id: dict[str, PriceBook] = {}
        self._of_provider: dict[bytes, PriceBook | None] = {}
        self.unpublished: list[PriceBook] = []
        """Built here and perhaps not yet in the governance topic; the projector appends them."""

    async def of(self, provider: Provider) -> PriceBook | None:
        """The book of a provider as its document stands; in Redis before anyone hears its name.

        None where the document's prices cannot be read. Raises RedisUnavailable."""
        known = msgspec.json.encode(provider)
        if known in self._of_provider:
            return self._of_provider[known]
        try:
            book: PriceBook | None = await asyncio.to_thread(build_book, provider)
        except (ValueError, ArithmeticError) as error:
            log.error("prices_unreadable", provider=provider.name, error=str(error)[:200])
            book = None
        if book is not None:
            await self._ledger.commands([("SET", redis_names.BOOK + book.id, book.encode())])
            self._remember(book)
            self.unpublished.append(book)
        if len(self._of_provider) >= MAX_BOOKS:
            self._of_provider.clear()
        self._of_provider[known] = book
        return book

    async def of_all(self) -> None:
        """Build the book of every provider in Redis, so that no request waits for it. Raises RedisUnavailable."""
        for document in (await self._ledger.commands([("HVALS", redis_names.PROVIDERS)]))[0]:
            try:
                provider = msgspec.json.decode(document, type=Provider, strict=False)
            except msgspec.MsgspecError:
                continue  # reported where a key uses it
            await self.of(provider)

    def known(self, book_id: str) -> PriceBook | None:
        return self._by_id.get(book_id)

    async def find(self, book_id: str) -> PriceBook | None:
        """A book by its name, from memory or Redis. Raises RedisUnavailable."""
        book = self._by_id.get(book_id)
        if book is None:
            encoded = await self.encoded(book_id)
            if encoded is not None:
                book = PriceBook.decode(encoded)
                self._remember(book)
        return book

    async def encoded(self, book_id: str) -> bytes | None:
        """A book's bytes, as they are served. Raises RedisUnavailable."""
        book = self._by_id.get(book_id)
        if book is not None:
            return book.encode()
        reply: Any = (await self._ledger.commands([("GET", redis_names.BOOK + book_id)]))[0]
        return reply if isinstance(reply, bytes) else None

    async def again(self) -> None:
        """Put every book back that Redis may have lost. Raises RedisUnavailable."""
        await self._ledger.commands(
            [("SET", redis_names.BOOK + book.id, book.encode()) for book in self._by_id.values()]
        )

    def _remember(self, book: PriceBook) -> None:
        if len(self._by_id) >= MAX_BOOKS:
            self._by_id.clear()
        self._by_id[book.id] = book
