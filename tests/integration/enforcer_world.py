"""An enforcer process, its Redis and its SQLite log, for tests from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bursar_common.clock import SystemClock, rfc3339
from bursar_common.eventlog.port import EventLog, NewRecord
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import GOVERNANCE_TOPIC, USAGE_RECORDED, USAGE_TOPIC, GovernanceData, Usage, encode_event
from bursar_common.governance import Budget, Customer, Provider, RateLimit, Team, VirtualKey
from bursar_common.ids import uuid7
from bursar_common.keys import key_hmac, sha256_hex
from bursar_common.settings import load_settings
from bursar_common.wire import (
    BATCH_PATH,
    INTERNAL_TOKEN_HEADER,
    Admit,
    Amounts,
    Balances,
    Features,
    GovernancePosition,
    KeyHash,
    Position,
    decode_replies,
    encode,
)
from bursar_enforcer.app import Enforcer
from bursar_enforcer.ledger import Ledger, Traced
from bursar_enforcer.operations import decode_operations
from bursar_enforcer.redis_connection import parse_address
from tests.harness import RedisServer, ServiceProcess, eventually

KEY_SECRET = "a secret of the tests"
TOKEN = "internal-token-of-the-tests"
KEY_VALUE = "sk-bf-" + "0" * 64
MODEL = "claude-sonnet-4-5"
NOW_S = 1_700_000_000
WAIT_S = 60.0
"""Bound for anything to happen on a busy machine, which may pause."""
HOLD_TTL_S = 600
"""Longer than any test takes, however long the machine pauses in it: no hold expires unless that is what is tested."""


def budget(id: str, limit_nusd: int, **more: Any) -> Budget:
    return Budget(**{"id": id, "limit_nusd": limit_nusd, "window": "1M", "anchored_at_s": NOW_S, **more})


def limits_of_now(**more: Any) -> RateLimit:
    """A million tokens a day and ten requests an hour, whose windows begin now, so that none ends while a test runs."""
    return RateLimit(
        **{
            "id": "rl",
            "anchored_at_s": int(time.time()),
            "token_limit_id": "rt",
            "token_max": 1_000_000,
            "token_window": "1d",
            "request_limit_id": "rr",
            "request_max": 10,
            "request_window": "1h",
            **more,
        }
    )


def usage_event(request_id: str, charged_to: tuple[str, ...], amounts: Amounts, **more: Any) -> NewRecord:
    usage = Usage(
        **{
            "request_id": request_id,
            "started_at_ms": NOW_S * 1000,
            "virtual_key_id": "key1",
            "outcome": "completed",
            "cost_nusd": amounts.n,
            "amounts": amounts,
            "charged_to": charged_to,
            **more,
        }
    )
    value = encode_event(
        id=f"usage:{request_id}", source="bursar/edge", type=USAGE_RECORDED, time=rfc3339(0), subject="", data=usage
    )
    return NewRecord(USAGE_TOPIC, usage.virtual_key_id, value)


class Client:
    """What tests say to an enforcer, however it runs: governance through the log, operations in batches."""

    log: EventLog

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.governance_events = 0

    async def batch(self, *operations: msgspec.Struct) -> list[Any]:
        raise NotImplementedError

    async def govern(self, entity: str, document: msgspec.Struct | None, *, id: str = "") -> None:
        """Append one event with the version it must have, as admin-api would."""
        entity_id = id or document.id  # type: ignore[union-attr]
        seen = self.versions.get(entity_id, 0)
        data = GovernanceData(
            entity=entity,
            entity_id=entity_id,
            actor="test",
            seen={entity_id: seen},
            document=None if document is None else msgspec.to_builtins(document),
        )
        self.versions[entity_id] = seen + 1
        value = encode_event(
            id=uuid7(),
            source="bursar/admin",
            type=f"bursar.{entity}.changed.v1",
            time=rfc3339(0),
            subject="",
            data=data,
        )
        (position,) = await self.log.append([NewRecord(GOVERNANCE_TOPIC, entity_id, value)])
        self.governance_events = position.offset + 1

    async def governed(self) -> None:
        """Wait until the enforcer has applied what was appended."""

        async def applied() -> bool:
            (reply,) = await self.batch(GovernancePosition())
            return isinstance(reply, Position) and reply.next_offset >= self.governance_events

        await eventually(applied, WAIT_S)

    def key(self, **more: Any) -> VirtualKey:
        return VirtualKey(
            **{
                "id": "key1",
                "name": "alice",
                "hmac": key_hmac(KEY_SECRET, sha256_hex(KEY_VALUE)),
                "created_at_s": NOW_S,
                "team_id": "team1",
                "budgets": (budget("bk", 10_000_000_000),),
                **more,
            }
        )

    def provider(self, **more: Any) -> Provider:
        base = {"id": "prov1", "name": "anthropic", "kind": "anthropic", "created_at_s": NOW_S, "credential": "env:X"}
        return Provider(**{**base, **more})

    def customer(self, **more: Any) -> Customer:
        base = {"id": "cust1", "name": "acme", "created_at_s": NOW_S, "budgets": (budget("bc", 10**12),)}
        return Customer(**{**base, **more})

    def team(self, **more: Any) -> Team:
        base = {"id": "team1", "name": "platform", "created_at_s": NOW_S, "customer_id": "cust1"}
        return Team(**{**base, "budgets": (budget("bt", 10**11),), **more})

    async def govern_default(
        self,
        *,
        provider: dict[str, Any] | None = None,
        customer: dict[str, Any] | None = None,
        team: dict[str, Any] | None = None,
        **key: Any,
    ) -> None:
        """Provider anthropic, customer acme, team platform, key alice; each may be given other fields."""
        entities: list[tuple[str, msgspec.Struct]] = [
            ("provider", self.provider(**(provider or {}))),
            ("customer", self.customer(**(customer or {}))),
            ("team", self.team(**(team or {}))),
            ("virtual_key", self.key(**key)),
        ]
        for entity, document in entities:
            await self.govern(entity, document)
        await self.governed()

    def admit_of(self, request_id: str, **more: Any) -> Admit:
        return Admit(
            **{
                "request_id": request_id,
                "key_hashes": (KeyHash("x-api-key", sha256_hex(KEY_VALUE)),),
                "model": MODEL,
                "max_tokens": 1000,
                "features": Features(text_bytes=400),
                "started_at_ms": NOW_S * 1000,
                **more,
            }
        )

    async def admit(self, request_id: str, **more: Any) -> Any:
        (reply,) = await self.batch(self.admit_of(request_id, **more))
        return reply

    async def balances(self, *counters: str) -> list[Any]:
        (reply,) = await self.batch(Balances(counters))
        return list(reply.balances)


class Inside(Client):
    """An enforcer in the test's own process, on a real Redis and a real log: parts can be reached and replaced."""

    def __init__(
        self,
        folder: Path,
        *,
        redis: RedisServer | None = None,
        hold_ttl_s: int = HOLD_TTL_S,
        closed_s: float | None = None,
        **env: str,
    ) -> None:
        """``closed_s``: how long admission stays closed after a loss, if not the interval of renewals that belongs to
        ``hold_ttl_s``; a test need not wait for as long as its holds live."""
        super().__init__()
        self.closed_s = closed_s
        self.folder = folder
        self.redis = redis or RedisServer(folder / "redis", unix=True)
        self._new_log: Callable[[], EventLog] = lambda: SqliteEventLog(folder / "log.db")
        self.log = self._new_log()
        self.traced: list[tuple[str, list[Traced]]] = []
        self.settings = load_settings(
            {
                "BURSAR_HOME": str(folder),
                "BURSAR_REDIS_URL": self.redis.url,
                "BURSAR_INTERNAL_TOKEN": TOKEN,
                "BURSAR_KEY_SECRET": KEY_SECRET,
                **env,
            }
            # Shorter than the environment may ask for, so that tests need not wait.
        ).model_copy(update={"hold_ttl_s": hold_ttl_s})
        self.enforcers: list[Enforcer] = []

    def use_log(self, new_log: Callable[[], EventLog]) -> None:
        """Another log than the SQLite file: one for the test, one for each enforcer."""
        self._new_log = new_log
        self.log = new_log()

    def enforcer(self, log: EventLog | None = None) -> Enforcer:
        """One more enforcer on the same Redis and log, not started."""
        ledger = Ledger(
            parse_address(self.settings.redis_url), on_reply=lambda script, state: self.traced.append((script, state))
        )
        log = log or self._new_log()
        made = Enforcer(self.settings, log, ledger, SystemClock())
        if self.closed_s is not None:
            made.continuity._interval_s = self.closed_s
        self.enforcers.append(made)
        return made

    async def __aenter__(self) -> Inside:
        if not self.redis.process.running:
            self.redis.start()
        await self.log.start()
        self.main = self.enforcer()
        self.main.start()
        await self.open()
        return self

    async def open(self, enforcer: Enforcer | None = None) -> None:
        """Wait until admission is open."""
        chosen = enforcer or self.main
        await eventually(lambda: chosen.continuity.open, WAIT_S)

    async def __aexit__(self, *_: object) -> None:
        for enforcer in self.enforcers:
            await enforcer.stop()
        self.redis.stop()
        await self.log.close()

    async def batch(self, *operations: msgspec.Struct) -> list[Any]:
        return await self.ask(self.main, *operations)

    async def ask(self, enforcer: Enforcer, *operations: msgspec.Struct) -> list[Any]:
        """One batch to that enforcer, encoded both ways as over HTTP."""
        asked = decode_operations(encode(operations))
        return list(decode_replies(encode(await enforcer.admission.decide(asked))))


