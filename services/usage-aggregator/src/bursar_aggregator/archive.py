"""Requests of months that left, as Parquet files in a folder.

``<folder>/2026-11/`` has files of at most a UTC day and ``manifest.json``, which says of each: rows, sums, a digest
over every column, bytes, SHA-256; and which offsets of the log they were read at. A month is written beside its
place, synced, read back into ClickHouse and compared there with the rows it was made of; then it is renamed to its
place, whole, by the only one who writes there (:mod:`bursar_aggregator.archive_lock`). A month that is there with more
requests stays as it is. A folder that cannot be written, is full, or answers otherwise than it was told is an error,
and nothing leaves ClickHouse.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Final

import msgspec

from bursar_aggregator.archive_lock import ArchiveBusy, writing
from bursar_aggregator.archive_manifest import (
    DAY_MS,
    HOUR_MS,
    ArchivedFile,
    Manifest,
    checksum_of,
    content_of,
    stretches,
)
from bursar_aggregator.rows import COLUMNS, TABLE
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.finance import is_month, month_bounds_ms
from bursar_common.settings import SettingsError

RESTORED: Final = "usage_restored"
"""Table that ``bursar archive restore`` puts requests into, to look at. Nothing else writes it."""
SCRATCH: Final = "usage_archiving_"
"""Tables that files are read back into and compared in begin with this; each writing has one, made anew."""
MANIFEST: Final = "manifest.json"
REST_S: Final = 0.05
"""Seconds between two files: over chDB they take turns with inserts."""


class ArchiveError(Exception):
    """Nothing was dropped. The message names the path and what is wrong with it."""


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
        the month's place is kept where it holds the same, else laid aside; never where it holds more.

        Raises ArchiveError (also while another one writes), AnalyticsUnavailable, AnalyticsRefused."""
        try:
            with writing(self.folder):
                return await self._write(month)
        except ArchiveBusy:
            raise ArchiveError(
                f"another aggregator is writing to the archive {self.folder}. Nothing was dropped."
            ) from None
        except OSError as error:
            raise ArchiveError(
                f"the archive {self.folder} cannot be written: {error.strerror or error}. Nothing was dropped."
            ) from None

    async def _write(self, month: str) -> int:
        """Only one at a time gets here. Raises OSError and what :meth:`write` does."""
        await self._clear(month)
        from_ms, to_ms = month_bounds_ms(month)
        hours = await self._analytics.query(
            "SELECT toUnixTimestamp(toStartOfHour(toDateTime(started_at, 'UTC'))) AS hour_s, count() AS rows"
            f" FROM bursar.{TABLE} WHERE {_within(from_ms, to_ms)} GROUP BY hour_s"
        )
        parts = stretches(from_ms, to_ms, {int(row["hour_s"]) * 1000: int(row["rows"]) for row in hours})
        own = secrets.token_hex(4)
        building, scratch = self.folder / f".{month}.{own}.part", SCRATCH + own
        try:
            await asyncio.to_thread(building.mkdir)
            await self._analytics.command(f"CREATE TABLE bursar.{scratch} AS bursar.{TABLE}")
            files = [await self._write_file(building, scratch, start, end) for start, end in parts]
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
            await self._still_whole(manifest)
            if not await asyncio.to_thread(self._is_there, manifest):
                await asyncio.to_thread(self._put_in_place, building, month)
        finally:
            await asyncio.to_thread(shutil.rmtree, building, True)
            with suppress(AnalyticsUnavailable, AnalyticsRefused):  # then the next writing does it
                await self._analytics.command(f"DROP TABLE IF EXISTS bursar.{scratch} SYNC")
        await asyncio.to_thread(self.check, month)
        return manifest.rows

    async def _clear(self, month: str) -> None:
        """Remove what writings that were killed have left; nobody else writes now."""
        for folder in await asyncio.to_thread(lambda: list(self.folder.glob(f".{month}.*.part"))):
            await asyncio.to_thread(shutil.rmtree, folder, True)
        tables = await self._analytics.query(
            f"SELECT name FROM system.tables WHERE database = 'bursar' AND startsWith(name, '{SCRATCH}')"
        )
        for table in tables:
            await self._analytics.command(f"DROP TABLE IF EXISTS bursar.{table['name']} SYNC")

    async def _still_whole(self, manifest: Manifest) -> None:
        """Whether what was written is the whole month. It is not where another aggregator has dropped it meanwhile.

        Raises ArchiveError."""
        month, (from_ms, to_ms) = manifest.month, month_bounds_ms(manifest.month)
        (now,) = await self._analytics.query(
            f"SELECT (SELECT toInt64(count()) FROM bursar.{TABLE} FINAL WHERE {_within(from_ms, to_ms)}) AS rows,"
            f" (SELECT countIf(step = 'left') FROM bursar.usage_left WHERE month = toDate('{month}-01')) AS left"
        )
        if now["left"] or not now["rows"]:
            raise ArchiveError(f"the requests of {month} have left meanwhile: the archive stays as it is")
        if now["rows"] != manifest.rows:
            raise ArchiveError(
                f"{month} has {now['rows']} requests now, and {manifest.rows} were written. Nothing was dropped."
            )

    def _is_there(self, manifest: Manifest) -> bool:
        """Whether the month's place holds the same already, whole. Raises ArchiveError where it holds more."""
        place = self.folder / manifest.month
        try:
            there = self.manifest(manifest.month)
        except ArchiveError:
            return False
        if there.rows > manifest.rows:
            raise ArchiveError(
                f"{place} holds {there.rows} requests and ClickHouse {manifest.rows}: neither was touched. Move that"
                " folder away for the month to be archived anew."
            )
        if content_of(there) != content_of(manifest):
            return False
        try:
            self.check(manifest.month)
        except ArchiveError:
            return False
        return True

    async def _write_file(self, building: Path, scratch: str, from_ms: int, to_ms: int) -> ArchivedFile:
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
        await self._read_back(scratch, COLUMNS, read)
        found = await self._sums(f"bursar.{scratch}", COLUMNS, from_ms, to_ms)
        await self._analytics.command(f"TRUNCATE TABLE bursar.{scratch}")
        if found != expected:
            raise ArchiveError(f"{building / name} does not read as what was written: {found}, not {expected}")
        await asyncio.sleep(REST_S)
        return ArchivedFile(
            name=name, from_ms=from_ms, to_ms=to_ms, bytes=len(read), sha256=hashlib.sha256(read).hexdigest(), **found
        )

    async def _read_back(self, table: str, columns: Sequence[str], data: bytes) -> None:
        await self._analytics.import_block(table, columns, data, "Parquet")

    async def restore(self, months: Sequence[str]) -> int:
        """These months' requests into the table of restored ones, in place of what is there; the number of requests.
        The table has the columns that requests have now; what a month was archived without is at its default.

        Raises ArchiveError (nothing was done), AnalyticsUnavailable, AnalyticsRefused."""
        manifests = [await asyncio.to_thread(self.check, month) for month in months]
        await self._analytics.command(f"CREATE OR REPLACE TABLE bursar.{RESTORED} AS bursar.{TABLE}")
        for manifest in manifests:
            for file in manifest.files:
                data = await asyncio.to_thread((self.folder / manifest.month / file.name).read_bytes)
                await self._read_back(RESTORED, manifest.columns, data)
        return sum(manifest.rows for manifest in manifests)

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
