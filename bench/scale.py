"""``python bench/scale.py --rows 10000000``: what people look at, over many rows, each question timed.

The rows are made inside the engine (``analytics_rows.py``), their closed hours summed up by the aggregator's own code;
then every question of a page is asked over REST as a page asks it, ROUNDS times, and its median stands in the table.
The target is 500 ms on two cores. ``--keep FOLDER`` keeps the database there and uses it again.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import analytics_rows
from bench.processes import Processes
from bench.stack import Gateway
from bursar_aggregator.hours import HourSums
from bursar_common.analytics import Analytics

ROUNDS = 5
TARGET_MS = 500
DAYS = 90
"""Time that the rows span, up to the running hour."""
ASK_TIMEOUT_S = 120
SUM_TIMEOUT_S = 3600


class Question(NamedTuple):
    name: str
    path: str
    parameters: dict[str, str]


def questions(now_s: int) -> list[Question]:
    """What pages and finance ask, by name."""
    month = f"{datetime.fromtimestamp(now_s - 30 * 86_400, UTC):%Y-%m}"
    first = f"{month}-01"
    last = f"{month}-28"
    recent = {"from": str(now_s - 7 * 86_400)}
    filters: dict[str, dict[str, str]] = {
        "": {},
        "team": {"team": "team-7"},
        "user": {"user": "user-id-" + "7".rjust(28, "0")},
        "key": {"key": "key-7"},
        "model": {"model": "claude-opus-4-6"},
        "provider": {"provider": "anthropic"},
        "project": {"project": "project-7"},
        "tag": {"tag": "ticket:ABC-77"},
        "outcome": {"outcome": "interrupted"},
        "cost": {"min_cost_usd": "0.15"},
        "tokens": {"min_tokens": "95000"},
        "latency": {"min_latency_ms": "60000"},
        "time": {"to": str(now_s - 20 * 86_400), "from": str(now_s - 25 * 86_400)},
        "nothing found": {"team": "team-7", "model": "claude-sonnet-4-5", "min_cost_usd": "9"},
        "text": {"text": "feature/77"},
    }
    asked = [
        Question(f"log page{', by ' + name if name else ''}", "/api/logs", {"limit": "50", **chosen})
        for name, chosen in filters.items()
    ]
    within = {"from": first, "to": last}
    costly = {"sort_by": "cost", "order": "desc"}
    asked += [
        Question("log page, dearest first", "/api/logs", {"limit": "50", **costly, **recent}),
        Question("overview: course of the month", "/api/logs/histogram", {**within, "interval": "day"}),
        Question("overview: by team", "/api/logs/rankings", {"by": "team", **within, "limit": "6"}),
        Question("overview: by model", "/api/logs/rankings", {"by": "model", **within, "limit": "6"}),
        Question("overview: sums", "/api/logs/stats", within),
        Question("chargeback by team, a month", "/api/logs/rankings", {"by": "team", **within, "limit": "99"}),
        Question("top 20 sessions of a week", "/api/sessions", {"limit": "20", **costly, **recent}),
        Question("insights of a week", "/api/insights", recent),
    ]  # fmt: skip
    return asked


def ask(gateway: Gateway, question: Question) -> tuple[float, int]:
    """Milliseconds and rows of one answer. Raises AssertionError for anything but 200."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=ASK_TIMEOUT_S)
    began = time.perf_counter()
    headers = {"Authorization": f"Bearer {gateway.admin_token}"}
    connection.request("GET", f"{question.path}?{urlencode(question.parameters)}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    took_ms = (time.perf_counter() - began) * 1000
    assert answer.status == 200, (question, answer.status, body[:500])
    document = json.loads(body)
    rows = next((len(value) for value in document.values() if isinstance(value, list)), 0)
    connection.close()
    return took_ms, rows


async def fill(gateway: Gateway, rows: int, now_s: int) -> None:
    """Make the rows and sum up their hours."""
    url = f"http://internal:{gateway.internal_token}@127.0.0.1:{gateway.clickhouse_port}/bursar"
    analytics = Analytics(url)
    try:
        (there,) = await analytics.query("SELECT count() AS rows FROM bursar.usage_events")
        began = time.monotonic()
        for first in range(there["rows"], rows, analytics_rows.BLOCK_ROWS):
            count = min(analytics_rows.BLOCK_ROWS, rows - first)
            start_s = now_s - DAYS * 86_400
            await analytics.command(analytics_rows.insert_block(first, count, rows, start_s, DAYS))
            print(f"\r{first + count:,} rows, {time.monotonic() - began:.0f} s", end="", flush=True)
        await analytics.command(
            "INSERT INTO bursar.usage_hours_touched (hour, touched_at) SELECT DISTINCT"
            " toStartOfHour(toDateTime(started_at, 'UTC')), now64(3) - INTERVAL 1 HOUR FROM bursar.usage_events"
        )
        sums, done = HourSums(analytics), 0
        async with asyncio.timeout(SUM_TIMEOUT_S):
            while found := await sums.look():
                done += found
                print(f"\r{done:,} hours summed up, {time.monotonic() - began:.0f} s   ", end="", flush=True)
        print()
    finally:
        await analytics.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path, help="folder of the database, kept and used again")
    options = parser.parse_args()
    now_s = int(time.time()) // 3600 * 3600
    with tempfile.TemporaryDirectory(prefix="bursar-scale-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with Processes(folder) as processes:
            gateway = Gateway(processes, folder, 9)  # nothing is sent upstream
            gateway.start()
            asyncio.run(fill(gateway, options.rows, now_s))
            worst = 0.0
            print(
                f"\n{options.rows:,} rows over {DAYS} days; milliseconds: median of {ROUNDS} (worst), first ask apart"
            )
            print(f"{'question':38} {'first':>7} {'median':>7} {'worst':>7}  rows")
            for question in questions(now_s):
                first_ms, rows = ask(gateway, question)
                times = [ask(gateway, question)[0] for _ in range(ROUNDS)]
                median = statistics.median(times)
                worst = max(worst, median)
                mark = "" if median <= TARGET_MS else "  > target"
                print(f"{question.name:38} {first_ms:7.0f} {median:7.0f} {max(times):7.0f}  {rows}{mark}", flush=True)
    return 0 if worst <= TARGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
