"""The status line: fast, from its cache when it can, and silent about every failure."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from bursar.home import Home
from bursar.kept_quota import ENDS_S
from bursar.statusline import line, read_stdin, which

USAGE = {"cost_nusd": 1_230_000_000, "list_cost_nusd": 1_230_000_000, "requests": 1, "refused": 0}
QUOTA = {
    "virtual_key": {"id": "k", "name": "alice", "team": None, "customer": None, "expires_at": None},
    "balances": "live",
    "budgets": [],
    "rate_limits": [],
    "usage": USAGE,
}


class Stub:
    """Answers one quota; counts how often it was asked, and by whom."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Any = QUOTA
        self.status = 200
        self.go_on = threading.Event()
        """An answer waits for it."""
        self.go_on.set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.asked.append(self.headers["authorization"])
                stub.go_on.wait()
                body = json.dumps(stub.answer).encode()
                self.send_response(stub.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.go_on.set()
    made.server.shutdown()
    made.server.server_close()


def environment(tmp_path: Path, url: str, **more: str) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "CLAUDE_CONFIG_DIR": str(tmp_path / "claude"),
        "ANTHROPIC_BASE_URL": f"{url}/anthropic",
        "ANTHROPIC_AUTH_TOKEN": "sk-bf-mine",
        **more,
    }


