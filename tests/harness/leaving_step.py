"""``python -m tests.harness.leaving_step URL FOLDER N``: has October leave, and kills itself (SIGKILL) right before the
Nth thing that it does to ClickHouse or to the archive. Exit code 0: it was done before that."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from bursar_aggregator import archive
from bursar_common.analytics import Analytics
from bursar_common.eventlog.sqlite import SqliteEventLog
from tests.harness.leaving import Installation


def main() -> None:
    url, folder, left = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

    def counted(call: Any) -> Any:
        def stand_in(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return stand_in

    for name in ("command", "insert_columns", "export", "import_block"):
        setattr(Analytics, name, counted(getattr(Analytics, name)))
    for name in ("_write_synced", "_sync_folder"):
        setattr(archive, name, counted(getattr(archive, name)))
    archive.Archive._put_in_place = counted(archive.Archive._put_in_place)  # type: ignore[method-assign]

    async def run() -> None:
        analytics = Analytics(url)
        log = SqliteEventLog(folder / "log.db")
        await log.start()
        retention = Installation(analytics, log, folder).retention()
        while await retention.look(0):
            pass
        await log.close()
        await analytics.close()

    asyncio.run(run())


if __name__ == "__main__":
    main()
