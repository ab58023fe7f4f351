"""Where rows of requests lie: on the table's storage policy, older ones on a volume of it that costs less.

Rows are moved by ClickHouse, a part at a time, and stay readable where they are. The table says what is in force, and
is changed only where the settings say something else. A matter of a ClickHouse server: policies and volumes are in its
configuration, and the embedded engine has one disk.
"""

from __future__ import annotations

import re
from typing import Final

import structlog

from bursar_aggregator.destination import embedded
from bursar_aggregator.rows import TABLE
from bursar_common.analytics import Analytics, AnalyticsUnavailable
from bursar_common.settings import Settings, SettingsError

log = structlog.get_logger()

_TTL: Final = re.compile(r" TTL toDate\(started_at\) \+ toIntervalDay\((\d+)\) TO VOLUME '([A-Za-z0-9_-]+)'")
_POLICY: Final = re.compile(r"storage_policy = '([A-Za-z0-9_-]+)'")


def check_tiering(settings: Settings) -> None:
    """Raises SettingsError for settings that do not go together."""
    days, volume, policy = settings.usage_cold_days, settings.usage_cold_volume, settings.usage_storage_policy
    if (days or volume or policy) and embedded(settings):
        raise SettingsError(
            "BURSAR_USAGE_COLD_DAYS, BURSAR_USAGE_COLD_VOLUME and BURSAR_USAGE_STORAGE_POLICY need a ClickHouse server "
            "(BURSAR_CLICKHOUSE_URL): the embedded engine keeps everything on one disk."
        )
    if bool(days) != bool(volume):
        raise SettingsError(
            "BURSAR_USAGE_COLD_DAYS and BURSAR_USAGE_COLD_VOLUME belong together: after how many days, and where to."
        )


async def set_tiering(analytics: Analytics, settings: Settings) -> None:
    """Bring the table to what the settings say; while the server is away, at the next start. The schema is applied,
    :func:`check_tiering` passed.

    Raises AnalyticsRefused where the server does not have the policy or volume."""
    try:
        rows = await analytics.query(
            f"SELECT engine_full FROM system.tables WHERE database = 'bursar' AND name = '{TABLE}'"  # noqa: S608 - ours
        )
        for statement in changes(rows[0]["engine_full"] if rows else "", settings):
            await analytics.command(statement)
            log.info("where rows of requests lie was changed", statement=statement)
    except AnalyticsUnavailable as error:
        log.warning("where rows of requests lie is set at the next start", why=str(error)[:300])


def changes(engine: str, settings: Settings) -> list[str]:
    """Statements that bring a table of this ``engine_full`` to the settings. Pure."""
    days, volume, policy = settings.usage_cold_days, settings.usage_cold_volume, settings.usage_storage_policy
    statements = []
    there = _POLICY.search(engine)
    if policy and (there is None or there[1] != policy):
        statements.append(f"ALTER TABLE bursar.{TABLE} MODIFY SETTING storage_policy = '{policy}'")
    ttl = _TTL.search(engine)
    if days and (ttl is None or (int(ttl[1]), ttl[2]) != (days, volume)):
        statements.append(
            f"ALTER TABLE bursar.{TABLE} MODIFY TTL toDate(started_at) + toIntervalDay({days}) TO VOLUME '{volume}'"
        )
    if not days and ttl is not None:
        # Rows that were moved stay where they are.
        statements.append(f"ALTER TABLE bursar.{TABLE} REMOVE TTL")
    return statements
