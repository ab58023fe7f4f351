"""A database that has requests of the last days gets its copy of them in pieces, also where that is broken off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bursar_admin.queries.ranges import HOURS_QUERY, hours_of
from bursar_aggregator import recent
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_common.analytics import Analytics, AnalyticsUnavailable
from tests.harness.clickhouse_front import ClickHouseFront

ROWS = 3_000
BEFORE = 17
"""The schema file before the copy."""
HELD = "SELECT count() AS n, sum(cityHash64(request_id, virtual_key_id, started_at, rank, cost_nusd)) AS hash"


@pytest.fixture
async def analytics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Analytics]:
    """A database of the release before, with requests of four days, some of them twice, and one that is dated ahead."""
    monkeypatch.setattr(recent, "WHOLE_ROWS", 100)
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.process.ready()
        analytics = front.inner()
        await migrate(analytics, load_migrations()[:BEFORE])
        for rank in (2, 1):
            await analytics.command(
                "INSERT INTO bursar.usage_events (request_id, started_at, virtual_key_id, rank, cost_nusd)"
                f" SELECT concat('id-', toString(number)), now64(3) - INTERVAL number * 115 - 1200 SECOND,"
                f" concat('key-', toString(number % 7)), {rank}, number * {rank}"
                f" FROM numbers({ROWS}) WHERE number % {3 - rank} = 0"
            )
        yield analytics
        await analytics.close()


async def two_days(analytics: Analytics) -> str:
    """Where the two last days begin, some minutes less, since the clock goes on. Asked once: what is compared begins at
    one moment, however long it takes."""
    (row,) = await analytics.query("SELECT toString(toUnixTimestamp64Milli(now64(3) - INTERVAL 2847 MINUTE)) AS ms")
    return f"fromUnixTimestamp64Milli({row['ms']})"


async def in_both(analytics: Analytics, since: str) -> tuple[Any, Any]:
    """What there is since then, and what the copy holds of it."""
    within = f"FINAL WHERE started_at >= {since}"
    (events,) = await analytics.query(f"{HELD} FROM bursar.usage_events {within}")
    (copied,) = await analytics.query(f"{HELD} FROM bursar.usage_recent {within}")
    return events, copied


async def test_each_piece_is_an_hour_and_together_they_are_all(
    analytics: Analytics, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = await two_days(analytics)
    run = analytics.command
    copied: list[int] = []

    async def command(sql: str) -> None:
        if "INSERT INTO bursar.usage_recent" in sql:
            _, _, chosen = sql.partition("SELECT")
            (row,) = await analytics.query(f"SELECT uniqExact(toStartOfHour(started_at)) AS n FROM (SELECT{chosen})")
            copied.append(row["n"])
        await run(sql)

    monkeypatch.setattr(analytics, "command", command)
    await migrate(analytics, load_migrations())
    assert len(copied) == 3 * 24
    assert max(copied) == 1
    assert sum(copied) >= 49  # hours that have requests: two whole days, and of today at least one
    events, held = await in_both(analytics, since)
    assert events == held
    assert events["n"] > ROWS // 3


@pytest.mark.parametrize("done", [0, 30])
async def test_broken_off_it_is_done_again_from_the_beginning(
    analytics: Analytics, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    since = await two_days(analytics)
    run = analytics.command
    left = done

    async def command(sql: str) -> None:
        nonlocal left
        if "INSERT INTO bursar.usage_recent" in sql:
            if not left:
                raise AnalyticsUnavailable("away")
            left -= 1
        await run(sql)

    with monkeypatch.context() as patched:
        patched.setattr(analytics, "command", command)
        with pytest.raises(AnalyticsUnavailable):
            await migrate(analytics, load_migrations())
    applied = await analytics.query("SELECT max(version) AS n FROM bursar.schema_migrations")
    assert applied == [{"n": BEFORE}]
    await analytics.command("INSERT INTO bursar.usage_hours_touched (hour) VALUES (toDateTime(0, 'UTC'))")
    assert hours_of(await analytics.query(HOURS_QUERY)).recent_ms is None  # so nobody asks half a copy
    # What comes meanwhile is fed to the copy, and copied once more.
    await analytics.command(
        "INSERT INTO bursar.usage_events (request_id, started_at, virtual_key_id, rank, cost_nusd)"
        " SELECT concat('new-', toString(number)), now64(3) - INTERVAL number HOUR, 'key-1', 2, 5 FROM numbers(40)"
    )
    await migrate(analytics, load_migrations())
    assert hours_of(await analytics.query(HOURS_QUERY)).recent_ms is not None
    events, held = await in_both(analytics, since)
    assert events == held
    for statement in recent.filling():
        await recent.run(analytics, statement)
    assert (await in_both(analytics, since))[1] == held
