"""What a developer sees of the money: `bursar quota`, `statusline`, `connect`, and the end of `bursar claude`."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import clear_of_midnight, eventually
from tests.harness.claude import claude_executable
from tests.harness.gateway import CreatedKey, Gateway
from tests.harness.one_machine import OneMachine

pytestmark = pytest.mark.timeout(400)

MODEL = "claude-opus-4-8"
COMMAND_WITHIN_S = 240
COUNTS = {"input-tokens": 12, "cache-read-tokens": 15000, "cache-write-5m-tokens": 5000, "output-tokens": 7}
COST_NUSD = 38_985_000
"""Of one request with these counts, as the client itself computes it."""

CLAUDE = f"""#!{sys.executable}
import json, os, sys, urllib.request
headers = dict(line.split(": ", 1) for line in os.environ["ANTHROPIC_CUSTOM_HEADERS"].splitlines())
headers |= {{"authorization": "Bearer " + os.environ["ANTHROPIC_AUTH_TOKEN"], "content-type": "application/json"}}
headers |= {{f"x-sim-{{name}}": str(value) for name, value in {COUNTS!r}.items()}}
body = {{"model": "{MODEL}", "max_tokens": 100, "messages": [{{"role": "user", "content": "hi"}}]}}
for _ in range(2):
    request = urllib.request.Request(
        os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json.dumps(body).encode(), headers
    )
    urllib.request.urlopen(request).read()
print(sys.argv[1:])
sys.exit(3)
"""


@pytest.fixture
async def machine(one_machine: OneMachine) -> AsyncIterator[Gateway]:
    async with one_machine.gateway() as gateway:
        await gateway.reset_simulator()
        yield gateway


async def bursar(home: Path, *words: str, stdin: bytes = b"", **environ: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command of a person whose home folder is ``home``."""
    home.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bursar", *words),
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(stdin), COMMAND_WITHIN_S)
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def spender(machine: Gateway, name: str) -> CreatedKey:
    team = await machine.create_team(f"team of {name}", budget={"max_limit": 50, "reset_duration": "1M"})
    return await machine.create_key(name, team_id=team["id"], budget={"max_limit": 10, "reset_duration": "1d"})


async def test_quota_is_the_ledgers_and_the_logs(machine: Gateway, tmp_path: Path) -> None:
    await clear_of_midnight()
    key = await spender(machine, "quota")
    assert (await machine.message(key.value, model=MODEL, sim=COUNTS)).status == 200

    async def asked() -> Any:
        code, stdout, stderr = await bursar(tmp_path, "quota", "--url", machine.url, "--key", key.value, "--json")
        assert code == 0, stderr
        answer = json.loads(stdout)
        usage = answer["usage"]
        return answer if usage and usage["requests"] == 1 and answer["budgets"][0]["held_nusd"] == 0 else None

    answer = await eventually(asked, 120)
    assert [b["spent_nusd"] for b in answer["budgets"]] == [COST_NUSD, COST_NUSD]
    assert answer["budgets"][0]["left_nusd"] == 10_000_000_000 - COST_NUSD
    assert (answer["usage"]["cost_nusd"], answer["usage"]["cost_usd"]) == (COST_NUSD, "0.038985000")
    assert answer["usage"]["by_model"][0]["model"] == MODEL

    code, table, _ = await bursar(tmp_path, "quota", "--url", machine.url, "--key", key.value)
    assert code == 0
    assert "$0.04 in 1 request\n" in table
    assert "team team of quota" in table

    code, _, stderr = await bursar(tmp_path, "quota", "--url", machine.url, "--key", "sk-bf-" + "0" * 64)
    assert code == 1
    assert stderr.startswith("Error: No virtual key that is known here")
    code, _, stderr = await bursar(tmp_path, "quota", "--url", "http://127.0.0.1:1", "--key", key.value)
    assert (code, stderr.count("\n")) == (1, 1)


async def test_connect_brings_the_status_line_and_disconnect_takes_it(machine: Gateway, tmp_path: Path) -> None:
    key = await spender(machine, "connected")
    home = tmp_path / "person"
    settings = home / ".claude" / "settings.json"
    code, stdout, stderr = await bursar(home, "connect", "--url", machine.url, "--key", key.value)
    assert code == 0, stderr
    written = json.loads(settings.read_text())
    assert written["statusLine"]["type"] == "command"
    assert "Status line" in stdout

    async def shown() -> bool:
        ran = await asyncio.create_subprocess_shell(
            written["statusLine"]["command"],
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        line, _ = await ran.communicate(b'{"session_id": "s", "cost": {"total_cost_usd": 1.5}}')
        assert ran.returncode == 0
        # Analytics may be asked for the first time here, which is slower than a status line may be.
        return line.decode().startswith("$0.00 today · $10.00 left · resets ")

    await eventually(shown, 120)
    code, stdout, _ = await bursar(home, "disconnect")
    assert code == 0
    assert "statusLine" in stdout
    assert not settings.exists()


async def test_the_end_of_a_session_says_what_it_cost(machine: Gateway, tmp_path: Path) -> None:
    key = await spender(machine, "session")
    assert (await machine.message(key.value, model=MODEL, sim=COUNTS)).status == 200  # not of this session
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text(CLAUDE)
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    words = ("claude", "--url", machine.url, "--key", key.value)

    async def told() -> bool:
        code, stdout, stderr = await bursar(tmp_path, *words, "-p", "hi", PATH=path)
        assert (code, stdout) == (3, "['-p', 'hi']\n")
        assert "Bursar: this session cost $0.08 in 2 requests, 74 % of the prompts from the cache; $9." in stderr
        return True

    # What reaches analytics later than the command waits for, which is seconds, is not told: then another session is.
    await eventually(told, 120)

    code, stdout, stderr = await bursar(tmp_path, *words[:1], "--no-cost", *words[1:], PATH=path)
    assert (code, stdout, stderr) == (1, "", stderr)  # the stand-in wants the run's header


@pytest.mark.claude
async def test_the_real_client_ends_with_its_cost_and_one_hint(machine: Gateway, tmp_path: Path) -> None:
    program = Path(claude_executable())
    # $0.925 and some of a dollar: what is left is worth a hint.
    await machine.reset_simulator(input_tokens=12, cache_write_5m_tokens=148_000, text="Hello!", output_tokens=7)
    numbers = itertools.count()

    async def told() -> bool:
        name = f"real session {next(numbers)}"
        key = await machine.create_key(name, budget={"max_limit": 1, "reset_duration": "1M"})
        code, stdout, stderr = await bursar(
            tmp_path, "claude", "--url", machine.url, "--key", key.value, "-p", "Say hi.", "--model", MODEL,
            PATH=f"{program.parent}:{os.environ['PATH']}", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            DISABLE_AUTOUPDATER="1",
        )  # fmt: skip
        assert (code, stdout) == (0, "Hello!\n"), stderr
        (row,) = await machine.usage_rows(key.id, at_least=1)
        assert row["cost_nusd"] == 925_235_000
        cost, hint = stderr.splitlines()[-2:]
        assert cost.startswith(
            "Bursar: this session cost $0.93 in 1 request, 0 % of the prompts from the cache; $0.07 left "
        ), stderr
        assert hint.startswith(f"Hint: the budget of key {name} is nearly used up; until "), stderr
        return True

    await eventually(told, 120)  # as above: another session, where analytics were too late
