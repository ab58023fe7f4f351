"""Admissions and closings as one script call: many operations share the script's start, one reading of their counters
and one writing. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import msgspec

from bursar_common.wire import Amounts
from bursar_enforcer import redis_names
from bursar_enforcer.calls import SCRIPTS, Call, Consumed, bulk, bulks
from bursar_enforcer.plan import Plan
from bursar_enforcer.stored import hold_value

MAX_OPERATIONS = 32
"""Operations of one script call, which nothing else in Redis interrupts: about a millisecond with a dozen counters
each."""
MAX_COUNTERS = 2_048
"""Counters its operations name, all together; more operations go into the next call."""

_ADMIT, _CLOSE, _FROM_TOPIC = b"ACT"
_ADMIT_RECORD = struct.Struct("<BH")
_CLOSE_RECORD = struct.Struct("<BHBI8d")
_BILLION = 10**9
_HOLD = redis_names.HOLD.encode()


class AdmitCall(msgspec.Struct, gc=False, frozen=True):
    plan: Plan
    request_id: bytes
    hold: bytes
    """As it is to be kept."""
    changes: bytes
    """Count of policy changes up to which the plan's versions are known to be right."""

    @property
    def script(self) -> str:
        return "admit"

    @property
    def counters(self) -> tuple[str, ...]:
        return self.plan.ids


class CloseCall(msgspec.Struct, gc=False, frozen=True):
    """Settle (recorded), release or expire a hold; ``consumed`` is the record of the usage topic it came from."""

    request_id: bytes
    rank: int
    amounts: Amounts
    counters: tuple[str, ...]
    ttl_s: int
    consumed: Consumed | None = None
    telling: bool = False
    """The reply is to tell the counters after it."""

    @property
    def script(self) -> str:
        return "close"


Decision: TypeAlias = AdmitCall | CloseCall
AnyCall: TypeAlias = Call | AdmitCall | CloseCall


class Group(NamedTuple):
    """Decisions that are made by one script call."""

    calls: Sequence[Decision]

    def packed(self, run_id: str, telling: bool) -> bytes:
        """The command. With ``telling`` each reply tells the counters after it."""
        return _pack(self.calls, run_id, telling)

    def alone(self) -> Iterator[Group]:
        """Each decision by a call of its own."""
        for call in self.calls:
            yield Group((call,))

    def replies(self, reply: list[Any]) -> list[Any]:
        """A list for each decision: what happened, then as the script's texts say."""
        changes, *replies = reply
        for at, (call, own) in enumerate(zip(self.calls, replies, strict=True)):
            if type(own) is int:
                replies[at] = [b"admitted", b"", own, changes, b""] if type(call) is AdmitCall else _CLOSED_NOW
        return replies


_CLOSED_NOW: list[Any] = [b"closed_now", b"", b"", b""]


class Unit(NamedTuple):
    """What one script call answers, and where those answers belong among all."""

    call: Call | Group
    places: Sequence[int]


def grouped(calls: Sequence[AnyCall]) -> list[Unit]:
    """Neighbouring decisions together. A renewal among them goes before them, so that it does not part them, unless one
    of them is about its own request: what is said of one request keeps its order. So does everything else."""
    units: list[Unit] = []
    decisions: list[Decision] = []
    places: list[int] = []
    counters = 0
    for place, call in enumerate(calls):
        if type(call) is Call:
            if decisions and (call.script != "renew" or any(d.request_id == call.request_id for d in decisions)):
                units.append(Unit(Group(decisions), places))
                decisions, places, counters = [], [], 0
            units.append(Unit(call, (place,)))
            continue
        named = len(call.counters)
        if decisions and (len(decisions) == MAX_OPERATIONS or counters + named > MAX_COUNTERS):
            units.append(Unit(Group(decisions), places))
            decisions, places, counters = [], [], 0
        decisions.append(call)  # type: ignore[arg-type]  # not a Call
        places.append(place)
        counters += named
    if decisions:
        units.append(Unit(Group(decisions), places))
    return units


def admit_call(plan: Plan, request_id: bytes, facts: bytes, changes: bytes, amounts: tuple[int, ...]) -> AdmitCall:
    return AdmitCall(plan, request_id, hold_value(plan.heads, plan.places(amounts), facts), changes)


