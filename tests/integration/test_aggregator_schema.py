"""The schema on a database that an older release filled, and applied twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bursar_aggregator.decode import UsageEvent
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_aggregator.rows import COLUMN_TYPES, COLUMNS, row_of
from bursar_common.analytics import Analytics
from tests.harness.processes import ServiceProcess, free_port
from tests.harness.usage_events import request_id, usage

TOKEN = "token-of-the-tests"
LATER = ("would_refuse", "tools_offered", "tool_uses")
"""Columns that the older database has not."""
COUNTER = "n:budget-2:1795219200:1795305600"


@pytest.fixture
async def analytics(tmp_path: Path) -> AsyncIterator[Analytics]:
    address = f"127.0.0.1:{free_port()}"
    env = {"BURSAR_HOME": str(tmp_path), "BURSAR_CLICKHOUSE_LISTEN": address, "BURSAR_INTERNAL_TOKEN": TOKEN}
    with ServiceProcess("bursar_aggregator.clickhouse_front", env=env, address=address, folder=tmp_path) as front:
        await front.ready()
        analytics = Analytics(f"http://bursar:{TOKEN}@{address}/bursar")
        yield analytics
        await analytics.close()


async def test_an_older_database_gets_the_new_columns_and_a_repetition_changes_nothing(analytics: Analytics) -> None:
    migrations = load_migrations()
    assert await migrate(analytics, migrations[:4]) == 4
    old = row_of(UsageEvent("usage:x", 2, usage(1)), "t", 0, 0)
    assert isinstance(old, tuple)
    known = [number for number, name in enumerate(COLUMNS) if name not in LATER]
    await analytics.insert_columns(
        "usage_events",
        [COLUMNS[number] for number in known],
        [COLUMN_TYPES[number] for number in known],
        [[old[number]] for number in known],
    )
    await analytics.command(
        "INSERT INTO bursar.usage_events (request_id, started_at)"
        " VALUES ('older', now64(3) - INTERVAL 47 HOUR), ('long ago', now64(3) - INTERVAL 9 DAY)"
    )
    assert await migrate(analytics, migrations) == len(migrations) - 4
    copied = await analytics.query(
        "SELECT request_id FROM bursar.usage_recent FINAL WHERE request_id IN ('older', 'long ago')"
    )
    assert copied == [{"request_id": "older"}]
    await analytics.command("ALTER TABLE bursar.usage_events DELETE WHERE virtual_key_id = ''"
                            " SETTINGS mutations_sync = 2")  # fmt: skip
    assert await migrate(analytics, migrations) == 0
    new = row_of(UsageEvent("usage:y", 2, usage(2, would_refuse=COUNTER, tools_offered=24, tool_uses=0)), "t", 0, 1)
    assert isinstance(new, tuple)
    await analytics.insert_columns("usage_events", COLUMNS, COLUMN_TYPES, [[value] for value in new])

    expected = [
        {"request_id": request_id(1), "would_refuse": "", "tools_offered": None, "tool_uses": None},
        {"request_id": request_id(2), "would_refuse": COUNTER, "tools_offered": 24, "tool_uses": 0},
    ]
    asked = "SELECT request_id, would_refuse, tools_offered, tool_uses FROM bursar.usage ORDER BY request_id"
    assert await analytics.query(asked) == expected
    # A crash in the middle of a file applies its statements again.
    for migration in migrations:
        for statement in migration.statements():
            await analytics.command(statement)
    assert await analytics.query(asked) == expected
    (column,) = await analytics.query(
        "SELECT type, comment FROM system.columns"
        " WHERE database = 'bursar' AND table = 'usage' AND name = 'would_refuse'"
    )
    assert column["type"] == "String"
    assert "observe budget" in column["comment"]
