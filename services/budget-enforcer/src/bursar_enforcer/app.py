"""The process: settings, parts, HTTP, background work, a clean end."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine
from typing import Any

import structlog
from aiohttp import web

from bursar_common.clock import Clock, SystemClock
from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.events import GOVERNANCE_TOPIC
from bursar_common.metrics_endpoint import MetricsAccess
from bursar_common.otlp_metrics import open_telemetry
from bursar_common.service import listen, run, until_signalled
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging
from bursar_common.tracing import open_tracing
from bursar_enforcer import redis_names
from bursar_enforcer.admission import Admission
from bursar_enforcer.books import Books
from bursar_enforcer.closing import Closings
from bursar_enforcer.continuity import Continuity
from bursar_enforcer.endpoints import Endpoints
from bursar_enforcer.expectation import Learner
from bursar_enforcer.expiry import Expiry
from bursar_enforcer.figures import SERVICE, Figures
from bursar_enforcer.following import follow
from bursar_enforcer.learning import Learning
from bursar_enforcer.ledger import Ledger, Traced
from bursar_enforcer.policy import Policy
from bursar_enforcer.projector import Projector
from bursar_enforcer.redis_checks import UnsafeRedis
from bursar_enforcer.redis_connection import RedisUnavailable, parse_address
from bursar_enforcer.state import state_of
from bursar_enforcer.usage_follower import UsageFollower

log = structlog.get_logger()

LOG_RETRY_S = 1.0
STOP_WAIT_S = 5.0
"""Longest wait for batches in flight and for the clean-stop token at the end."""
COLLECT_AFTER = 20_000
"""Containers made and not given back before the garbage collector looks for cycles among them; a full batch holds some
10,000 until it is answered, so that it is not looked at in vain. A few MB."""


class Enforcer:
    """Every part, wired; :meth:`start` begins the background work, :meth:`stop` ends it."""

    def __init__(self, settings: Settings, event_log: EventLog, ledger: Ledger, clock: Clock) -> None:
        self.settings = settings
        self.event_log = event_log
        self.ledger = ledger
        self.books = Books(ledger)
        self.learning = Learning(Learner(), clock)
        self.policy = Policy(ledger, self.books, settings.key_secret.get_secret_value(), clock)
        self.continuity = Continuity(ledger, event_log, self.policy, clock, hold_ttl_s=settings.hold_ttl_s)
        self.admission = Admission(
            ledger,
            self.policy,
            Closings(self.books, self.learning),
            clock,
            hold_ttl_s=settings.hold_ttl_s,
            simulated=bool(settings.simulator_url),
        )
        self.admission.closed_seen = self.continuity.noticed_closed
        self.projector = Projector(ledger, event_log, self.books, clock)
        self.usage = UsageFollower(ledger, event_log, self.learning, clock)
        self.expiry = Expiry(ledger, event_log, self.continuity, clock, hold_ttl_s=settings.hold_ttl_s)
        self.expiry.on_expired = self.admission.meter.add_expired
        self.figures = Figures(
            ledger, event_log, self.continuity, self.admission.meter, clock, most=settings.metrics_label_sets
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.preparing = self._spawn(self._prepare_books())
        self._spawn(self._with_log())
        self._spawn(self.continuity.run())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(_ended)
        self._tasks.append(task)
        return task

    async def _prepare_books(self) -> None:
        """Compile the catalogue before the first request asks for a price."""
        try:
            await self.books.of_all()
        except (RedisUnavailable, UnsafeRedis) as error:
            log.info("price_books_wait", why=str(error)[:200])

    async def _with_log(self) -> None:
        """A cold start needs Redis only: the log is tried until it is there."""
        while True:
            try:
                await self.event_log.start()
                break
            except LogUnavailable as error:
                log.warning("log_unreachable", why=str(error)[:200])
                await asyncio.sleep(LOG_RETRY_S)
        self._spawn(
            follow(self.ledger, self.event_log, GOVERNANCE_TOPIC, 0, redis_names.GOVERNANCE, self.projector.apply)
        )
        self._spawn(self.projector.publish())
        self._spawn(self.usage.run())
        self._spawn(self.expiry.run())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                clean = await self.continuity.clean_stop()
                log.info("stopped", clean=clean)
        except (RedisUnavailable, UnsafeRedis, LogUnavailable, TimeoutError) as error:
            log.info("stopped", clean=False, why=str(error)[:200])
        self.ledger.close()
        # A log that is down may fail to say goodbye, or take its time; neither makes the stop an unclean one.
        closing = asyncio.create_task(self.event_log.close())
        await asyncio.wait({closing}, timeout=STOP_WAIT_S)
        if not closing.done():
            closing.cancel()
        elif not closing.cancelled() and closing.exception() is not None:
            log.info("log_not_closed", why=repr(closing.exception()))

    async def unready(self) -> str:
        """Why the service is not ready, or empty: Redis answers, and policy is there or was seen to be empty."""
        try:
            known = (await self.ledger.commands([("EXISTS", redis_names.POSITIONS, redis_names.POLICY)]))[0]
        except (RedisUnavailable, UnsafeRedis) as error:
            return str(error)
        return "" if known else "the policy was not read yet"

    async def health(self) -> dict[str, str]:
        """The answer of ``/readyz``; its status is ``ok`` or ``unready``."""
        why = await self.unready()
        if why:
            return {"status": "unready", "why": why}
        return {"status": "ok", "admission": "open" if self.continuity.open else "closed"}


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("background_task_died", error=repr(task.exception()))


def _keep_for_good(_: asyncio.Task[None]) -> None:
    """Modules and price books live as long as the process: the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def trace_to_log(script: str, counters: list[Traced]) -> None:
    """One line a script reply, at log level debug: what tests from outside judge the ledger by."""
    log.debug("script_reply", script=script, counters=[list(counter) for counter in counters])


