"""Room: what fits under concurrency, at each level and unit, in each window."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bursar_common.governance import ProviderConfig, RateLimit
from bursar_common.wire import (
    Admitted,
    Amounts,
    Balances,
    Features,
    HoldEntry,
    Refused,
    Release,
    Renew,
    Reserved,
    Settle,
    UsageCounts,
    encode,
)
from bursar_enforcer import redis_names
from bursar_enforcer.calls import CommandLine
from tests.integration.enforcer_world import MODEL, NOW_S, Inside, budget
from tests.integration.ledger_model import LedgerModel, ModelLimit


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    async with Inside(tmp_path) as world:
        yield world


def rate(id: str, **more: Any) -> RateLimit:
    return RateLimit(
        **{
            "id": id,
            "anchored_at_s": int(time.time()),  # no window ends while a test runs
            "token_limit_id": f"{id}t",
            "token_window": "1d",
            "request_limit_id": f"{id}r",
            "request_window": "1h",
            **more,
        }
    )


@pytest.mark.parametrize("level", ["provider_config", "virtual_key", "team", "customer"])
async def test_200_concurrent_requests_and_room_for_10(inside: Inside, level: str) -> None:
    await inside.govern_default()
    one = await inside.admit("probe")
    cost = one.bound_nusd
    await inside.batch(Release("probe"))
    await inside.govern("virtual_key", inside.key(budgets=(budget("probe", 1, enforcement="strict"),)))
    await inside.governed()
    probe = await inside.admit("probe2")
    assert isinstance(probe, Refused)
    strict_cost = probe.needed
    assert strict_cost >= cost
    ten = (budget("ten", 10 * strict_cost, enforcement="strict"),)
    roomy = (budget("roomy", 10**15),)
    await inside.govern("customer", inside.customer(budgets=ten if level == "customer" else roomy))
    await inside.govern("team", inside.team(budgets=ten if level == "team" else ()))
    config = ProviderConfig(id="pc", provider="anthropic", budgets=ten if level == "provider_config" else ())
    key = inside.key(budgets=ten if level == "virtual_key" else (), provider_configs=(config,))
    await inside.govern("virtual_key", key)
    await inside.governed()
    inside.traced.clear()

    async def session(number: int) -> list[Any]:
        """Twenty edges, each with batches of ten."""
        return await inside.batch(*(inside.admit_of(f"r{number}-{i}") for i in range(10)))

    replies = [reply for batch in await asyncio.gather(*map(session, range(20))) for reply in batch]
    admitted = [reply for reply in replies if isinstance(reply, Admitted)]
    assert len(admitted) == 10
    waiting = [reply for reply in replies if isinstance(reply, Reserved)]
    assert len(waiting) == 190
    assert {reply.refusal.owner_kind for reply in waiting} == {level}
    # The judge: the same requests through the model, in any order, admit as many and hold as much.
    model = LedgerModel()
    limit = ModelLimit("n", "strict", 10 * strict_cost)
    for number in range(200):
        model.admit(str(number), [("n:ten", limit, strict_cost, strict_cost)])
    assert len(model.holds) == 10
    seen = [counter for _, state in inside.traced for counter in state if counter.counter.startswith("n:ten:")]
    assert len(seen) == 200
    assert all(counter.spent + counter.held <= 10 * strict_cost for counter in seen)
    assert max(counter.held for counter in seen) == model.counter("n:ten").held
    # Settled below their bound, they leave room for as many more as fit.
    await inside.batch(
        *(
            Settle(f"r{n}-{i}", reply.hold, Amounts(n=strict_cost, t=1, T=1, r=1), "completed")
            for n in range(20)
            for i in range(10)
            for reply in [replies[10 * n + i]]
            if isinstance(reply, Admitted)
        )
    )
    refused = await inside.admit("later")
    assert (refused.reason, refused.owner_kind, refused.spent) == ("budget_spent", level, 10 * strict_cost)


async def test_a_definite_refusal_beats_a_reserved_one_and_the_narrowest_is_named(inside: Inside) -> None:
    await inside.govern_default()
    need = (await inside.admit("probe")).expected_nusd
    await inside.batch(Release("probe"))
    await inside.govern_default(budgets=(budget("b1", need + 1),), team={"budgets": (budget("b2", need * 100),)})
    assert isinstance(await inside.admit("r1"), Admitted)
    reserved = await inside.admit("r2")
    assert isinstance(reserved, Reserved)
    assert (reserved.refusal.reason, reserved.refusal.owner) == ("budget_reserved", "alice")
    await inside.govern_default(budgets=(budget("b1", need + 1),), team={"budgets": (budget("b3", need - 1),)})
    refused = await inside.admit("r2")
    assert (refused.reason, refused.owner, refused.needed) == ("budget_too_large", "platform", need)


async def test_observe_admits_and_says_what_it_would_have_refused(inside: Inside) -> None:
    await inside.govern_default(budgets=(budget("watch", 0, enforcement="observe"),))
    admitted = await inside.admit("r1")
    assert admitted.would_refuse.startswith("n:watch:")


async def test_max_overshoot_lets_one_request_alone_through(inside: Inside) -> None:
    await inside.govern_default()
    one = await inside.admit("probe", max_tokens=64_000)
    await inside.batch(Release("probe"))
    assert one.bound_nusd > 5 * one.expected_nusd
    await inside.govern_default(budgets=(budget("b", 10 * one.expected_nusd, max_overshoot_nusd=0),))
    assert isinstance(await inside.admit("r1", max_tokens=64_000), Admitted)
    second = await inside.admit("r2", max_tokens=64_000)
    assert isinstance(second, Reserved)


async def test_a_token_limit_admits_one_that_is_larger_than_itself_only_when_untouched(inside: Inside) -> None:
    await inside.govern_default(budgets=(), rate_limit=rate("rl", token_max=50))
    big = await inside.admit("r1")
    assert isinstance(big, Admitted)
    reserved = await inside.admit("r2")
    assert isinstance(reserved, Reserved)
    assert reserved.refusal.reason == "tokens_reserved"
    await inside.batch(Settle("r1", big.hold, Amounts(n=1, t=3, T=4, r=1), "completed"))
    limited = await inside.admit("r2")
    assert (limited.reason, limited.spent, limited.unit) == ("tokens_too_large", 3, "t")
    assert limited.needed > limited.limit - limited.spent
    assert 0 < limited.retry_after_s <= 86_400


async def test_windows_roll_by_redis_clock(inside: Inside) -> None:
    """The enforcer's own clock is a day ahead: Redis tells it, and the right window is used."""
    await inside.govern_default(budgets=(budget("b", 10**12, window="1h"),))
    inside.main.admission._redis_ahead_ms = 86_400_000
    before_s = time.time()
    admitted = await inside.admit("r1")
    assert isinstance(admitted, Admitted)
    start_s, end_s = (int(part) for part in admitted.hold[0].counter.split(":")[2:])
    assert start_s <= time.time()
    assert before_s < end_s
    assert abs(inside.main.admission._redis_ahead_ms) < 60_000


