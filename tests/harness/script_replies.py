"""What the ledger's scripts themselves answered, read from the enforcer's debug log: the state after every step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class CounterState(NamedTuple):
    """One counter after one script."""

    script: str
    counter: str
    spent: int
    held: int
    exposed: int
    limit: int | None


def script_replies(log: Path) -> Iterator[CounterState]:
    """Every reply in order, one item a counter. The enforcer must run with BURSAR_LOG_LEVEL=debug. A line that is being
    written is not one yet."""
    with log.open() as lines:
        for line in lines:
            if '"script_reply"' not in line or not line.endswith("\n"):
                continue
            reply = json.loads(line)
            for counter, spent, held, exposed, limit in reply["counters"]:
                yield CounterState(reply["script"], counter, spent, held, exposed, limit)
