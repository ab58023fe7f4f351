"""What Redis forgets, what edges never said, and what is made good from the log."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar_common.eventlog.port import LogUnavailable, NewRecord
from bursar_common.events import USAGE_TOPIC, decode_envelope, decode_usage
from bursar_common.wire import Admitted, Amounts, HoldEntry, KeyHash, Ok, Refused, Release, Renew, Settle, Unavailable
from bursar_enforcer import ledger as ledger_module
from bursar_enforcer import redis_connection, redis_names
from bursar_enforcer.rebuild import RebuildRunning, rebuild
from bursar_enforcer.redis_checks import UnsafeRedis, judge_server
from bursar_enforcer.redis_connection import RedisUnavailable
from bursar_enforcer.stored import counter_of
from tests.harness import RedisServer, eventually
from tests.integration.enforcer_world import WAIT_S, Inside, budget, usage_event

SHORT_TTL_S = 1


@pytest.fixture(params=["valkey", pytest.param("redis7", marks=pytest.mark.redis7)])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> RedisServer:
    return RedisServer(tmp_path / "redis", request.param, unix=True)


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    """Holds outlive the test; admission stays closed for 1 s after a loss."""
    async with Inside(tmp_path, closed_s=1) as world:
        await world.govern_default()
        yield world


@pytest.fixture
async def short(tmp_path: Path) -> AsyncIterator[Inside]:
    """Holds expire after a second."""
    async with Inside(tmp_path, hold_ttl_s=SHORT_TTL_S) as world:
        await world.govern_default()
        yield world


async def spent(world: Inside, admitted: Admitted) -> list[tuple[int, int, int]]:
    balances = await world.balances(*(entry.counter for entry in admitted.hold))
    return [(b.spent, b.held, b.open_holds) for b in balances]


async def admitted_again(world: Inside, request: str) -> Admitted:
    """As an edge does: ask until the ledger can decide."""

    async def ask() -> Any:
        reply = await world.admit(request)
        return None if isinstance(reply, Unavailable) else reply

    reply = await eventually(ask, WAIT_S)
    assert isinstance(reply, Admitted), reply
    return reply


@contextlib.asynccontextmanager
async def renewing(world: Inside, **holds: Admitted) -> AsyncIterator[None]:
    """An edge that keeps its holds alive, whatever becomes of Redis meanwhile."""

    async def edge() -> None:
        while True:
            operations = [Renew(name, hold.hold, msgspec.Raw(_known(name))) for name, hold in holds.items()]
            await world.batch(*operations)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(edge())
    try:
        yield
    finally:
        task.cancel()


def counters_of(admitted: Admitted) -> tuple[str, ...]:
    return tuple(entry.counter for entry in admitted.hold)


async def test_scripts_are_loaded_again_where_redis_forgot_them(inside: Inside) -> None:
    inside.redis.command("SCRIPT", "FLUSH")
    first, second = await inside.batch(inside.admit_of("r1"), inside.admit_of("r2"))
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert (await spent(inside, first))[0][2] == 2


async def test_a_settlement_that_never_came_is_made_good_from_the_topic(inside: Inside) -> None:
    admitted = await inside.admit("r1")
    charge = Amounts(n=77, t=3, T=4, r=1)
    record = usage_event("r1", counters_of(admitted), charge)
    await inside.log.append([record])
    await eventually(lambda: _closed(inside, admitted, 77), WAIT_S)
    # The relay repeats itself, and the edge's settlement arrives after all: nothing changes.
    await inside.log.append([record])
    await inside.batch(Settle("r1", admitted.hold, charge, "completed"))
    await _followed(inside)
    assert await spent(inside, admitted) == [(77, 0, 0)] * len(admitted.hold)


async def _closed(world: Inside, admitted: Admitted, amount: int) -> bool:
    return await spent(world, admitted) == [(amount, 0, 0)] * len(admitted.hold)


async def _followed(world: Inside) -> None:
    end = await world.log.end_offset(USAGE_TOPIC, 0)

    async def there() -> bool:
        reply = (await world.main.ledger.commands([("HGET", redis_names.POSITIONS, "usage:0")]))[0]
        return int(reply or 0) >= end

    await eventually(there, WAIT_S)


@pytest.mark.parametrize("lost", [(), (0,), (5,), (2, 3, 17), tuple(range(20)), (1, 3, 5, 7, 9, 11, 19)])
async def test_lost_settlements_among_others_are_made_good(inside: Inside, lost: tuple[int, ...]) -> None:
    """Twenty records in one batch: the settled ones are passed over, wherever the lost ones stand."""
    await inside.main.stop()
    inside.enforcers.clear()
    inside.main = inside.enforcer()
    await inside.main.event_log.start()
    await inside.main.continuity.look()
    admitted = [await inside.admit(f"r{number}") for number in range(20)]
    charges = [Amounts(n=1 << number, t=1, T=1, r=1) for number in range(20)]
    settled = [Settle(f"r{n}", admitted[n].hold, charges[n], "completed") for n in range(20) if n not in lost]
    await inside.batch(*settled)
    records = [usage_event(f"r{n}", counters_of(admitted[n]), charges[n]) for n in range(20)]
    poison = [NewRecord(USAGE_TOPIC, "k", b"{"), *records[:10], NewRecord(USAGE_TOPIC, "k", b"{}"), *records[10:]]
    await inside.log.append(poison)
    assert await inside.main.usage.step(0) == 22
    assert await spent(inside, admitted[0]) == [((1 << 20) - 1, 0, 0)] * 3
    assert await inside.main.usage.step(0) == 0


async def test_what_cannot_be_read_is_passed_over(inside: Inside) -> None:
    admitted = await inside.admit("r1")
    poison = [b"", b"{}", b'{"type":"bursar.usage.recorded.v1"', msgspec.json.encode({"data": 1})]
    bad_counter = usage_event("x", ("nonsense",), Amounts(n=1))
    negative = usage_event("y", counters_of(admitted), Amounts(n=-5))
    await inside.log.append(
        [
            *(NewRecord(USAGE_TOPIC, "k", value) for value in poison),
            bad_counter,
            negative,
            usage_event("r1", counters_of(admitted), Amounts(n=5, r=1)),
        ]
    )
    await eventually(lambda: _closed(inside, admitted, 5), WAIT_S)


async def test_a_hold_nobody_renews_expires_log_first_and_the_truth_replaces_it(short: Inside) -> None:
    inside = short
    admitted = await inside.admit("r1", session="s1")
    other = inside.enforcer()  # a second replica sweeps as well
    other.start()
    await eventually(lambda: _closed(inside, admitted, admitted.expected_nusd), WAIT_S)
    records = await inside.log.read(USAGE_TOPIC, 0, 0)
    usage = decode_usage(decode_envelope(records[0].value))
    assert (usage.request_id, usage.outcome, usage.estimated) == ("r1", "expired", True)
    assert (usage.session_id, usage.team, usage.virtual_key) == ("s1", "platform", "alice")
    assert usage.charged_to == counters_of(admitted)
    assert usage.cost_nusd == usage.amounts.n == admitted.expected_nusd
    # Both may have appended it; appended again it still changes nothing.
    await inside.log.append([NewRecord(USAGE_TOPIC, records[0].key, records[0].value)])
    await _followed(inside)
    assert await _closed(inside, admitted, admitted.expected_nusd)
    (closed,) = await inside.batch(Renew("r1", admitted.hold, msgspec.Raw(_known("r1"))))
    assert closed.state == "expired"
    await inside.batch(Settle("r1", admitted.hold, Amounts(n=3, r=1), "completed"))
    assert await _closed(inside, admitted, 3)
    await inside.log.append([usage_event("r1", counters_of(admitted), Amounts(n=3, r=1))])
    await _followed(inside)
    assert await _closed(inside, admitted, 3)


def _known(request: str, **more: Any) -> bytes:
    base = {"request_id": request, "started_at_ms": 1, "virtual_key_id": "key1", "outcome": "completed"}
    return msgspec.json.encode({**base, **more})


async def test_a_renewed_hold_does_not_expire_and_a_dead_one_is_charged_its_largest(short: Inside) -> None:
    inside = short
    found = None
    for number in range(20):
        found = found or await _renewed_in_time(inside, f"r{number}")
    assert found is not None, "no hold was ever renewed in time"
    admitted, grown = found
    assert grown.hold[0].expected > 100 * admitted.hold[0].expected
    await eventually(lambda: _closed(inside, admitted, grown.hold[0].expected), WAIT_S)


async def _renewed_in_time(world: Inside, request: str) -> tuple[Admitted, Ok] | None:
    """A hold that is renewed for longer than it would live, and then grows. None: a renewal came too late, since the
    machine paused, so that it may rightly have expired; then it is settled at nothing, and another one has to tell."""
    renewed_s = time.monotonic()
    admitted = await world.admit(request)
    for number in range(9):
        grows = number == 8
        records = await world.log.read(USAGE_TOPIC, 0, 0)
        expired = {decode_usage(decode_envelope(each.value)).request_id for each in records}
        more = {"input_tokens": 1_000_000, "output_tokens": 900} if grows else {"session_id": "s2"}
        asked_s = time.monotonic()
        (renewed,) = await world.batch(
            Renew(request, admitted.hold, msgspec.Raw(_known(request, **more)), prompt_known=grows)
        )
        if time.monotonic() - renewed_s >= SHORT_TTL_S:
            await world.batch(Settle(request, admitted.hold, Amounts(), "completed"))
            return None
        assert request not in expired
        assert isinstance(renewed, Ok), renewed
        if grows:
            break
        assert renewed.hold == admitted.hold
        renewed_s = asked_s
        await asyncio.sleep(0.2)
    return admitted, renewed


async def test_a_flushed_redis_is_closed_until_holds_and_topics_are_back(inside: Inside) -> None:
    admitted = await inside.admit("open")
    done = await inside.admit("done")
    await inside.batch(Settle("done", done.hold, Amounts(n=1_000, r=1), "completed"))
    await inside.log.append([usage_event("done", counters_of(done), Amounts(n=1_000, r=1))])
    await _followed(inside)
    inside.main.continuity._interval_s = 3_600.0  # as long as this looks at what is closed, however long that takes
    inside.redis.command("FLUSHALL")
    assert isinstance(await inside.admit("r2"), Unavailable)
    # A key that Redis does not know while it is empty is no reason to refuse it.
    other = inside.enforcer()
    (reply,) = await inside.ask(other, inside.admit_of("r3"))
    assert isinstance(reply, Unavailable)
    # Nor does it keep a renewal in the same batch from getting through.
    unknown = inside.admit_of("r4", key_hashes=(KeyHash("x-api-key", "0" * 64),))
    refused, renewed = await inside.batch(unknown, Renew("open", admitted.hold, msgspec.Raw(_known("open"))))
    assert isinstance(refused, Unavailable)
    assert isinstance(renewed, Ok)
    inside.main.continuity._interval_s = 1.0
    async with renewing(inside, open=admitted):
        again = await admitted_again(inside, "r2")
        assert await spent(inside, again) == [(1_000, admitted.expected_nusd + again.expected_nusd, 2)] * 3


async def test_kill_9_of_redis_closes_admission_for_one_renewal_interval(tmp_path: Path, redis: RedisServer) -> None:
    async with Inside(tmp_path, redis=redis, closed_s=1) as inside:
        await inside.govern_default()
        admitted = await inside.admit("r1")
        redis.kill9()
        assert isinstance(await inside.admit("r2"), Unavailable)
        redis.start()
        async with renewing(inside, r1=admitted):
            again = await admitted_again(inside, "r2")
            assert (await spent(inside, again))[0] == (0, admitted.expected_nusd + again.expected_nusd, 2)
        await inside.batch(Release("r1"), Release("r2"))
        assert (await spent(inside, again))[0] == (0, 0, 0)


async def test_an_older_snapshot_is_brought_forward_from_the_topic(tmp_path: Path, redis: RedisServer) -> None:
    async with Inside(tmp_path, redis=redis, closed_s=1) as inside:
        await inside.govern_default()
        first = await inside.admit("r1")
        redis.stop()
        shutil.copytree(redis.folder, tmp_path / "snapshot")
        redis.start()
        async with renewing(inside, r1=first):
            second = await admitted_again(inside, "r2")
        for request, cost in (("r1", 10), ("r2", 20)):
            await inside.batch(Settle(request, first.hold, Amounts(n=cost, r=1), "completed"))
            await inside.log.append([usage_event(request, counters_of(first), Amounts(n=cost, r=1))])
        await _followed(inside)
        assert await spent(inside, second) == [(30, 0, 0)] * 3
        # Redis goes back to when r1 was in flight and r2 did not exist.
        redis.stop()
        shutil.rmtree(redis.folder)
        shutil.copytree(tmp_path / "snapshot", redis.folder)
        redis.start()
        third = await admitted_again(inside, "r3")
        assert await spent(inside, third) == [(30, third.expected_nusd, 1)] * 3


async def test_a_clean_stop_of_everything_opens_at_once(tmp_path: Path, redis: RedisServer) -> None:
    async with Inside(tmp_path, redis=redis, hold_ttl_s=6000) as inside:
        await inside.govern_default()
        admitted = await inside.admit("r1")
        await inside.batch(Settle("r1", admitted.hold, Amounts(n=5, r=1), "completed"))
        await inside.log.append([usage_event("r1", counters_of(admitted), Amounts(n=5, r=1))])
        await _followed(inside)
        inside.enforcers.remove(inside.main)
        await inside.main.stop()
        redis.stop()
        shutil.copytree(redis.folder, tmp_path / "marked")
        redis.start()
        inside.main = inside.enforcer()
        inside.main.start()
        await inside.open()  # at once: the renewal interval would be 1000 s
        assert isinstance(await inside.admit("r2"), Admitted)
        # Killed now, with Redis back as it was when the token was still there: the token is not believed.
        state = (await inside.main.ledger.commands([("HGET", redis_names.POLICY, redis_names.CLEAN_STOP)]))[0]
        assert state is None
        redis.kill9()
        shutil.rmtree(redis.folder)
        shutil.copytree(tmp_path / "marked", redis.folder)
        redis.start()
        late = inside.enforcer()
        await late.event_log.start()
        await eventually(lambda: _looked(late), WAIT_S)
        assert not late.continuity.open
        assert late.continuity._lost_at_s is not None


async def _looked(enforcer: Any) -> bool:
    await enforcer.continuity.look()
    return True


async def test_a_stop_with_an_open_hold_leaves_no_token(inside: Inside) -> None:
    await inside.admit("r1")
    assert not await inside.main.continuity.clean_stop()


class DeadLog:
    """A log that cannot be reached."""

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: Any, **__: Any) -> Any:
            if name != "close":
                raise LogUnavailable("no broker answers")

        return fail


async def test_a_cold_start_needs_redis_only(inside: Inside) -> None:
    await inside.admit("r1")
    cold = inside.enforcer(DeadLog())  # type: ignore[arg-type]
    cold.start()
    await inside.open(cold)
    assert await cold.unready() == ""
    (reply,) = await inside.ask(cold, inside.admit_of("r2"))
    assert isinstance(reply, Admitted)


async def test_a_restarted_redis_and_no_log_open_after_the_interval(inside: Inside) -> None:
    admitted = await inside.admit("r1")
    await inside.batch(Release("r1"))
    inside.enforcers.remove(inside.main)
    inside.main.continuity.open = False  # a kill -9 leaves no token
    await inside.main.stop()
    inside.redis.restart()
    inside.main = inside.enforcer(DeadLog())  # type: ignore[arg-type]
    inside.main.start()
    again = await admitted_again(inside, "r2")
    assert again.owners == admitted.owners


async def test_rebuild_comes_to_equal_figures(inside: Inside) -> None:
    opening = budget(
        "opened", 10**12, opening_nusd=4_000, opening_window_start_s=1_700_000_000, opening_window_end_s=2_000_000_000
    )
    await inside.govern("team", inside.team(budgets=(budget("bt", 10**11), opening)))
    await inside.govern("team", inside.team(name="renamed", budgets=(budget("bt", 10**11), opening)))
    await inside.governed()
    opened = "n:opened:1700000000:2000000000"
    assert (await inside.balances(opened))[0].spent == 4_000
    done = await inside.admit("done")
    open_ = await inside.admit("open")
    expired = usage_event("dead", counters_of(done), Amounts(n=11, r=1))
    for request, cost in (("done", 1_000), ("lost", 500)):
        await inside.log.append([usage_event(request, counters_of(done), Amounts(n=cost, r=1))])
    await inside.log.append([expired])
    await _followed(inside)
    before = await inside.main.ledger.commands([("GET", redis_names.COUNTER + c) for c in (*counters_of(done), opened)])
    before = [counter_of(value).spent for value in before]
    assert before[0] == 1_511

    ledger = inside.enforcer().ledger
    async with renewing(inside, open=open_):
        counts = await rebuild(ledger, inside.log, inside.main.projector._clock, hold_ttl_s=1)
        assert (await spent(inside, done))[0] == (1_511, open_.expected_nusd, 1)
    assert counts["usage_events"] == 3
    after = await inside.main.ledger.commands([("GET", redis_names.COUNTER + c) for c in (*counters_of(done), opened)])
    assert [counter_of(value).spent for value in after] == before
    again = await admitted_again(inside, "r9")
    assert again.owners.team == "renamed"


async def test_one_rebuild_at_a_time_and_a_dead_one_is_finished(inside: Inside) -> None:
    done = await inside.admit("done")
    await inside.log.append([usage_event("done", counters_of(done), Amounts(n=9, r=1))])
    await _followed(inside)
    ledger = inside.enforcer().ledger
    await ledger.commands([("SET", redis_names.REBUILD, "1")])
    with pytest.raises(RebuildRunning):
        await rebuild(ledger, inside.log, inside.main.projector._clock, hold_ttl_s=1)
    from bursar_enforcer.calls import state_call

    await ledger.run([state_call("delete")])  # and the process dies here
    (refused,) = await inside.batch(Settle("x", done.hold, Amounts(n=1, r=1), "completed"))
    assert isinstance(refused, Unavailable)
    await ledger.commands([("PEXPIRE", redis_names.REBUILD, 100)])
    again = await admitted_again(inside, "r2")
    assert (await spent(inside, again))[0] == (9, again.expected_nusd, 1)


@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis7", marks=pytest.mark.redis7)])
async def test_replicas_confirm_each_batch(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "WAIT_MS", 30_000)  # it is there: it confirms, however long the machine pauses
    monkeypatch.setattr(redis_connection, "REPLY_TIMEOUT_S", 40.0)
    tcp = RedisServer(tmp_path / "tcp", kind, arguments=["--repl-diskless-sync-delay", "0"]).start()
    replica = RedisServer(tmp_path / "replica", kind, arguments=["--replicaof", "127.0.0.1", str(tcp.port)]).start()
    try:
        await eventually(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), WAIT_S)
        async with Inside(tmp_path, redis=tcp, closed_s=1) as inside:
            assert inside.main.ledger.facts.replicas == 1
            await inside.govern_default()
            admitted = await inside.admit("r1")
            assert isinstance(admitted, Admitted)
            # Confirmed means: it is on the replica now.
            assert b"n:bk:" in replica.command("GET", redis_names.HOLD + "r1")
            monkeypatch.setattr(ledger_module, "WAIT_MS", 500)
            await inside.main.ledger.refresh()
            replica.stop()
            assert isinstance(await inside.admit("r2"), Admitted)
    finally:
        replica.stop()
        tcp.stop()


async def test_an_address_of_a_replica_is_not_used(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "a") as primary:
        with RedisServer(tmp_path / "b", arguments=["--replicaof", "127.0.0.1", str(primary.port)]) as replica:
            world = Inside(tmp_path, redis=replica)
            ledger = world.enforcer().ledger
            with pytest.raises(RedisUnavailable, match="replica"):
                await ledger.connect()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "noeviction"),
        (("--appendonly", "no", "--save", ""), "appendonly yes"),
    ],
)
async def test_a_redis_that_could_lose_counters_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    with RedisServer(tmp_path / "redis", arguments=arguments) as server:
        world = Inside(tmp_path, redis=server)
        with pytest.raises(UnsafeRedis, match=named):
            await world.enforcer().ledger.connect()


def test_an_old_redis_is_refused_and_save_points_are_enough() -> None:
    with pytest.raises(UnsafeRedis, match="version 6"):
        judge_server("6.2.14", "noeviction", True, "")
    judge_server("7.0.15", "noeviction", False, "3600 1 300 100")


async def test_refused_is_not_unavailable(inside: Inside) -> None:
    """The two must not be mixed up by the tests above."""
    assert isinstance(await inside.admit("r1", model="no-such-model"), Refused)


async def test_closings_and_counters_are_forgotten_in_time_and_not_before(inside: Inside) -> None:
    admitted = await inside.admit("settled")
    counters = counters_of(admitted)
    await inside.batch(Settle("settled", admitted.hold, Amounts(n=1, r=1), "completed"), Release("released"))
    ledger = inside.main.ledger

    async def ttl_s(key: str) -> int:
        return int((await ledger.commands([("TTL", key)]))[0])

    assert 6 * 86_400 < await ttl_s(redis_names.HOLD + "settled") <= 7 * 86_400
    assert 0 < await ttl_s(redis_names.HOLD + "released") <= 3_600
    await inside.log.append([usage_event("settled", counters, Amounts(n=1, r=1))])
    await _followed(inside)
    assert 0 < await ttl_s(redis_names.HOLD + "settled") <= 15 * 60
    window_end_s = int(counters[0].rpartition(":")[2])
    (deleted_from_s,) = await ledger.commands([("ZSCORE", redis_names.ENDS, redis_names.COUNTER + counters[0])])
    assert int(deleted_from_s) == window_end_s + 40 * 86_400


async def test_counters_are_deleted_when_their_keeping_ends(inside: Inside) -> None:
    """Late settlements of two old windows: one is kept still, one (41 days later) is not."""
    now_s = int(time.time())
    kept = f"n:kept:{now_s - 50 * 86_400}:{now_s - 39 * 86_400}"
    due = [f"n:due{i}:{now_s - 50 * 86_400}:{now_s - 41 * 86_400}" for i in range(3)]
    tokens = f"t:due:{now_s - 50 * 86_400}:{now_s - 9 * 86_400}"
    hold = tuple(HoldEntry(counter, 0, 0) for counter in (kept, *due, tokens))
    await inside.batch(Settle("late", hold, Amounts(n=5, t=6, T=7, r=1), "completed"))
    assert [b.spent for b in await inside.balances(kept, *due, tokens)] == [5, 5, 5, 5, 6]
    assert await inside.main.expiry.forget() == 4
    assert [b.spent for b in await inside.balances(kept, *due, tokens)] == [5, 0, 0, 0, 0]
    ledger = inside.main.ledger
    (left,) = await ledger.commands([("ZCARD", redis_names.ENDS)])
    assert left == 1
    assert await inside.main.expiry.forget() == 0


async def test_a_ledger_of_another_format_is_derived_anew(tmp_path: Path, redis: RedisServer) -> None:
    """Of what an earlier format kept nothing is read, and nothing of it is taken for the truth."""
    async with Inside(tmp_path, redis=redis, closed_s=1) as inside:
        await inside.govern_default()
        done = await inside.admit("done")
        await inside.log.append([usage_event("done", counters_of(done), Amounts(n=1_000, r=1))])
        await _followed(inside)
        ledger = inside.main.ledger
        (run_id,) = await ledger.commands([("HGET", redis_names.POLICY, redis_names.ADMISSION_OPEN)])
        await ledger.commands(
            [
                ("FLUSHALL",),
                ("HSET", redis_names.SLOT + "policy", redis_names.ADMISSION_OPEN, run_id),
                ("HSET", redis_names.SLOT + "positions", "governance", 9, "usage:0", 9),
                *(("HSET", redis_names.SLOT + "c:" + counter, "s", 1, "h", 0) for counter in counters_of(done)),
            ]
        )
        assert isinstance(await inside.admit("r2"), Unavailable)
        again = await admitted_again(inside, "r2")
        assert (await spent(inside, again))[0] == (1_000, again.expected_nusd, 1)


async def test_with_its_memory_full_redis_admits_nothing_and_still_takes_money_back(inside: Inside) -> None:
    admitted = await inside.admit("r1")
    inside.redis.command("CONFIG", "SET", "maxmemory", "100kb")
    full = await inside.admit("r2")
    assert isinstance(full, Unavailable)
    assert "OOM" in full.why
    (settled,) = await inside.batch(Settle("r1", admitted.hold, Amounts(n=5, r=1), "completed"))
    assert {(balance.spent, balance.held) for balance in settled.balances} == {(5, 0)}
    # In one batch, which Redis refuses as a whole: each operation is then asked by itself.
    replies = await inside.batch(
        inside.admit_of("r2"), Settle("unheard", admitted.hold, Amounts(n=2), "completed"), inside.admit_of("r3")
    )
    assert [type(reply).__name__ for reply in replies] == ["Unavailable", "Ok", "Unavailable"]
    assert {balance.spent for balance in replies[1].balances} == {7}
    inside.redis.command("CONFIG", "SET", "maxmemory", "0")
    assert isinstance(await inside.admit("r2"), Admitted)


async def test_an_operation_no_script_can_read_harms_none_beside_it(inside: Inside) -> None:
    """Whatever makes the script of a whole batch fail, nothing of it happened, and the others are asked again."""
    first = await inside.admit("r1")
    inside.redis.command("SET", redis_names.COUNTER + "n:torn:1:99999999999", "torn")
    torn = (HoldEntry("n:torn:1:99999999999", 1, 1),)
    replies = await inside.batch(
        inside.admit_of("r2"),
        Settle("of another enforcer", torn, Amounts(n=1), "completed"),
        inside.admit_of("r3"),
        Settle("r1", first.hold, Amounts(n=5, r=1), "completed"),
    )
    assert [type(reply).__name__ for reply in replies] == ["Admitted", "Unavailable", "Admitted", "Ok"]
    spent_after = {(balance.spent, balance.open_holds) for balance in await inside.balances(*counters_of(first))}
    assert spent_after == {(5, 2)}


async def test_records_the_log_no_longer_has_are_passed_over(inside: Inside) -> None:
    """The enforcer was away for longer than the log keeps: it says so and goes on with what there is."""
    admitted = await inside.admit("r1")
    counters = counters_of(admitted)
    await inside.batch(Release("r1"))
    await inside.main.stop()
    inside.enforcers.clear()
    await inside.log.append([usage_event(f"u{i}", counters, Amounts(n=1, r=1)) for i in range(10)])
    await inside.log.delete_before(USAGE_TOPIC, 6)  # type: ignore[attr-defined]
    inside.main = inside.enforcer()
    await inside.main.ledger.connect()
    await inside.main.ledger.commands([("HSET", redis_names.POSITIONS, "usage:0", 2)])
    inside.main.start()
    await _followed(inside)
    assert (await inside.balances(counters[0]))[0].spent == 4