async def test_a_late_settlement_goes_to_the_window_that_admitted(inside: Inside) -> None:
    """And works without the hold: its counter is named by what the edge carries."""
    await inside.govern_default(budgets=(budget("b", 10**12),))
    admitted = await inside.admit("r1")
    late = tuple(
        type(entry)(entry.counter.replace("n:b:", "n:gone:"), entry.expected, entry.bound) for entry in admitted.hold
    )
    await inside.batch(Settle("lost", late, Amounts(n=7, r=1), "completed"))
    (balance,) = await inside.balances(late[0].counter)
    assert (balance.spent, balance.held) == (7, 0)


async def test_overshoot_of_a_window_is_reported(inside: Inside) -> None:
    await inside.govern_default(budgets=(budget("b", 10**12),), team={"budgets": ()}, customer={"budgets": ()})
    first = await inside.admit("r1")
    second = await inside.admit("r2")
    held = first.expected_nusd + second.expected_nusd
    counter = first.hold[0].counter
    for request, admitted in (("r1", first), ("r2", second)):
        await inside.batch(Settle(request, admitted.hold, Amounts(n=2 * admitted.expected_nusd, r=1), "completed"))
    (balance,) = await inside.balances(counter)
    assert balance.spent == 2 * held
    assert balance.overshoot_bound == held
    assert balance.open_holds == 0


async def test_repeated_admits_and_a_late_one_after_release(inside: Inside) -> None:
    await inside.govern_default()
    first = await inside.admit("r1")
    assert await inside.admit("r1") == first
    await inside.batch(Release("r1"))
    late = await inside.admit("r1")
    assert (late.reason, late.owners.virtual_key) == ("released", "alice")
    await inside.batch(Release("never-seen"))
    assert (await inside.admit("never-seen")).reason == "released"


