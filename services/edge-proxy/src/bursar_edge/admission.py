"""The enforcer, asked in batches: while one batch is on its way the next requests queue, so that one round trip
carries many admissions, renewals and settlements, and a lone request waits for nobody.

Every operation is idempotent by its request id, so a batch whose answer was lost is sent again. Settlements may be
given up (the enforcer reads them from the log); admissions answer within a bound.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import BaseConnector

from bursar_common.wire import (
    INTERNAL_TOKEN_HEADER,
    MAX_BATCH_BYTES,
    MAX_BATCH_OPERATIONS,
    PRICE_BOOK_PATH,
    Admit,
    Admitted,
    Authorize,
    Authorized,
    Invalid,
    Refused,
    Reply,
    Reserved,
    Unavailable,
    decode_replies,
    encode,
)
from bursar_edge.batch_link import BatchConnection, BatchLink, NoConnection
from bursar_edge.link import NoAnswer, NotConnected, exchange, service_at
from bursar_edge.reserved import Lines

log = structlog.get_logger()

LEDGER_TRIES_S = 15.0
"""How long an admission is tried while the ledger cannot be reached; then 503. A failover of Redis takes less."""
ROUND_TRIP_S = 5.0
"""One batch: decisions take milliseconds, so more means a lost connection."""
QUEUE_MAX_OPERATIONS = 50_000
"""Operations waiting: some seconds of the busiest edge. Beyond, admissions are refused and settlements are left to the
log."""
RETRY_S = 0.1
"""Pause after a failed batch, and before asking again when the enforcer cannot decide."""
SETTLE_DELAY_S = 0.002
"""How long a settlement waits for company: nobody waits for it, and alone it would cost a round trip of its own."""
MAX_BOOK_BYTES = 16 << 20
"""Bytes of a price book; the catalogue's is about 100 kB."""


class LedgerUnreachable(Exception):
    """Nobody could decide within LEDGER_TRIES_S."""


class _Asked:
    """An operation on its way; ``future`` None: nobody waits for the reply."""

    __slots__ = ("data", "future", "give_up_s", "since_s")

    def __init__(
        self, data: bytes, future: asyncio.Future[Reply] | None, give_up_s: float, since_s: float = 0.0
    ) -> None:
        self.data = data
        self.future = future
        self.give_up_s = give_up_s
        self.since_s = since_s


