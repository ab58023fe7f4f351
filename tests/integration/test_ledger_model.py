"""The scripts against the model: any order of admissions, renewals, closings and redeliveries, on both servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from bursar_common.wire import Amounts, HoldEntry
from bursar_enforcer import redis_names
from bursar_enforcer.answers import balances_of
from bursar_enforcer.calls import CONSUMED_TTL_S, Consumed, Settled, consume_call, renew_call, state_call
from bursar_enforcer.decisions import AnyCall, admit_call, close_call
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.plan import Limit, Plan, make_plan
from bursar_enforcer.redis_connection import parse_address
from bursar_enforcer.stored import counter_of, counters_of
from tests.harness import RedisServer
from tests.integration.ledger_model import LedgerModel, ModelLimit

T = TypeVar("T")
_MODES = {"standard": "s", "strict": "S", "observe": "o", "requests": "r"}
SMALL, MILLIONS, BILLIONS = 1_000, 8_000_000_000_000_000, 8_000_000_000_000_000_000


def plan_of(limits: list[ModelLimit], name: str) -> Plan:
    now_s = int(time.time())
    return make_plan(
        [
            Limit(
                unit=limit.unit,  # type: ignore[arg-type]
                limit_id=f"{name}{i}",
                owner_kind="team",
                owner="x",
                limit=limit.limit,
                window="1Y",
                calendar_aligned=False,
                anchored_at_s=now_s - 1000,
                timezone="",
                mode=_MODES.get(limit.mode, limit.unit),
                ceiling=limit.limit
                if limit.mode == "strict"
                else None
                if limit.max_overshoot is None
                else limit.limit + limit.max_overshoot,
            )
            for i, limit in enumerate(limits)
        ],
        {},
        now_s,
    )


CHAINS: dict[str, list[ModelLimit]] = {
    "small": [
        ModelLimit("n", "standard", SMALL),
        ModelLimit("n", "strict", 3 * SMALL),
        ModelLimit("t", "tokens", 900),
        ModelLimit("r", "requests", 6),
    ],
    "overshoot": [
        ModelLimit("n", "observe", SMALL // 2),
        ModelLimit("n", "standard", SMALL, max_overshoot=500),
        ModelLimit("T", "tokens", 2_000),
    ],
    "millions": [ModelLimit("n", "strict", MILLIONS), ModelLimit("n", "standard", MILLIONS + 1)],
    "billions": [
        ModelLimit("n", "standard", BILLIONS, max_overshoot=3),
        ModelLimit("n", "strict", BILLIONS + 1),
        ModelLimit("n", "observe", BILLIONS),
    ],
}
SCALE = {"small": 1, "overshoot": 1, "millions": MILLIONS // SMALL, "billions": BILLIONS // SMALL}
amount = st.integers(0, 700)
odd = st.integers(0, 9)


class LedgerMachine(RuleBasedStateMachine):
    """Bundles hold (request id, chain name)."""

    redis_url = ""
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.model = LedgerModel()
        self.ledger = Ledger(parse_address(self.redis_url), on_reply=lambda script, counters: None)
        self.terse = Ledger(parse_address(self.redis_url))
        self.plans = {name: plan_of(limits, name) for name, limits in CHAINS.items()}
        self.offset = 0
        self.sequence = 0
        self.noted = 0
        self.count = 0

    def teardown(self) -> None:
        self.ledger.close()
        self.terse.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def script(self, call: Any) -> list[Any]:
        (reply,) = self.run(self.ledger.run([call]))
        assert isinstance(reply, list), reply
        return reply

    @initialize()
    def empty(self) -> None:
        self.run(self.ledger.commands([("FLUSHALL",)]))
        assert self.script(state_call("open", self.ledger.run_id))[0] == b"done"

    # ---- amounts

    def figures(self, chain: str, expected: int, more: int, odd_nusd: int) -> tuple[int, int, int, int, int, int]:
        n = expected * SCALE[chain] + odd_nusd
        bound = n + more * SCALE[chain]
        strict = bound + odd_nusd
        return n, bound, strict, expected, expected + more, 1

    def entries(self, chain: str, figures: tuple[int, ...]) -> list[tuple[str, ModelLimit, int, int]]:
        out = []
        for counter, limit in zip(self.plans[chain].counters, CHAINS[chain], strict=True):
            if limit.mode == "strict":
                pair = figures[2], figures[2]
            elif limit.unit == "n":
                pair = figures[0], figures[1]
            else:
                pair = (figures[{"t": 3, "T": 4, "r": 5}[limit.unit]],) * 2
            out.append((counter.id, limit, *pair))
        return out

    def charge(self, chain: str, spent: int, odd_nusd: int) -> tuple[Amounts, dict[str, int]]:
        n = spent * SCALE[chain] + odd_nusd
        # Several holds on one huge limit may charge more than 64 bits hold; that is refused whole, see its own test.
        n = min(n, 600_000_000_000_000_000)
        return Amounts(n=n, t=spent, T=spent + 1, r=1), {"n": n, "t": spent, "T": spent + 1, "r": 1}

    # ---- rules

    def _admit(self, request: str, chain: str, figures: tuple[int, int, int, int, int, int]) -> None:
        plan = self.plans[chain]
        reply = self.script(admit_call(plan, request.encode(), b"{}", b"0", figures))
        entries = self.entries(chain, figures)
        if reply[0] == b"overflow":
            # It would be admitted, but 64 bits cannot hold it: nothing is written, which the invariant sees to.
            assert max(self.model.counter(c).exposed + bound for c, _, _, bound in entries) > 9_199_000_000_000_000_000
            return
        kind, code, index = self.model.admit(request, entries)
        if kind == "gone":
            assert reply == [b"gone", code.encode()]
            return
        assert reply[0].decode() == kind, (reply, kind, code)
        if kind == "refused":
            assert (reply[1].decode(), reply[2]) == (code, index)
        elif kind == "admitted":
            assert reply[2] == index
        for (name, *_), state in zip(entries, counters_of(reply[4], len(entries)), strict=True):
            assert state[:4] == self.model.counter(name).figures(), reply

    @rule(
        target=requests,
        chain=st.sampled_from(sorted(CHAINS)),
        expected=amount,
        more=amount,
        odd_nusd=odd,
    )
    def admit(self, chain: str, expected: int, more: int, odd_nusd: int) -> Any:
        self.count += 1
        request = f"r{self.count}"
        self._admit(request, chain, self.figures(chain, expected, more, odd_nusd))
        return request, chain

    @rule(request=requests, expected=amount, more=amount)
    def admit_again(self, request: tuple[str, str], expected: int, more: int) -> None:
        self._admit(request[0], request[1], self.figures(request[1], expected, more, 0))

    @rule(request=requests, expected=amount, more=amount, odd_nusd=odd)
    def renew(self, request: tuple[str, str], expected: int, more: int, odd_nusd: int) -> None:
        """Also of holds that were refused or lost: a renewal re-creates them."""
        name, chain = request
        scale = min(SCALE[chain], 600_000_000_000_000)
        n = expected * scale + odd_nusd
        figures = (n, n + more * scale, n + more * scale, expected, expected + more, 1)
        entries = self.entries(chain, figures)
        reply = self.script(renew_call(name, [HoldEntry(c, e, b) for c, _, e, b in entries], b"{}"))
        if reply[0] == b"overflow":
            return  # nothing written: the invariant below sees to it
        assert reply[0].decode() == self.model.renew(name, {c: (e, b) for c, _, e, b in entries})

    @rule(request=requests, spent=amount, odd_nusd=odd)
    def settle(self, request: tuple[str, str], spent: int, odd_nusd: int) -> None:
        self._close(request, 2, *self.charge(request[1], spent, odd_nusd))

    @rule(request=requests)
    def release(self, request: tuple[str, str]) -> None:
        self._close(request, 0, Amounts(), {"n": 0, "t": 0, "T": 0, "r": 0})

    def _close(
        self,
        request: tuple[str, str],
        rank: int,
        amounts: Amounts,
        charge: dict[str, int],
        consumed: Consumed | None = None,
    ) -> None:
        name, chain = request
        counters = tuple(counter.id for counter in self.plans[chain].counters)
        reply = self.script(close_call(name, rank, amounts, counters, ttl_s=1000, consumed=consumed))
        if reply[0] == b"overflow":
            return
        assert reply[0].decode() == self.model.close(name, rank, charge, counters), reply
        for balance in balances_of(reply, counters) if reply[0] == b"closed_now" else ():
            assert msgspec.structs.astuple(balance)[1:5] == self.model.counter(balance.counter).figures()

    @rule(
        request=requests,
        rank=st.sampled_from([1, 2]),
        spent=amount,
        odd_nusd=odd,
        redelivered=st.booleans(),
        repeated_by_relay=st.booleans(),
    )
    def from_the_topic(
        self,
        request: tuple[str, str],
        rank: int,
        spent: int,
        odd_nusd: int,
        redelivered: bool,
        repeated_by_relay: bool,
    ) -> None:
        """A recorded or expired event; perhaps read twice, perhaps appended twice."""
        amounts, charge = self.charge(request[1], spent, odd_nusd)
        self.sequence += 1
        consumed = self._next()
        self._close(request, rank, amounts, charge, consumed)
        name, chain = request
        counters = [counter.id for counter in self.plans[chain].counters]
        if redelivered:
            reply = self.script(close_call(name, 2, amounts, counters, ttl_s=1000, consumed=consumed))
            assert reply[0] == b"moved"
        if repeated_by_relay:
            again = self._next()
            reply = self.script(close_call(name, 2, amounts, counters, ttl_s=1000, consumed=again))
            assert reply == [b"seen"]

    @rule(
        batch=st.lists(requests, min_size=1, max_size=5),
        rank=st.sampled_from([1, 2]),
        through_outbox=st.booleans(),
        repeated_by_relay=st.booleans(),
    )
    def pass_over(self, batch: list[tuple[str, str]], rank: int, through_outbox: bool, repeated_by_relay: bool) -> None:
        """Records of the topic; those of requests that are closed are passed over, up to the first that is not."""
        field = "outbox:0" if through_outbox else ""
        repeated_by_relay = repeated_by_relay and self.noted > 0
        records = [Settled(self.offset + 1)]  # without effect
        for at, (name, _) in enumerate(batch):
            sequence = self.sequence + (0 if repeated_by_relay else at + 1)
            records.append(Settled(self.offset + 2 + at, name, rank, field, sequence if field else ""))
        seen = through_outbox and repeated_by_relay
        closed = [seen or (name in self.model.closed and self.model.closed[name].rank >= rank) for name, _ in batch]
        passed = closed.index(False) if False in closed else len(closed)
        expected = str(self.offset) if self.offset else ""
        assert self.script(consume_call("usage:0", expected, records)) == [b"consumed", 1 + passed]
        assert self.script(consume_call("usage:0", "another", records))[0] == b"moved"
        self.offset += 1 + passed
        if through_outbox and passed and not repeated_by_relay:
            self.noted = self.sequence = self.sequence + passed
        (position, noted) = self.run(
            self.ledger.commands(
                [("HGET", redis_names.POSITIONS, "usage:0"), ("HGET", redis_names.OUTBOXES, "outbox:0")]
            )
        )
        assert int(position) == self.offset
        if self.noted:
            assert int(noted) == self.noted
        for name, _ in batch[:passed]:
            if not seen and self.model.closed[name].rank == 2:
                (ttl_s,) = self.run(self.ledger.commands([("TTL", redis_names.HOLD + name)]))
                assert ttl_s <= CONSUMED_TTL_S

    def _next(self) -> Consumed:
        expected = str(self.offset) if self.offset else ""
        self.offset += 1
        self.noted = self.sequence
        return Consumed("usage:0", expected, self.offset, "outbox:0", self.sequence)

    @rule(
        target=requests,
        steps=st.lists(
            st.tuples(
                st.sampled_from(["admit", "settle", "release", "expire", "read"]),
                st.sampled_from(sorted(CHAINS)),
                st.integers(0, 4),
                amount,
                odd,
            ),
            min_size=2,
            max_size=12,
        ),
        known=st.lists(requests, max_size=3),
    )
    def together(self, steps: list[tuple[str, str, int, int, int]], known: list[tuple[str, str]]) -> Any:
        """Many operations by one script call, also several on one request: each sees what those before it did."""
        self.count += 1
        news = [(f"r{self.count}-{i}", "") for i in range(5)]
        calls: list[AnyCall] = []
        expected: list[tuple[str, ...]] = []
        chain_of = dict(known)
        admitted = ("", "")
        for what, chain, which, spent, odd_nusd in steps:
            name = known[which][0] if which < len(known) else news[which][0]
            chain = chain_of.setdefault(name, chain)
            plan = self.plans[chain]
            if what == "admit":
                figures = self.figures(chain, spent, spent // 2, odd_nusd)
                entries = self.entries(chain, figures)
                if max(self.model.counter(c).exposed + b + 1 for c, _, _, b in entries) > 9_000_000_000_000_000_000:
                    continue  # what is too large for 64 bits is refused whole, see its own test
                calls.append(admit_call(plan, name.encode(), b"{}", b"0", figures))
                kind, code, index = self.model.admit(name, entries)
                expected.append((kind, code, str(index)))
                admitted = name, chain
                continue
            amounts, charge = self.charge(chain, spent, odd_nusd)
            if max(self.model.counter(c).spent + charge["n"] for c in plan.ids) > 9_000_000_000_000_000_000:
                continue
            rank = {"settle": 2, "release": 0, "expire": 1, "read": 2}[what]
            if what == "release":
                amounts, charge = Amounts(), {"n": 0, "t": 0, "T": 0, "r": 0}
            if what == "read":
                self.sequence += 1
            consumed = self._next() if what == "read" else None
            calls.append(close_call(name, rank, amounts, plan.ids, ttl_s=1000, consumed=consumed))
            expected.append((self.model.close(name, rank, charge, plan.ids),))
        replies = self.run(self.terse.run(calls))
        for reply, wanted in zip(replies, expected, strict=True):
            assert isinstance(reply, list), (reply, wanted)
            assert reply[0].decode() == wanted[0], (reply, wanted)
            if reply[0] == b"refused" or reply[0] == b"admitted":
                assert (reply[1].decode(), str(reply[2])) == wanted[1:]
            elif reply[0] == b"gone":
                assert reply[1].decode() == wanted[1]
        return admitted if admitted[0] else (news[0][0], chain_of.get(news[0][0], "small"))

    @rule(request=consumes(requests))
    def forget(self, request: tuple[str, str]) -> None:
        """Nothing more is heard of this request."""

    # ---- the judge

    @invariant()
    def equal(self) -> None:
        names = list(self.model.counters)
        rows = self.run(self.ledger.commands([("GET", redis_names.COUNTER + c) for c in names]))
        for name, row in zip(names, rows, strict=True):
            assert counter_of(row)[:4] == self.model.counters[name].figures(), name
        open_holds = set(self.run(self.ledger.commands([("ZRANGE", redis_names.OPEN_HOLDS, 0, -1)]))[0])
        assert {request.decode() for request in open_holds} == set(self.model.holds)


@pytest.fixture(params=["valkey", pytest.param("redis7", marks=pytest.mark.redis7)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, request.param, unix=True) as redis:
        yield redis


def machine_for(url: str) -> Callable[[], LedgerMachine]:
    class Machine(LedgerMachine):
        redis_url = url

    return Machine


@pytest.mark.timeout(300)
def test_any_order_of_events_leaves_what_the_model_says(server: RedisServer) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine_for(server.url),
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            # Shrinking on a real server takes minutes; the steps that led to a failure are printed as they are.
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
