"""`bursar usage` and `bursar import` against a whole Bursar: each request once, billed at nothing, at list price."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.harness import clear_of_midnight, eventually
from tests.harness.gateway import Gateway
from tests.harness.one_machine import OneMachine

pytestmark = pytest.mark.timeout(400)

MODEL = "claude-opus-4-8"
COMMAND_WITHIN_S = 240
"""Far more than a command takes: an export plans some dozen statements over the books, on a busy machine."""
COUNTS = {"input-tokens": 12, "cache-read-tokens": 15000, "cache-write-5m-tokens": 5000, "output-tokens": 7}
COST_NUSD = 38_985_000
"""Of one request with these counts: the price list's worked example."""


@pytest.fixture
async def machine(one_machine: OneMachine) -> AsyncIterator[Gateway]:
    async with one_machine.gateway() as gateway:
        await gateway.reset_simulator()
        yield gateway


async def bursar(home: Path, *words: str) -> tuple[int, str, str]:
    home.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bursar", *words),
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TZ": "UTC"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), COMMAND_WITHIN_S)
    return process.returncode or 0, stdout.decode(), stderr.decode()


def log_line(message_id: str, request_id: str, session: str = "local-session", **usage: int) -> str:
    counts = {
        "input_tokens": 12, "cache_read_input_tokens": 15000, "cache_creation_input_tokens": 5000, "output_tokens": 7,
    }  # fmt: skip
    at = datetime.fromtimestamp(time.time() - 3600, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps(
        {
            "type": "assistant",
            "timestamp": at,
            "sessionId": session,
            "requestId": request_id,
            "cwd": "/x/acme-web",
            "message": {
                "id": message_id,
                "model": MODEL,
                "usage": counts | usage,
                "content": [{"type": "tool_use", "id": "toolu_1"}],
            },
        }
    )


async def test_the_report_is_what_was_charged(machine: Gateway, tmp_path: Path) -> None:
    await clear_of_midnight()
    key, other = await machine.create_key("reporter"), await machine.create_key("somebody else")
    for each in (key, key, other):
        assert (await machine.message(each.value, model=MODEL, sim=COUNTS)).status == 200
    await machine.usage_rows(key.id, at_least=2)
    await machine.usage_rows(other.id, at_least=1)

    async def asked(*words: str) -> Any:
        code, stdout, stderr = await bursar(tmp_path, "usage", *words, "--url", machine.url, "--json")
        assert code == 0, stderr
        return json.loads(stdout)

    mine = await asked("daily", "--key", key.value)
    assert len(mine["daily"]) == 1
    assert round(mine["totals"]["totalCost"] * 1e9) == 2 * COST_NUSD
    assert mine["totals"]["totalTokens"] == 2 * (12 + 15000 + 5000 + 7)
    fleet = await asked("monthly", "--virtual-key", "reporter", "--virtual-key", "somebody else")
    assert round(fleet["totals"]["totalCost"] * 1e9) == 3 * COST_NUSD
    blocks = await asked("blocks", "--key", key.value)
    assert [block["entries"] for block in blocks["blocks"]] == [2]
    assert blocks["blocks"][0]["isActive"]

    code, table, _ = await bursar(tmp_path, "usage", "--url", machine.url, "--key", key.value)
    assert (code, table.splitlines()[-1].split()[0]) == (0, "Total")
    code, _, stderr = await bursar(tmp_path, "usage", "--url", machine.url, "--since", "20261131")
    assert (code, stderr) == (1, "Error: --since 20261131 is not a day, such as 20261101 or 2026-11-01.\n")
    code, _, stderr = await bursar(
        tmp_path, "usage", "--url", machine.url, "--since", "20261102", "--until", "20261101"
    )
    assert code == 1
    assert "is before --since" in stderr


async def test_local_logs_come_in_once_and_cost_nobody_anything(machine: Gateway, tmp_path: Path) -> None:
    key = await machine.create_key("importer", budget={"max_limit": 1, "reset_duration": "1M"})
    through = await machine.message(key.value, model=MODEL, sim=COUNTS)
    [row] = await machine.usage_rows(key.id, at_least=1)
    folder = tmp_path / ".claude" / "projects" / "-x-acme-web"
    folder.mkdir(parents=True)
    (folder / "s.jsonl").write_text(
        "\n".join(
            [
                log_line("msg_a", "req_a", output_tokens=1),
                log_line("msg_a", "req_a"),
                log_line("msg_b", "req_b"),
                log_line(through.json()["id"], row["upstream_request_id"]),  # went through Bursar already
                '{"type": "assistant", "usage": broken',
                log_line("msg_c", "req_c").replace(MODEL, "claude-nobody-knows"),
            ]
        )
    )
    words = ("import", "--url", machine.url, "--key", key.value)
    code, stdout, stderr = await bursar(tmp_path, *words, "--dry-run")
    assert code == 0, stderr
    assert stdout.startswith("Would record 2 requests ($0.08 at list price) of 1 files; 1 were known already")
    code, stdout, stderr = await bursar(tmp_path, *words)
    assert code == 0, stderr
    assert stdout.startswith("Recorded 2 requests ")
    assert "1 lines could not be read" in stdout
    assert "s.jsonl:5: cannot be read" in stderr
    assert "claude-nobody-knows" in stderr

    rows = await machine.usage_rows(key.id, at_least=3)
    imported = [row for row in rows if row["billing"] == "imported"]
    assert [(row["cost_nusd"], row["list_cost_nusd"], row["project"]) for row in imported] == [
        (0, COST_NUSD, "acme-web")
    ] * 2
    assert {(row["session_id"], row["tools_offered"], row["tool_uses"]) for row in imported} == {
        ("local-session", None, 1)
    }

    code, stdout, _ = await bursar(tmp_path, *words)
    assert stdout.startswith("Recorded 0 requests ")
    assert "3 were known already" in stdout

    async def charged_for_one() -> bool:
        return (await machine.key(key.id))["budgets"][0]["spent_nusd"] == COST_NUSD

    await eventually(charged_for_one)
    code, stdout, _ = await bursar(tmp_path, "usage", "session", "--url", machine.url, "--key", key.value, "--json")
    [session] = json.loads(stdout)["sessions"]
    assert (session["sessionId"], session["projectPath"]) == ("local-session", "acme-web")


async def test_the_admin_names_the_key_and_strangers_are_refused(machine: Gateway, tmp_path: Path) -> None:
    key = await machine.create_key("named")
    (tmp_path / "one.jsonl").write_text(log_line("msg_named", "req_named"))
    words = ("import", str(tmp_path / "one.jsonl"), "--url", machine.url)
    code, stdout, stderr = await bursar(tmp_path, *words, "--virtual-key", "named")
    assert (code, stdout.partition(" (")[0]) == (0, "Recorded 1 requests"), stderr
    assert await machine.usage_rows(key.id, at_least=1)
    code, _, stderr = await bursar(tmp_path, *words, "--virtual-key", "nobody")
    assert code == 1
    assert "is not a virtual key" in stderr
    code, _, stderr = await bursar(tmp_path, "import", str(tmp_path / "none"), "--url", machine.url, "--key", key.value)
    assert (code, stderr) == (1, f"Error: {tmp_path}/none cannot be read: No such file or directory.\n")


async def test_the_focus_file_is_whole_or_not_there(machine: Gateway, tmp_path: Path) -> None:
    await clear_of_midnight()
    month = f"{datetime.now(UTC):%Y-%m}"
    key = await machine.create_key("exported")
    assert (await machine.message(key.value, model=MODEL, sim=COUNTS)).status == 200
    await machine.usage_rows(key.id, at_least=1)
    words = ("export", "focus", "--url", machine.url, "--month", month)

    async def exported(*more: str) -> str:
        """What is said. Asked again where this machine stands still for longer than analytics may take."""
        while True:
            code, stdout, stderr = await bursar(tmp_path, *words, *more)
            if code == 0:
                return stdout
            assert "takes the analytics (ClickHouse) too long" in stderr, stderr

    for output in ("csv", "parquet"):
        file = tmp_path / f"bill.{output}"
        stdout = await exported("--format", output, "-o", str(file))
        made = json.loads((tmp_path / f"bill.{output}.manifest.json").read_text())
        assert made["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        [ledger] = await machine.query(
            "SELECT toInt64(sum(cost_nusd)) AS nusd, count() AS n FROM bursar.usage WHERE billing = 'metered'"
            f" AND formatDateTime(started_at, '%Y-%m', 'UTC') = '{month}'"
        )
        assert (made["billed_nusd"], made["requests"]) == (ledger["nusd"], ledger["n"])
        assert made["price_books"]
        assert made["complete"] is False
        assert "the month has not ended" in stdout
    rows = list(csv.DictReader((tmp_path / "bill.csv").open(newline="")))
    assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal(made["billed_usd"])
    [mine] = {row["ResourceName"] for row in rows if row["ResourceId"] == key.id}
    assert mine == "exported"

    (tmp_path / "folder").mkdir()
    for path, said in (
        (tmp_path / "nowhere" / "f.csv", "does not exist"),
        (tmp_path / "folder", "is a folder"),
    ):
        code, _, stderr = await bursar(tmp_path, *words, "--format", "parquet", "-o", str(path))
        assert (code, stderr.count("\n")) == (1, 1)
        assert said in stderr
    code, _, stderr = await bursar(
        tmp_path, "export", "focus", "--url", machine.url, "--month", "2026-13", "-o", "f.csv"
    )
    assert (code, stderr) == (1, "Error: month: is not a month (allowed: YYYY-MM, such as 2026-11)\n")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "f"))) == ["folder"]