class World(Client):
    """``async with World(folder)``: everything started; ``env`` may be changed before :meth:`start`."""

    def __init__(self, folder: Path, *, kind: str = "valkey", redis_arguments: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis", kind, arguments=redis_arguments)
        super().__init__()
        self.log = SqliteEventLog(folder / "log.db")
        self.env = {
            "BURSAR_HOME": str(folder),
            "BURSAR_REDIS_URL": self.redis.url,
            "BURSAR_INTERNAL_TOKEN": TOKEN,
            "BURSAR_KEY_SECRET": KEY_SECRET,
            "BURSAR_ENFORCER_LISTEN": f"unix:{folder}/enforcer.sock",
            "BURSAR_HOLD_TTL_S": str(HOLD_TTL_S),
            "BURSAR_LOG_LEVEL": "debug",
        }
        self.process = self.service("enforcer")

    def service(self, name: str, **env: str) -> ServiceProcess:
        merged = {**self.env, **env}
        return ServiceProcess(
            "bursar_enforcer", env=merged, address=merged["BURSAR_ENFORCER_LISTEN"], folder=self.folder, name=name
        )

    async def __aenter__(self) -> World:
        self.redis.start()
        await self.log.start()
        self.process.start()
        await self.process.ready()
        self.session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{self.folder}/enforcer.sock"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        self.process.stop()
        self.redis.stop()
        await self.log.close()

    # ---- HTTP

    async def batch(self, *operations: msgspec.Struct) -> list[Any]:
        async with self.session.post(
            f"http://bursar{BATCH_PATH}", data=encode(operations), headers={INTERNAL_TOKEN_HEADER: TOKEN}
        ) as response:
            body = await response.read()
            assert response.status == 200, (response.status, body)
            return decode_replies(body)

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.session.get(f"http://bursar{path}", headers={INTERNAL_TOKEN_HEADER: TOKEN}) as response:
            return response.status, await response.read()

    def script_replies(self) -> list[dict[str, Any]]:
        """What the scripts answered, from the debug log."""
        lines = (line for line in self.process.output().splitlines() if '"script_reply"' in line)
        return [json.loads(line) for line in lines]