async def test_the_hold_follows_the_stream(inside: Inside) -> None:
    await inside.govern_default(
        budgets=(budget("b", 10**12), budget("s", 10**13, enforcement="strict")), rate_limit=rate("rl", token_max=10**9)
    )
    admitted = await inside.admit("r1", max_tokens=64_000)

    def event(**usage: int) -> Any:
        known = {"request_id": "r1", "started_at_ms": NOW_S * 1000, "virtual_key_id": "key1", "outcome": "completed"}
        return encode({**known, "model": MODEL, "price_book_id": admitted.price_book_id, **usage})

    import msgspec

    raw = msgspec.Raw(event(input_tokens=10, output_tokens=5))
    (renewed,) = await inside.batch(Renew("r1", admitted.hold, raw, prompt_known=True))
    before = {entry.counter[:3]: entry for entry in admitted.hold}
    after = {entry.counter[:3]: entry for entry in renewed.hold}
    assert after["n:b"].bound < before["n:b"].bound
    # Strict: counts of the cache may still come, so all that was held stays held.
    assert after["n:s"].expected == after["n:s"].bound == before["n:s"].bound
    raw = msgspec.Raw(event(input_tokens=10, output_tokens=40_000))
    (more,) = await inside.batch(Renew("r1", renewed.hold, raw, prompt_known=True))
    grown = {entry.counter[:3]: entry for entry in more.hold}
    assert grown["n:b"].expected > after["n:b"].expected
    assert grown["t:r"].expected >= 40_010
    (balance,) = await inside.balances(grown["n:b"].counter)
    assert balance.held == grown["n:b"].expected
    # Another enforcer, which does not know the request's features, never lowers what is held.
    other = inside.enforcer()
    raw = msgspec.Raw(event(input_tokens=10, output_tokens=40_001))
    (again,) = await inside.ask(other, Renew("r1", more.hold, raw, prompt_known=True))
    assert all(new.bound >= old.bound for new, old in zip(again.hold, more.hold, strict=True))
    await inside.batch(Settle("r1", more.hold, Amounts(n=5, r=1), "completed"))
    (closed,) = await inside.batch(Renew("r1", more.hold, raw, prompt_known=True))
    assert closed.state == "recorded"


async def test_expectations_are_learned_from_settlements(inside: Inside) -> None:
    await inside.govern_default()
    first = await inside.admit("r0", max_tokens=64_000)
    for number in range(5):
        admitted = await inside.admit(f"l{number}", max_tokens=64_000)
        usage = UsageCounts(input_tokens=5, output_tokens=50)
        await inside.batch(
            Settle(
                f"l{number}",
                admitted.hold,
                Amounts(n=9, r=1),
                "completed",
                virtual_key_id="key1",
                model=MODEL,
                text_bytes=400,
                usage=usage,
            )
        )
    assert (await inside.admit("r9", max_tokens=64_000)).expected_nusd < first.expected_nusd / 2


async def test_malformed_operations_are_invalid_and_harm_nobody_else(inside: Inside) -> None:
    await inside.govern_default()
    admitted = await inside.admit("r1")
    bad = type(admitted.hold[0])("n:b d:1:2", 1, 1)
    replies = await inside.batch(
        Settle("of another enforcer", (bad,), Amounts(n=1), "completed"),
        Settle("r1", admitted.hold, Amounts(n=-1), "completed"),
        inside.admit_of(""),
        inside.admit_of("r2", features=Features(text_bytes=1)),
    )
    assert [type(reply).__name__ for reply in replies] == ["Invalid", "Invalid", "Invalid", "Admitted"]
    assert (await inside.batch(Balances(())))[0].balances == ()


async def test_who_admitted_a_request_knows_what_it_holds(inside: Inside) -> None:
    """A settlement that names something else frees and charges what the hold says all the same."""
    await inside.govern_default()
    admitted = await inside.admit("r1")
    other = (HoldEntry("n:other:1:99999999999", 1, 1),)
    (settled,) = await inside.batch(Settle("r1", other, Amounts(n=5, r=1), "completed"))
    assert {(balance.counter, balance.spent, balance.held) for balance in settled.balances} == {
        (entry.counter, 5, 0) for entry in admitted.hold
    }


async def test_a_chain_edited_again_and_again_is_unavailable_at_last(inside: Inside) -> None:
    """The retries are bounded: here every look meets a new version."""
    await inside.govern_default()
    await inside.admit("r1")
    ledger = inside.main.ledger
    plain = ledger.run

    async def edited_before(calls: Any) -> Any:
        bump: list[CommandLine] = [
            ("HINCRBY", redis_names.POLICY, "key1", 1),
            ("HINCRBY", redis_names.POLICY, "!changes", 1),
        ]
        await ledger.commands(bump)
        return await plain(calls)

    ledger.run = edited_before  # type: ignore[method-assign]
    reply = await inside.admit("r2")
    assert type(reply).__name__ == "Unavailable"
    ledger.run = plain  # type: ignore[method-assign]
    assert isinstance(await inside.admit("r2"), Admitted)


async def test_a_key_without_any_limit(inside: Inside) -> None:
    await inside.govern_default(budgets=(), team={"budgets": ()}, customer={"budgets": ()})
    admitted = await inside.admit("r1")
    assert admitted.hold == ()
    assert admitted.expected_nusd > 0
    assert await inside.admit("r1") == admitted
    (settled, released) = await inside.batch(Settle("r1", (), Amounts(n=5, r=1), "completed"), Release("r1"))
    assert (settled.balances, released.balances) == ((), ())
    assert (await inside.admit("r1")).reason == "released"
