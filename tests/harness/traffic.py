"""Many clients at once: streamed and not, finished and abandoned, while the test breaks something."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import ClientSession, ClientTimeout, TCPConnector

from tests.harness.gateway import CreatedKey, Gateway

ANSWER_WAIT_S = 90
"""Longer than the edge's own waiting for a ledger that is away (15 s) and for a turn (60 s)."""


async def governed_keys(gateway: Gateway, label: str) -> list[CreatedKey]:
    """Three keys of one team of one customer, with limits at every level; one of them strict."""
    budget = {"max_limit": 1000, "reset_duration": "1d"}
    customer = await gateway.create_customer(f"customer {label}", budget=budget)
    team = await gateway.create_team(f"team {label}", customer_id=customer["id"], budget=budget)
    limits = {"token_max_limit": 10**9, "token_reset_duration": "1d", "request_max_limit": 10**6}
    limits["request_reset_duration"] = "1d"
    return [
        await gateway.create_key(
            f"key {label} {number}",
            team_id=team["id"],
            budget=budget | ({"enforcement": "strict"} if number == 0 else {}),
            rate_limit=limits,
            provider_configs=[{"provider": "anthropic", "budget": budget}],
        )
        for number in range(3)
    ]


class Traffic:
    """Clients that ask one request after the other until told to stop. ``statuses`` counts the answers; 0 stands for a
    connection that broke."""

    def __init__(self, gateway: Gateway, keys: Sequence[str], *, clients: int, pace_ms: int, seed: int = 1) -> None:
        self._gateway = gateway
        self._keys = itertools.cycle(keys)
        self._clients = clients
        self._pace_ms = pace_ms
        self._random = random.Random(seed)
        self._stopping = False
        self.statuses: Counter[int] = Counter()
        self.abandoned = 0

    @property
    def answered(self) -> int:
        return self.statuses[200]

    async def _client(self, session: ClientSession) -> None:
        while not self._stopping:
            key = next(self._keys)
            kind = self._random.random()
            sim = {
                "input-tokens": self._random.randrange(10, 5000),
                "cache-read-tokens": self._random.randrange(0, 20000),
                "cache-write-5m-tokens": self._random.randrange(0, 3000),
                "output-tokens": self._random.randrange(5, 300),
            }
            if kind < 0.6:
                sim |= {"events": 6, "pace-ms": self._pace_ms}
                if kind < 0.08:
                    await self._abandon(session, key, sim)
                    continue
                answer = await self._gateway.message(key, stream=True, sim=sim, session=session)
            else:
                answer = await self._gateway.message(key, sim=sim | {"head-delay-ms": self._pace_ms}, session=session)
            self.statuses[answer.status if answer.complete else 0] += 1
            if answer.status != 200:
                await asyncio.sleep(0.2)

    async def _abandon(self, session: ClientSession, key: str, sim: dict[str, int]) -> None:
        """Press Escape in the middle of a stream."""
        task = asyncio.create_task(self._gateway.message(key, stream=True, sim=sim | {"pace-ms": 200}, session=session))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self.abandoned += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Traffic]:
        """Traffic inside the block; leaving it waits for the last answers."""
        async with ClientSession(
            timeout=ClientTimeout(total=ANSWER_WAIT_S), connector=TCPConnector(limit=0)
        ) as session:
            tasks = [asyncio.create_task(self._client(session)) for _ in range(self._clients)]
            try:
                yield self
            finally:
                self._stopping = True
                results = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        assert not errors, errors