def close_call(
    request_id: str,
    rank: int,
    amounts: Amounts,
    counters: Sequence[str],
    *,
    ttl_s: int,
    consumed: Consumed | None = None,
    telling: bool = False,
) -> CloseCall:
    return CloseCall(request_id.encode(), rank, amounts, tuple(counters), ttl_s, consumed, telling)


@lru_cache(maxsize=65_536)  # names come again with every request of an owner; about 200 bytes each
def _counter_key(counter: str) -> bytes:
    return bulk((redis_names.COUNTER + counter).encode())


@lru_cache(maxsize=8_192)  # the counters of one chain come again with each of its requests; about 2 kB each
def _names(counters: tuple[str, ...]) -> bytes:
    return bulk(" ".join(counters).encode())


@lru_cache(maxsize=256)
def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}H")


_COMMON_KEYS = bulks(redis_names.POLICY, redis_names.OPEN_HOLDS, redis_names.POSITIONS, redis_names.OUTBOXES)


def _pack(calls: Sequence[Decision], run_id: str, telling: bool) -> bytes:
    numbers: dict[str, int] = {}
    chains: dict[tuple[str, ...], int] = {}
    plans: dict[tuple[int, bytes], int] = {}
    chain_items: list[bytes] = []
    plan_items: list[bytes] = []
    hold_keys: list[bytes] = []
    records: list[bytes] = []
    own: list[bytes] = []
    own_count = 0
    closing_only = True

    def chain_of(counters: tuple[str, ...]) -> int:
        number = chains.get(counters)
        if number is None:
            number = chains[counters] = len(chains) + 1
            for counter in counters:
                if counter not in numbers:
                    numbers[counter] = len(numbers) + 1
            places = _numbers(len(counters)).pack(*[numbers[counter] for counter in counters])
            chain_items.append(bulk(places) + _names(counters))
        return number

    for call in calls:
        request_id = call.request_id
        hold_keys.append(b"$%d\r\n%b%b\r\n" % (len(_HOLD) + len(request_id), _HOLD, request_id))
        if type(call) is AdmitCall:
            plan, hold, changes = call.plan, call.hold, call.changes
            closing_only = False
            number = plans.get((id(plan), changes))
            if number is None:
                number = plans[id(plan), changes] = len(plans) + 1
                chain = chain_of(plan.ids)
                plan_items.append(bulk(_numbers(1).pack(chain)) + bulk(changes) + plan.packed)
            records.append(_ADMIT_RECORD.pack(_ADMIT, number))
            own.append(b"$%d\r\n%b\r\n" % (len(hold), hold))
            own_count += 1
        else:
            assert type(call) is CloseCall
            amounts, consumed = call.amounts, call.consumed
            telling = telling or call.telling
            kind = _CLOSE if consumed is None else _FROM_TOPIC
            chain, rank = chain_of(call.counters), 48 + call.rank
            n, t, tokens, r = amounts.n, amounts.t, amounts.T, amounts.r
            if max(n, t, tokens, r) < _BILLION:
                record = _CLOSE_RECORD.pack(kind, chain, rank, call.ttl_s, 0, n, 0, t, 0, tokens, 0, r)
            else:
                each = (divmod(n, _BILLION), divmod(t, _BILLION), divmod(tokens, _BILLION), divmod(r, _BILLION))
                record = _CLOSE_RECORD.pack(kind, chain, rank, call.ttl_s, *[half for pair in each for half in pair])
            records.append(record)
            if consumed is not None:
                own.append(bulks(*consumed))
                own_count += len(consumed)
    keys = 4 + len(numbers) + len(calls)
    arguments = 6 + 2 * len(chains) + 9 * len(plans) + own_count
    head = b"*%d\r\n" % (3 + keys + arguments)
    # Only closings run where memory is full: they give money back.
    sha = SCRIPTS["close" if closing_only else "decide"][0]
    return b"".join(
        (
            head,
            b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % sha.encode(),
            bulk(b"%d" % keys),
            _COMMON_KEYS,
            *map(_counter_key, numbers),
            *hold_keys,
            bulk(run_id.encode()),
            bulk(b"%d" % len(calls)),
            bulk(b"%d" % len(chains)),
            bulk(b"%d" % len(plans)),
            bulk(b"s" if telling else b""),
            bulk(b"".join(records)),
            *chain_items,
            *plan_items,
            *own,
        )
    )
