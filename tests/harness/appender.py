"""A process that appends to an event log and says on its standard output what was acknowledged: the victim of tests
that kill it. ``python -m tests.harness.appender <topic> <name> <writers> <records each> [file limit in bytes]``, where
0 records mean "until killed"; the log is named by the environment, as in a service."""

from __future__ import annotations

import asyncio
import os
import resource
import sys

from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import LogUnavailable, NewRecord
from bursar_common.settings import load_settings


async def main(topic: str, name: str, writers: int, records: int, file_limit_bytes: int) -> None:
    log = open_log(load_settings(os.environ))
    await log.start()
    print("ready", flush=True)

    async def write(writer: int) -> None:
        number = 0
        while not records or number < records:
            value = f"{name}:{writer}:{number}"
            try:
                await log.append([NewRecord(topic, f"{name}:{writer}", value.encode() + b" " * 500)])
            except LogUnavailable:
                print("unavailable", flush=True)
                return
            print(f"ack {value}", flush=True)
            number += 1

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if file_limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit_bytes, hard))
    await asyncio.gather(*[write(writer) for writer in range(writers)])
    if file_limit_bytes:  # there is room again
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await log.append([NewRecord(topic, name, b"afterwards")])
        print("ack afterwards", flush=True)
    await log.close()


if __name__ == "__main__":
    topic, name, *numbers = sys.argv[1:]
    asyncio.run(main(topic, name, *[int(number) for number in [*numbers, "0"][:3]]))
