"""A batch of the edge's operations in, the answers out. Decides nothing itself: policy says who and what, the ledger's
scripts say whether there is room.

One round trip to Redis carries the whole batch. What a script found out of date (a version, a window) is read again
and asked again, MAX_ATTEMPTS times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import hiredis
import msgspec
import structlog

from bursar_common.clock import Clock
from bursar_common.wire import (
    Admit,
    Admitted,
    Authorize,
    Balances,
    GovernancePosition,
    Invalid,
    KeyHash,
    Ok,
    Position,
    Refused,
    Release,
    Renew,
    Reply,
    Unavailable,
)
from bursar_enforcer import redis_names
from bursar_enforcer.admitted import make_answer
from bursar_enforcer.answers import balance_of, refusal
from bursar_enforcer.authorization import authorized
from bursar_enforcer.bound import has_no_bound
from bursar_enforcer.calls import Call
from bursar_enforcer.chain import KeyPolicy, Way, refuse_key
from bursar_enforcer.closing import Closings, Started
from bursar_enforcer.decisions import AnyCall, CloseCall, admit_call
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.meter import Meter
from bursar_enforcer.operations import Operation, Settle
from bursar_enforcer.plan import Plan
from bursar_enforcer.policy import Policy, Restoring
from bursar_enforcer.redis_checks import UnsafeRedis
from bursar_enforcer.redis_connection import RedisUnavailable
from bursar_enforcer.running import Running, admit_facts, first_figures, way_facts
from bursar_enforcer.stored import read_hold

log = structlog.get_logger()

MAX_ATTEMPTS = 4
"""Times one operation is put to the script within a batch; a chain edited more often than that in a millisecond is
answered ``unavailable``, and the edge asks again."""
MAX_ID_BYTES = 64
MAX_KEY_HASHES = 3
READ_AT_ONCE = 1_000
"""Counters read with one command: well below a millisecond for Redis."""


Answered: TypeAlias = Reply | msgspec.Raw
"""A reply, or one that is encoded already."""


class Who(msgspec.Struct, gc=False, frozen=True):
    header: str
    policy: KeyPolicy


class Asked(msgspec.Struct, gc=False, frozen=True):
    """One admission on its way to the script."""

    place: int
    admit: Admit
    who: Who
    way: Way
    plan: Plan
    amounts: tuple[int, ...]
    running: Running
    bound_nusd: int


class Round:
    """Operations on their way to the script in one round trip, and the batch's replies so far."""

    __slots__ = ("asked", "calls", "doubtful", "monotonic_s", "now_s", "replies")

    def __init__(self, replies: list[Answered | None], now_s: int, monotonic_s: float) -> None:
        self.replies = replies
        self.now_s = now_s
        """Redis' time, as far as known."""
        self.monotonic_s = monotonic_s
        self.calls: list[AnyCall] = []
        self.asked: list[Asked | int] = []
        """Of each call what asked for it: an admission, or the place of another operation."""
        self.doubtful: list[tuple[int, Refused, KeyPolicy]] = []
        """Refusals decided from kept policy, which may be out of date."""


