"""What is done with a request that has ended: its usage event made durable, then its hold settled.

Neither the client's leaving nor the next request of its connection waits for it. Requests that end together share one
append. A crash before the outbox has an event leaves the hold to expire at what it last stood at; a crash after it is
made good by the enforcer, which reads the log.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import structlog

from bursar_common.clock import Clock, rfc3339
from bursar_common.eventlog.port import LogUnavailable, NewRecord, RecordTooLarge
from bursar_common.events import USAGE_RECORDED, USAGE_TOPIC, Outcome, encode_event
from bursar_common.pricing import PriceBook
from bursar_common.wire import Settle
from bursar_edge.admission import Enforcer
from bursar_edge.books import PriceBooks
from bursar_edge.meter import Meter
from bursar_edge.outbox import Outbox
from bursar_edge.tracing import RequestTrace
from bursar_edge.usage_event import Closing, Facts, close

log = structlog.get_logger()

Spawn = Callable[[Coroutine[Any, Any, None], str], None]


class Ended(NamedTuple):
    """A request that was admitted and has ended. Times on the monotonic clock in seconds; ``sent_s`` 0: it was not
    sent."""

    facts: Facts
    outcome: Outcome
    began_s: float
    sent_s: float
    ended_s: float
    trace: RequestTrace | None = None


class _Written(NamedTuple):
    ended: Ended
    closing: Closing
    record: NewRecord


class Recorder:
    """Of one event loop. Each request has a reservation in the outbox, which is given back here."""

    def __init__(
        self, *, outbox: Outbox, enforcer: Enforcer, books: PriceBooks, meter: Meter, clock: Clock, spawn: Spawn
    ) -> None:
        self._outbox = outbox
        self._enforcer = enforcer
        self._books = books
        self._meter = meter
        self._clock = clock
        self._spawn = spawn
        self._together: list[_Written] = []
        self._appending = 0
        self._waiter: asyncio.Future[None] | None = None

    def ended(self, ended: Ended) -> None:
        """Record it. Never raises."""
        now_ms = self._clock.now_ms()
        admitted = ended.facts.admitted
        assert admitted is not None
        book = None
        if ended.outcome not in ("not_sent", "upstream_error"):
            book = self._books.known(admitted.price_book_id)
            if book is None:
                self._spawn(self._once_priced(ended, admitted.price_book_id, now_ms), ended.facts.request_id)
                return
        self._write(ended, book, now_ms)

    async def finished(self) -> None:
        """Return when nothing is being appended."""
        while self._together or self._appending:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def _once_priced(self, ended: Ended, book_id: str, now_ms: int) -> None:
        try:
            book = await self._books.get(book_id)
        except BaseException:
            self._outbox.free()
            raise
        self._write(ended, book, now_ms)

    def _write(self, ended: Ended, book: PriceBook | None, now_ms: int) -> None:
        """Make the event, and append it with those of this turn of the event loop."""
        request_id = ended.facts.request_id
        try:
            closing = close(ended.facts, ended.outcome, book, now_ms)
            usage = closing.usage
            sent_s = ended.sent_s
            self._meter.finished(
                usage,
                added_s=sent_s - ended.began_s if sent_s else None,
                upstream_s=ended.ended_s - sent_s if sent_s else None,
            )
            if closing.unpriced:
                self._meter.unpriced(usage.model)
                log.error("served_model_has_no_price", model=usage.model, request_id=request_id)
            value = encode_event(
                id=f"usage:{request_id}",
                source="bursar/edge",
                type=USAGE_RECORDED,
                time=rfc3339(now_ms),
                subject=usage.virtual_key_id,
                data=usage,
            )
        except Exception:
            self._outbox.free()
            log.exception("record_failed", request_id=request_id)
            return
        written = _Written(ended, closing, NewRecord(USAGE_TOPIC, usage.virtual_key_id, value))
        if not self._together:
            asyncio.get_running_loop().call_soon(self._append)
        self._together.append(written)

    def _append(self) -> None:
        together, self._together = self._together, []
        try:
            appended = self._outbox.submit([each.record for each in together])
        except (LogUnavailable, RecordTooLarge):
            self._one_by_one(together)
            self._look()
            return
        self._appending += 1
        appended.add_done_callback(functools.partial(self._appended, together))

    def _appended(self, together: list[_Written], appended: asyncio.Future[Any]) -> None:
        self._appending -= 1
        if appended.cancelled() or appended.exception() is not None:
            self._one_by_one(together)
        else:
            for written in together:
                self._outbox.free()
                self._settle(written)
        self._look()

    def _look(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _one_by_one(self, together: list[_Written]) -> None:
        """Each tries until it is durable; one that cannot be does not hold up the others."""
        for written in together:
            self._spawn(self._patiently(written), written.ended.facts.request_id)

    async def _patiently(self, written: _Written) -> None:
        try:
            await self._outbox.append(written.record.key, written.record.value)
        finally:
            self._outbox.free()
        self._settle(written)

    def _settle(self, written: _Written) -> None:
        ended, closing, _ = written
        facts, usage = ended.facts, closing.usage
        self._enforcer.tell(
            Settle(
                request_id=facts.request_id,
                hold=facts.hold,
                amounts=closing.amounts,
                outcome=usage.outcome,
                virtual_key_id=usage.virtual_key_id,
                model=usage.model,
                session=usage.session_id,
                agent=usage.agent_id,
                text_bytes=usage.text_bytes,
                usage=closing.counted,
                quiet=True,
            ),
            since_s=ended.ended_s,
        )
        self._enforcer.settled(usage.charged_to)
        if ended.trace is not None:
            ended.trace.recorded(facts, usage)
