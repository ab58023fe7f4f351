"""The aggregator's process: which form it takes, and what ends it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack

from bursar_aggregator.arrivals import FirstArrivals
from bursar_aggregator.books import follow_books
from bursar_aggregator.content_job import ContentJob
from bursar_aggregator.destination import embedded, open_analytics, until_migrated
from bursar_aggregator.figures import Figures
from bursar_aggregator.health import Health, serve_health
from bursar_aggregator.hours import HourNotes, sum_up_hours
from bursar_aggregator.left import LeftMonths
from bursar_aggregator.log_worker import LogWorker
from bursar_aggregator.migrations import SchemaMismatch
from bursar_aggregator.people import follow_people
from bursar_aggregator.rows_retention import check_retention, keep_rows
from bursar_aggregator.tiering import check_tiering, set_tiering
from bursar_aggregator.writer import InsertRefused, UsageWriter
from bursar_common.analytics import AnalyticsRefused
from bursar_common.clock import SystemClock
from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import LogIncompatible, LogUnavailable, OffsetLost
from bursar_common.service import run, until_signalled
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging

SERVICE = "usage-aggregator"


def main() -> int:
    """Run until SIGTERM. 0: stopped cleanly; 1: cannot go on; 2: a setting is wrong. One sentence on stderr each."""
    try:
        settings = load_settings(os.environ)
        configure_logging(SERVICE, settings.log_level)
        check_tiering(settings)
        check_retention(settings)
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
        keep, part = FirstArrivals(analytics, time.time).keep, LeftMonths(analytics, time.time).part
        writer = UsageWriter(analytics, event_log, touch=HourNotes(analytics).touch, keep=keep, part=part)
        worker = LogWorker(event_log, writer)
        health = Health(lambda: writer.why_waiting or worker.why_unready)
        content = ContentJob(analytics, event_log, settings)
        figures = Figures(event_log, writer, content.writer, health, SystemClock())
        await serve_health(health, settings.aggregator_listen, stack, figures.route(settings))
        figures.export(stack)
        await until_migrated(analytics, event_log, health, stop)
        if not stop.is_set():
            await set_tiering(analytics, settings)
            follow_people(analytics, event_log, stack)
            figures.books = follow_books(analytics, event_log, stack)
            sum_up_hours(analytics, stack)
            keep_rows(analytics, event_log, settings, SystemClock().now_ms, stack)
            content.start(stack, read_topic=True)
        await worker.run(stop)
    return 0
