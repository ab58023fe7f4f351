"""Renewals, settlements and releases: what the edge says about requests in flight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
import msgspec
import structlog

from bursar_common.events import Usage
from bursar_common.wire import Amounts, Closed, Invalid, Ok, Release, Renew, Reply, Unavailable
from bursar_enforcer.answers import balances_of
from bursar_enforcer.books import Books
from bursar_enforcer.calls import (
    RANK_RECORDED,
    RANK_RELEASED,
    RELEASED_TTL_S,
    STATES,
    UNCONSUMED_TTL_S,
    Call,
    check_amounts,
    check_counters,
    renew_call,
)
from bursar_enforcer.decisions import CloseCall, close_call
from bursar_enforcer.expectation import Learner
from bursar_enforcer.learning import Learning
from bursar_enforcer.operations import Operation, Settle, held_counters
from bursar_enforcer.running import Running, followed_hold
from bursar_enforcer.stored import read_hold

log = structlog.get_logger()

MAX_RUNNING = 20_000
"""Requests in flight whose first figures are kept, some 1 kB each; beyond that the oldest are followed upwards only."""
MAX_EVENT_BYTES = 64 * 1024
"""Largest event a renewal may carry: twenty tags of 200 characters and all other fields are below 20 kB."""

_decode_usage = msgspec.json.Decoder(Usage).decode
_NOTHING = Amounts()
_OK = Ok()


class Started(msgspec.Struct, gc=False, frozen=True):
    """A request in flight that was admitted here."""

    running: Running
    counters: tuple[str, ...]
    """Those of its hold, as Redis has it."""


class Closings:
    """Prepares the script calls of requests already admitted, and reads their answers."""

    def __init__(self, books: Books, learning: Learning) -> None:
        self._books = books
        self._learning = learning
        self._running: dict[str, Started] = {}

    @property
    def learner(self) -> Learner:
        return self._learning.learner

    def started(self, request_id: str, started: Started) -> None:
        self._running[request_id] = started
        if len(self._running) > MAX_RUNNING:
            del self._running[next(iter(self._running))]

    def close(self, operation: Settle | Release) -> CloseCall | Reply:
        """The call, or the answer where there is nothing to call."""
        started = self._running.get(operation.request_id)
        try:
            if started is not None:
                counters = started.counters
            else:
                counters = held_counters(operation.hold)
                check_counters(counters)
            if type(operation) is Settle:
                check_amounts(operation.amounts)
        except ValueError as error:
            return Invalid(str(error)[:200])
        if started is not None:
            del self._running[operation.request_id]
        if type(operation) is Settle:
            self._learning.from_settlement(operation, started.running.requested_model if started is not None else "")
            return close_call(
                operation.request_id,
                RANK_RECORDED,
                operation.amounts,
                counters,
                ttl_s=UNCONSUMED_TTL_S,
                telling=not operation.quiet,
            )
        return close_call(operation.request_id, RANK_RELEASED, _NOTHING, counters, ttl_s=RELEASED_TTL_S)

    async def renew(self, operation: Renew) -> Call | Reply:
        """As :meth:`close`. Raises RedisUnavailable."""
        if len(operation.event) > MAX_EVENT_BYTES:
            return Invalid(f"the event has {len(operation.event)} bytes, allowed are {MAX_EVENT_BYTES}")
        try:
            check_counters([entry.counter for entry in operation.hold])
            event = _decode_usage(operation.event)
        except ValueError as error:  # msgspec's errors are ValueErrors
            return Invalid(str(error)[:200])
        started = self._running.get(operation.request_id)
        running = started.running if started is not None else None
        book = None
        if running is None and event.price_book_id:
            book = await self._books.find(event.price_book_id)
        hold = followed_hold(operation.hold, running, event, book, prompt_known=operation.prompt_known)
        return renew_call(operation.request_id, hold, bytes(operation.event))

    def reply(self, operation: Operation, counters: Sequence[str], result: Any) -> Reply:
        """``counters``: those the call named."""
        if isinstance(result, hiredis.ReplyError):
            return Unavailable(f"Redis answered: {result}")
        kind = result[0]
        if kind == b"closed_now":
            if type(operation) is not Settle or operation.quiet:
                return _OK
            return Ok(balances=balances_of(result, counters))
        if kind == b"kept":
            return _OK
        if kind == b"renewed":
            assert isinstance(operation, Renew)
            return Ok(hold=read_hold(result[1]))
        if kind == b"gone":
            self._running.pop(operation.request_id, None)  # type: ignore[union-attr]
            return Closed(STATES.get(result[1].decode(), "closed"))
        if kind == b"closed":
            return Unavailable("the ledger is being rebuilt")
        log.error("counter_full", counter=result[1].decode(), request_id=getattr(operation, "request_id", ""))
        return Unavailable("a counter would pass the largest amount")
