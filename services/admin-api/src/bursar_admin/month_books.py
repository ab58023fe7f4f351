"""The books of a month: what they come to, what they were made from, and whether ClickHouse has all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bursar_admin.closing import ALLOCATIONS_VERSION, Figures, covering
from bursar_admin.desk import Desk
from bursar_admin.errors import unavailable
from bursar_admin.queries import books
from bursar_admin.token_prices import PricedAlike, TokenPrices
from bursar_common.eventlog.port import LogUnavailable
from bursar_common.events import CORRECTIONS_TOPIC, USAGE_TOPIC
from bursar_common.finance import ALLOCATION, LogBound, PeriodClose, month_bounds_ms

AGGREGATOR_GROUP: Final = "bursar-usage-aggregator"
"""Under which the aggregator keeps how far it has written the usage topic into ClickHouse."""
BOOKS_GROUP: Final = "bursar-usage-aggregator-books"
"""Under which it keeps how far it has written the corrections topic."""
CATCH_UP_S: Final = 15.0
"""Seconds a close waits for ClickHouse to have what the log has: the aggregator is at most seconds behind."""
KNOWN_WITHIN_S: Final = 8.0
"""Seconds a question waits for ClickHouse to be told of what was just changed."""
LOOK_EVERY_S: Final = 0.25
ROUNDS: Final = 5
"""Times a close looks again because requests of the month arrived while it did."""


@dataclass(frozen=True)
class Provenance:
    """What a statement or an export of a month is made from."""

    month: str
    close: PeriodClose | None
    """None: the month is open, and its figures may change."""
    bounds: tuple[LogBound, ...]
    price_books: tuple[str, ...]
    checksum: str
    """SHA-256 over all rows booked in the month; empty where there are none."""

    def as_json(self) -> dict[str, Any]:
        close = self.close
        return {
            "month": self.month,
            "state": "closed" if close is not None else "open",
            "closed_at_s": close.created_at_s if close is not None else None,
            "closed_by": close.closed_by if close is not None else None,
            "closed_with": close.name if close is not None else None,
            "checksum": self.checksum,
            "price_books": list(self.price_books),
            "log_positions": [
                {"topic": each.topic, "partition": each.partition, "next_offset": each.next_offset}
                for each in self.bounds
            ],
        }


@dataclass(frozen=True)
class Sums:
    """What the metered rows of a month come to."""

    requests: int
    billed_nusd: int
    list_nusd: int
    allocated_nusd: int
    """Fees and commitments, part of ``billed_nusd``."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Sums:
        return cls(int(row["all_requests"]), int(row["billed"]), int(row["listed"]), int(row["allocated"]))


