"""Governance topic to Redis: documents, versions, the index of keys, opening balances, price books."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
import msgspec
import structlog

from bursar_common.clock import Clock, rfc3339
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable, NewRecord
from bursar_common.events import (
    GOVERNANCE_TOPIC,
    GovernanceData,
    decode_envelope,
    decode_governance,
    encode_event,
)
from bursar_common.governance import (
    DOCUMENT_TYPES,
    Applied,
    Budget,
    Customer,
    Team,
    VirtualKey,
    project,
    read_document,
)
from bursar_common.ids import uuid7
from bursar_common.price_documents import BookDocument
from bursar_common.pricing import PriceBook
from bursar_common.scopes import counter_id
from bursar_enforcer import redis_names
from bursar_enforcer.books import Books
from bursar_enforcer.calls import Argument, Call, script_call, state_call
from bursar_enforcer.following import step
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.redis_connection import RedisUnavailable
from bursar_enforcer.stored import halves

log = structlog.get_logger()

PUBLISH_EVERY_S = 5.0
"""How often price books that are not in the topic yet are offered to it."""
_NO_CHANGE: tuple[Argument, ...] = ("", "", "", "", "")


class Projector:
    """``apply`` is for :func:`following.follow`; ``publish`` runs beside it."""

    def __init__(self, ledger: Ledger, event_log: EventLog, books: Books, clock: Clock) -> None:
        self._ledger = ledger
        self._log = event_log
        self._books = books
        self._clock = clock

    async def step(self, wait_s: float = 0.0) -> int:
        return await step(
            self._ledger, self._log, GOVERNANCE_TOPIC, 0, redis_names.GOVERNANCE, self.apply, wait_s=wait_s
        )

    async def apply(self, records: Sequence[LogRecord], position: str) -> None:
        """One after the other: an event is judged by the versions the one before it left."""
        for record in records:
            following = record.offset + 1
            event = _decode(record)
            if event is None:
                call = state_call("skip", redis_names.GOVERNANCE, position, str(following))
            else:
                call = await self._judge(event, position, following)
            reply = (await self._ledger.run([call]))[0]
            if isinstance(reply, hiredis.ReplyError):
                raise RedisUnavailable(f"Redis answered: {reply}")
            if reply[0] == b"closed":
                raise RedisUnavailable("the ledger is being rebuilt")
            if reply[0] == b"moved":
                return  # another enforcer was quicker: look again
            position = str(following)
            if event is not None and event.entity == "provider":
                await self._books.of_all()

    async def _judge(self, event: GovernanceData, position: str, following: int) -> Call:
        ids = list({event.entity_id, *event.seen, *event.bumps})
        replies = (await self._ledger.commands([("HMGET", redis_names.POLICY, *ids)]))[0]
        versions = {id_: int(reply) for id_, reply in zip(ids, replies, strict=True) if reply is not None}
        outcome = project(event, versions)
        if not isinstance(outcome, Applied):
            return govern_call(position, following, {}, _NO_CHANGE, ())
        if event.entity == "price_book":
            await self._keep_book(event)
            return govern_call(position, following, outcome.versions, _NO_CHANGE, ())
        if event.entity not in DOCUMENT_TYPES:
            return govern_call(position, following, outcome.versions, _NO_CHANGE, ())
        document = outcome.document
        encoded = msgspec.json.encode(document) if document is not None else b""
        hmac = str(document.get("hmac", "")) if document is not None and event.entity == "virtual_key" else ""
        change = (f"{event.entity}:{event.entity_id}", encoded, event.entity_id, hmac, event.entity)
        return govern_call(position, following, outcome.versions, change, tuple(_openings(event.entity, document)))

    async def _keep_book(self, event: GovernanceData) -> None:
        try:
            book = PriceBook.of(msgspec.convert((event.document or {})["book"], BookDocument))
        except (KeyError, ValueError, ArithmeticError) as error:
            log.error("price_book_unreadable", id=event.entity_id, error=str(error)[:200])
            return
        if book.id == event.entity_id:
            await self._ledger.commands([("SET", redis_names.BOOK + book.id, book.encode())])

    async def publish(self) -> None:
        """Never returns: offers every new price book to the topic until it is there. Two enforcers may both append
        one; the projector accepts the first."""
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            try:
                await self.publish_once()
            except (LogUnavailable, RedisUnavailable) as error:
                log.info("price_book_waits", why=str(error)[:200])

    async def publish_once(self) -> None:
        """Raises LogUnavailable, RedisUnavailable."""
        for book in list(self._books.unpublished):
            version = (await self._ledger.commands([("HGET", redis_names.POLICY, book.id)]))[0]
            if version is None:
                await self._log.append([price_book_record(book, self._clock)])
            else:
                self._books.unpublished.remove(book)


def price_book_record(book: PriceBook, clock: Clock) -> NewRecord:
    data = GovernanceData(
        entity="price_book",
        entity_id=book.id,
        actor="system",
        seen={book.id: 0},
        document={"id": book.id, "book": msgspec.to_builtins(book.document)},
    )
    value = encode_event(
        id=uuid7(),
        source="bursar/enforcer",
        type="bursar.price_book.created.v1",
        time=rfc3339(clock.now_ms()),
        subject=book.id,
        data=data,
    )
    return NewRecord(GOVERNANCE_TOPIC, book.id, value)


def govern_call(
    position: str,
    following: int,
    versions: dict[str, int],
    change: tuple[Argument, ...],
    openings: Sequence[tuple[str, int]],
) -> Call:
    """``change``: document field, document, entity id, hmac, entity (all empty: none)."""
    flat: list[Argument] = []
    for version_id, version in versions.items():
        flat += [version_id, version]
    for counter, amount in openings:
        change = (*change, counter, halves((amount,)))
    return script_call(
        "govern",
        (redis_names.POLICY, redis_names.POSITIONS, redis_names.DOCUMENTS, redis_names.HMACS, redis_names.PROVIDERS),
        (position, following, len(versions), *flat, *change),
    )


def _decode(record: LogRecord) -> GovernanceData | None:
    """None: not an event of ours; logged and passed over, as every reader of the topic does."""
    try:
        return decode_governance(decode_envelope(record.value))
    except msgspec.MsgspecError as error:
        log.error("governance_event_unreadable", offset=record.offset, error=str(error)[:200])
        return None


def _openings(entity: str, document: dict[str, Any] | None) -> Iterable[tuple[str, int]]:
    """Opening balances of an owner's budgets: (counter, nano-dollars)."""
    if document is None or entity not in ("virtual_key", "team", "customer"):
        return
    try:
        owner: VirtualKey | Team | Customer = read_document(entity, document)
    except msgspec.MsgspecError as error:
        log.error("document_unreadable", entity=entity, error=str(error)[:200])
        return
    budgets: list[Budget] = list(owner.budgets)
    if isinstance(owner, VirtualKey):
        for config in owner.provider_configs or ():
            budgets.extend(config.budgets)
    for budget in budgets:
        if budget.opening_nusd > 0:
            counter = counter_id("n", budget.id, budget.opening_window_start_s, budget.opening_window_end_s)
            yield counter, budget.opening_nusd
