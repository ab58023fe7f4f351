"""``python -m bursar_aggregator.archive_command list|verify|restore [MONTH ...]``: requests that left ClickHouse.

``verify`` reads every file and compares it with the manifest; ``restore`` puts months into ``bursar.usage_restored``,
in place of what is there, to look at: no sum, page or book reads that table.
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
from bursar_common.finance import is_month
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
            if not is_month(month) or month not in there:
                raise ArchiveError(f"{month[:20]!r} is not in {archive.folder}; there: {', '.join(there) or 'nothing'}")
        wanted = list(months) or there
        if command == "restore":
            count = await archive.restore(wanted)
            sys.stdout.write(f"{count} requests are in bursar.{RESTORED}.\n")
            return 0
        for month in wanted:
            _tell(archive, month, whole=command == "verify")
    return 0


def _tell(archive: Archive, month: str, *, whole: bool) -> None:
    manifest = archive.check(month) if whole else archive.manifest(month)
    size = sum(each.bytes for each in manifest.files)
    sys.stdout.write(
        f"{month}  {manifest.rows} requests  {len(manifest.files)} files  {size} bytes  {manifest.checksum}"
        f"{'  as it was written' if whole else ''}\n"
    )


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
