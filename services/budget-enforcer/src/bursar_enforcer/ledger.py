"""The ledger in Redis: scripts, loaded once and run by hash, many to one round trip.

Every script is a whole decision and either happens or does not. This module packs their arguments and reads nothing
out of their answers but what a trace of them needs; meaning is :mod:`bursar_enforcer.admission`'s and the followers'.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import structlog

from bursar_common.money import MAX_NUSD
from bursar_common.wire import Amounts, HoldEntry
from bursar_enforcer import keys
from bursar_enforcer.redis_checks import ServerFacts, check_server
from bursar_enforcer.redis_connection import (
    Argument,
    CommandLine,
    RedisAddress,
    RedisConnection,
    RedisUnavailable,
    pack,
)

log = structlog.get_logger()

DAY_S = 86_400
UNCONSUMED_TTL_S = 7 * DAY_S
"""How long a closing is remembered whose usage event was not yet read from the topic: the outbox's maximum age."""
CONSUMED_TTL_S = 15 * 60
"""How long after its event was read: longer than any retry of a settlement."""
RELEASED_TTL_S = 3600
"""A released hold has no event; only a late ``admit`` (retried for a minute) could bring it back."""
RECONNECT_PAUSE_S = 0.05
"""After a failed attempt others are answered at once instead of each trying for CONNECT_TIMEOUT_S in turn."""
WAIT_MS = 500
"""Longest wait for a replica to confirm a batch, where there are replicas."""

MAX_AMOUNT = MAX_NUSD
"""Largest amount of one request, in any unit."""
_COUNTER = re.compile(r"[ntTr]:[^ :;]{1,64}:[0-9]{1,11}:[0-9]{1,11}")

RANK_RELEASED, RANK_EXPIRED, RANK_RECORDED = 0, 1, 2
STATES = {"0": "released", "1": "expired", "2": "recorded"}

_FLAGS = {
    # Without flags Redis refuses a script as a whole when memory is full; closing must still give money back.
    "admit": "#!lua\n",
    "renew": "#!lua\n",
    "close": "#!lua flags=allow-oom\n",
    "govern": "#!lua flags=allow-oom\n",
    "state": "#!lua flags=allow-oom\n",
}


class Traced(NamedTuple):
    """One counter after a script, as the script itself answered it. ``limit`` is None where the script has none."""

    counter: str
    spent: int
    held: int
    exposed: int
    limit: int | None


OnReply = Callable[[str, list[Traced]], None]


class Call(NamedTuple):
    """One script call, packed. ``counters`` are (id, limit) in the order an admit names them."""

    script: str
    data: bytes
    counters: tuple[tuple[str, int], ...] = ()


def _load_scripts() -> dict[str, tuple[str, str]]:
    folder = resources.files("bursar_enforcer") / "lua"
    prelude = (folder / "prelude.lua").read_text()
    scripts = {}
    for name, flags in _FLAGS.items():
        text = flags + prelude + (folder / f"{name}.lua").read_text()
        scripts[name] = (hashlib.sha1(text.encode()).hexdigest(), text)  # noqa: S324 - Redis' own naming
    return scripts


SCRIPTS = _load_scripts()


def script_call(name: str, script_keys: Sequence[str], arguments: Sequence[Argument]) -> Call:
    sha = SCRIPTS[name][0]
    return Call(name, pack(("EVALSHA", sha, len(script_keys), *script_keys, *arguments)))


def hold_text(hold: Sequence[HoldEntry]) -> str:
    """A hold's entries as the scripts read them."""
    return ";".join([f"{e.counter} {e.expected} {e.bound} {1 if e.strict else 0}" for e in hold])


def read_hold(text: str) -> tuple[HoldEntry, ...]:
    """Inverse of :func:`hold_text`."""
    entries = []
    for part in text.split(";") if text else ():
        counter, expected, bound, strict = part.split(" ")
        entries.append(HoldEntry(counter, int(expected), int(bound), strict == "1"))
    return tuple(entries)


def check_counters(counters: Sequence[str]) -> None:
    """Raises ValueError for a name that a script could not read: a script must never fail between two writes."""
    for counter in counters:
        if _COUNTER.fullmatch(counter) is None:
            raise ValueError(f"not a counter: {counter[:80]!r}")


def check_amounts(amounts: Amounts) -> None:
    """Raises ValueError for an amount that is negative or larger than any limit."""
    for amount in (amounts.n, amounts.t, amounts.T, amounts.r):
        if not 0 <= amount <= MAX_AMOUNT:
            raise ValueError(f"an amount is 0 to {MAX_AMOUNT}; given was {amount}")


