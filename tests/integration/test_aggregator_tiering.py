"""Tiering of requests: what the settings say is what the table says, and only changes are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import analytics_rows
from bursar_aggregator.engine import Engine
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_aggregator.tiering import changes, check_tiering, set_tiering
from bursar_common.analytics import Analytics
from bursar_common.settings import Settings, SettingsError, load_settings

SERVER = {"BURSAR_CLICKHOUSE_URL": "http://clickhouse:8123/bursar"}


def settings(**given: str) -> Settings:
    return load_settings({**SERVER, **{f"BURSAR_USAGE_{name.upper()}": value for name, value in given.items()}})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"cold_days": "30"}, "BURSAR_USAGE_COLD_VOLUME belong together"),
        ({"cold_volume": "slow"}, "BURSAR_USAGE_COLD_VOLUME belong together"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        check_tiering(settings(**given))


def test_the_embedded_engine_has_one_disk() -> None:
    with pytest.raises(SettingsError, match="need a ClickHouse server"):
        check_tiering(load_settings({"BURSAR_USAGE_COLD_DAYS": "30", "BURSAR_USAGE_COLD_VOLUME": "slow"}))
    check_tiering(load_settings({}))


@pytest.mark.parametrize("value", ["slow'; DROP TABLE bursar.usage_events", "a b", "x" * 65])
def test_names_are_names(value: str) -> None:
    with pytest.raises(SettingsError, match="BURSAR_USAGE_COLD_VOLUME"):
        settings(cold_days="30", cold_volume=value)


async def test_the_table_follows_the_settings(tmp_path: Path) -> None:
    """On the embedded engine's own policy and its only volume, which are both called ``default``."""
    engine = Engine(tmp_path / "chdb")
    analytics = Analytics(f"chdb://{engine.path}")
    try:
        await migrate(analytics, load_migrations())
        engine.run_main(analytics_rows.insert_block(0, 600, 600, 1_772_000_000, 3), "Null")

        def full() -> str:
            sql = "SELECT engine_full FROM system.tables WHERE database = 'bursar' AND name = 'usage_events'"
            return engine.run_main(sql, "TSVRaw").body.decode()

        none = settings()
        assert changes(full(), none) == []
        moved = settings(cold_days="30", cold_volume="default")
        assert len(changes(full(), moved)) == 1
        await set_tiering(analytics, moved)
        assert "TTL toDate(started_at) + toIntervalDay(30) TO VOLUME 'default'" in full()
        assert changes(full(), moved) == []
        later = settings(cold_days="60", cold_volume="default")
        await set_tiering(analytics, later)
        assert "toIntervalDay(60)" in full()
        await set_tiering(analytics, none)
        assert "TTL" not in full()
        # Nothing was lost on the way.
        assert engine.run_main("SELECT count() FROM bursar.usage_events", "TSV").body.strip() == b"600"
    finally:
        await analytics.close()
        engine.close()


def test_a_policy_is_set_before_its_volume_is_named() -> None:
    wanted = settings(storage_policy="tiered", cold_days="90", cold_volume="slow")
    engine = "ReplacingMergeTree(rank) PARTITION BY toYYYYMM(started_at) ORDER BY x SETTINGS fsync_after_insert = 1"
    first, second = changes(engine, wanted)
    assert "storage_policy = 'tiered'" in first
    assert "TO VOLUME 'slow'" in second
    there = (
        "ReplacingMergeTree(rank) ORDER BY x TTL toDate(started_at) + toIntervalDay(90) TO VOLUME 'slow'"
        " SETTINGS storage_policy = 'tiered'"
    )
    assert changes(there, wanted) == []
