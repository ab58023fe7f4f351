"""Requests of months that left, as Parquet files in a folder.

``<folder>/2026-11/`` has files of at most a UTC day and ``manifest.json``, which says of each: rows, sums, a digest
over every column, bytes, SHA-256; and which offsets of the log they were read at. A month is written beside its
place, synced, read back into ClickHouse and compared there with the rows it was made of; then it is renamed to its
place, whole. A folder that cannot be written, is full, or answers otherwise than it was told is an error, and nothing
leaves ClickHouse.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Final

import msgspec

from bursar_aggregator.rows import COLUMNS, TABLE
from bursar_common.analytics import Analytics
from bursar_common.finance import is_month, month_bounds_ms
from bursar_common.settings import SettingsError

RESTORED: Final = "usage_restored"
"""Table that files are read back into: compared there, and looked at there after ``bursar archive restore``."""
MANIFEST: Final = "manifest.json"
FILE_ROWS: Final = 100_000
"""Requests of one file, as far as hours can be told apart: some 20 MB, which are held in memory."""
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
REST_S: Final = 0.05
"""Seconds between two files: over chDB they take turns with inserts."""


class ArchiveError(Exception):
    """Nothing was dropped. The message names the path and what is wrong with it."""


class ArchivedFile(msgspec.Struct, frozen=True):
    """One file of a month. Moments are Unix ms; digest and sums are over the rows."""

    name: str
    from_ms: int
    to_ms: int
    rows: int
    cost_nusd: int
    list_cost_nusd: int
    digest: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    month: str
    rows: int
    columns: tuple[str, ...]
    files: tuple[ArchivedFile, ...]
    log: tuple[tuple[str, int, int, int], ...]
    """Of each partition of the log: topic, number, lowest and highest offset of the rows."""
    checksum: str
    """SHA-256 (hex) over the files' own, in their order."""


def checksum_of(files: Sequence[ArchivedFile]) -> str:
    return hashlib.sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()


def stretches(from_ms: int, to_ms: int, rows_of_hours: Mapping[int, int]) -> list[tuple[int, int]]:
    """What a month's files are of, as ``[from, to)``: a UTC day, or as many of its hours as have FILE_ROWS requests.
    Days without requests have none."""
    found = []
    for day in range(from_ms, to_ms, DAY_MS):
        start, rows = day, 0
        for hour in range(day, day + DAY_MS, HOUR_MS):
            more = rows_of_hours.get(hour, 0)
            if rows and rows + more > FILE_ROWS:
                found.append((start, hour))
                start, rows = hour, 0
            rows += more
        if rows:
            found.append((start, day + DAY_MS))
    return found


def check_archive(setting: str) -> None:
    """Raises SettingsError."""
    if setting and ("://" in setting or not os.path.isabs(setting)):
        raise SettingsError("BURSAR_USAGE_ARCHIVE is the absolute path of a folder, such as /var/lib/bursar-archive.")


def open_archive(setting: str, analytics: Analytics) -> Archive | None:
    """None where there is none. Raises SettingsError."""
    check_archive(setting)
    return Archive(Path(setting), analytics) if setting else None


