"""A whole Bursar under test, in either of its shapes, seen from outside: its edge, its admin API, its ClickHouse, its
enforcer's ledger, its log, and the simulated provider behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout

from bursar_common import wire
from bursar_common.eventlog.port import EventLog
from bursar_common.events import USAGE_TOPIC, Usage
from bursar_common.service import connect
from tests.harness.books import fold_usage
from tests.harness.processes import eventually
from tests.harness.simulated import SimulatedProvider

PROMPT = "Write a haiku about ledgers."
ROWS_WAIT_S = 180.0


@dataclass
class CreatedKey:
    id: str
    value: str
    document: dict[str, Any]


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True
    """False: the connection broke before the answer ended."""

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Gateway:
    """``shape`` is ``one_machine`` or ``cluster``; the rest are addresses. Made by fixtures in tests/conftest.py."""

    shape: str
    folder: Path
    url: str
    admin_url: str
    clickhouse_url: str
    enforcer_url: str
    internal_token: str
    provider: SimulatedProvider
    log: EventLog
    admin_headers: dict[str, str] = field(default_factory=dict)

    # -- governance ----------------------------------------------------------------------------------------------

    async def api(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A governance call that must succeed."""
        async with ClientSession(headers=self.admin_headers) as session:
            async with session.request(method, self.admin_url + path, json=body) as answer:
                text = await answer.text()
                assert answer.status in (200, 201), f"{method} {path}: {answer.status} {text}"
                return json.loads(text) if text else {}

    async def create_key(self, name: str, **body: Any) -> CreatedKey:
        """A new virtual key; the name must be new."""
        answer = await self.api("POST", "/api/governance/virtual-keys", {"name": name, **body})
        document = answer["virtual_key"]
        value = document.get("value") or answer.get("value")
        assert value
        return CreatedKey(document["id"], value, document)

    async def key(self, key_id: str) -> dict[str, Any]:
        return (await self.api("GET", f"/api/governance/virtual-keys/{key_id}"))["virtual_key"]  # type: ignore[no-any-return]

    async def create_team(self, name: str, **body: Any) -> dict[str, Any]:
        return (await self.api("POST", "/api/governance/teams", {"name": name, **body}))["team"]  # type: ignore[no-any-return]

    async def create_customer(self, name: str, **body: Any) -> dict[str, Any]:
        return (await self.api("POST", "/api/governance/customers", {"name": name, **body}))["customer"]  # type: ignore[no-any-return]

    # -- traffic -------------------------------------------------------------------------------------------------

    async def reset_simulator(self, **plan: Any) -> None:
        await self.provider.reset()
        await self.provider.set_defaults(**plan)

    async def message(
        self,
        key: str,
        *,
        model: str = "claude-sonnet-4-6",
        max_tokens: int = 1024,
        stream: bool = False,
        prompt: str = PROMPT,
        sim: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        session: ClientSession | None = None,
    ) -> Answer:
        """One request with a key; never raises for what the gateway answers or for a broken connection (status 0)."""
        if body is None:
            body = json.dumps(
                {
                    "model": model,
                    "max_tokens": max_tokens,
                    "stream": stream,
                    "messages": [{"role": "user", "content": prompt}],
                }
            ).encode()
        sent = {
            "authorization": f"Bearer {key}",
            "content-type": "application/json",
            "anthropic-version": "2023-06-01",
            **{f"x-sim-{name}": str(value) for name, value in (sim or {}).items()},
            **(headers or {}),
        }
        own = session is None
        session = session or ClientSession(timeout=ClientTimeout(total=120))
        received, status, answer_headers = b"", 0, {}
        try:
            async with session.post(self.url + "/anthropic/v1/messages", data=body, headers=sent) as answer:
                status, answer_headers = answer.status, dict(answer.headers)
                async for chunk in answer.content.iter_any():
                    received += chunk
            return Answer(status, answer_headers, received)
        except (OSError, TimeoutError, Exception) as error:
            if isinstance(error, AssertionError):
                raise
            return Answer(status, answer_headers, received, complete=False)
        finally:
            if own:
                await session.close()

    # -- the three books -----------------------------------------------------------------------------------------

    async def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a SELECT, over ClickHouse's HTTP interface."""
        async with ClientSession() as session:
            params = {"default_format": "JSONEachRow", "output_format_json_quote_64bit_integers": "0"}
            async with session.post(self.clickhouse_url, params=params, data=sql.encode()) as answer:
                text = await answer.text()
                assert answer.status == 200, f"{answer.status} {text}"
                return [json.loads(line) for line in text.splitlines()]

    async def usage_rows(self, key_id: str, *, at_least: int) -> list[dict[str, Any]]:
        """The key's rows in ``bursar.usage``, once there are ``at_least`` so many.

        An edge killed right after an answer may not have had the event on its disk yet: the row then comes from the
        hold's expiry, ``BURSAR_HOLD_TTL_S`` (60 s) later, so the wait is well above that."""

        async def rows() -> list[dict[str, Any]]:
            found = await self.query(
                f"SELECT * FROM bursar.usage WHERE virtual_key_id = '{key_id}' ORDER BY started_at"
            )
            return found if len(found) >= at_least else []

        return await eventually(rows, ROWS_WAIT_S)  # type: ignore[no-any-return]

    async def logged_usage(self) -> dict[str, Usage]:
        """The log's own figure for each request id: recorded over expired (denied requests left out)."""
        records = []
        for partition in range(await self.log.partitions(USAGE_TOPIC)):
            offset = await self.log.begin_offset(USAGE_TOPIC, partition)
            end = await self.log.end_offset(USAGE_TOPIC, partition)
            late = 0
            while offset < end and late < 6:
                batch = await self.log.read(USAGE_TOPIC, partition, offset, wait_s=5)
                if not batch:  # a broker on a busy machine may take longer; or nothing but gaps is left
                    late += 1
                    continue
                records.extend(batch)
                offset = batch[-1].offset + 1
        return fold_usage(record.value for record in records)

    async def balances(self, counters: Sequence[str]) -> dict[str, wire.Balance]:
        """The ledger's counters, asked of the enforcer."""
        session, base = connect(self.enforcer_url)
        async with session:
            async with session.post(
                base + wire.BATCH_PATH,
                data=wire.encode([wire.Balances(tuple(counters))]),
                headers={wire.INTERNAL_TOKEN_HEADER: self.internal_token, "content-type": "application/json"},
            ) as answer:
                (reply,) = wire.decode_replies(await answer.read())
        assert isinstance(reply, wire.Ok), reply
        return {balance.counter: balance for balance in reply.balances}
