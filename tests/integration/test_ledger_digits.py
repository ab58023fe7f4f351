"""Money keeps every digit on its way through the scripts, on every server."""

from __future__ import annotations

import time

import msgspec
import pytest

from bursar_common.wire import Amounts, HoldEntry
from bursar_enforcer.answers import balances_of
from bursar_enforcer.calls import renew_call, state_call
from bursar_enforcer.decisions import admit_call, close_call
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.plan import Limit, make_plan
from bursar_enforcer.redis_connection import parse_address
from bursar_enforcer.redis_names import COUNTER, ENDS
from bursar_enforcer.stored import counter_of, read_hold
from tests.harness import RedisServer
from tests.integration.enforcer_world import NOW_S


@pytest.mark.parametrize("amount", [10**5, 10**8, 10**12, 10**15, 2**52 - 1, 2**52, 2**53 + 1, 10**18])
async def test_round_and_large_amounts_keep_every_digit(redis_server: RedisServer, amount: int) -> None:
    """Below 2^52 an amount is kept as one double, from there on as two."""
    ledger = Ledger(parse_address(redis_server.url))
    await ledger.connect()
    counter = f"n:digits:{NOW_S}:{NOW_S + 10**9}"
    try:
        await ledger.run([state_call("open", ledger.run_id)])
        for number in range(2):
            entry = HoldEntry(counter, amount, amount)
            await ledger.run([renew_call(f"request-{number}", [entry], b"{}")])
        (value,) = await ledger.commands([("GET", COUNTER + counter)])
        assert counter_of(value) == (0, 2 * amount, 2 * amount, 2, None)
        amounts = Amounts(n=amount)
        for number in range(2):
            await ledger.run([close_call(f"request-{number}", 2, amounts, [counter], ttl_s=60)])
        (value,) = await ledger.commands([("GET", COUNTER + counter)])
        assert counter_of(value) == (2 * amount, 0, 0, 0, None)
    finally:
        ledger.close()


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 2_500, 5_000])
async def test_chains_of_any_length(redis_server: RedisServer, count: int) -> None:
    """More counters than one command takes are read and written with several, in the same script."""
    ledger = Ledger(parse_address(redis_server.url))
    await ledger.connect()
    limits = [
        Limit("n", f"chain{i}", "team", "x", 10**18 if i % 2 else 10**9, "1Y", False, NOW_S, "", "s")
        for i in range(count)
    ]
    plan = make_plan(limits, {}, int(time.time()))
    amounts = (10**6, 2 * 10**6, 2 * 10**6, 1, 1, 1)
    try:
        await ledger.run([state_call("open", ledger.run_id)])
        (admitted,) = await ledger.run([admit_call(plan, b"r", b"{}", b"0", amounts)])
        assert admitted[0] == b"admitted", admitted
        hold = tuple(HoldEntry(c.id, amounts[c.expected_at], amounts[c.bound_at], c.strict) for c in plan.counters)
        (renewed,) = await ledger.run([renew_call("r", hold, b"{}")])
        assert read_hold(renewed[1]) == hold
        large = [msgspec.structs.replace(entry, bound=2**60) for entry in hold]
        await ledger.run([renew_call("r", large, b"{}")])
        (closed,) = await ledger.run([close_call("r", 2, Amounts(n=7), plan.ids, ttl_s=60, telling=True)])
        assert {balance.spent for balance in balances_of(closed, plan.ids)} == ({7} if count else set())
        values = await ledger.commands([("GET", COUNTER + name) for name in plan.ids])
        assert {counter_of(value) for value in values} <= {(7, 0, 0, 0, 10**6)}
        (ends,) = await ledger.commands([("ZCARD", ENDS)])
        assert ends == count
    finally:
        ledger.close()


async def test_answers_come_in_the_order_asked(redis_server: RedisServer) -> None:
    """Also where renewals are asked before the decisions they stand among."""
    ledger = Ledger(parse_address(redis_server.url))
    await ledger.connect()
    plan = make_plan([Limit("n", "order", "team", "x", 10**9, "1Y", False, NOW_S, "", "s")], {}, int(time.time()))
    (counter,) = plan.ids
    amounts = (100, 200, 200, 1, 1, 1)

    def entries(expected: int) -> list[HoldEntry]:
        return [HoldEntry(counter, expected, expected)]

    try:
        await ledger.run([state_call("open", ledger.run_id)])
        await ledger.run([admit_call(plan, b"r0", b"{}", b"0", amounts)])
        replies = await ledger.run(
            [
                admit_call(plan, b"r1", b"{}", b"0", amounts),
                renew_call("r0", entries(70), b"{}"),
                admit_call(plan, b"r2", b"{}", b"0", amounts),
                close_call("r1", 2, Amounts(n=5), plan.ids, ttl_s=60),
                renew_call("r1", entries(70), b"{}"),
                close_call("r0", 0, Amounts(), plan.ids, ttl_s=60),
                admit_call(plan, b"r0", b"{}", b"0", amounts),
            ]
        )
        kinds = [reply[0].decode() for reply in replies]
        assert kinds == ["admitted", "renewed", "admitted", "closed_now", "gone", "closed_now", "gone"]
        (value,) = await ledger.commands([("GET", COUNTER + counter)])
        assert counter_of(value)[:4] == (5, 100, 200, 1)
    finally:
        ledger.close()
