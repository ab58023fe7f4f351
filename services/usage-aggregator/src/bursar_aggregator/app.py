"""The aggregator's process: which form it takes, its health, its stopping."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from bursar_aggregator.log_worker import LogWorker, rewind
from bursar_aggregator.migrations import SchemaMismatch, applied, load_migrations, migrate
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S, InsertRefused, UsageWriter
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import EventLog, LogIncompatible, LogUnavailable, OffsetLost
from bursar_common.service import listen, run, until_signalled
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging

log = structlog.get_logger()

SERVICE = "usage-aggregator"


def main() -> int:
    """Run until SIGTERM. 0: stopped cleanly; 1: cannot go on; 2: a setting is wrong. One sentence on stderr each."""
    try:
        settings = load_settings(os.environ)
        configure_logging(SERVICE, settings.log_level)
        if settings.kafka_bootstrap:
            from bursar_aggregator.faust_app import run_faust

            return run_faust(settings)
        check_one_machine(settings)
        return run(lambda: serve_one_machine(settings))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (SchemaMismatch, InsertRefused, AnalyticsRefused, OffsetLost, LogIncompatible, LogUnavailable) as error:
        sys.stderr.write(f"{SERVICE}: {error}\n")
        return 1


def check_one_machine(settings: Settings) -> None:
    """Raises SettingsError."""
    if settings.home is None:
        raise SettingsError("Neither BURSAR_KAFKA_BOOTSTRAP nor BURSAR_HOME is set, so there is no event log to read.")
    if not embedded(settings):
        return
    if not settings.internal_token.get_secret_value():
        raise SettingsError("BURSAR_INTERNAL_TOKEN is not set, and this service cannot run without it.")


def embedded(settings: Settings) -> bool:
    """Whether this process owns the analytics itself."""
    return settings.clickhouse_url == "" or settings.clickhouse_url.startswith("chdb:")


async def serve_one_machine(settings: Settings) -> int:
    """The worker on the SQLite log and, unless a server is named, chDB with its HTTP front."""
    async with AsyncExitStack() as stack:
        stop = asyncio.Event()
        signalled = asyncio.ensure_future(until_signalled())
        signalled.add_done_callback(lambda _: stop.set())
        stack.callback(signalled.cancel)
        analytics = await open_analytics(settings, stack)
        event_log = open_log(settings)
        stack.push_async_callback(event_log.close)
        await event_log.start()
        writer = UsageWriter(analytics, event_log)
        worker = LogWorker(event_log, writer)
        health = Health(lambda: writer.why_waiting or worker.why_unready)
        await serve_health(health, settings.aggregator_listen, stack)
        await until_migrated(analytics, event_log, health, stop)
        await worker.run(stop)
    return 0


async def open_analytics(settings: Settings, stack: AsyncExitStack) -> Analytics:
    """Connect to the server named, or open the embedded engine and serve it. Raises SettingsError, AnalyticsRefused."""
    if not embedded(settings):
        analytics = Analytics(settings.clickhouse_url, ca_file=settings.ca_file)
        stack.push_async_callback(analytics.close)
        return analytics
    from bursar_aggregator.clickhouse_front import ClickHouseFront, engine_folder, serve
    from bursar_aggregator.engine import Engine, EngineError
    from bursar_aggregator.front_access import access_of

    access = access_of(settings)
    try:
        engine = await asyncio.to_thread(Engine, engine_folder(settings))
    except EngineError as error:
        raise AnalyticsRefused(f"cannot open {engine_folder(settings)}: {error}", error.code) from None
    stack.callback(engine.close)
    front = ClickHouseFront(engine, access)
    runner = await serve(front, settings.clickhouse_listen)
    stack.push_async_callback(runner.cleanup)
    stack.push_async_callback(front.close)
    analytics = Analytics(f"chdb://{engine.path}")
    stack.push_async_callback(analytics.close)
    return analytics


async def until_migrated(analytics: Analytics, event_log: EventLog, health: Health, stop: asyncio.Event) -> None:
    """Apply the schema, waiting while ClickHouse is away; a database that was lost is filled again from the log's
    beginning. Raises SchemaMismatch, AnalyticsRefused."""
    migrations = load_migrations()
    wait_s = FIRST_RETRY_S
    while not stop.is_set():
        try:
            # Before the schema, which marks the database as not empty: a crash in between rewinds again.
            if not await applied(analytics):
                await rewind(event_log)
            await migrate(analytics, migrations)
        except (AnalyticsUnavailable, LogUnavailable) as error:
            health.why_not_migrated = str(error)
            log.warning("waiting to apply the schema", why=str(error))
            try:
                await asyncio.wait_for(stop.wait(), wait_s)
            except TimeoutError:
                wait_s = min(wait_s * 2, LONGEST_RETRY_S)
        else:
            health.why_not_migrated = ""
            return


class Health:
    """``/livez`` and ``/readyz``: the schema is applied, the log can be read, ClickHouse takes the rows."""

    def __init__(self, why_unready: Callable[[], str]) -> None:
        self._why_unready = why_unready
        self.why_not_migrated = "the schema is not applied yet"

    def why(self) -> str:
        """Empty when ready."""
        return self.why_not_migrated or self._why_unready()

    def routes(self) -> list[web.RouteDef]:
        async def livez(_request: web.Request) -> web.Response:
            return web.json_response({"status": "ok"})

        async def readyz(_request: web.Request) -> web.Response:
            why = self.why()
            if why:
                return web.json_response({"status": "unready", "why": why}, status=503)
            return web.json_response({"status": "ok"})

        return [web.get("/livez", livez), web.get("/readyz", readyz)]


async def serve_health(health: Health, address: str, stack: AsyncExitStack) -> None:
    app = web.Application()
    app.add_routes(health.routes())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await listen(runner, address)
    log.info("listening", address=address)
