"""Money keeps every digit on its way through the scripts, on every server."""

from __future__ import annotations

import pytest

from bursar_common.wire import Amounts, HoldEntry
from bursar_enforcer.calls import close_call, renew_call, state_call
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.redis_connection import parse_address
from bursar_enforcer.redis_names import COUNTER
from bursar_enforcer.stored import counter_of
from tests.harness import RedisServer
from tests.integration.enforcer_world import NOW_S


@pytest.mark.parametrize("amount", [10**5, 10**8, 10**12, 10**15, 2**52 - 1, 2**52, 2**53 + 1, 10**18])
async def test_round_and_large_amounts_keep_every_digit(redis_server: RedisServer, amount: int) -> None:
    """The scripts hand figures below 2^52 to the server as numbers: whatever server it is, it must write them out."""
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
