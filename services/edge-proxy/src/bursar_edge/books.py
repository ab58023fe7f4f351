"""Price books, fetched from the enforcer by name and kept: they never change."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from bursar_common.pricing import PriceBook
from bursar_edge.admission import Enforcer, LedgerUnreachable

log = structlog.get_logger()

MAX_BOOKS = 32
"""Books kept: one per provider and change of prices while requests of the old ones run."""
FETCH_S = 15.0
"""How long a finished request waits for its book; then what was held is charged, as an estimate."""
RETRY_S = 0.25


class PriceBooks:
    """A cache by id."""

    def __init__(self, enforcer: Enforcer, *, fetch_s: float = FETCH_S) -> None:
        self._enforcer = enforcer
        self._fetch_s = fetch_s
        self._books: dict[str, PriceBook] = {}
        self._fetching: dict[str, asyncio.Task[PriceBook | None]] = {}

    def known(self, book_id: str) -> PriceBook | None:
        return self._books.get(book_id)

    def prefetch(self, book_id: str) -> None:
        """Begin to fetch a book that is not here, while its first request runs."""
        if book_id not in self._books:
            self._begin(book_id)

    async def get(self, book_id: str) -> PriceBook | None:
        """The book; None if it cannot be had in time."""
        return self._books.get(book_id) or await asyncio.shield(self._begin(book_id))

    def _begin(self, book_id: str) -> asyncio.Task[PriceBook | None]:
        task = self._fetching.get(book_id)
        if task is None:
            task = self._fetching[book_id] = asyncio.create_task(self._fetch(book_id))
            task.add_done_callback(lambda _: self._fetching.pop(book_id, None))
        return task

    async def _fetch(self, book_id: str) -> PriceBook | None:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._fetch_s
        while True:
            try:
                book = PriceBook.decode(await self._enforcer.price_book(book_id))
                while len(self._books) >= MAX_BOOKS:
                    del self._books[next(iter(self._books))]
                self._books[book_id] = book
                return book
            except LedgerUnreachable as error:
                why = str(error)
            except (msgspec.DecodeError, ValueError) as error:
                why = f"unreadable: {type(error).__name__}"
            if loop.time() + RETRY_S > give_up_s:
                log.error("price_book_missing", price_book_id=book_id, why=why)
                return None
            await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        for task in list(self._fetching.values()):
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
