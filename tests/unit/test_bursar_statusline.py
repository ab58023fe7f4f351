"""The status line: fast, from its cache when it can, and silent about every failure."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from bursar.home import Home
from bursar.statusline import line, read_stdin, which

QUOTA = {
    "virtual_key": {"id": "k", "name": "alice", "team": None, "customer": None, "expires_at": None},
    "balances": "live",
    "budgets": [],
    "rate_limits": [],
    "usage": {"cost_nusd": 1_230_000_000, "list_cost_nusd": 1_230_000_000, "requests": 1, "refused": 0},
}


class Stub:
    """Answers one quota; counts how often it was asked, and by whom."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Any = QUOTA
        self.status = 200
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.asked.append(self.headers["authorization"])
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
    [kept] = (tmp_path / ".cache" / "bursar").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "sk-bf" not in kept.name + kept.read_text()


def test_a_stale_answer_stays_while_bursar_is_away_then_goes(stub: Stub, tmp_path: Path) -> None:
    environ, home = environment(tmp_path, stub.url), Home(tmp_path / "home")
    line(environ, home, b"")
    [kept] = (tmp_path / ".cache" / "bursar").iterdir()
    stub.status = 503
    for age_s, said in ((60, "$1.23 today"), (3600, "bursar: no answer")):
        at = kept.stat().st_mtime - age_s
        os.utime(kept, (at, at))
        assert line(environ, home, b"") == said
        at = kept.stat().st_mtime + age_s
        os.utime(kept, (at, at))


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
