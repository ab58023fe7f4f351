"""The schema: numbered files below ``schema/``, each applied once and recorded with its checksum.

Statements are safe to repeat, so a crash in the middle of a file, or two replicas starting at once, do no harm.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

import msgspec
import structlog

from bursar_aggregator import names, recent
from bursar_common.analytics import Analytics

log = structlog.get_logger()

_FILE_NAME = re.compile(r"(\d{3})_([a-z0-9_]+)\.sql")
_STATEMENT_END = re.compile(r";[ \t]*\n")

_MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS bursar.schema_migrations
(
    `version` UInt32 COMMENT 'Number of the schema file',
    `name` String COMMENT 'Name of the schema file',
    `checksum` String COMMENT 'SHA-256 of the file as it was applied, hex',
    `applied_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When it was applied, UTC'
)
ENGINE = MergeTree ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Schema files applied to this database'
"""


class SchemaMismatch(Exception):
    """Fatal: the database and this release do not belong together. The message says what to do."""


class Migration(msgspec.Struct, frozen=True):
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> list[str]:
        """The file's statements; each ends with a semicolon at the end of a line."""
        parts = (part.strip() for part in _STATEMENT_END.split(self.sql + "\n"))
        return [part for part in parts if any(line and not line.startswith("--") for line in part.splitlines())]


def load_migrations() -> list[Migration]:
    """The migrations that belong to this release, by number. Raises ValueError for a gap or a strange file name."""
    found: list[Migration] = []
    for entry in files("bursar_aggregator").joinpath("schema").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(entry.name)
        if match is None:
            raise ValueError(f"schema file {entry.name} is not called NNN_name.sql")
        found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("schema files are not numbered 001, 002, ... without gaps")
    return found


def pending(migrations: Sequence[Migration], applied: Mapping[int, str]) -> list[Migration]:
    """What is left to apply, given the checksums applied by number.

    Raises SchemaMismatch: the database is newer than this release, or a file was changed after it was applied."""
    newest = max(applied, default=0)
    if newest > len(migrations):
        raise SchemaMismatch(
            f"The database has schema {newest}, this release knows {len(migrations)}: "
            "start the release that wrote it, or a newer one."
        )
    for migration in migrations:
        known = applied.get(migration.version)
        if known is not None and known != migration.checksum:
            raise SchemaMismatch(
                f"Schema file {migration.version:03d}_{migration.name} differs from what was applied to this database: "
                "put the change into a new file, or rebuild analytics into an empty database."
            )
    return [migration for migration in migrations if migration.version not in applied]


async def applied(analytics: Analytics) -> dict[int, str]:
    """Checksums of the files applied, by number; empty for a database that nothing was ever written to.

    Raises AnalyticsUnavailable, AnalyticsRefused."""
    await analytics.command("CREATE DATABASE IF NOT EXISTS bursar COMMENT 'Bursar: usage and its cost'")
    await analytics.command(_MIGRATIONS_TABLE)
    rows = await analytics.query("SELECT version, checksum FROM bursar.schema_migrations ORDER BY applied_at")
    return {row["version"]: row["checksum"] for row in rows}


async def migrate(analytics: Analytics, migrations: Sequence[Migration]) -> int:
    """Bring the database up to date; returns how many files were applied.

    Raises SchemaMismatch, AnalyticsUnavailable, AnalyticsRefused."""
    todo = pending(migrations, await applied(analytics))
    for migration in todo:
        for statement in migration.statements():
            copies = next((each for each in (recent, names) if each.COPYING in statement), None)
            await (copies.run(analytics, statement) if copies else analytics.command(statement))
        await analytics.insert_columns(
            "schema_migrations",
            ("version", "name", "checksum"),
            ("UInt32", "String", "String"),
            ([migration.version], [migration.name], [migration.checksum]),
        )
        log.info("schema file applied", version=migration.version, name=migration.name)
    return len(todo)