class MonthBooks:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.prices = TokenPrices(desk)

    async def provenance(self, month: str) -> Provenance:
        """Raises Refusal (503) while ClickHouse lacks a close or an allocation."""
        await self.check_known()
        close = covering(self.desk.projection, month)
        if close is not None and close.name == month:
            return Provenance(month, close, close.bounds, close.price_books, close.checksum)
        return (await self.summed(month))[0]

    async def summed(self, month: str) -> tuple[Provenance, Sums]:
        """And what it comes to. Raises Refusal as :meth:`provenance` does."""
        await self.check_known()
        rows = self.desk.analytics.rows
        close = covering(self.desk.projection, month)
        if close is not None and close.name == month:
            (row,) = await rows(*books.summed(month))
            return Provenance(month, close, close.bounds, close.price_books, close.checksum), Sums.of(row)
        if close is not None:
            (row,), (found,) = await asyncio.gather(rows(*books.summed(month)), rows(*books.price_books(month)))
            made_from = Provenance(month, close, close.bounds, tuple(found["price_books"]), row["checksum"])
            return made_from, Sums.of(row)
        (row,), places = await asyncio.gather(rows(*books.summed(month)), rows(*books.positions(month)))
        bounds = tuple(LogBound(place["topic"], place["partition"], place["next_offset"]) for place in places)
        named = tuple(sorted({book for place in places for book in place["price_books"]}))
        return Provenance(month, None, bounds, named, row["checksum"]), Sums.of(row)

    async def rates(self, month: str) -> PricedAlike:
        """What splits the month's cost into kinds of token: of a closed month as it was then."""
        condition, bound = books.metered(month)
        priced = await self.prices.rates(condition, bound, books.CHARGES)
        close = covering(self.desk.projection, month)
        if close is not None and close.name == month:
            return PricedAlike(list(close.tiers), close.rates, priced.requests)
        return priced

    async def check_known(self) -> None:
        """Wait until the tables of closes and allocations say what governance says: the aggregator looks every second.

        Raises Refusal (503) where they do not within KNOWN_WITHIN_S."""
        deadline_s = self.desk.clock.monotonic_s() + KNOWN_WITHIN_S
        while not await self._known():
            if self.desk.clock.monotonic_s() >= deadline_s:
                raise unavailable(
                    "ClickHouse has not been told of the last close or change of an allocation yet; try again."
                )
            await asyncio.sleep(LOOK_EVERY_S)

    async def _known(self) -> bool:
        projection, rows = self.desk.projection, self.desk.analytics.rows
        months = {row["month"][:7] for row in await rows(*books.closed_months())}
        if any(close.name not in months for close in projection.closes.values()):
            return False
        listed = await rows(*books.allocations_known())
        there = {row["allocation_id"]: row["version"] for row in listed if not row["deleted"]}
        return there == {entity_id: projection.version(entity_id) for entity_id in projection.entities(ALLOCATION)}

    async def verified(self, close: PeriodClose) -> bool:
        """Whether the month's rows still have the checksum they were closed with."""
        rows = await self.desk.analytics.rows(*books.checksum(close.name))
        return bool((rows[0]["checksum"] if rows else "") == close.checksum)

    async def figures(self, month: str) -> Figures:
        """What the month comes to now, and the place in the log that this is true of.

        Raises Refusal (503) where ClickHouse is behind the log, or the log cannot be read."""
        to_ms = month_bounds_ms(month)[1]
        for _ in range(ROUNDS):
            allocations_version = self.desk.projection.version(ALLOCATIONS_VERSION)
            bounds = await self._caught_up()
            await self.check_known()
            found = await self._figures(month, bounds, allocations_version)
            usage = [(each.partition, each.next_offset) for each in bounds if each.topic == USAGE_TOPIC]
            corrections = next(each.next_offset for each in bounds if each.topic == CORRECTIONS_TOPIC)
            (row,) = await self.desk.analytics.rows(*books.behind(to_ms, usage, corrections))
            if not row["behind"]:
                return found
        raise unavailable(f"Requests of {month} keep arriving. Nothing was closed; try again when they are in.")

    async def _figures(self, month: str, bounds: tuple[LogBound, ...], allocations_version: int) -> Figures:
        kinds = {row["charge_kind"]: row for row in await self.desk.analytics.rows(*books.totals(month))}
        lines = await self.desk.analytics.rows(*books.checksum(month))
        (found,) = await self.desk.analytics.rows(*books.price_books(month))
        priced = await self.rates(month)

        def of(name: str, *wanted: str) -> int:
            return sum(int(kinds[kind][name]) for kind in wanted if kind in kinds)

        requests = ("usage", "expired_hold", "correction")
        return Figures(
            bounds=bounds,
            price_books=tuple(found["price_books"]),
            checksum=lines[0]["checksum"] if lines else "",
            rows=lines[0]["rows"] if lines else 0,
            requests=of("requests", *requests),
            billed_nusd=of("billed_nusd", *requests),
            list_nusd=of("list_nusd", *requests),
            expired_nusd=of("billed_nusd", "expired_hold"),
            corrections_nusd=of("billed_nusd", "correction"),
            allocated_nusd=of("billed_nusd", "fee", "commitment"),
            tiers=tuple(priced.tiers),
            rates={key: tuple(rates) for key, rates in priced.rates.items()},
            allocations_version=allocations_version,
        )

    async def _caught_up(self) -> tuple[LogBound, ...]:
        """The ends of the log, once ClickHouse has everything before them."""
        log = self.desk.journal.event_log
        deadline_s = self.desk.clock.monotonic_s() + CATCH_UP_S
        try:
            partitions = range(await log.partitions(USAGE_TOPIC))
            ends = {partition: await log.end_offset(USAGE_TOPIC, partition) for partition in partitions}
            corrections = await log.end_offset(CORRECTIONS_TOPIC, 0)
            while True:
                behind = await self._behind(ends)
                seen = await log.committed(BOOKS_GROUP, CORRECTIONS_TOPIC, 0) or 0
                missing = sum(behind.values()) + max(0, corrections - seen)
                if not missing:
                    break
                if self.desk.clock.monotonic_s() >= deadline_s:
                    raise unavailable(
                        f"ClickHouse is {missing} events behind the log, so the month's sum is not known. Nothing was "
                        "closed; try again when the usage-aggregator has caught up."
                    )
                await asyncio.sleep(LOOK_EVERY_S)
        except LogUnavailable:
            raise unavailable("The event log cannot be reached. Nothing was closed; try again.") from None
        bounds = [LogBound(USAGE_TOPIC, partition, end) for partition, end in ends.items()]
        return (*bounds, LogBound(CORRECTIONS_TOPIC, 0, corrections))

    async def _behind(self, ends: Mapping[int, int]) -> dict[int, int]:
        """Of each partition: events that the aggregator has not written yet."""
        log = self.desk.journal.event_log
        found = {}
        for partition, end in ends.items():
            committed = await log.committed(AGGREGATOR_GROUP, USAGE_TOPIC, partition)
            if committed is None:
                committed = await log.begin_offset(USAGE_TOPIC, partition)
            found[partition] = max(0, end - committed)
        return found
