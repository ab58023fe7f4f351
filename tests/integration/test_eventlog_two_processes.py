"""The SQLite log of one process while another one opens and closes it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from bursar_common.eventlog.port import NewRecord
from bursar_common.eventlog.sqlite import SqliteEventLog

OPEN_AND_CLOSE = """
import asyncio, sys
from pathlib import Path
from bursar_common.eventlog.port import NewRecord
from bursar_common.eventlog.sqlite import SqliteEventLog

async def main():
    log = SqliteEventLog(Path(sys.argv[1]))
    await log.start()
    await log.append([NewRecord("t", "k", b"theirs")])
    print(len(await log.read("t", 0, 0)))
    await log.close()

asyncio.run(main())
"""


def other_process(path: Path) -> int:
    """Append one record in a process that ends; how many it then sees."""
    ended = subprocess.run(
        [sys.executable, "-c", OPEN_AND_CLOSE, str(path)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


async def test_what_is_appended_after_another_process_left_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteEventLog(path)
    await log.start()
    await log.append([NewRecord("t", "k", b"ours")])
    assert await asyncio.to_thread(other_process, path) == 2
    await log.append([NewRecord("t", "k", b"ours")])
    assert await asyncio.to_thread(other_process, path) == 4
    second = SqliteEventLog(path)  # another one in this process, opened and closed beside the first
    await second.start()
    await second.close()
    assert await asyncio.to_thread(other_process, path) == 5
    await log.append([NewRecord("t", "k", b"ours")])
    await log.close()
    assert await asyncio.to_thread(other_process, path) == 7
