"""Events per second of the aggregator on Kafka (into chDB behind its HTTP front), against a Faust loop that counts.

Each round makes the topics anew and fills the usage topic before anything reads it; both consumers then start at its
beginning. Rates are taken between the first events seen and the last, so that start-up does not count.
"""

from __future__ import annotations

import asyncio
import http.client
import random
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer

from bench.figure import Figure, Target
from bench.measure import alternate, cpu_s, pair
from bench.processes import BENCH, START_TIMEOUT_S, Failed, Processes, clean_environment, free_port
from bench.usage_events import usage_event
from bursar_common.events import USAGE_TOPIC

if TYPE_CHECKING:
    from tests.harness.kafka_server import KafkaServer

EVENTS = 20_000
POLL_S = 0.1
READ_TIMEOUT_S = 120.0


def events_per_second(folder: Path, rounds: int) -> Figure:
    """The whole measure; says why where Java or the Kafka jars are missing."""
    target = Target("at least", 50.0, "%")
    measure = "aggregator, events per second"
    try:
        import pytest

        from tests.harness.kafka_server import KafkaServer
    except ImportError as error:
        return Figure(measure, "bare Faust loop", target, "/s", note=f"needs the test requirements: {error}")
    try:
        server = KafkaServer(folder / "kafka")
    except pytest.skip.Exception as missing:
        return Figure(measure, "bare Faust loop", target, "/s", note=str(missing))
    ours_cpu: list[dict[str, float]] = []
    bare_cpu: list[float] = []

    with server:
        asyncio.run(_fill(server))

        def reference() -> float:
            rate, spent_s = _bare(folder, server.bootstrap)
            bare_cpu.append(spent_s)
            return rate

        def ours() -> float:
            if ours_cpu:  # its consumer group has read this topic to the end
                asyncio.run(_refill(server))
            rate, cpu = _aggregator(folder, server.bootstrap, len(ours_cpu))
            ours_cpu.append(cpu)
            return rate

        result = pair(*alternate(rounds, reference, ours))
    return Figure(
        measure,
        "bare Faust loop",
        target,
        "/s",
        result.reference,
        result.ours,
        result.ratio * 100,
        detail={
            "ratios": result.ratios,
            "bare_us": sorted(bare_cpu)[len(bare_cpu) // 2] / EVENTS * 1e6,
            "parts_us": {
                name: sorted(each[name] for each in ours_cpu)[len(ours_cpu) // 2] / EVENTS * 1e6
                for name in ("aggregator", "clickhouse")
            },
        },
    )


async def _fill(server: KafkaServer) -> None:
    applied = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "bursar", "topics", "apply"],
        env={**clean_environment(), "BURSAR_KAFKA_BOOTSTRAP": server.bootstrap, "BURSAR_SINGLE_BROKER": "true"},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    if applied.returncode != 0:
        raise Failed(f"bursar topics apply: {applied.stderr[-500:]}")
    producer = AIOKafkaProducer(
        bootstrap_servers=server.bootstrap, linger_ms=20, max_batch_size=1 << 18, enable_idempotence=True
    )
    await producer.start()
    try:
        rng, now_ms = random.Random(7), time.time_ns() // 1_000_000
        sent = []
        for number in range(EVENTS):
            key, value = usage_event(rng, now_ms - EVENTS + number)
            sent.append(await producer.send(USAGE_TOPIC, value, key=key.encode()))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def _refill(server: KafkaServer) -> None:
    await server.wipe()
    await _fill(server)


def _bare(folder: Path, bootstrap: str) -> tuple[float, float]:
    with Processes(folder) as processes:
        child = processes.start(
            "bare_faust", [sys.executable, str(BENCH / "bare_faust.py"), bootstrap, USAGE_TOPIC, str(EVENTS)], pipe=True
        )
        assert child.stdout is not None
        giving_up = threading.Timer(READ_TIMEOUT_S, child.kill)
        giving_up.start()
        try:
            for line in child.stdout:
                if line.startswith(b"figure "):
                    _, took_s, spent_s = line.split()
                    return EVENTS / float(took_s), float(spent_s)
        finally:
            giving_up.cancel()
        raise Failed(f"the bare Faust loop did not finish: {processes.last_words('bare_faust')}")


def _aggregator(folder: Path, bootstrap: str, number: int) -> tuple[float, dict[str, float]]:
    home = folder / f"home-{number}"
    home.mkdir()
    clickhouse_port, port = free_port(), free_port()
    token = secrets.token_hex(16)
    common = {
        "BURSAR_INTERNAL_TOKEN": token,
        "BURSAR_CLICKHOUSE_LISTEN": f"127.0.0.1:{clickhouse_port}",
        "BURSAR_LOG_LEVEL": "warning",
    }
    with Processes(home) as processes:
        processes.start(
            "clickhouse",
            [sys.executable, "-m", "bursar_aggregator.clickhouse_front"],
            environment={**common, "BURSAR_HOME": str(home)},
        )
        processes.wait_port("clickhouse", clickhouse_port)
        processes.start(
            "aggregator",
            [sys.executable, "-m", "bursar_aggregator"],
            environment={
                **common,
                "BURSAR_KAFKA_BOOTSTRAP": bootstrap,
                "BURSAR_SINGLE_BROKER": "true",
                "BURSAR_CLICKHOUSE_URL": f"http://bursar:{token}@127.0.0.1:{clickhouse_port}/bursar",
                "BURSAR_AGGREGATOR_LISTEN": f"127.0.0.1:{port}",
            },
        )
        first: tuple[float, int] | None = None
        before = dict.fromkeys(("aggregator", "clickhouse"), 0.0)
        deadline = time.monotonic() + START_TIMEOUT_S + READ_TIMEOUT_S
        while time.monotonic() < deadline:
            now, rows = time.perf_counter(), _rows(clickhouse_port)
            if rows >= EVENTS and first is not None:
                cpu = {name: cpu_s(processes.pid(name)) - before[name] for name in before}
                if rows != EVENTS:
                    raise Failed(f"{rows} rows of {EVENTS} events")
                share = (EVENTS - first[1]) / EVENTS
                return (EVENTS - first[1]) / (now - first[0]), {name: spent / share for name, spent in cpu.items()}
            if rows and first is None:
                first = (now, rows)
                before = {name: cpu_s(processes.pid(name)) for name in before}
                if rows > EVENTS / 2:
                    raise Failed("the aggregator was done before it could be measured: raise EVENTS")
            if processes.children["aggregator"].poll() is not None:
                break
            time.sleep(POLL_S)
        raise Failed(f"the aggregator did not finish: {processes.last_words('aggregator')}")


def _rows(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/?query=SELECT+count()+FROM+bursar.usage_events")
        answer = connection.getresponse()
        text = answer.read()
        return int(text) if answer.status == 200 and text.strip().isdigit() else 0
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
