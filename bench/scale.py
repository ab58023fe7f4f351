"""``python bench/scale.py --rows 100000000``: what people look at, over many rows, each question timed.

The rows are made inside the engine, and summed up by the aggregator's own code (``analytics_fill.py``); then every
question of a page is asked over REST as a page asks it, ROUNDS times, and its median stands in the table, with the CPU
time of the services that answered (which says more than the clock where the machine does other things as well), and
what all questions of the Overview page take together. The target is 500 ms on two cores. ``--keep FOLDER`` keeps the
database there and uses it again; ``--part`` makes only the oldest rows, as dense as the whole table. ``--arriving``:
while requests are written into the running hour, as many a second as the table is dense, in as many inserts as the
aggregator makes; what is kept of that hour is then old at every ask. (The rows stay in a folder that is kept.)
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import analytics_rows
from bench.analytics_fill import DAYS, shape_of
from bench.measure import CpuMeter
from bench.processes import Processes
from bench.stack import Gateway
from bursar_admin.freshness import PAGE_AGE_S

ROUNDS = 5
TARGET_MS = 500
ASK_TIMEOUT_S = 120
LEFT_OF_HOUR_S = 1_500
"""Seconds that the running hour still lasts when it is asked about."""
AT_ONCE = 6
"""Connections of a browser to one host."""
INSERT_EVERY_S = 0.25
"""Seconds between inserts: what a batch of the aggregator waits for others."""


class Question(NamedTuple):
    name: str
    path: str
    parameters: dict[str, str]


def questions(now_s: int) -> list[Question]:
    """What pages and finance ask, by name; ``now_s`` is where the rows end."""
    until = {"to": str(now_s + 3600)}
    day_s = now_s // 86_400 * 86_400
    # Within an hour, as it always is: its requests are read one by one.
    now_s -= LEFT_OF_HOUR_S
    # Thirty whole days, as a month has them; every one of them is over.
    month = {"from": str(day_s - 30 * 86_400), "to": str(day_s)}
    # As pages show them: from a midnight on until now, compared to as much of the days before, to the hour.
    running = {"from": str(day_s - 29 * 86_400), "to": str(now_s)}
    week = {"from": str(day_s - 6 * 86_400), "to": str(now_s)}
    filters: dict[str, dict[str, str]] = {
        "": {},
        "team": {"team": "team-id-" + "7".rjust(24, "0")},
        "user": {"user": "user-id-" + "7".rjust(28, "0")},
        "key": {"key": "key-id-" + "7".rjust(29, "0")},
        "model": {"model": "claude-opus-4-6"},
        "provider": {"provider": "anthropic"},
        "project": {"project": "project-7"},
        "tag": {"tag": "ticket:ABC-77"},
        "outcome": {"outcome": "interrupted"},
        "cost": {"min_cost_usd": "0.15"},
        "tokens": {"min_tokens": "95000"},
        "latency": {"min_latency_ms": "60000"},
        "time": {"to": str(now_s - 20 * 86_400), "from": str(now_s - 25 * 86_400)},
        # A common one; those of few requests, of some hundred; one that stands in some of them; and nowhere.
        "text, a team's name": {"text": "team-7"},
        "text, a branch": {"text": "feature/4711"},
        "text, a tag": {"text": "abc-7777"},
        "text, part of a name": {"text": "ject-77"},
        "text, found nowhere": {"text": "no such words"},
        "nothing found": {"team": "team-id-" + "7".rjust(24, "0"), "min_cost_usd": "9"},
    }
    asked = [
        Question(f"log page{', by ' + name if name else ''}", "/api/logs", {"limit": "50", **until, **chosen})
        for name, chosen in filters.items()
    ]
    costly = {"sort_by": "cost", "order": "desc"}
    asked += [
        Question("log page, dearest of a week", "/api/logs", {"limit": "50", **costly, **week}),
        Question("log page, dearest of a month", "/api/logs", {"limit": "50", **costly, **month}),
        Question("chargeback by team, a month", "/api/logs/rankings", {"by": "team", **month, "limit": "99"}),
        Question("chargeback by cost centre", "/api/logs/rankings", {"by": "cost_center", **month, "limit": "99"}),
        Question("top 20 sessions of a week", "/api/sessions", {"limit": "20", **costly, **week}),
        Question("top 20 sessions of a month", "/api/sessions", {"limit": "20", **costly, **month}),
        Question("insights of a week", "/api/insights", week),
    ]
    zone = {"timezone": "Europe/Paris"}
    hour_s = (now_s + 1800) // 3600 * 3600
    compared = {"previous_from": str(day_s - 59 * 86_400), "previous_to": str(hour_s - 30 * 86_400)}
    asked += [
        Question("overview: the month by hour", "/api/logs/histogram", {**running, **zone, "interval": "hour"}),
        *(
            Question(f"overview: {days} days before", "/api/logs/histogram", {
                "from": str(day_s - (2 * days - 1) * 86_400), "to": str(hour_s - days * 86_400), **zone})
            for days in (1, 7, 30)
        ),
        Question("overview: days by team", "/api/logs/histogram", {**running, **zone, "by": "team", "top": "7"}),
        Question("overview: sums and latency", "/api/logs/stats", {**running, **compared}),
        *(
            Question(f"overview: by {by}", "/api/logs/rankings", {"by": by, **running, **compared, "limit": "6"})
            for by in ("team", "user", "model", "project")
        ),
        Question("overview: movers", "/api/logs/rankings", {"by": "key", **running, **compared, "limit": "100"}),
        *(
            Question(f"overview: refused by {by}", "/api/logs/rankings", {
                "by": by, **running, "limit": "6", "sort_by": "refused", "compare": "none", "outcome": "refused"})
            for by in ("refused_by", "key")
        ),
    ]  # fmt: skip
    return asked


def ask(gateway: Gateway, question: Question) -> tuple[float, int]:
    """Milliseconds and rows of one answer. Raises AssertionError for anything but 200."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=ASK_TIMEOUT_S)
    began = time.perf_counter()
    headers = {"Authorization": f"Bearer {gateway.admin_token}"}
    if question.name.startswith("overview"):
        headers["Cache-Control"] = f"max-age={PAGE_AGE_S:.0f}"  # as the page does
    connection.request("GET", f"{question.path}?{urlencode(question.parameters)}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    took_ms = (time.perf_counter() - began) * 1000
    assert answer.status == 200, (question, answer.status, body[:500])
    document = json.loads(body)
    rows = next((len(value) for value in document.values() if isinstance(value, list)), 0)
    connection.close()
    return took_ms, rows


def command(gateway: Gateway, sql: str) -> None:
    """A statement of the aggregator's own."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.clickhouse_port, timeout=ASK_TIMEOUT_S)
    headers = {"x-bursar-internal-token": gateway.internal_token}
    connection.request("POST", "/", sql, headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()[:500]
    connection.close()


def stop_merges(gateway: Gateway) -> None:
    """Rows that were just made are merged for an hour; what is measured is questions."""
    command(gateway, "SYSTEM STOP MERGES bursar.usage_events")


@contextlib.contextmanager
def arriving(gateway: Gateway, rows: int, now_s: int) -> Iterator[None]:
    """Requests come in, as dense as ``rows`` over DAYS days, some minutes before ``now_s``."""
    over = threading.Event()
    a_time = max(1, round(rows / (DAYS * 86_400) * INSERT_EVERY_S))

    def work() -> None:
        hour_s, noted_s = now_s // 3600 * 3600, 0.0
        while not over.wait(INSERT_EVERY_S):
            if time.monotonic() - noted_s > 60:
                noted_s = time.monotonic()
                command(gateway, f"INSERT INTO bursar.usage_hours_touched (hour) VALUES (toDateTime({hour_s}, 'UTC'))")
            # A session of a number that no other row has; all begin at about one moment.
            session = rows // analytics_rows.ROWS_PER_SESSION + 1 + int(time.time() * 10) % 1_000_000_000
            first = session * analytics_rows.ROWS_PER_SESSION
            command(gateway, analytics_rows.insert_block(first, a_time, 1 << 61, now_s - 600, 1))

    thread = threading.Thread(target=work, name="arriving")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def together(gateway: Gateway, asked: list[Question]) -> float:
    """Milliseconds until all are answered, asked as a browser asks them."""
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda question: ask(gateway, question), asked))
    return (time.perf_counter() - began) * 1000


def measure(gateway: Gateway, asked: list[Question], meter: CpuMeter, rounds: int) -> float:
    """Ask and print; the largest median in milliseconds."""
    worst = 0.0
    for question in asked:
        first_ms, rows = ask(gateway, question)
        meter.start()
        times = [ask(gateway, question)[0] for _ in range(rounds)]
        cpu_ms = sum(meter.read().values()) * 1000 / rounds
        median = statistics.median(times)
        worst = max(worst, median)
        mark = "" if median <= TARGET_MS else "  > target"
        figures = f"{first_ms:7.0f} {median:7.0f} {max(times):7.0f} {cpu_ms:7.0f}"
        print(f"{question.name:38} {figures}  {rows}{mark}", flush=True)
    overview = [question for question in asked if question.name.startswith("overview")]
    if overview:
        times, spent = [], []
        for _ in range(rounds):
            time.sleep(PAGE_AGE_S)  # nothing of it was just read for another page
            meter.start()
            times.append(together(gateway, overview))
            spent.append(sum(meter.read().values()) * 1000)
        whole, cpu_ms = statistics.median(times), statistics.median(spent)
        print(f"{'overview: all of it, as a browser asks':38} {'':7} {whole:7.0f} {max(times):7.0f} {cpu_ms:7.0f}")
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--part", type=int, help="make only so many of the rows: the oldest")
    parser.add_argument("--keep", type=Path, help="folder of the database, kept and used again")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="times each question is asked, after the first")
    parser.add_argument("--arriving", action="store_true", help="write requests into the running hour meanwhile")
    parser.add_argument("--only", default="", help="questions whose name has this in it")
    options = parser.parse_args()
    part = options.part or options.rows
    with tempfile.TemporaryDirectory(prefix="bursar-scale-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        filling = [sys.executable, "-m", "bench.analytics_fill", str(folder), str(options.rows), "--part", str(part)]
        here = Path(__file__).resolve().parent.parent
        subprocess.run(filling, check=True, cwd=here, env={**os.environ, "PYTHONPATH": str(here)})
        shape = shape_of(folder, options.rows)
        now_s = shape["start_s"] + DAYS * 86_400 * part // shape["total"] // 3600 * 3600
        with Processes(folder) as processes:
            gateway = Gateway(processes, folder, 9)  # nothing is sent upstream
            gateway.start()
            stop_merges(gateway)
            meter = CpuMeter({name: processes.pid(name) for name in ("aggregator", "admin-api", "edge")})
            print(f"\n{part:,} rows, as dense as {options.rows:,} over {DAYS} days; load {os.getloadavg()[0]:.1f}")
            print(f"milliseconds: first ask, median of {options.rounds}, worst; CPU time of one ask")
            print(f"{'question':38} {'first':>7} {'median':>7} {'worst':>7} {'CPU':>7}  rows")
            asked = [question for question in questions(now_s) if options.only in question.name]
            coming = arriving(gateway, options.rows, now_s - LEFT_OF_HOUR_S) if options.arriving else None
            with coming or contextlib.nullcontext():
                worst = measure(gateway, asked, meter, options.rounds)
    return 0 if worst <= TARGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
