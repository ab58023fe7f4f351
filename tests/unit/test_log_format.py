"""Whatever ends up on standard error is one JSON object a line."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import asyncio, logging, threading, warnings
import structlog
from bursar_common.telemetry import configure_logging

configure_logging("a-service", "debug")
log = structlog.get_logger()
log.debug("ours", request_id="r1")
logging.getLogger("aiokafka").warning("theirs %s", "said")
logging.getLogger("aiokafka").info("too quiet to be told")
warnings.warn("careful")

def fail():
    secret = "a-local-variable"
    raise ValueError("in a thread")

thread = threading.Thread(target=fail)
thread.start()
thread.join()

async def main():
    task = asyncio.ensure_future(asyncio.to_thread(fail))
    await asyncio.sleep(0.1)
    del task
    with structlog.contextvars.bound_contextvars(request_id="r2"):
        log.info("bound")
        logging.getLogger("aiohttp").error("bound, too")

asyncio.run(main())
try:
    fail()
except ValueError:
    log.exception("caught")
fail()
"""


def test_every_line_is_json_whoever_wrote_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    events = [line["event"] for line in lines]
    assert events[:2] == ["ours", "theirs said"]
    assert any("careful" in event for event in events)
    assert events.count("died") == 2
    assert "caught" in events
    assert all(line["service"] == "a-service" and line["level"] and line["timestamp"] for line in lines)
    by_event = {line["event"]: line for line in lines}
    assert by_event["ours"]["request_id"] == "r1"
    assert by_event["bound"]["request_id"] == by_event["bound, too"]["request_id"] == "r2"
    assert "ValueError" in json.dumps(by_event["died"])
    assert "a-local-variable" not in done.stderr
    assert "too quiet" not in done.stderr
