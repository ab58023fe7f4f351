"""The aggregator of one machine: SQLite log, embedded ClickHouse, HTTP front, in one process."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar_aggregator.engine import READER_TIME_S
from bursar_aggregator.log_worker import GROUP
from bursar_common.analytics import Analytics, AnalyticsUnavailable
from bursar_common.eventlog.port import NewRecord
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import USAGE_TOPIC, Usage
from bursar_common.wire import Amounts
from tests.harness.aggregator_people import user_record
from tests.harness.processes import Process, ServiceProcess, eventually, free_port
from tests.harness.usage_events import STARTED_AT_MS, request_id, usage, usage_record, usage_records

pytestmark = pytest.mark.timeout(600)
"""Seconds: some start the process five times, which takes 15 s each where the machine has other work."""
TOKEN = "token-of-the-tests"
WAIT_S = 90.0
"""Bound for what happens soon, on a busy machine, which may pause."""
LARGE = 8_000_000_000_123_456_789
"""Nano-dollars: two of these exceed 64 bits."""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.listen = f"127.0.0.1:{free_port()}"
        address = f"unix:{folder}/aggregator.sock"
        self.env = {
            "BURSAR_HOME": str(self.home),
            "BURSAR_CLICKHOUSE_LISTEN": self.listen,
            "BURSAR_INTERNAL_TOKEN": TOKEN,
            "BURSAR_AGGREGATOR_LISTEN": address,
        }
        self.process = ServiceProcess("bursar_aggregator", env=self.env, address=address, folder=folder)
        self.log = SqliteEventLog(self.home / "log.db")
        self.analytics = Analytics(f"http://{self.listen}/bursar")
        self.inner = Analytics(f"http://{self.listen}/bursar", internal_token=TOKEN)

    async def record(self, *events: Usage) -> None:
        await self.log.append([usage_record(event) for event in events])

    async def until_committed(self) -> None:
        end = await self.log.end_offset(USAGE_TOPIC, 0)

        async def committed() -> bool:
            return await self.log.committed(GROUP, USAGE_TOPIC, 0) == end

        await eventually(committed, WAIT_S)

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        return await self.analytics.query(sql)

    async def figures(self) -> tuple[int, int]:
        (row,) = await self.rows("SELECT count() AS n, sum(toInt128(cost_nusd)) AS cost FROM bursar.usage")
        return row["n"], row["cost"]

    async def recent(self) -> tuple[int, int]:
        """As :meth:`figures`, of the table of the last days alone."""
        (row,) = await self.rows(
            "SELECT count() AS n, sum(toInt128(cost_nusd)) AS cost FROM (SELECT * FROM bursar.usage_recent FINAL)"
        )
        return row["n"], row["cost"]

    def program(self, module: str) -> Process:
        python = ServiceProcess(module, env=self.env, address="127.0.0.1:1", folder=self.folder, name=module)
        return python


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path)
    await machine.log.start()
    with machine.process:
        await machine.process.ready()
        yield machine
    await machine.analytics.close()
    await machine.inner.close()
    await machine.log.close()


async def test_figures_of_every_view_are_exact(machine: Machine) -> None:
    hour = 3_600_000
    await machine.record(
        usage(1, cost_nusd=LARGE, list_cost_nusd=LARGE + 1, customer_id="c1", customer="ACME"),
        usage(2, cost_nusd=LARGE, list_cost_nusd=LARGE, customer_id="c1", customer="ACME Inc", output_tokens=None),
        usage(3, outcome="expired", estimated=True, cost_nusd=7, list_cost_nusd=7, customer_id="c1", input_tokens=None),
        usage(4, outcome="refused", cost_nusd=0, customer_id="c1", refused_by="budget_spent", status=402),
        usage(5, provider="simulator", cost_nusd=5, list_cost_nusd=5, customer_id="c1"),
        usage(6, billing="subscription", cost_nusd=0, list_cost_nusd=9, customer_id="c1", customer="ACME Inc"),
        usage(7, started_at_ms=STARTED_AT_MS + hour, cost_nusd=1, list_cost_nusd=1, model="claude-opus-4-6"),
        usage(8, outcome="upstream_error", cost_nusd=0, list_cost_nusd=0, amounts=Amounts(r=1), status=529),
    )
    # The expiry's guess is replaced by the truth, whatever the order they come in.
    await machine.record(usage(9, cost_nusd=11, list_cost_nusd=11), usage(9, outcome="expired", cost_nusd=99))
    await machine.record(usage(10, outcome="expired", cost_nusd=99), usage(10, cost_nusd=13, list_cost_nusd=13))
    await machine.until_committed()

    rows = await machine.rows(
        "SELECT request_id, cost_usd, outcome, output_tokens, started_at FROM bursar.usage ORDER BY 1"
    )
    assert len(rows) == 10
    by_id = {row["request_id"]: row for row in rows}
    assert by_id[request_id(1)]["cost_usd"] == Decimal("8000000000.123456789")
    assert by_id[request_id(2)]["output_tokens"] is None
    assert by_id[request_id(4)]["outcome"] == "refused"
    assert by_id[request_id(9)]["outcome"] == by_id[request_id(10)]["outcome"] == "completed"
    assert int(by_id[request_id(1)]["started_at"].timestamp() * 1000 + 0.5) == STARTED_AT_MS + 1

    total = 2 * LARGE + 7 + 5 + 1 + 11 + 13
    for period in ("hourly", "daily"):
        for dimension in ("team", "key", "model", "project"):
            (row,) = await machine.rows(
                f"SELECT sum(cost_nusd) AS nano, sum(cost_usd) AS dollars, sum(requests) AS requests,"
                f" sum(refused) AS refused, sum(upstream_errors) AS errors, sum(without_counts) AS unknown"
                f" FROM bursar.usage_{period}_by_{dimension}"
            )
            assert row == {
                "nano": total,
                "dollars": Decimal(total) / 10**9,
                "requests": 9,
                "refused": 1,
                "errors": 1,
                "unknown": 1,
            }, (period, dimension)
    hours = await machine.rows(
        "SELECT hour, cost_nusd FROM bursar.usage_hourly_by_model WHERE model = 'claude-opus-4-6'"
    )
    assert [row["cost_nusd"] for row in hours] == [1]
    assert len(await machine.rows("SELECT DISTINCT hour FROM bursar.usage_hourly_by_team")) == 2
    (named,) = await machine.rows("SELECT customer FROM bursar.usage_daily_by_team WHERE customer_id = 'c1'")
    assert named["customer"] == "ACME Inc"

    month = await machine.rows(
        "SELECT toString(month) AS month, billing, requests, list_cost_usd, billed_cost_usd, expired_cost_usd,"
        " total_cost_usd FROM bursar.chargeback_monthly WHERE customer_id = 'c1' ORDER BY billing"
    )
    assert month == [
        {
            "month": "2026-11-01",
            "billing": "metered",
            "requests": 3,
            "list_cost_usd": Decimal(2 * LARGE + 1) / 10**9,
            "billed_cost_usd": Decimal(2 * LARGE) / 10**9,
            "expired_cost_usd": Decimal(7) / 10**9,
            "total_cost_usd": Decimal(2 * LARGE + 7) / 10**9,
        },
        {
            "month": "2026-11-01",
            "billing": "subscription",
            "requests": 1,
            "list_cost_usd": Decimal(9) / 10**9,
            "billed_cost_usd": Decimal(0),
            "expired_cost_usd": Decimal(0),
            "total_cost_usd": Decimal(0),
        },
    ]


async def test_corrections_are_added_once_and_people_can_be_forgotten(machine: Machine) -> None:
    await machine.record(usage(1, cost_nusd=100, list_cost_nusd=200, user_id="u1", output_tokens=20, input_tokens=None))
    await machine.until_committed()
    correction = ["x1", request_id(1), "rate", -30, 5, -4, 2]
    names = ("correction_id", "request_id", "reason", "cost_nusd", "list_cost_nusd", "output_tokens", "input_tokens")
    types = ("String", "String", "String", "Int64", "Int64", "Int64", "Int64")
    for _ in range(2):
        await machine.inner.insert_columns("corrections", names, types, [[value] for value in correction])
    await machine.inner.insert_columns(
        "people", ("user_id", "name", "version"), ("String", "String", "UInt64"), (["u1"], ["Ann"], [1])
    )
    asked = 'SELECT cost_nusd, cost_usd, list_cost_nusd, output_tokens, input_tokens, "user", user_id FROM bursar.usage'
    corrected = {
        "cost_nusd": 70,
        "cost_usd": Decimal("0.000000070"),
        "list_cost_nusd": 205,
        "output_tokens": 16,
        "input_tokens": None,
        "user_id": "u1",
    }
    assert await machine.rows(asked) == [corrected | {"user": "Ann"}]
    await machine.inner.command("DELETE FROM bursar.people WHERE user_id = 'u1'")
    assert await machine.rows(asked) == [corrected | {"user": ""}]


async def test_names_of_people_follow_governance_and_leave_the_table_with_them(machine: Machine) -> None:
    await machine.log.append([usage_record(usage(number, user_id=f"u{number}")) for number in (1, 2, 3)])
    await machine.until_committed()
    names = 'SELECT "user" FROM bursar.usage ORDER BY user_id'
    stored = "SELECT user_id, name FROM bursar.people ORDER BY user_id, version"

    async def until(shown: list[str], rows: dict[str, str]) -> None:
        async def so() -> bool:
            found = await machine.rows(stored)
            return [row["user"] for row in await machine.rows(names)] == shown and found == [
                {"user_id": user_id, "name": name} for user_id, name in rows.items()
            ]

        await eventually(so, WAIT_S)

    await machine.log.append([user_record("u1", "Ann", seen=0), user_record("u2", "Bob O'Neil \\", seen=0)])
    await until(["Ann", "Bob O'Neil \\", ""], {"u1": "Ann", "u2": "Bob O'Neil \\"})
    # Renamed: the former name is in no row. The second event saw a version that had passed, the third none there was.
    await machine.log.append(
        [
            user_record("u1", "Anna", seen=1),
            user_record("u1", "Mallory", seen=1),
            user_record("u2", None, seen=7),
            user_record("u3", "Cid", seen=0),
        ]
    )
    await until(["Anna", "Bob O'Neil \\", "Cid"], {"u1": "Anna", "u2": "Bob O'Neil \\", "u3": "Cid"})
    await machine.log.append([user_record("u2", None, seen=1)])
    await until(["Anna", "", "Cid"], {"u1": "Anna", "u3": "Cid"})

    machine.process.kill9()
    await machine.log.append([user_record("u3", None, seen=1)])
    machine.process.start()
    await machine.process.ready()
    await until(["Anna", "", ""], {"u1": "Anna"})
    rebuild = machine.program("bursar_aggregator.rebuild")
    rebuild.start()
    assert rebuild.wait(WAIT_S) == 0, rebuild.output()
    assert rebuild.output() == "Analytics rebuilt from 3 events.\n"
    await until(["Anna", "", ""], {"u1": "Anna"})

    assert machine.process.terminate() == 0
    shutil.rmtree(machine.home / "clickhouse")
    machine.process.start()
    await machine.process.ready()
    await until(["Anna", "", ""], {"u1": "Anna"})


async def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(machine: Machine) -> None:
    poison = NewRecord(USAGE_TOPIC, "key-1", b'{"half":', (("h", b"v"),))
    await machine.log.append([*usage_records(5), poison, *usage_records(5, first=5)])
    await machine.until_committed()
    assert (await machine.figures())[0] == 10
    (letter,) = await machine.log.read(f"{USAGE_TOPIC}.dlq", 0, 0)
    assert letter.value == poison.value
    assert dict(letter.headers)["h"] == b"v"
    assert dict(letter.headers)["bursar-dlq-position"] == f"{USAGE_TOPIC}:0:5".encode()


async def test_redelivery_and_kill9_at_any_moment_count_once(machine: Machine) -> None:
    written = 0
    at_ms = round(time.time() * 1000)
    for round_, delay_s in enumerate((0.0, 0.05, 0.15, 0.3, 0.6)):
        await machine.log.append(usage_records(700, first=written, started_at_ms=at_ms))
        written += 700
        # Somewhere between reading, inserting and committing, a different somewhere each time.
        await asyncio.sleep(delay_s)
        machine.process.kill9()
        await machine.log.append(usage_records(50, first=written, started_at_ms=at_ms))
        written += 50
        if round_ % 2:
            # What a crash between insert and commit leads to, made certain: everything is read again.
            await machine.log.commit(GROUP, USAGE_TOPIC, 0, 0)
        machine.process.start()
        if delay_s > 0.1:
            await machine.process.ready()
    await machine.process.ready()
    await machine.until_committed()
    expected = written, sum(1_000_000_001 + number for number in range(written))
    assert await machine.figures() == await machine.recent() == expected
    await machine.log.commit(GROUP, USAGE_TOPIC, 0, 0)
    assert machine.process.terminate() == 0
    machine.process.start()
    await machine.process.ready()
    await machine.until_committed()
    assert await machine.figures() == await machine.recent() == expected


async def test_a_crash_between_the_two_tables_of_requests_is_mended_by_reading_again(machine: Machine) -> None:
    at_ms = round(time.time() * 1000)
    await machine.log.append(usage_records(300, started_at_ms=at_ms))
    await machine.until_committed()
    expected = await machine.figures()
    assert expected[0] == 300
    machine.process.kill9()
    # What it leaves: the requests are in one table, not in the other, and the position before them.
    machine.process.start()
    await machine.process.ready()
    await machine.inner.command("TRUNCATE TABLE bursar.usage_recent")
    assert await machine.recent() == (0, 0)
    assert machine.process.terminate() == 0
    await machine.log.commit(GROUP, USAGE_TOPIC, 0, 0)
    machine.process.start()
    await machine.process.ready()
    await machine.until_committed()
    assert await machine.figures() == await machine.recent() == expected


async def test_rebuild_gives_the_same_figures_with_and_without_a_running_aggregator(machine: Machine) -> None:
    at_ms = round(time.time() * 1000)
    await machine.log.append(usage_records(1_000, started_at_ms=at_ms))
    await machine.log.append([NewRecord(USAGE_TOPIC, "key-1", b"?")])
    await machine.until_committed()
    before = await machine.figures()
    assert before[0] == 1_000
    stray = usage(5_000, started_at_ms=at_ms)
    await machine.inner.insert_columns(
        "usage_events",
        ("request_id", "started_at", "virtual_key_id", "cost_nusd"),
        ("String", "DateTime64(3, 'UTC')", "String", "Int64"),
        ([stray.request_id], [stray.started_at_ms], ["key-9"], [5]),
    )
    assert (await machine.figures())[0] == (await machine.recent())[0] == 1_001
    rebuild = machine.program("bursar_aggregator.rebuild")
    rebuild.start()
    assert rebuild.wait(WAIT_S) == 0, rebuild.output()
    assert "from 1001 events" in rebuild.output()
    assert await machine.figures() == await machine.recent() == before
    assert await machine.log.end_offset(f"{USAGE_TOPIC}.dlq", 0) == 1

    assert machine.process.terminate() == 0
    rebuild.start()
    assert rebuild.wait(WAIT_S) == 0, rebuild.output()
    machine.process.start()
    await machine.process.ready()
    assert await machine.figures() == await machine.recent() == before


async def test_a_lost_database_is_filled_again_from_the_log(machine: Machine) -> None:
    await machine.log.append(usage_records(300))
    await machine.until_committed()
    before = await machine.figures()
    machine.process.kill9()
    shutil.rmtree(machine.home / "clickhouse")
    machine.process.start()
    await machine.process.ready()
    await eventually(lambda: same(machine, before), WAIT_S)


async def same(machine: Machine, figures: tuple[int, int]) -> bool:
    return await machine.figures() == figures


async def test_a_stop_does_not_wait_for_a_readers_query(machine: Machine) -> None:
    began_s = time.monotonic()
    asking = asyncio.ensure_future(machine.rows("SELECT count(), 'endless' FROM numbers(1000000000000)"))
    running = "SELECT 1 FROM system.processes WHERE query LIKE '%endless%' AND query NOT LIKE '%system.processes%'"
    await eventually(lambda: machine.rows(running))
    # Before the query's own time is over.
    assert machine.process.terminate(READER_TIME_S - 2 - (time.monotonic() - began_s)) == 0
    with pytest.raises(AnalyticsUnavailable):
        await asking


async def test_a_second_process_on_the_same_folder_says_so(machine: Machine) -> None:
    second = machine.program("bursar_aggregator.clickhouse_front")
    second.env["BURSAR_CLICKHOUSE_LISTEN"] = f"127.0.0.1:{free_port()}"
    second.start()
    assert second.wait(WAIT_S) == 2
    assert "Code: " in second.output()
    assert "Traceback" not in second.output()


async def test_a_database_newer_than_the_release_is_refused(machine: Machine) -> None:
    await machine.inner.insert_columns(
        "schema_migrations",
        ("version", "name", "checksum"),
        ("UInt32", "String", "String"),
        ([999], ["later"], ["x"]),
    )
    assert machine.process.terminate() == 0
    machine.process.start()
    assert machine.process.wait(WAIT_S) == 1
    assert "has schema 999" in machine.process.output()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"BURSAR_HOME": ""}, "BURSAR_HOME"),
        ({"BURSAR_INTERNAL_TOKEN": ""}, "BURSAR_INTERNAL_TOKEN"),
        ({"BURSAR_CLICKHOUSE_LISTEN": "0.0.0.0:1"}, "BURSAR_ADMIN_TOKEN"),
        ({"BURSAR_CLICKHOUSE_URL": "clickhouse://x"}, "BURSAR_CLICKHOUSE_URL"),
        ({"BURSAR_CLICKHOUSE_ULR": "x"}, "Did you mean"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path: Path, env: dict[str, str], said: str) -> None:
    machine = Machine(tmp_path)
    machine.process.env.update(env)
    machine.process.start()
    assert machine.process.wait(WAIT_S) == 2
    assert said in machine.process.output()
    assert machine.process.output().count("\n") == 1
