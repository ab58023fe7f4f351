"""The install for those who only connect: the command and click, no service, no engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-bf-" + "7" * 64
TIMEOUT_S = 120
"""For a command that ends by itself, on a busy machine."""


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python in which only `bursar` and click can be imported."""
    folder = tmp_path_factory.mktemp("thin") / "venv"
    venv.create(folder, with_pip=False)
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    shutil.copytree(Path(click.__file__).parent, packages / "click")
    shutil.copytree(ROOT / "libs/bursar/src/bursar", packages / "bursar")
    installed = packages / "bursar-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: bursar\nVersion: 0.1.0\n")
    return folder / "bin/python"


@pytest.fixture
def gateway() -> Iterator[str]:
    """Answers as admin-api answers a key that asks about itself."""
    quota = {
        "virtual_key": {"id": "k", "name": "alice", "is_active": True, "team": "", "customer": ""},
        "budgets": [],
        "rate_limits": [],
        "balances": "live",
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("x-bf-vk") == KEY or self.headers.get("authorization") == f"Bearer {KEY}"
            body = json.dumps(quota if known else {"error": {"message": "who?"}}).encode()
            self.send_response(200 if known else 401)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def run(python: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    return subprocess.run(
        [python, "-m", "bursar", *arguments],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_the_packages_of_the_services_are_not_there(thin: Path, tmp_path: Path) -> None:
    check = (
        "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in ('aiohttp', 'bursar_common', 'redis')))"
    )
    assert subprocess.run([thin, "-c", check], timeout=TIMEOUT_S, check=False).returncode == 0
    assert sys.prefix != str(thin.parents[1])


@pytest.mark.timeout(600)  # a process for each of some twenty commands
def test_every_command_explains_itself(thin: Path, tmp_path: Path) -> None:
    told = run(thin, "--help", home=tmp_path)
    assert told.returncode == 0, told.stderr
    commands = [line.split()[0] for line in told.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert {"claude", "connect", "disconnect", "doctor", "quota", "statusline", "usage", "import"} <= set(commands)
    for command in commands:
        if command[0].islower():
            assert run(thin, command, "--help", home=tmp_path).returncode == 0, command


def test_a_developer_connects_and_leaves(thin: Path, tmp_path: Path, gateway: str) -> None:
    settings = tmp_path / ".claude/settings.json"
    connected = run(thin, "connect", "--url", gateway, "--key", KEY, home=tmp_path)
    assert connected.returncode == 0, connected.stderr
    written = json.loads(settings.read_text())
    assert written["env"]["ANTHROPIC_BASE_URL"] == f"{gateway}/anthropic"
    assert written["env"]["ANTHROPIC_AUTH_TOKEN"] == KEY
    assert written["statusLine"]["command"].endswith("statusline")
    told = run(thin, "quota", "--url", gateway, "--key", KEY, home=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "alice" in told.stdout
    assert run(thin, "disconnect", home=tmp_path).returncode == 0
    assert "env" not in json.loads(settings.read_text() or "{}") if settings.exists() else True


@pytest.mark.parametrize(
    "arguments", [("up",), ("simulate", "--port", "0"), ("rebuild", "ledger"), ("topics", "apply")]
)
def test_what_needs_the_services_says_what_to_install(thin: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused = run(thin, *arguments, home=tmp_path)
    assert refused.returncode == 1
    assert "pip install 'bursar[server]'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
