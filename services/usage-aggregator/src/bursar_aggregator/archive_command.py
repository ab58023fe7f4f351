"""``python -m bursar_aggregator.archive_command list|verify|restore [MONTH ...]``: requests that left ClickHouse.

``verify`` reads every file and compares it with the manifest (exit code 1 where one differs); ``restore`` puts months
into ``bursar.usage_restored``, in place of what is there, to look at: no sum, page or book reads that table.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bursar_aggregator.app import SERVICE
from bursar_aggregator.archive import RESTORED, Archive, ArchiveError, open_archive
from bursar_aggregator.migrations import SchemaMismatch, load_migrations, migrate
from bursar_aggregator.rebuild import reach_analytics
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.service import run
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging

COMMANDS = ("list", "verify", "restore")


async def main(settings: Settings, command: str, months: Sequence[str]) -> int:
    """Raises ArchiveError, SettingsError, AnalyticsUnavailable, AnalyticsRefused."""
    async with AsyncExitStack() as stack:
        analytics: Analytics | None = None
        if command == "restore":
            analytics = await reach_analytics(settings, stack)
            await migrate(analytics, load_migrations())
        archive = open_archive(settings.usage_archive, analytics or Analytics("http://none:1/bursar"))
        if archive is None:
            raise SettingsError("BURSAR_USAGE_ARCHIVE is not set: there is no archive.")
        there = archive.months()
        for month in months:
            if month not in there:
                has = f"it has {', '.join(there)}" if there else "it has nothing"
                raise ArchiveError(f"{month[:20]} is not in {archive.folder}: {has}")
        wanted = sorted(set(months)) or there
        if not wanted:
            sys.stdout.write(f"Nothing is archived in {archive.folder}.\n")
            return 0
        if command == "restore":
            count = await archive.restore(wanted)
            what = f"{_some(count, 'request')} of {', '.join(wanted)}"
            sys.stdout.write(f"{what} are in bursar.{RESTORED}, in place of what was there.\n")
            return 0
        return _tell(archive, wanted, whole=command == "verify")


def _tell(archive: Archive, months: Sequence[str], *, whole: bool) -> int:
    """The exit code: 1 where one of them is not as it was written. The others are told all the same."""
    code = 0
    for month in months:
        try:
            manifest = archive.check(month) if whole else archive.manifest(month)
        except ArchiveError as error:
            sys.stderr.write(f"{error}\n")
            code = 1
            continue
        size = sum(each.bytes for each in manifest.files)
        sys.stdout.write(
            f"{month}  {_some(manifest.rows, 'request')}  {_some(len(manifest.files), 'file')}  {size} bytes"
            f"  {manifest.checksum}{'  as it was written' if whole else ''}\n"
        )
    return code


def _some(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.stderr.write("usage: archive_command list|verify|restore [MONTH ...]\n")
        sys.exit(2)
    try:
        _settings = load_settings(os.environ)
        configure_logging(SERVICE, _settings.log_level)
        sys.exit(run(lambda: main(_settings, sys.argv[1], sys.argv[2:])))
    except SettingsError as _error:
        sys.stderr.write(f"{_error}\n")
        sys.exit(2)
    except (ArchiveError, AnalyticsUnavailable, AnalyticsRefused, SchemaMismatch) as _error:
        sys.stderr.write(f"{_error}\n")
        sys.exit(1)
