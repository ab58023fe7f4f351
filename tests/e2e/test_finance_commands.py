"""`bursar close` and `bursar reconcile`, and the pages of statements, against a whole Bursar on one machine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from tests.harness import clear_of_midnight
from tests.harness.gateway import Gateway
from tests.harness.one_machine import OneMachine

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
async def machine(one_machine: OneMachine) -> AsyncIterator[Gateway]:
    async with one_machine.gateway() as gateway:
        yield gateway


async def bursar(home: Path, *words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bursar", *words),
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TZ": "UTC"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), 240)
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def test_a_month_is_closed_once_and_for_all(machine: Gateway, tmp_path: Path) -> None:
    await clear_of_midnight()
    running = datetime.now(UTC)
    past = f"{running.replace(day=1) - timedelta(days=1):%Y-%m}"

    async def close(*words: str) -> tuple[int, str, str]:
        return await bursar(tmp_path, "close", *words, "--url", machine.url)

    code, stdout, stderr = await close(f"{running:%Y-%m}")
    assert (code, "still running" in stderr) == (1, True), stdout + stderr
    assert (await close("2026-13"))[0] == 1
    code, stdout, stderr = await close(past)
    assert code == 0, stderr
    assert f"{past} is closed." in stdout
    code, stdout, stderr = await close(past)
    assert (code, "stays closed" in stderr) == (1, True), stdout + stderr
    code, stdout, _ = await close("--json")
    assert (code, [each["month"] for each in json.loads(stdout)["closes"]]) == (0, [past])
    code, stdout, _ = await close(past, "--check")
    assert (code, "The checksum holds." in stdout) == (0, True)
    async with aiohttp.ClientSession(headers={"Accept": "text/html"}) as session:
        async with session.get(f"{machine.url}/finance?month={past}") as answer:
            text = await answer.text()
            assert (answer.status, f"/fragments/finance/{past}" in text) == (200, True)
        async with session.get(f"{machine.url}/fragments/finance/{past}") as answer:
            text = await answer.text()
            assert (answer.status, "Closed" in text) == (200, True)
        async with session.get(f"{machine.url}/finance/statements/nobody/{past}") as answer:
            assert answer.status == 404
    code, stdout, stderr = await bursar(
        tmp_path, "export", "focus", "--month", past, "--url", machine.url, "-o", "a.csv"
    )
    assert code == 0, stderr
    code, _, stderr = await bursar(tmp_path, "export", "focus", "--month", past, "--url", machine.url, "-o", "b.csv")
    assert code == 0, stderr
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    manifests = [json.loads((tmp_path / f"{name}.csv.manifest.json").read_text()) for name in "ab"]
    assert manifests[0] | {"file": ""} == manifests[1] | {"file": ""}


async def test_a_bill_that_agrees_and_one_that_does_not(machine: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "bill.csv"
    path.write_text("date,model,cost\n2026-01-02,claude-opus-4-8,1.5\n")
    words = ("reconcile", "--csv", str(path), "--url", machine.url)
    code, stdout, stderr = await bursar(tmp_path, *words, "--month", "2026-01")
    assert (code, "outside:" in stdout) == (1, True), stderr
    assert (await bursar(tmp_path, *words, "--month", "2026-02"))[0] == 0
    code, _, stderr = await bursar(tmp_path, *words, "--since", "2010-01-01", "--until", "2020-01-01")
    assert (code, "At most 366 days" in stderr) == (2, True)
