"""The ledger in Redis: scripts, loaded once and run by hash, many to one round trip.

Every script is a whole decision and either happens or does not. This module reads nothing out of their answers but
what a trace of them needs; meaning is :mod:`bursar_enforcer.admission`'s and the followers'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import structlog

from bursar_enforcer.calls import SCRIPTS, Call, CommandLine, pack
from bursar_enforcer.decisions import AdmitCall, AnyCall, Group, grouped
from bursar_enforcer.redis_checks import ServerFacts, check_server
from bursar_enforcer.redis_connection import RedisAddress, RedisConnection, RedisUnavailable
from bursar_enforcer.stored import counters_of

log = structlog.get_logger()

RECONNECT_PAUSE_S = 0.05
"""After a failed attempt others are answered at once instead of each trying for CONNECT_TIMEOUT_S in turn."""
WAIT_MS = 500
"""Longest wait for a replica to confirm a batch, where there are replicas."""


class Traced(NamedTuple):
    """One counter after a script, as the script itself answered it. ``limit`` is None where the script has none."""

    counter: str
    spent: int
    held: int
    exposed: int
    limit: int | None


OnReply = Callable[[str, list[Traced]], None]


class Ledger:
    """One connection to Redis, made again when lost. ``on_reply`` sees the state after every script (tests, debug)."""

    def __init__(self, address: RedisAddress, *, ca_file: Path | None = None, on_reply: OnReply | None = None) -> None:
        self.address = address
        self.ca_file = ca_file
        self._on_reply = on_reply
        self._telling = on_reply is not None
        self._connection: RedisConnection | None = None
        self._connecting = asyncio.Lock()
        self._wait = b""
        self._try_again_at_s = 0.0
        self._why_not = ""
        self.facts = ServerFacts(run_id="", replicas=0, version="")
        self.connected_count = 0
        """Raised with each new connection: whoever watches continuity looks again."""

    @property
    def run_id(self) -> str:
        """Identity of the server process behind the present connection; admission is open for one of them."""
        return self.facts.run_id

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.lost

    async def connect(self) -> None:
        """Make sure of a checked connection with all scripts loaded. Raises RedisUnavailable, UnsafeRedis."""
        if self.connected:
            return
        async with self._connecting:
            if self.connected:
                return
            now_s = asyncio.get_running_loop().time()
            if now_s < self._try_again_at_s:
                raise RedisUnavailable(self._why_not)
            try:
                connection = await RedisConnection.open(self.address, ca_file=self.ca_file)
            except RedisUnavailable as error:
                self._why_not = str(error)
                self._try_again_at_s = asyncio.get_running_loop().time() + RECONNECT_PAUSE_S
                raise
            try:
                self.facts = await check_server(connection)
                await _load(connection)
            except BaseException:
                connection.close()
                raise
            self._wait = pack(("WAIT", 1, WAIT_MS)) if self.facts.replicas else b""
            self._connection = connection
            self.connected_count += 1

    async def commands(self, commands: Sequence[CommandLine]) -> list[Any]:
        """Plain commands in one round trip. Raises RedisUnavailable, also for an error reply."""
        await self.connect()
        assert self._connection is not None
        replies = await self._connection.call(commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                self._judge(reply)
                raise RedisUnavailable(f"Redis answered: {reply}")
        return replies

    async def run(self, calls: Sequence[AnyCall]) -> list[Any]:
        """Run scripts in one round trip, neighbouring admissions and closings together (:func:`grouped` says in which
        order); a reply is the script's list for that call, or hiredis.ReplyError.

        Raises RedisUnavailable when the connection breaks: what was sent may have happened."""
        if not calls:
            return []
        if self._connection is None or self._connection.lost:
            await self.connect()
        connection = self._connection
        assert connection is not None
        units = grouped(calls)
        replies = await self._send(connection, [unit.call for unit in units])
        flat: list[Any] = [None] * len(calls)
        for (asked, places), reply in zip(units, replies, strict=True):
            if isinstance(asked, Call):
                flat[places[0]] = reply
                continue
            each = asked.replies(reply) if isinstance(reply, list) else await self._each(connection, asked, reply)
            for place, own in zip(places, each, strict=True):
                flat[place] = own
        if self._on_reply is not None:
            for call, reply in zip(calls, flat, strict=True):
                trace(self._on_reply, call, reply)
        return flat

    async def _send(self, connection: RedisConnection, units: Sequence[Call | Group]) -> list[Any]:
        """One reply for each, in one round trip, or two where Redis forgot a script."""
        telling, run_id = self._telling, self.facts.run_id
        data = [unit.data if isinstance(unit, Call) else unit.packed(run_id, telling) for unit in units]
        count = len(data)
        if self._wait:
            data.append(self._wait)
            replies = await connection.send(b"".join(data), count + 1)
            if replies.pop() == 0:
                await self._replicas_silent(connection)
        else:
            replies = await connection.send(data[0] if count == 1 else b"".join(data), count)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                return await self._again(connection, data, replies)
        return replies

    async def _each(self, connection: RedisConnection, group: Group, error: Any) -> list[Any]:
        """Redis refused a group as a whole (its memory is full; an operation the script cannot read), and nothing of
        it happened: each operation is judged by itself."""
        if len(group.calls) == 1:
            return [error]
        units = list(group.alone())
        replies = await self._send(connection, units)
        return [
            unit.replies(reply)[0] if isinstance(reply, list) else reply
            for unit, reply in zip(units, replies, strict=True)
        ]

    async def _again(self, connection: RedisConnection, data: Sequence[bytes], replies: list[Any]) -> list[Any]:
        """Load the scripts a flushed or restarted server forgot, and repeat only the calls it did not know."""
        unknown = [i for i, r in enumerate(replies) if isinstance(r, hiredis.ReplyError) and _is_noscript(r)]
        if unknown:
            await _load(connection)
            repeated = await connection.send(b"".join([data[i] for i in unknown]), len(unknown))
            for i, reply in zip(unknown, repeated, strict=True):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                self._judge(reply)
        return replies

    def _judge(self, error: hiredis.ReplyError) -> None:
        """A demoted primary must be left: the address leads to the new one."""
        text = str(error)
        if text.startswith(("READONLY", "MASTERDOWN", "LOADING")) and self._connection is not None:
            self._connection.close()
        log.warning("redis_error", error=text[:200])

    async def _replicas_silent(self, connection: RedisConnection) -> None:
        """No replica confirmed in time. The batch stands (a failover closes admission); look who is left."""
        self.facts = await check_server(connection)
        if not self.facts.replicas:
            self._wait = b""
        log.warning("replica_did_not_confirm", waited_ms=WAIT_MS, replicas=self.facts.replicas)

    async def refresh(self) -> None:
        """Notice replicas that came or went. Raises RedisUnavailable, UnsafeRedis."""
        await self.connect()
        assert self._connection is not None
        self.facts = await check_server(self._connection)
        self._wait = pack(("WAIT", 1, WAIT_MS)) if self.facts.replicas else b""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


async def _load(connection: RedisConnection) -> None:
    for reply in await connection.call([("SCRIPT", "LOAD", text) for _, text in SCRIPTS.values()]):
        if isinstance(reply, hiredis.ReplyError):
            raise RedisUnavailable(f"Redis did not take a script: {reply}")


def _is_noscript(error: hiredis.ReplyError) -> bool:
    return str(error).startswith("NOSCRIPT")


def trace(on_reply: OnReply, call: AnyCall, reply: Any) -> None:
    """Hand on the counters in a script's reply, as they are after it. Log lines written meanwhile carry the id of the
    request whose hold the script was about."""
    counters: list[Traced] = []
    if isinstance(reply, list):
        kind = reply[0]
        names = call.counters
        states = b""
        if kind in (b"admitted", b"again", b"refused"):
            states = reply[4]
        elif kind == b"closed_now":
            names = tuple(reply[2].decode().split(" ")) if reply[2] else names
            states = reply[3]
        elif kind == b"renewed":
            states = reply[2]
        limits = call.plan.limits if type(call) is AdmitCall else (None,) * len(names)
        if states:
            for name, limit, state in zip(names, limits, counters_of(states, len(names)), strict=True):
                counters.append(Traced(name, state.spent, state.held, state.exposed, limit))
    if not call.request_id:
        on_reply(call.script, counters)
        return
    with structlog.contextvars.bound_contextvars(request_id=call.request_id.decode()):
        on_reply(call.script, counters)