class Archive:
    def __init__(self, folder: Path, analytics: Analytics) -> None:
        self.folder = folder
        self._analytics = analytics

    def place(self, month: str) -> str:
        return str(self.folder / month)

    def months(self) -> list[str]:
        """Months that it has, earliest first. Raises ArchiveError."""
        try:
            found = [each.name for each in self.folder.iterdir() if is_month(each.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ArchiveError(f"{self.folder} cannot be read: {error.strerror}") from None
        return sorted(month for month in found if (self.folder / month / MANIFEST).exists())

    def manifest(self, month: str) -> Manifest:
        """Raises ArchiveError."""
        path = self.folder / month / MANIFEST
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except OSError as error:
            raise ArchiveError(f"{path} cannot be read: {error.strerror}") from None
        except msgspec.MsgspecError:
            raise ArchiveError(f"{path} is not a manifest of an archive") from None

    def has(self, month: str) -> bool:
        """Whether every file of the month is there in its full length."""
        try:
            manifest = self.manifest(month)
            return all((self.folder / month / each.name).stat().st_size == each.bytes for each in manifest.files)
        except (ArchiveError, OSError):
            return False

    def check(self, month: str) -> Manifest:
        """Read every file and compare it with the manifest. Raises ArchiveError."""
        manifest = self.manifest(month)
        for file in manifest.files:
            path = self.folder / month / file.name
            try:
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise ArchiveError(f"{path} cannot be read: {error.strerror}") from None
            if found != file.sha256:
                raise ArchiveError(f"{path} is not what was written: its SHA-256 is {found}, not {file.sha256}")
        if (
            checksum_of(manifest.files) != manifest.checksum
            or sum(each.rows for each in manifest.files) != manifest.rows
        ):
            raise ArchiveError(f"the manifest of {month} in {self.folder} does not agree with itself")
        return manifest

    async def write(self, month: str) -> int:
        """Write a month's requests, read them back and compare; the number of requests. What an earlier try has put in
        the month's place is kept where it holds the same, else laid aside.

        Raises ArchiveError, AnalyticsUnavailable, AnalyticsRefused."""
        await self._make_restored()
        from_ms, to_ms = month_bounds_ms(month)
        hours = await self._analytics.query(
            "SELECT toUnixTimestamp(toStartOfHour(toDateTime(started_at, 'UTC'))) AS hour_s, count() AS rows"
            f" FROM bursar.{TABLE} WHERE {_within(from_ms, to_ms)} GROUP BY hour_s"
        )
        parts = stretches(from_ms, to_ms, {int(row["hour_s"]) * 1000: int(row["rows"]) for row in hours})
        building = self.folder / f".{month}.{secrets.token_hex(4)}.part"
        try:
            await asyncio.to_thread(building.mkdir, parents=True)
            files = [await self._write_file(building, start, end) for start, end in parts]
            places = await self._analytics.query(
                "SELECT log_topic, log_partition, min(log_offset) AS lowest, max(log_offset) AS highest"
                f" FROM bursar.{TABLE} FINAL WHERE {_within(from_ms, to_ms)} GROUP BY log_topic, log_partition"
                " ORDER BY log_topic, log_partition"
            )
            manifest = Manifest(
                month=month,
                rows=sum(each.rows for each in files),
                columns=COLUMNS,
                files=tuple(files),
                log=tuple((row["log_topic"], row["log_partition"], row["lowest"], row["highest"]) for row in places),
                checksum=checksum_of(files),
            )
            text = json.dumps(msgspec.to_builtins(manifest), indent=1).encode()
            await asyncio.to_thread(_write_synced, building / MANIFEST, text)
            await asyncio.to_thread(self._put_in_place, building, month)
        except OSError as error:
            raise ArchiveError(
                f"the archive {self.folder} cannot be written: {error.strerror or error}. Nothing was dropped."
            ) from None
        finally:
            await asyncio.to_thread(shutil.rmtree, building, True)
        await asyncio.to_thread(self.check, month)
        return manifest.rows

    async def _write_file(self, building: Path, from_ms: int, to_ms: int) -> ArchivedFile:
        moment = date.fromordinal(date(1970, 1, 1).toordinal() + from_ms // DAY_MS)
        name = f"{moment}.{from_ms % DAY_MS // HOUR_MS:02d}.parquet"
        listed = ", ".join(COLUMNS)
        data = await self._analytics.export(
            f"SELECT {listed} FROM bursar.{TABLE} FINAL WHERE {_within(from_ms, to_ms)}"
            " ORDER BY toDate(started_at), virtual_key_id, request_id",
            "Parquet",
        )
        await asyncio.to_thread(_write_synced, building / name, data)
        expected = await self._sums(f"bursar.{TABLE} FINAL", COLUMNS, from_ms, to_ms)
        read = await asyncio.to_thread((building / name).read_bytes)
        await self.read_back(read, COLUMNS)
        found = await self._sums(f"bursar.{RESTORED}", COLUMNS, from_ms, to_ms)
        await self._analytics.command(f"TRUNCATE TABLE bursar.{RESTORED}")
        if found != expected:
            raise ArchiveError(f"{building / name} does not read as what was written: {found}, not {expected}")
        await asyncio.sleep(REST_S)
        return ArchivedFile(
            name=name, from_ms=from_ms, to_ms=to_ms, bytes=len(read), sha256=hashlib.sha256(read).hexdigest(), **found
        )

    async def _make_restored(self) -> None:
        await self._analytics.command(f"CREATE TABLE IF NOT EXISTS bursar.{RESTORED} AS bursar.{TABLE}")
        await self._analytics.command(f"TRUNCATE TABLE bursar.{RESTORED}")

    async def read_back(self, data: bytes, columns: Sequence[str]) -> None:
        """One file's rows into the table of restored ones."""
        await self._analytics.import_block(RESTORED, columns, data, "Parquet")

    async def restore(self, months: Sequence[str]) -> int:
        """These months' requests into the table of restored ones, in place of what is there; the number of requests.

        Raises ArchiveError, AnalyticsUnavailable, AnalyticsRefused."""
        await self._make_restored()
        count = 0
        for month in months:
            manifest = await asyncio.to_thread(self.check, month)
            for file in manifest.files:
                await self.read_back(
                    await asyncio.to_thread((self.folder / month / file.name).read_bytes), manifest.columns
                )
                count += file.rows
        return count

    async def _sums(self, table: str, columns: Sequence[str], from_ms: int, to_ms: int) -> dict[str, Any]:
        listed = ", ".join(columns)
        (row,) = await self._analytics.query(
            "SELECT toInt64(count()) AS rows, toInt64(sum(e.cost_nusd)) AS cost_nusd,"
            " toInt64(sum(e.list_cost_nusd)) AS list_cost_nusd,"
            f" hex(sum(sipHash64(formatRow('TSV', {', '.join('e.' + name for name in columns)})))) AS digest"
            f" FROM (SELECT {listed} FROM {table} WHERE {_within(from_ms, to_ms)}) AS e"
        )
        return dict(row)

    def _put_in_place(self, building: Path, month: str) -> None:
        """Raises OSError."""
        _sync_folder(building)
        place = self.folder / month
        with suppress(FileNotFoundError):
            place.rename(self.folder / f"{month}.before-{secrets.token_hex(4)}")
        building.rename(place)
        _sync_folder(self.folder)


def _within(from_ms: int, to_ms: int) -> str:
    return (
        f"started_at >= fromUnixTimestamp64Milli({from_ms}, 'UTC')"
        f" AND started_at < fromUnixTimestamp64Milli({to_ms}, 'UTC')"
    )


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