class Admission:
    """``closed_seen`` is called when a script found admission closed."""

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        closings: Closings,
        clock: Clock,
        *,
        hold_ttl_s: int,
        simulated: bool = False,
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._closings = closings
        self._clock = clock
        self._ttl_s = hold_ttl_s
        self._simulated = simulated
        self._redis_ahead_ms = 0
        """Redis' clock minus ours, as the last stale window showed."""
        self.meter = Meter()
        self.closed_seen: Callable[[], None] = lambda: None

    def now_s(self) -> int:
        """Redis' time, as far as known."""
        return (self._clock.now_ms() + self._redis_ahead_ms) // 1000

    async def decide(self, operations: Sequence[Operation]) -> list[Answered]:
        """Never raises for what one operation or Redis does: each gets its answer."""
        began_s = self._clock.monotonic_s()
        answers = await self._answers(operations)
        self.meter.decided(operations, answers, self._clock.monotonic_s() - began_s)
        return answers

    async def _answers(self, operations: Sequence[Operation]) -> list[Answered]:
        replies: list[Answered | None] = [None] * len(operations)
        try:
            await self._decide(operations, replies)
        except (RedisUnavailable, UnsafeRedis) as error:
            why = str(error)
            return [Unavailable(why) if reply is None else reply for reply in replies]
        return [Unavailable("the policy keeps changing") if reply is None else reply for reply in replies]

    async def _decide(self, operations: Sequence[Operation], replies: list[Answered | None]) -> None:
        todo: Sequence[int] = range(len(operations))
        for _ in range(MAX_ATTEMPTS):
            round_ = Round(replies, self.now_s(), self._clock.monotonic_s())
            for place in todo:
                operation = operations[place]
                try:
                    # Nothing waits in the usual case: a kept policy, a settlement.
                    if type(operation) is Admit:
                        who = self._known(operation.key_hashes) or await self._look_up(operation.key_hashes)
                        self._prepare_admit(round_, place, operation, who)
                    elif type(operation) is Settle or type(operation) is Release:
                        self._take(round_, place, self._closings.close(operation))
                    elif type(operation) is Renew:
                        self._take(round_, place, await self._closings.renew(operation))
                    elif type(operation) is Authorize:
                        await self._authorize(round_, place, operation)
                    elif type(operation) is Balances:
                        replies[place] = await self._balances(operation)
                    elif type(operation) is GovernancePosition:
                        replies[place] = await self._position()
                except (RedisUnavailable, UnsafeRedis):
                    raise
                except Restoring as error:
                    self.closed_seen()
                    replies[place] = Unavailable(str(error))
                except Exception:
                    log.exception(
                        "operation_failed",
                        operation=type(operation).__name__,
                        request_id=getattr(operation, "request_id", ""),
                    )
                    replies[place] = Unavailable("the operation failed, see the enforcer's log")
            again = await self._confirm(round_) if round_.doubtful else []
            if round_.calls:
                results = await self._ledger.run(round_.calls)
                for context, call, result in zip(round_.asked, round_.calls, results, strict=True):
                    if type(context) is Asked:
                        if self._admit_reply(context, result, replies):
                            again.append(context.place)
                    else:
                        assert isinstance(context, int)
                        replies[context] = self._closings.reply(operations[context], call.counters, result)
            if not again:
                return
            todo = again

    @staticmethod
    def _take(round_: Round, place: int, prepared: Call | CloseCall | Reply) -> None:
        if type(prepared) is CloseCall or type(prepared) is Call:
            round_.calls.append(prepared)
            round_.asked.append(place)
        else:
            round_.replies[place] = prepared  # type: ignore[assignment]  # not a Call

    # ---- who asks

    def _known(self, presented: Sequence[KeyHash]) -> Who | Refused | None:
        """As far as kept policy tells; None: Redis must be asked."""
        known: Who | None = None
        if len(presented) > MAX_KEY_HASHES:
            return Refused("conflicting_keys")
        for hash_ in presented:
            policy = self._policy.of_hash(hash_.sha256)
            if policy is None:
                return None
            if policy is not False:
                if known is not None and known.policy is not policy:
                    return None
                known = known or Who(hash_.header, policy)
        return known

    async def _look_up(self, presented: Sequence[KeyHash]) -> Who | Refused:
        """As Redis knows it now."""
        found = await self._policy.find_keys(presented) if presented else []
        if not found:
            default = await self._default_key()
            if default is not None:
                return Who("", default)
            return Refused("unknown_key" if presented else "no_key")
        if len({policy.key.id for _, policy in found}) > 1:
            return Refused("conflicting_keys")
        return Who(found[0][0].header, found[0][1])

    async def _default_key(self) -> KeyPolicy | None:
        """Whom requests without a key of ours are booked on: those without a credential, and those with credentials
        of somebody else (a client's own login). None while keys are enforced."""
        config = await self._policy.config()
        key_id = config.default_virtual_key_id
        if config.enforce_auth_on_inference or not key_id:
            return None
        return self._policy.of_key(key_id) or await self._policy.load(key_id)

    # ---- admit

    def _prepare_admit(self, round_: Round, place: int, admit: Admit, who: Who | Refused) -> None:
        request_id = admit.request_id.encode()
        if not 0 < len(request_id) <= MAX_ID_BYTES or admit.max_tokens < 0:
            round_.replies[place] = Invalid("request_id is 1 to 64 bytes and max_tokens not negative")
            return
        if isinstance(who, Refused):
            round_.replies[place] = who
            return
        now_s = round_.now_s
        policy = who.policy
        way = refuse_key(policy, now_s) or policy.way(admit.provider, admit.model)
        if isinstance(way, Refused):
            round_.doubtful.append((place, way, policy))
            return
        if way.strict is not None:
            feature = has_no_bound(admit.features)
            if feature:
                refused = Refused(
                    "no_bound",
                    owner_kind=way.strict.owner_kind,
                    owner=way.strict.owner,
                    budget_id=way.strict.limit_id,
                    subject=feature,
                    owners=way.owners,
                )
                round_.doubtful.append((place, refused, policy))
                return
        running, amounts, bound_nusd = first_figures(admit, way, self._closings.learner, round_.monotonic_s)
        if not way.facts:
            way.facts = way_facts(way, self._simulated)
        facts = admit_facts(way.facts, admit, amounts[0], bound_nusd)
        plan = way.plan_at(now_s)
        round_.calls.append(admit_call(plan, request_id, facts, policy.changes, amounts))
        round_.asked.append(Asked(place, admit, who, way, plan, amounts, running, bound_nusd))

    def _admit_reply(self, asked: Asked, result: Any, replies: list[Answered | None]) -> bool:
        """Translate the script's answer; True: ask again with fresh policy or windows."""
        place, admit, who, way, plan = asked.place, asked.admit, asked.who, asked.way, asked.plan
        kind = result[0] if isinstance(result, list) else b""
        if kind == b"admitted" or kind == b"refused":
            who.policy.changes = result[3]
        if kind == b"admitted":
            self._closings.started(admit.request_id, Started(asked.running, plan.ids))
            answer = way.answer
            if answer is None or answer.plan is not plan:
                answer = way.answer = make_answer(way, plan, self._ttl_s)
            would = result[2]
            replies[place] = answer.fill(
                asked.amounts, who.header, asked.bound_nusd, plan.counters[would - 1].id if would else ""
            )
        elif kind == b"again":
            hold = read_hold(result[1])
            self._closings.started(admit.request_id, Started(asked.running, tuple([entry.counter for entry in hold])))
            would = result[2]
            replies[place] = Admitted(
                hold=hold,
                header=who.header,
                price_book_id=way.book.id,
                route=way.route,
                owners=way.owners,
                ttl_s=self._ttl_s,
                expected_nusd=asked.amounts[0],
                bound_nusd=asked.bound_nusd,
                would_refuse=plan.counters[would - 1].id if would else "",
                content=way.content,
            )
        elif kind == b"refused":
            replies[place] = refusal(plan, result, asked.amounts, way.owners, self.now_s())
        elif kind == b"stale":
            self._policy.forget(who.policy.key.id)
            return True
        elif kind == b"window":
            self._redis_ahead_ms = int(result[1]) * 1000 - self._clock.now_ms()
            way.plan = None
            return True
        elif kind == b"gone":
            replies[place] = Refused("released", owners=way.owners)
        elif kind == b"closed":
            self.closed_seen()
            replies[place] = Unavailable("the ledger is being restored")
        elif isinstance(result, hiredis.ReplyError):
            replies[place] = Unavailable(f"Redis answered: {result}")
        else:
            log.error("counter_full", counter=result[1].decode(), request_id=admit.request_id)
            replies[place] = Unavailable("a counter would pass the largest amount")
        return False

    async def _confirm(self, round_: Round) -> list[int]:
        """A refusal decided from kept policy stands only if no version moved; else those places ask again."""
        current = await self._policy.current(policy for _, _, policy in round_.doubtful)
        again = []
        for place, refused, policy in round_.doubtful:
            if policy.key.id in current:
                round_.replies[place] = refused
            else:
                self._policy.forget(policy.key.id)
                again.append(place)
        return again

    # ---- the rest

    async def _authorize(self, round_: Round, place: int, operation: Authorize) -> None:
        who = self._known(operation.key_hashes) or await self._look_up(operation.key_hashes)
        if isinstance(who, Refused):
            round_.replies[place] = who
            return
        if not await self._policy.current((who.policy,)):
            self._policy.forget(who.policy.key.id)
            who = await self._look_up(operation.key_hashes)
            if isinstance(who, Refused):
                round_.replies[place] = who
                return
        round_.replies[place] = authorized(operation, who.header, who.policy, round_.now_s)

    async def _balances(self, operation: Balances) -> Reply:
        values: list[Any] = []
        for at in range(0, len(operation.counters), READ_AT_ONCE):
            names = [redis_names.COUNTER + counter for counter in operation.counters[at : at + READ_AT_ONCE]]
            values += (await self._ledger.commands([("MGET", *names)]))[0]
        return Ok(balances=tuple(map(balance_of, operation.counters, values)))

    async def _position(self) -> Reply:
        position = (await self._ledger.commands([("HGET", redis_names.POSITIONS, redis_names.GOVERNANCE)]))[0]
        return Position(int(position or 0))