def test_it_asks_once_and_then_reads_its_cache(stub: Stub, tmp_path: Path) -> None:
    environ, home = environment(tmp_path, stub.url), Home(tmp_path / "home")
    assert line(environ, home, b"") == "$1.23 today"
    assert line(environ, home, b'{"cost": {"total_cost_usd": 0.5}}') == "$1.23 today · session $0.50"
    assert stub.asked == ["Bearer sk-bf-mine"]
    [kept] = (tmp_path / ".cache" / "bursar").glob("*.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "sk-bf" not in kept.name + kept.read_text()


def after(shown: Callable[[], str], *before: str) -> str:
    """What is shown once it is none of these."""
    deadline_s = time.monotonic() + 60
    while (said := shown()) in before:
        assert time.monotonic() < deadline_s, said
    return said


def aged(kept: Path, age_s: float) -> None:
    at = kept.stat().st_mtime - age_s
    os.utime(kept, (at, at))


def test_a_stale_answer_stays_while_bursar_is_away_then_goes(stub: Stub, tmp_path: Path) -> None:
    environ, home = environment(tmp_path, stub.url), Home(tmp_path / "home")
    line(environ, home, b"")
    [kept] = (tmp_path / ".cache" / "bursar").glob("*.json")
    stub.status = 503
    aged(kept, 60)
    assert line(environ, home, b"") == "$1.23 today"
    aged(kept, 3600)
    assert after(lambda: line(environ, home, b""), "bursar: asking") == "bursar: no answer"
    aged(kept, 10)
    stub.status = 200
    assert after(lambda: line(environ, home, b""), "bursar: no answer", "bursar: asking") == "$1.23 today"


def test_what_is_known_is_shown_while_one_process_asks(stub: Stub, tmp_path: Path) -> None:
    """The first line of all says that it asks; every later one has figures, however long the answer takes."""
    environ, home = environment(tmp_path, stub.url), Home(tmp_path / "home")
    stub.go_on.clear()
    assert [line(environ, home, b"") for _ in range(3)] == ["bursar: asking"] * 3
    stub.go_on.set()
    assert after(lambda: line(environ, home, b""), "bursar: asking") == "$1.23 today"
    assert len(stub.asked) == 1

    [kept] = (tmp_path / ".cache" / "bursar").glob("*.json")
    stub.answer = {**QUOTA, "usage": {**USAGE, "cost_nusd": 9_000_000_000}}
    stub.go_on.clear()
    aged(kept, 60)
    assert [line(environ, home, b"") for _ in range(3)] == ["$1.23 today"] * 3
    stub.go_on.set()
    assert after(lambda: line(environ, home, b""), "$1.23 today") == "$9.00 today"
    assert len(stub.asked) == 2


def test_the_command_ends_while_the_answer_is_awaited(stub: Stub, tmp_path: Path) -> None:
    """Claude Code reads up to the end of the pipe: what goes on asking must not hold it."""
    environ = environment(tmp_path, stub.url, PATH=os.environ["PATH"])
    command = [sys.executable, "-m", "bursar", "statusline", "--home", str(tmp_path / "home")]
    stub.go_on.clear()

    def shown() -> str:
        ran = subprocess.run(command, env=environ, input=b"{}", capture_output=True, timeout=60, check=True)
        assert ran.stderr == b""
        return ran.stdout.decode()

    assert shown() == "bursar: asking\n"
    stub.go_on.set()
    assert after(shown, "bursar: asking\n") == "$1.23 today\n"
    assert len(stub.asked) == 1


def test_a_lock_whose_owner_was_killed_is_taken_over(stub: Stub, tmp_path: Path) -> None:
    environ, home = environment(tmp_path, stub.url), Home(tmp_path / "home")
    line(environ, home, b"")
    [kept] = (tmp_path / ".cache" / "bursar").glob("*.json")
    kept.unlink()
    lock = kept.with_suffix(".asking")
    lock.touch()
    assert line(environ, home, b"") == "bursar: asking"
    aged(lock, ENDS_S + 1)
    assert after(lambda: line(environ, home, b""), "bursar: asking") == "$1.23 today"


def test_without_processes_of_its_own_it_asks_itself(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fork")
    environ, home = environment(tmp_path, stub.url), Home(tmp_path / "home")
    assert line(environ, home, b"") == "$1.23 today"
    assert [path.suffix for path in (tmp_path / ".cache" / "bursar").iterdir()] == [".json"]


@pytest.mark.parametrize(
    "said", [b"", b"{", b"[]", b'{"cost": null}', b'{"cost": {"total_cost_usd": "x"}}', b"\xff" * 9]
)
def test_whatever_is_on_stdin(stub: Stub, tmp_path: Path, said: bytes) -> None:
    assert line(environment(tmp_path, stub.url), Home(tmp_path / "home"), said) == "$1.23 today"


@pytest.mark.parametrize("answer", [[], {}, {"budgets": 1}, {"budgets": [1]}, {"budgets": [], "usage": 7}])
def test_whatever_answers_there(stub: Stub, tmp_path: Path, answer: Any) -> None:
    stub.answer = answer
    assert line(environment(tmp_path, stub.url), Home(tmp_path / "home"), b"").startswith("bursar: no ")


def test_without_a_key_or_a_cache_folder(stub: Stub, tmp_path: Path) -> None:
    environ = environment(tmp_path, stub.url)
    (tmp_path / "file").write_text("")
    assert line(environ | {"XDG_CACHE_HOME": str(tmp_path / "file")}, Home(tmp_path / "home"), b"") == "$1.23 today"
    del environ["ANTHROPIC_AUTH_TOKEN"]
    assert "no key" in line(environ, Home(tmp_path / "home"), b"")


def test_the_key_is_the_one_claude_code_uses(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    environ = {"HOME": str(tmp_path), "CLAUDE_CONFIG_DIR": str(tmp_path)}
    (tmp_path / "home").mkdir()
    home.first_key.write_text("sk-bf-first\n")
    assert which(environ, home) == ("", "sk-bf-first")
    env = {
        "ANTHROPIC_BASE_URL": "https://b.example/anthropic",
        "ANTHROPIC_CUSTOM_HEADERS": "a: b\nX-BF-VK: sk-bf-beside",
    }
    (tmp_path / "settings.json").write_text(json.dumps({"env": env | {"ANTHROPIC_API_KEY": "sk-ant-own"}}))
    assert which(environ, home) == ("https://b.example", "sk-bf-beside")
    here = environ | {"ANTHROPIC_AUTH_TOKEN": "sk-bf-here", "ANTHROPIC_BASE_URL": "http://other:1"}
    assert which(here, home) == ("http://other:1", "sk-bf-here")


def test_a_pipe_that_nobody_closes_does_not_hold_it_up() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"{}")
        assert read_stdin(reader, 0.01) == b"{}"
    finally:
        os.close(reader)
        os.close(writer)
