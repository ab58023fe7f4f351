"""Where rows go: a ClickHouse server, or the embedded engine, opened and served; with the schema applied."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from bursar_aggregator.health import Health
from bursar_aggregator.log_worker import rewind
from bursar_aggregator.migrations import applied, load_migrations, migrate
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.events import CONTENT_TOPIC
from bursar_common.settings import Settings

log = structlog.get_logger()


def embedded(settings: Settings) -> bool:
    """Whether this process owns the analytics itself."""
    return settings.clickhouse_url == "" or settings.clickhouse_url.startswith("chdb:")


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
                await rewind(event_log, topic=CONTENT_TOPIC)
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