async def serve(settings: Settings) -> int:
    ledger = Ledger(
        parse_address(settings.redis_url),
        ca_file=settings.ca_file,
        on_reply=trace_to_log if settings.log_level == "debug" else None,
    )
    try:
        await ledger.connect()
    except UnsafeRedis as error:
        print(str(error), file=sys.stderr)  # noqa: T201
        return 2
    except RedisUnavailable as error:
        log.warning("redis_unreachable", why=str(error))
    enforcer = Enforcer(settings, open_log(settings), ledger, SystemClock())
    try:
        telemetry = open_telemetry(os.environ, enforcer.figures.metrics, open_tracing(os.environ, SERVICE))
    except SettingsError as error:
        print(str(error), file=sys.stderr)  # noqa: T201
        return 2
    enforcer.start()
    enforcer.preparing.add_done_callback(_keep_for_good)
    token = settings.internal_token.get_secret_value()
    server = Endpoints(
        enforcer.admission,
        enforcer.books,
        enforcer.health,
        lambda: state_of(enforcer.ledger),
        token,
        enforcer.figures.metrics,
        MetricsAccess(settings, settings.enforcer_listen),
        telemetry.tracing,
    ).server()
    runner = web.ServerRunner(server, shutdown_timeout=STOP_WAIT_S)
    await runner.setup()
    await listen(runner, settings.enforcer_listen)
    log.info("listening", address=settings.enforcer_listen)
    telemetry.start()
    await until_signalled()
    await runner.cleanup()
    await telemetry.stop()
    await enforcer.stop()
    return 0


def main() -> int:
    try:
        settings = load_settings(os.environ, required=("redis_url", "internal_token", "key_secret"))
        parse_address(settings.redis_url)
        open_log(settings)
    except SettingsError as error:
        print(str(error), file=sys.stderr)  # noqa: T201
        return 2
    except ValueError as error:
        print(f"BURSAR_REDIS_URL: {error}.", file=sys.stderr)  # noqa: T201
        return 2
    configure_logging(SERVICE, settings.log_level)
    return run(lambda: serve(settings))
