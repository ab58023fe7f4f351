"""``python -m bursar_enforcer.rebuild``: delete the ledger and derive it anew from the event log.

Admission closes; counters, holds, positions and policy are deleted; governance and usage are replayed by the same
projector and follower that run every day; then edges have one renewal interval to bring their holds back, and
admission opens. Running enforcers go on serving renewals and settlements during the replay. Should this process die,
a running enforcer finishes.
"""

from __future__ import annotations

import asyncio
import os
import sys

import structlog

from bursar_common.clock import Clock, SystemClock
from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.events import GOVERNANCE_TOPIC, USAGE_TOPIC
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging
from bursar_enforcer import redis_names
from bursar_enforcer.books import Books
from bursar_enforcer.calls import RENEWALS_PER_TTL, state_call
from bursar_enforcer.deletion import delete_projection
from bursar_enforcer.expectation import Learner
from bursar_enforcer.following import ends_of, reached
from bursar_enforcer.learning import Learning
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.projector import Projector
from bursar_enforcer.redis_checks import UnsafeRedis
from bursar_enforcer.redis_connection import RedisUnavailable, parse_address
from bursar_enforcer.usage_follower import UsageFollower

log = structlog.get_logger()

LOCK_S = 30
"""Life of the sign that a rebuild is running; refreshed several times in it."""


class RebuildRunning(Exception):
    """Another rebuild holds the sign."""


async def rebuild(ledger: Ledger, event_log: EventLog, clock: Clock, *, hold_ttl_s: int) -> dict[str, int]:
    """Returns what was read. Raises RedisUnavailable, LogUnavailable, RebuildRunning; then the ledger is closed, and
    the next rebuild or a running enforcer takes over."""
    await ledger.connect()
    if (await ledger.commands([("SET", redis_names.REBUILD, "1", "NX", "EX", LOCK_S)]))[0] is None:
        raise RebuildRunning
    lock = asyncio.create_task(_keep_lock(ledger))
    try:
        ends = {topic: await ends_of(event_log, topic) for topic in (GOVERNANCE_TOPIC, USAGE_TOPIC)}
        started_s = clock.monotonic_s()
        await ledger.run([state_call("delete")])
        deleted = await delete_projection(ledger.address, ledger.ca_file)
        await ledger.run([state_call("replay")])
        projector = Projector(ledger, event_log, Books(ledger), clock)
        usage = UsageFollower(ledger, event_log, Learning(Learner(), clock), clock)
        while not await reached(
            ledger, event_log, GOVERNANCE_TOPIC, ends[GOVERNANCE_TOPIC], lambda _: redis_names.GOVERNANCE
        ):
            await projector.step()
        while not await reached(ledger, event_log, USAGE_TOPIC, ends[USAGE_TOPIC], redis_names.usage_field):
            for partition in ends[USAGE_TOPIC]:
                await usage.step(partition)
        # Since admission closed, every edge has had the time to renew every hold it has.
        await asyncio.sleep(max(0.0, hold_ttl_s / RENEWALS_PER_TTL - (clock.monotonic_s() - started_s)))
        await ledger.run([state_call("open", ledger.run_id, "rebuilt")])
        return {
            "deleted_keys": deleted,
            "governance_events": sum(ends[GOVERNANCE_TOPIC].values()),
            "usage_events": sum(ends[USAGE_TOPIC].values()),
        }
    finally:
        lock.cancel()
        try:
            await ledger.commands([("DEL", redis_names.REBUILD)])
        except RedisUnavailable:
            pass  # it expires


async def _keep_lock(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(LOCK_S / 4)
        try:
            await ledger.commands([("SET", redis_names.REBUILD, "1", "EX", LOCK_S)])
        except RedisUnavailable:
            continue


async def _run(settings: Settings) -> int:
    event_log = open_log(settings)
    ledger = Ledger(parse_address(settings.redis_url), ca_file=settings.ca_file)
    try:
        await event_log.start()
        done = await rebuild(ledger, event_log, SystemClock(), hold_ttl_s=settings.hold_ttl_s)
    except RebuildRunning:
        print("Another rebuild of the ledger is running.", file=sys.stderr)  # noqa: T201
        return 1
    except (RedisUnavailable, UnsafeRedis, LogUnavailable) as error:
        print(f"The ledger could not be rebuilt: {error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        ledger.close()
        await event_log.close()
    print(  # noqa: T201
        f"Rebuilt the ledger: {done['deleted_keys']} keys deleted, {done['governance_events']} governance and"
        f" {done['usage_events']} usage events replayed; admission is open."
    )
    return 0


def main() -> int:
    try:
        settings = load_settings(os.environ, required=("redis_url",))
        parse_address(settings.redis_url)
    except (SettingsError, ValueError) as error:
        print(str(error), file=sys.stderr)  # noqa: T201
        return 2
    configure_logging("enforcer-rebuild", settings.log_level)
    return asyncio.run(_run(settings))


if __name__ == "__main__":
    sys.exit(main())