class Enforcer:
    """Client of the enforcer's internal API, of one event loop."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        admission_wait_s: float,
        tries_s: float = LEDGER_TRIES_S,
        ca_file: Path | None = None,
    ) -> None:
        self._url = url
        self._token = token
        self._tries_s = tries_s
        self._lines = Lines(admission_wait_s)
        self._queue: deque[_Asked] = deque()
        self._in_flight = 0
        self._awaited = False
        """Whether somebody waits for the batch sent last."""
        self._delay: asyncio.TimerHandle | None = None
        self._link = BatchLink(url, token, ca_file=ca_file)
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused_until = 0.0
        self._closed = False
        self._connector: BaseConnector | None = None
        self.on_settled: Callable[[float], None] = lambda lag_s: None
        """Told for each settlement how long it took, in seconds."""

    async def start(self) -> None:
        self._connector, self._origin = service_at(self._url, limit=16)
        common = f"host: {self._origin.host.decode()}\r\n{INTERNAL_TOKEN_HEADER}: {self._token}\r\n"
        self._get = f" HTTP/1.1\r\n{common}\r\n"
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._closed = True
        if self._delay is not None:
            self._delay.cancel()
        self._link.close()
        if self._connector is not None:
            await self._connector.close()

    # ---- what requests ask

    async def admit(self, ask: Admit) -> Admitted | Refused:
        """Decide. Waits its turn where the money is held by others, at most the admission wait. Raises
        LedgerUnreachable. Cancelled, the caller releases the id."""
        key = ask.key_hashes
        line = self._lines.of(key)
        if line is not None:  # others of this key wait already: first come, first served
            return await self._lines.wait(line, key, lambda: self._decide(ask))
        give_up_s = time.monotonic() + self._tries_s
        reply = await self.ask(encode(ask), give_up_s)
        if isinstance(reply, Admitted):
            return reply
        if not isinstance(reply, Refused | Reserved):  # it could not decide: once more, with patience
            reply = await self._decide(ask, give_up_s)
        if isinstance(reply, Reserved):
            return await self._lines.wait(reply.counter, key, lambda: self._decide(ask), reply)
        return reply

    async def authorize(self, ask: Authorize, request_id: str) -> Authorized | Refused:
        """Who a caller is; no money. ``request_id`` is for log lines. Raises LedgerUnreachable."""
        reply = await self._until_decided(encode(ask), request_id, time.monotonic() + self._tries_s)
        if isinstance(reply, Authorized | Refused):
            return reply
        raise LedgerUnreachable(type(reply).__name__)

    async def _decide(self, ask: Admit, give_up_s: float = 0.0) -> Admitted | Refused | Reserved:
        reply = await self._until_decided(encode(ask), ask.request_id, give_up_s or time.monotonic() + self._tries_s)
        if isinstance(reply, Admitted | Refused | Reserved):
            return reply
        raise LedgerUnreachable(type(reply).__name__)

    async def _until_decided(self, data: bytes, request_id: str, give_up_s: float) -> Reply:
        while True:
            reply = await self.ask(data, give_up_s)
            if isinstance(reply, Invalid):
                log.error("enforcer_called_it_invalid", why=reply.why, request_id=request_id)
                raise LedgerUnreachable("invalid")
            if not isinstance(reply, Unavailable):
                return reply
            if time.monotonic() + RETRY_S > give_up_s:
                raise LedgerUnreachable(reply.why)
            await asyncio.sleep(RETRY_S)

    def ask(self, data: bytes, give_up_s: float) -> asyncio.Future[Reply]:
        """Queue an operation somebody waits for."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if len(self._queue) >= QUEUE_MAX_OPERATIONS:
            future.set_exception(LedgerUnreachable("too many operations are waiting"))
            return future
        self._queue.append(_Asked(data, future, give_up_s))
        self._flush_for_somebody()
        return future

    @property
    def queued(self) -> int:
        """Operations that wait to be sent."""
        return len(self._queue)

    @property
    def waiting_turns(self) -> int:
        """Requests that wait for what running ones hold."""
        return self._lines.waiting

    def tell(self, operation: Any, *, for_s: float = 60.0, since_s: float = 0.0) -> None:
        """Queue an operation nobody waits for (settle, release); tried for ``for_s`` seconds. ``since_s``: monotonic
        time from which its lag is told, 0: it is not."""
        if len(self._queue) >= QUEUE_MAX_OPERATIONS:
            return
        self._queue.append(_Asked(encode(operation), None, time.monotonic() + for_s, since_s))
        if self._delay is None and self._in_flight == 0:
            self._delay = self._loop.call_later(SETTLE_DELAY_S, self._flush)

    def settled(self, counters: Sequence[str]) -> None:
        """A hold on these counters was closed: whoever waits for them may ask again."""
        self._lines.wake(counters)

    async def drained(self) -> None:
        """Return when nothing is queued or on its way."""
        while self._queue or self._in_flight:
            self._flush()
            await asyncio.sleep(0.02)

    async def price_book(self, book_id: str) -> bytes:
        """A price book's bytes. Raises LedgerUnreachable."""
        assert self._connector is not None
        path = self._origin.base_path + PRICE_BOOK_PATH.format(price_book_id=book_id)
        head = f"GET {path}{self._get}".encode()
        try:
            reply = await exchange(self._connector, self._origin, head, b"", answer_s=ROUND_TRIP_S)
            body = await reply.read(MAX_BOOK_BYTES)
        except (NotConnected, NoAnswer) as error:
            raise LedgerUnreachable(str(error)) from None
        if reply.status != 200:
            raise LedgerUnreachable(f"price book: status {reply.status}")
        return body

    # ---- batches

    def _flush(self) -> None:
        if self._delay is not None:
            self._delay.cancel()
            self._delay = None
        if self._queue and self._in_flight == 0:
            self._send()

    def _flush_for_somebody(self) -> None:
        """An admission is not held up by a batch that nobody waits for."""
        if self._in_flight == 0 or (self._in_flight == 1 and not self._awaited):
            if self._delay is not None:
                self._delay.cancel()
                self._delay = None
            self._send()

    def _send(self) -> None:
        if self._closed:
            return
        now_s = self._loop.time()
        if now_s < self._paused_until:
            if self._delay is None:
                self._delay = self._loop.call_at(self._paused_until, self._flush)
            return
        batch: list[_Asked] = []
        size = 2
        queue = self._queue
        while queue and len(batch) < MAX_BATCH_OPERATIONS:
            asked = queue[0]
            if asked.future is not None and asked.future.done():  # its caller left
                queue.popleft()
                continue
            size += len(asked.data) + 1
            if size > MAX_BATCH_BYTES and batch:
                break
            batch.append(queue.popleft())
        if not batch:
            return
        self._in_flight += 1
        self._awaited = any(asked.future is not None for asked in batch)
        connection = self._link.idle()
        if connection is not None:
            self._post(connection, batch)
            return
        task = self._loop.create_task(self._connect_and_post(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_and_post(self, batch: list[_Asked]) -> None:
        try:
            connection = await self._link.connect()
        except NoConnection as error:
            self._answered(batch, 0, b"", str(error))
        except BaseException as error:  # callers must hear of it, whatever it is
            self._answered(batch, 0, b"", type(error).__name__)
            raise
        else:
            self._post(connection, batch)

    def _post(self, connection: BatchConnection, batch: list[_Asked]) -> None:
        body = b"[%b]" % b",".join([asked.data for asked in batch])
        connection.post(body, functools.partial(self._answered, batch), ROUND_TRIP_S)

    def _answered(self, batch: list[_Asked], status: int, content: bytes, problem: str) -> None:
        self._in_flight -= 1
        replies: list[Reply] = []
        if not problem:
            try:
                if status == 200:
                    replies = decode_replies(content)
                if len(replies) != len(batch):
                    problem = f"status {status}, {len(replies)} replies to {len(batch)}"
            except msgspec.DecodeError as error:
                problem = f"{type(error).__name__} {error}"
        if problem:
            self._again(batch, problem)
            return
        for asked, reply in zip(batch, replies, strict=True):
            future = asked.future
            if future is not None:
                if not future.done():
                    future.set_result(reply)
            elif isinstance(reply, Unavailable):
                self._later(asked)
            elif asked.since_s:
                self.on_settled(time.monotonic() - asked.since_s)
        self._paused_until = 0.0
        if self._queue:
            self._flush()

    def _again(self, batch: list[_Asked], problem: str) -> None:
        """Put a failed batch back in front, in order, without what has waited too long."""
        now_s = time.monotonic()
        kept: list[_Asked] = []
        for asked in batch:
            future = asked.future
            if future is not None and future.done():
                continue
            if now_s + RETRY_S > asked.give_up_s:
                if future is not None:
                    future.set_exception(LedgerUnreachable(problem))
                continue
            kept.append(asked)
        self._queue.extendleft(reversed(kept))
        self._paused_until = self._loop.time() + RETRY_S
        if self._queue:
            self._send()

    def _later(self, asked: _Asked) -> None:
        if time.monotonic() < asked.give_up_s:
            self._queue.append(asked)
            self._paused_until = self._loop.time() + RETRY_S
