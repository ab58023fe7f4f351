"""``bursar up`` for real: one start, everything that happens to it, and the next start."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bursar.credential_rules import Stored
from bursar.here import program
from bursar.home import Home
from bursar.local_http import Answer, call
from bursar.stored_governance import read_stored
from bursar_common.eventlog.port import NewRecord
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import GOVERNANCE_TOPIC, GovernanceData, encode_event
from bursar_common.keys import key_hmac, sha256_hex
from tests.harness.processes import Process, free_port

PARTS = {part: f"bursar_{part}" for part in ("enforcer", "aggregator", "admin", "edge")}
PARTS |= {"simulator": "bursar simulate", "redis": "-server"}
"""What each part's command line is known by."""
AT_REST_KB = 700 * 1024
"""Proportional set size of everything together."""
BODY = {"model": "claude-opus-4-8", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


def environment(folder: Path, **settings: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**inherited, "HOME": str(folder), **settings}


def bursar(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "bursar", *words],
        env=environment(folder, **settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Machine:
    """A ``bursar up`` with a home of its own, without credentials: its own simulator answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.port, self.clickhouse_port = free_port(), free_port()
        self.words = ["--home", str(self.home), "--port", str(self.port)]
        self.words += ["--clickhouse-port", str(self.clickhouse_port)]
        self.url = f"http://127.0.0.1:{self.port}"
        self.up = Process(
            [sys.executable, "-m", "bursar", "up", *self.words],
            env=environment(folder),
            cwd=folder,
            log_path=folder / "up.log",
        )

    def start(self) -> None:
        self.up.start()
        self.until(lambda: "Bursar is ready" in self.up.output(), 120)

    def until(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.up.running, self.up.output()
            assert time.monotonic() < deadline, self.up.output()
            time.sleep(0.05)

    @property
    def first_key(self) -> str:
        return (self.home / "first-key").read_text().strip()

    def ask(self, key: str | None = None) -> Answer:
        headers = {"authorization": f"Bearer {key or self.first_key}"}
        return call(self.url, "POST", "/v1/messages", body=BODY, headers=headers, timeout_s=60)

    def healthy(self) -> bool:
        try:
            return call(self.url, "GET", "/healthz").status == 200
        except OSError:
            return False

    def children(self) -> dict[str, psutil.Process]:
        found = {}
        for child in psutil.Process(self.up.pid).children():
            words = " ".join(child.cmdline())
            found |= {part: child for part, mark in PARTS.items() if mark in words}
        return found


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    one = Machine(tmp_path_factory.mktemp("machine"))
    one.start()
    yield one
    one.up.stop()


def test_what_a_person_is_told(machine: Machine) -> None:
    said = machine.up.output()
    for line in (
        f"export ANTHROPIC_BASE_URL=http://localhost:{machine.port}/anthropic",
        'export ANTHROPIC_AUTH_TOKEN="$(cat ~/home/first-key)"',
        "export ENABLE_TOOL_SEARCH=true",
        f"http://localhost:{machine.clickhouse_port}/",
    ):
        assert line in said
    assert "NO PROVIDER CREDENTIAL IS SET" in said
    assert "SIMULATOR" in said
    assert machine.first_key not in said
    health = call(machine.url, "GET", "/healthz").json()
    assert (health["status"], health["upstream"]) == ("ok", "simulator")


def test_the_home_is_private(machine: Machine) -> None:
    for name in (".", "first-key", "key-secret", "internal-token", "run/enforcer.sock", "logs/edge.log", "logs"):
        assert stat.S_IMODE((machine.home / name).stat().st_mode) & 0o077 == 0, name
    assert machine.first_key.startswith("sk-bf-")
    secrets = [(machine.home / name).read_text().strip() for name in ("first-key", "key-secret", "internal-token")]
    for log in (machine.home / "logs").iterdir():
        assert not any(secret in log.read_text(errors="replace") for secret in secrets)


def test_a_second_start_on_the_same_home_says_so(machine: Machine) -> None:
    second = bursar(machine.folder, "up", "--home", str(machine.home))
    assert second.returncode == 1
    assert f"already running on {machine.home} (process {machine.up.pid})" in second.stderr
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--port", "--clickhouse-port"])
def test_a_taken_port_is_named(machine: Machine, tmp_path: Path, flag: str) -> None:
    ports = {"--port": str(free_port()), "--clickhouse-port": str(free_port())}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports[flag] = str(taken.getsockname()[1])
        words = [word for pair in ports.items() for word in pair]
        other = bursar(tmp_path, "up", "--home", str(tmp_path / "other"), *words)
    assert other.returncode == 1
    assert f"Port {ports[flag]} on 127.0.0.1 cannot be used" in other.stderr
    assert flag in other.stderr


def test_memory_at_rest(machine: Machine) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("proportional set sizes are Linux'")

    def pss_kb(pid: int) -> int:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

    sizes = {part: pss_kb(child.pid) for part, child in machine.children().items()}
    sizes["up"] = pss_kb(machine.up.pid)
    print(json.dumps(sizes))
    assert set(sizes) == {*PARTS, "up"}
    assert sum(sizes.values()) <= AT_REST_KB, sizes


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back_and_nothing_is_forgotten(machine: Machine, part: str) -> None:
    assert machine.ask().status == 200
    before = machine.children()[part]
    before.kill()
    machine.until(lambda: f"{part} serves again." in machine.up.output())
    machine.until(machine.healthy)
    assert f"{part} ended with signal SIGKILL" in machine.up.output()
    assert machine.children()[part].pid != before.pid
    if part == "redis":  # admission stays closed until every edge has had the time to renew what it holds
        machine.until(lambda: machine.ask().status == 200)
    assert machine.ask().status == 200


def test_keys_from_the_command_line(machine: Machine) -> None:
    home = ("--home", str(machine.home))
    made = bursar(machine.folder, "keys", *home, "create", "bob", "--budget", "5/1d")
    assert made.returncode == 0, made.stderr
    value, key_id = made.stdout.strip(), made.stderr.split()[1]
    assert machine.ask(value).status == 200
    listed = bursar(machine.folder, "keys", *home, "list").stdout
    assert f"{key_id}  bob" in listed
    assert "of $5.00 per 1d" in listed
    rotated = bursar(machine.folder, "keys", *home, "rotate", key_id)
    assert machine.ask(rotated.stdout.strip()).status == 200
    assert machine.ask(value).status == 401
    again = bursar(machine.folder, "keys", *home, "create", "bob")
    assert again.returncode == 1
    assert "Traceback" not in again.stderr


def test_connect_doctor_and_claude_use_this_machine(machine: Machine, tmp_path: Path) -> None:
    program = tmp_path / "claude"
    program.write_text('#!/bin/sh\nenv | grep -E "^(ANTHROPIC|ENABLE)"; echo "$@"\n')
    program.chmod(0o755)
    shell = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ANTHROPIC_API_KEY": "sk-ant-mine"}
    home = ("--home", str(machine.home))
    ran = bursar(machine.folder, "claude", *home, "-p", "hi", "--model", "opus", **shell)
    lines = sorted(ran.stdout.splitlines())
    marks = [line for line in lines if line.startswith("ANTHROPIC_CUSTOM_HEADERS=x-bursar-tag-bursar-run: ")]
    assert len(marks) == 1  # tells this run's requests apart, for what it cost
    assert [line for line in lines if line not in marks] == [
        "-p hi --model opus",
        f"ANTHROPIC_AUTH_TOKEN={machine.first_key}",
        f"ANTHROPIC_BASE_URL=http://localhost:{machine.port}/anthropic",
        "ENABLE_TOOL_SEARCH=true",
    ]
    settings = tmp_path / "settings.json"
    settings.write_text('{"model": "opus"}')
    file = ("--settings", str(settings))
    assert bursar(machine.folder, "connect", *home, *file).returncode == 0
    assert json.loads(settings.read_text())["env"]["ANTHROPIC_AUTH_TOKEN"] == machine.first_key
    clean = {"PATH": shell["PATH"]}
    doctor = bursar(machine.folder, "doctor", *home, *file, **clean)
    assert (doctor.returncode, "SIMULATOR" in doctor.stdout) == (0, True), doctor.stdout
    assert bursar(machine.folder, "doctor", *home, *file, **shell).returncode == 1
    assert bursar(machine.folder, "disconnect", *file).returncode == 0
    assert settings.read_text() == '{"model": "opus"}'
    assert bursar(machine.folder, "disconnect", *file).returncode == 1


def test_stop_kill_and_start_again(machine: Machine) -> None:
    key = machine.first_key
    children = list(machine.children().values())
    assert machine.up.terminate(60) == 0
    assert "Stopped." in machine.up.output()
    assert not Home(machine.home).address.exists()
    asked = bursar(machine.folder, "keys", "--home", str(machine.home), "list")
    assert (asked.returncode, asked.stderr.count("\n")) == (1, 1)
    assert f"No Bursar is running in {machine.home}" in asked.stderr
    assert psutil.wait_procs(children, timeout=60)[1] == []

    machine.start()
    assert "from an earlier start" in machine.up.output()
    assert machine.first_key == key
    children = list(machine.children().values())
    os.kill(machine.up.pid, signal.SIGKILL)
    machine.up.wait()
    assert psutil.wait_procs(children, timeout=60)[1] == []

    machine.start()
    assert machine.ask(key).status == 200
    listed = call(machine.url, "GET", "/api/governance/virtual-keys").json()["virtual_keys"]
    first = next(entry for entry in listed if entry["name"] == "first-key")
    assert call(machine.url, "DELETE", f"/api/governance/virtual-keys/{first['id']}").status < 300
    machine.up.signal(signal.SIGINT)
    assert machine.up.wait(60) == 0

    machine.start()
    assert "WARNING: this key is no longer valid" in machine.up.output()


def test_a_misspelled_setting_stops_the_start(tmp_path: Path) -> None:
    words = ("up", "--home", str(tmp_path / "home"), "--port", "0", "--clickhouse-port", "0")
    refused = bursar(tmp_path, *words, BURSAR_HOLD_TTL="5")
    assert refused.returncode == 1
    assert "BURSAR_HOLD_TTL is not a setting of Bursar. Did you mean BURSAR_HOLD_TTL_S?" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""  # nothing was started for it


@pytest.mark.parametrize("flag", ["--port", "--clickhouse-port"])
def test_a_port_out_of_range_is_refused_with_the_range(tmp_path: Path, flag: str) -> None:
    refused = bursar(tmp_path, "up", "--home", str(tmp_path / "home"), flag, "99999")
    assert refused.returncode == 2
    assert "0<=x<=65535" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (["--bind", "0.0.0.0"], {}, f"BURSAR_ANTHROPIC_API_KEY=<the provider's key> {shlex.join(program())} up"),
        ([], {"ANTHROPIC_API_KEY": "sk-bf-mine"}, "own virtual keys"),
        ([], {"BURSAR_REDIS_URL": "redis://x"}, "BURSAR_REDIS_URL is for separately run services"),
        (["--provider-config", "/nowhere.json"], {}, "cannot be read"),
    ],
)
def test_a_refused_start_is_one_sentence(tmp_path: Path, words: list[str], settings: dict[str, str], said: str) -> None:
    refused = bursar(tmp_path, "up", "--home", str(tmp_path / "home"), *words, **settings)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "mine" not in refused.stderr
    # A token made by a start that is then refused would never be shown to anybody.
    assert not (tmp_path / "home" / "admin-token").exists()


def test_what_the_stored_log_says_about_credentials(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert read_stored(home, "anything", "secret") == Stored()
    brought = "brought-along-value"

    def event(entity: str, entity_id: str, seen: int, document: dict[str, Any] | None) -> NewRecord:
        data = GovernanceData(
            entity=entity, entity_id=entity_id, actor="local", seen={entity_id: seen}, document=document
        )
        value = encode_event(
            id=entity_id, source="t", type=f"bursar.{entity}.created.v1", time="", subject="", data=data
        )
        return NewRecord(GOVERNANCE_TOPIC, entity_id, value)

    key = {"id": "k", "name": "k", "hmac": key_hmac("secret", sha256_hex(brought)), "created_at_s": 1}
    client = key | {"id": "c", "hmac": "x", "provider_configs": [{"id": "p", "credential": "client"}]}
    provider = {
        "id": "a",
        "name": "anthropic",
        "kind": "anthropic",
        "credential": "env:A,file:b",
        "base_url": "https://x",
    }

    async def append(*records: NewRecord) -> None:
        log = SqliteEventLog(home.log_database)
        await log.start()
        await log.append(records)
        await log.close()

    asyncio.run(append(event("virtual_key", "k", 0, key), event("provider", "a", 0, provider)))
    stored = Stored(provider_credentials=("env:A", "file:b"), provider_base_url="https://x")
    assert read_stored(home, "another", "secret") == stored
    assert read_stored(home, brought, "another secret") == stored
    assert read_stored(home, brought, "secret").credential_is_a_key
    asyncio.run(append(event("virtual_key", "c", 0, client), event("virtual_key", "k", 1, None)))
    after = read_stored(home, brought, "secret")
    assert (after.credential_is_a_key, after.client_credential) == (False, True)
    asyncio.run(append(event("virtual_key", "c", 0, None)))  # rejected: a version it did not see
    assert read_stored(home, brought, "secret").client_credential