def close_call(
    request_id: str,
    rank: int,
    amounts: Amounts,
    counters: Sequence[str],
    *,
    ttl_s: int,
    consumed: Consumed | None = None,
) -> Call:
    """Settle (recorded), release or expire a hold; ``consumed`` is the record of the usage topic it came from."""
    guard: tuple[Argument, ...] = consumed if consumed is not None else ()
    return script_call(
        "close",
        (keys.POLICY, keys.OPEN_HOLDS, keys.POSITIONS, keys.OUTBOXES),
        (request_id, rank, amounts.n, amounts.t, amounts.T, amounts.r, " ".join(counters), ttl_s, *guard),
    )


class Consumed(NamedTuple):
    """Guard of a closing that comes from the usage topic: applied only if the position is still the expected one."""

    position_field: str
    expected: str
    """The position as it stands in Redis, as text; empty: none yet."""
    following: int
    outbox_field: str = ""
    outbox_sequence: int | str = ""


def renew_call(request_id: str, hold: Sequence[HoldEntry], event: bytes) -> Call:
    return script_call("renew", (keys.POLICY, keys.OPEN_HOLDS), (request_id, hold_text(hold), event))


def state_call(*arguments: str) -> Call:
    return script_call("state", (keys.POLICY, keys.OPEN_HOLDS, keys.POSITIONS, keys.OUTBOXES), arguments)


class Ledger:
    """One connection to Redis, made again when lost. ``on_reply`` sees the state after every script (tests, debug)."""

    def __init__(self, address: RedisAddress, *, ca_file: Path | None = None, on_reply: OnReply | None = None) -> None:
        self._address = address
        self._ca_file = ca_file
        self._on_reply = on_reply
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
                connection = await RedisConnection.open(self._address, ca_file=self._ca_file)
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

    async def commands(self, commands: Sequence[CommandLine], *, errors: bool = False) -> list[Any]:
        """Plain commands in one round trip. Raises RedisUnavailable, also for an error reply unless ``errors``."""
        await self.connect()
        assert self._connection is not None
        replies = await self._connection.call(commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError) and not errors:
                self._judge(reply)
                raise RedisUnavailable(f"Redis answered: {reply}")
        return replies

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in order in one round trip; a reply is the script's list, or hiredis.ReplyError.

        Raises RedisUnavailable when the connection breaks: what was sent may have happened."""
        if not calls:
            return []
        if self._connection is None or self._connection.lost:
            await self.connect()
        connection = self._connection
        assert connection is not None
        data = [call.data for call in calls]
        count = len(data)
        if self._wait:
            data.append(self._wait)
            replies = await connection.send(b"".join(data), count + 1)
            if replies.pop() == 0:
                await self._replicas_silent(connection)
        else:
            replies = await connection.send(b"".join(data), count)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                replies = await self._again(connection, calls, replies)
                break
        if self._on_reply is not None:
            for call, reply in zip(calls, replies, strict=True):
                trace(self._on_reply, call, reply)
        return replies

    async def _again(self, connection: RedisConnection, calls: Sequence[Call], replies: list[Any]) -> list[Any]:
        """Load the scripts a flushed or restarted server forgot, and repeat only the calls it did not know."""
        unknown = [i for i, r in enumerate(replies) if isinstance(r, hiredis.ReplyError) and _is_noscript(r)]
        if unknown:
            await _load(connection)
            repeated = await connection.send(b"".join([calls[i].data for i in unknown]), len(unknown))
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


def trace(on_reply: OnReply, call: Call, reply: Any) -> None:
    """Hand on the counters in a script's reply, as they are after it."""
    counters: list[Traced] = []
    if isinstance(reply, list):
        kind = reply[0]
        if kind in (b"admitted", b"again", b"refused"):
            for i, (counter, limit) in enumerate(call.counters):
                spent, held, exposed = (int(figure) for figure in reply[4 + 4 * i : 7 + 4 * i])
                counters.append(Traced(counter, spent, held, exposed, limit))
        elif kind in (b"closed_now", b"renewed"):
            for i in range(2, len(reply), 5):
                spent, held, exposed = (int(figure) for figure in reply[i + 1 : i + 4])
                counters.append(Traced(reply[i].decode(), spent, held, exposed, None))
    on_reply(call.script, counters)
