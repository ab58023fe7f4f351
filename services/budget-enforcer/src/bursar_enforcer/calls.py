"""The ledger's script calls, as bytes: which arguments a script takes is written here and in the script. No I/O but
reading the scripts' texts at import.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import NamedTuple, TypeAlias

import hiredis
import msgspec

from bursar_common.money import MAX_NUSD
from bursar_common.wire import Amounts, HoldEntry
from bursar_enforcer import redis_names
from bursar_enforcer.stored import doubles, hold_heads, hold_value

Argument: TypeAlias = str | bytes | int
CommandLine: TypeAlias = tuple[Argument, ...]

DAY_S = 86_400
RENEWALS_PER_TTL = 6
"""Edges renew a hold this often in its time to live."""
UNCONSUMED_TTL_S = 7 * DAY_S
"""How long a closing is remembered whose usage event was not yet read from the topic: the outbox's maximum age."""
CONSUMED_TTL_S = 15 * 60
"""How long after its event was read: longer than any retry of a settlement."""
RELEASED_TTL_S = 3600
"""A released hold has no event; only a late ``admit`` (retried for a minute) could bring it back."""
MAX_AMOUNT = MAX_NUSD
"""Largest amount of one request, in any unit."""
_COUNTER = re.compile(r"[ntTr]:[^ :;]{1,64}:[0-9]{1,11}:[0-9]{1,11}")

RANK_RELEASED, RANK_EXPIRED, RANK_RECORDED = 0, 1, 2
STATES = {"0": "released", "1": "expired", "2": "recorded"}

_FLAGS = {
    # Without flags Redis refuses a script as a whole when memory is full; closing must still give money back.
    "decide": "#!lua\n",
    "renew": "#!lua\n",
    "close": "#!lua flags=allow-oom\n",
    "consume": "#!lua flags=allow-oom\n",
    "forget": "#!lua flags=allow-oom\n",
    "govern": "#!lua flags=allow-oom\n",
    "state": "#!lua flags=allow-oom\n",
}


class Call(NamedTuple):
    """One script call, packed; admissions and closings are :mod:`bursar_enforcer.decisions`. ``counters`` are the ids
    in the order the call names them."""

    script: str
    data: bytes
    counters: tuple[str, ...] = ()
    request_id: bytes = b""


def pack(command: CommandLine) -> bytes:
    """One command in the protocol's bytes."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


_TEXTS = {"close": "decide"}
"""Scripts that are another's text under flags of their own: a batch of nothing but closings."""


def _load_scripts() -> dict[str, tuple[str, str]]:
    folder = resources.files("bursar_enforcer") / "lua"
    prelude = (folder / "prelude.lua").read_text()
    scripts = {}
    for name, flags in _FLAGS.items():
        text = flags + prelude + (folder / f"{_TEXTS.get(name, name)}.lua").read_text()
        scripts[name] = (hashlib.sha1(text.encode()).hexdigest(), text)  # noqa: S324 - Redis' own naming
    return scripts


SCRIPTS = _load_scripts()


def script_call(name: str, script_keys: Sequence[str], arguments: Sequence[Argument]) -> Call:
    sha = SCRIPTS[name][0]
    return Call(name, pack(("EVALSHA", sha, len(script_keys), *script_keys, *arguments)))


@lru_cache(maxsize=65_536)  # names come again with every request of an owner; about 200 bytes each
def _is_counter(counter: str) -> bool:
    return _COUNTER.fullmatch(counter) is not None


def check_counters(counters: Sequence[str]) -> None:
    """Raises ValueError for a name that a script could not read: a script must never fail between two writes."""
    for counter in counters:
        if not _is_counter(counter):
            raise ValueError(f"not a counter: {counter[:80]!r}")


def check_amounts(amounts: Amounts) -> None:
    """Raises ValueError for an amount that is negative or larger than any limit."""
    for amount in (amounts.n, amounts.t, amounts.T, amounts.r):
        if not 0 <= amount <= MAX_AMOUNT:
            raise ValueError(f"an amount is 0 to {MAX_AMOUNT}; given was {amount}")


def bulk(value: bytes) -> bytes:
    """One argument of a command, packed."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def bulks(*arguments: Argument) -> bytes:
    """Arguments of a command, packed, without the line that counts them."""
    return pack(arguments).partition(b"\r\n")[2]


class Consumed(NamedTuple):
    """Guard of a closing that comes from the usage topic: applied only if the position is still the expected one."""

    position_field: str
    expected: str
    """The position as it stands in Redis, as text; empty: none yet."""
    following: int
    outbox_field: str = ""
    outbox_sequence: int | str = ""


class Settled(msgspec.Struct, gc=False, frozen=True):
    """One record of the usage topic for :func:`consume_call`. Without a request id it has no effect."""

    following: int
    request_id: str = ""
    rank: int = 0
    outbox_field: str = ""
    outbox_sequence: int | str = ""


def consume_call(position_field: str, expected: str, records: Sequence[Settled]) -> Call:
    """Pass over records whose requests are closed already; stops at the first that is not."""
    script_keys = (
        redis_names.POLICY,
        redis_names.POSITIONS,
        redis_names.OUTBOXES,
        *[redis_names.HOLD + record.request_id for record in records],
    )
    arguments: list[Argument] = [
        position_field,
        expected,
        CONSUMED_TTL_S,
        "".join([str(record.rank) if record.request_id else "-" for record in records]),
        doubles(len(records)).pack(*[record.following for record in records]),
    ]
    if any(record.outbox_field for record in records):
        for record in records:
            arguments += (record.outbox_field, record.outbox_sequence)
    return script_call("consume", script_keys, arguments)


def renew_call(request_id: str, hold: Sequence[HoldEntry], event: bytes) -> Call:
    counters = tuple([entry.counter for entry in hold])
    heads = hold_heads(counters, [entry.strict for entry in hold])
    amounts = [amount for entry in hold for amount in (entry.expected, entry.bound)]
    script_keys = (redis_names.POLICY, redis_names.OPEN_HOLDS, *(redis_names.COUNTER + c for c in counters))
    call = script_call("renew", script_keys, (request_id, hold_value(heads, amounts, event)))
    return call._replace(counters=counters, request_id=request_id.encode())


def forget_call(most: int) -> Call:
    """Delete up to ``most`` counters that are past their keeping; the answer is ``{done, how many}``."""
    return script_call("forget", (redis_names.ENDS,), (most,))


def state_call(*arguments: str) -> Call:
    return script_call(
        "state", (redis_names.POLICY, redis_names.OPEN_HOLDS, redis_names.POSITIONS, redis_names.OUTBOXES), arguments
    )
