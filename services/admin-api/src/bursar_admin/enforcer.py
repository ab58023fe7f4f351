"""What admin-api asks the enforcer: how far the ledger has come, and what its counters stand at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec

from bursar_common.clock import Clock
from bursar_common.service import connect
from bursar_common.wire import (
    BATCH_PATH,
    INTERNAL_TOKEN_HEADER,
    PRICE_BOOK_PATH,
    STATE_PATH,
    Balance,
    Balances,
    GovernancePosition,
    Ok,
    Operation,
    Position,
    Reply,
    decode_replies,
    encode,
)

CALL_TIMEOUT_S = 3.0
"""One call; balances are worth less than an answer without them."""
POLL_FIRST_S = 0.003
POLL_MOST_S = 0.1
"""Pause between questions for the position; a healthy enforcer follows the log within tens of milliseconds."""
MAX_COUNTERS_PER_OPERATION = 1000
"""Counters of one ``balances`` operation: one pipelined read of some milliseconds."""
CONNECTIONS = 16
MAX_BOOK_ID_CHARS = 64
"""Ids are hashes of 32 hex digits."""


class Enforcer:
    """A client of the enforcer's batch endpoint. Every failure to reach it is an absent answer, never an exception."""

    def __init__(self, url: str, token: str, clock: Clock) -> None:
        self._url = url
        self._token = token
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._base_url = ""
        self._position = -1
        self._asking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        self._session, self._base_url = connect(self._url, limit=CONNECTIONS, timeout=timeout)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        if self._session is not None:
            await self._session.close()

    async def balances(self, counters: Sequence[str]) -> dict[str, Balance] | None:
        """Counter id to balance; None when the ledger cannot be asked. Counters nothing was charged to may be absent
        from an answer: they stand at zero."""
        if not counters:
            return {}
        step = MAX_COUNTERS_PER_OPERATION
        operations = [Balances(tuple(counters[at : at + step])) for at in range(0, len(counters), step)]
        replies = await self._call(operations)
        if replies is None:
            return None
        found: dict[str, Balance] = {}
        for reply in replies:
            if not isinstance(reply, Ok):
                return None
            found.update((balance.counter, balance) for balance in reply.balances)
        return found

    async def wait_past(self, offset: int, timeout_s: float) -> bool:
        """Whether the ledger took over the event at ``offset`` within the time."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        pause_s = POLL_FIRST_S
        while True:
            left_s = deadline_s - self._clock.monotonic_s()
            if self._position > offset:
                return True
            if left_s <= 0:
                return False
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask_position())
            await asyncio.wait({self._asking}, timeout=left_s)
            if self._position > offset:
                return True
            await asyncio.sleep(min(pause_s, max(0.0, deadline_s - self._clock.monotonic_s())))
            pause_s = min(pause_s * 1.5, POLL_MOST_S)

    async def price_book(self, book_id: str) -> bytes | None:
        """The encoded book; None where there is none, or the enforcer cannot be asked."""
        assert self._session is not None
        if not book_id.isalnum() or not book_id.isascii() or len(book_id) > MAX_BOOK_ID_CHARS:
            return None
        address = self._base_url + PRICE_BOOK_PATH.format(price_book_id=book_id)
        try:
            async with self._session.get(address, headers={INTERNAL_TOKEN_HEADER: self._token}) as response:
                return await response.read() if response.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def state(self) -> dict[str, Any] | None:
        """How far the ledger is, see :data:`bursar_common.wire.STATE_PATH`; None where it cannot be asked."""
        assert self._session is not None
        try:
            async with self._session.get(
                self._base_url + STATE_PATH, headers={INTERNAL_TOKEN_HEADER: self._token}
            ) as response:
                found = msgspec.json.decode(await response.read()) if response.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError):
            return None
        return found if isinstance(found, dict) else None

    async def _ask_position(self) -> None:
        replies = await self._call([GovernancePosition()])
        if replies and isinstance(replies[0], Position):
            # May move back (a ledger rebuilt); waiters ask about offsets newer than any answer they could mistake.
            self._position = replies[0].next_offset

    async def _call(self, operations: Sequence[Operation]) -> list[Reply] | None:
        assert self._session is not None
        headers: dict[str, Any] = {INTERNAL_TOKEN_HEADER: self._token, "content-type": "application/json"}
        try:
            async with self._session.post(
                self._base_url + BATCH_PATH, data=encode(list(operations)), headers=headers
            ) as response:
                if response.status != 200:
                    return None
                replies = decode_replies(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError):
            return None
        return replies if len(replies) == len(operations) else None
