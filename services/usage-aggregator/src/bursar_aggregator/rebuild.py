"""``python -m bursar_aggregator.rebuild``: analytics again from the event log, to the same figures.

It empties the table and replays the usage topic up to its end as of then. The aggregator may go on meanwhile: what it
writes before the emptying stands in the log below that end and is replayed, what it writes later stays, and whatever
is written twice merges. Rows older than what the log still keeps cannot be replayed and are left alone. Until it is
done, figures are incomplete, and no month leaves (``bursar.usage_left``): one that was broken off is to be run again.
Names of people are not touched: the aggregator puts them right by itself.

On one machine the folder belongs to the running aggregator, so the work goes through its HTTP front; if none runs, the
engine is opened here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack

import structlog

from bursar_aggregator import recent
from bursar_aggregator.app import SERVICE
from bursar_aggregator.arrivals import FirstArrivals
from bursar_aggregator.batch import MAX_BATCH_BYTES, MAX_BATCH_RECORDS
from bursar_aggregator.content_job import replay_content
from bursar_aggregator.destination import embedded, open_analytics
from bursar_aggregator.hours import HourNotes
from bursar_aggregator.left import LeftMonths
from bursar_aggregator.migrations import SchemaMismatch, load_migrations, migrate
from bursar_aggregator.rows import TABLE
from bursar_aggregator.writer import InsertRefused, UsageWriter
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import EventLog, LogIncompatible, LogUnavailable, OffsetLost
from bursar_common.events import USAGE_TOPIC
from bursar_common.service import run
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging

log = structlog.get_logger()

CONNECT_S = 2.0
"""Seconds in which a front on this machine accepts a connection, if there is one."""
NOTHING_LEFT = "1970-01-01"
NOTED_S = 1.0
"""Seconds until no statement is under way any more that had not seen the note: each takes milliseconds."""
READ_WAIT_S = 5.0
"""Seconds to wait for a record that is known to be there (Kafka answers in well under one)."""


async def rebuild(analytics: Analytics, event_log: EventLog, *, topic: str = USAGE_TOPIC) -> int:
    """Empty and replay; returns the number of records read. Poison stays what it is: it was set aside before.

    Raises AnalyticsUnavailable, AnalyticsRefused, LogUnavailable, OffsetLost, InsertRefused."""
    await migrate(analytics, load_migrations())
    partitions = range(await event_log.partitions(topic))
    begins = {partition: await event_log.begin_offset(topic, partition) for partition in partitions}
    # Half replayed, a month may look as if it could leave.
    await analytics.command("INSERT INTO bursar.usage_left (month, step) VALUES ('1970-01-01', 'rebuilding')")
    await asyncio.sleep(NOTED_S)
    (kept,) = await analytics.query("SELECT toString(taken_from) AS first FROM bursar.usage_kept")
    # What is inserted meanwhile is replayed, so it does not matter between which of these statements it comes.
    await analytics.command(_emptying(begins, kept["first"]))
    await analytics.command(recent.EMPTYING)
    for statement in recent.filling():
        await recent.run(analytics, statement)
    # Sums of what was emptied count no more: hours are read request by request until they are summed up again. Those of
    # months whose requests have left stay: they are all there is.
    await analytics.command(_discarding("usage_hours_built", "hour", kept["first"]))
    await analytics.command(_discarding("usage_days_built", "day", kept["first"]))
    if kept["first"] == NOTHING_LEFT and not any(begins.values()):
        for table in ("booked_months", "booked_differences"):  # made again, and compared with the closes again
            await analytics.command(f"TRUNCATE TABLE bursar.{table}")
    keep, part = FirstArrivals(analytics, time.time).keep, LeftMonths(analytics, time.time).part
    writer = UsageWriter(
        analytics, event_log, bury_poison=False, touch=HourNotes(analytics).touch, keep=keep, part=part
    )
    count = 0
    for partition in partitions:
        end = await event_log.end_offset(topic, partition)
        offset = begins[partition]
        while offset < end:
            records = await event_log.read(
                topic,
                partition,
                offset,
                max_records=MAX_BATCH_RECORDS,
                max_bytes=MAX_BATCH_BYTES,
                wait_s=READ_WAIT_S,
            )
            if not records:
                break  # nothing but gaps up to the end
            await writer.write(records)
            offset = records[-1].offset + 1
            count += len(records)
        log.debug("partition replayed", topic=topic, partition=partition, up_to=end)
    await analytics.command("INSERT INTO bursar.usage_left (month, step) VALUES ('1970-01-01', 'rebuilt')")
    return count


def _discarding(table: str, unit: str, first: str) -> str:
    if first == NOTHING_LEFT:
        return f"TRUNCATE TABLE bursar.{table}"
    return f"ALTER TABLE bursar.{table} DELETE WHERE {unit} >= toDate('{first}') SETTINGS mutations_sync = 2"


def _emptying(begins: dict[int, int], first: str) -> str:
    if not any(begins.values()) and first == NOTHING_LEFT:
        return f"TRUNCATE TABLE bursar.{TABLE}"
    kept = " OR ".join(f"(log_partition = {partition} AND log_offset < {begin})" for partition, begin in begins.items())
    if first != NOTHING_LEFT:
        kept += (
            f" OR started_at < toDateTime64('{first} 00:00:00', 3, 'UTC')"  # about to leave: it would not go in again
        )
    return f"ALTER TABLE bursar.{TABLE} DELETE WHERE NOT ({kept}) SETTINGS mutations_sync = 2"


async def main(settings: Settings) -> int:
    async with AsyncExitStack() as stack:
        analytics = await reach_analytics(settings, stack)
        event_log = open_log(settings)
        stack.push_async_callback(event_log.close)
        await event_log.start()
        count = await rebuild(analytics, event_log)
        content = await replay_content(analytics, event_log)
    sys.stdout.write(f"Analytics rebuilt from {count} events.\n")
    if content:
        sys.stdout.write(f"Prompts and answers of {content} requests written again.\n")
    return 0


async def reach_analytics(settings: Settings, stack: AsyncExitStack) -> Analytics:
    """Whatever runs: the server, the front of a running aggregator, or else the engine itself."""
    if not embedded(settings) or not await _front_runs(settings.clickhouse_listen):
        return await open_analytics(settings, stack)
    analytics = Analytics(
        f"http://{_reachable(settings.clickhouse_listen)}/bursar",
        internal_token=settings.internal_token.get_secret_value(),
    )
    stack.push_async_callback(analytics.close)
    return analytics


async def _front_runs(address: str) -> bool:
    host, _, port = _reachable(address).rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), CONNECT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _reachable(listen: str) -> str:
    """The address under which this machine reaches its own listener."""
    host, _, port = listen.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]", "") else listen


if __name__ == "__main__":
    try:
        _settings = load_settings(os.environ)
        configure_logging(SERVICE, _settings.log_level)
        sys.exit(run(lambda: main(_settings)))
    except SettingsError as _error:
        sys.stderr.write(f"{_error}\n")
        sys.exit(2)
    except (
        AnalyticsUnavailable,
        AnalyticsRefused,
        InsertRefused,
        LogIncompatible,
        LogUnavailable,
        OffsetLost,
        SchemaMismatch,
    ) as _error:
        sys.stderr.write(f"{_error}\n")
        sys.exit(1)
