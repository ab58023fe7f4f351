"""``python -m bench.analytics_fill FOLDER ROWS``: usage rows by the million, made and summed up in FOLDER's engine.

A process of its own, with more memory than the gateway gives the engine, which makes blocks of a day's rows: one part
each, in the table's order. It goes on where it was stopped. FOLDER/shape.json says what the rows are, for whoever asks
about them later. Schema and sums are the aggregator's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from bench import analytics_rows
from bursar_aggregator import engine as engines
from bursar_aggregator import hours
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_common.analytics import Analytics

DAYS = 90
"""Time that the rows span, up to the running hour of when they were begun."""
BLOCK_ROWS = 1_000_000
MEMORY_BYTES = 7 << 30
HOURS_AT_ONCE = 24
"""Hours summed up by one statement: a quarter of the statements that the aggregator takes, each reading a whole day."""


def shape_of(folder: Path, total: int) -> dict[str, Any]:
    """What the rows are: made at the first start, read later."""
    path = folder / "shape.json"
    if not path.exists():
        until_s = int(time.time()) // 3600 * 3600
        path.write_text(json.dumps({"total": total, "start_s": until_s - DAYS * 86_400, "until_s": until_s}))
    shape: dict[str, Any] = json.loads(path.read_text())
    return shape


async def fill(folder: Path, total: int, rows: int, *, merges: bool) -> None:
    """Rows 0 to ``rows`` of a table that would have ``total`` rows over DAYS days, then their sums."""
    engines.ENGINE_OPTIONS = {**engines.ENGINE_OPTIONS, "max_server_memory_usage": str(MEMORY_BYTES)}  # type: ignore[misc]
    hours.HOURS_AT_ONCE = HOURS_AT_ONCE  # type: ignore[misc]
    shape = shape_of(folder, total)
    engine = engines.Engine(folder / "chdb")
    analytics = Analytics(f"chdb://{engine.path}")
    try:
        await migrate(analytics, load_migrations())
        if not merges:
            engine.run_main("SYSTEM STOP MERGES bursar.usage_events", "Null")
        settings = {
            "max_insert_block_size": str(BLOCK_ROWS),
            "min_insert_block_size_rows": str(BLOCK_ROWS),
            "min_insert_block_size_bytes": "0",
            "max_threads": "2",
            "max_memory_usage": "0",
        }
        (there,) = await analytics.query("SELECT count() AS rows FROM bursar.usage_events")
        began = time.monotonic()
        for first in range(there["rows"], rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, rows - first)
            sql = analytics_rows.insert_block(first, count, shape["total"], shape["start_s"], DAYS)
            await asyncio.to_thread(
                engine.run_trusted, sql, "Null", database="bursar", settings=settings, parameters={}
            )
            print(f"\r{first + count:,} rows, {time.monotonic() - began:.0f} s", end="", flush=True)
        await analytics.command(
            "INSERT INTO bursar.usage_hours_touched (hour, touched_at) SELECT DISTINCT"
            " toStartOfHour(toDateTime(started_at, 'UTC')), now64(3) - INTERVAL 1 HOUR FROM bursar.usage_events"
            " WHERE toStartOfHour(toDateTime(started_at, 'UTC')) NOT IN (SELECT hour FROM bursar.usage_hours_touched)"
            " UNION ALL SELECT toDateTime(0, 'UTC'), now64(3)"
        )
        sums, done = hours.HourSums(analytics), 0
        while True:
            found = await sums.look()
            (left,) = await analytics.query(
                "SELECT countIf(NOT complete AND day < toDate(now('UTC'))) AS days FROM bursar.usage_days_state"
            )
            done += found
            print(f"\r{done:,} hours summed up, {time.monotonic() - began:.0f} s   ", end="", flush=True)
            if not found and not left["days"]:
                break
        print()
    finally:
        await analytics.close()
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int, help="of the whole table, over 90 days")
    parser.add_argument("--part", type=int, help="make only so many of them: the oldest, as dense as the whole")
    parser.add_argument("--merges", action="store_true", help="let the engine merge parts meanwhile")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(fill(options.folder, options.rows, options.part or options.rows, merges=options.merges))


if __name__ == "__main__":
    main()
