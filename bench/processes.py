"""Child processes of a benchmark: start, wait until ready, stop what was started, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


class Failed(Exception):
    """A process did not start, died, or answered wrongly: the measure has no figure."""


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """This process's environment without settings and credentials of Bursar."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BURSAR_") and not name.startswith("ANTHROPIC_")
    }


class Processes:
    """A set of children that ends with the ``with`` block, whatever happened inside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pipe: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a child; its standard error goes to ``<folder>/<name>.log``."""
        with open(self.folder / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else log,
                stderr=log,
                env={**clean_environment(), **(environment or {})},
                cwd=cwd or self.folder,
            )
        self.children[name] = child
        return child

    def start_script(self, name: str, script: str, *arguments: str) -> int:
        """Start a script of this folder that prints its port first; returns the port."""
        child = self.start(name, [sys.executable, str(BENCH / script), *arguments], pipe=True)
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line.strip().isdigit():
            raise Failed(f"{name} did not start: {self.last_words(name)}")
        return int(line)

    def wait_port(self, name: str, address: int | Path) -> None:
        """Wait until the child listens on a port of the loopback or a Unix socket."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.children[name].poll() is not None:
                raise Failed(f"{name} ended with {self.children[name].returncode}: {self.last_words(name)}")
            family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
            with socket.socket(family) as probe:
                try:
                    probe.connect(("127.0.0.1", address) if isinstance(address, int) else str(address))
                    return
                except OSError:
                    time.sleep(0.05)
        raise Failed(f"{name} is not listening after {START_TIMEOUT_S:.0f} s: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of a child's log."""
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace")[-1500:].strip() if path.exists() else ""

    def pid(self, name: str) -> int:
        return self.children[name].pid

    def stop(self, *names: str) -> None:
        """Stop these children (none named: all), the last started first; kill what does not end in time."""
        for name in names or tuple(reversed(self.children)):
            child = self.children.pop(name)
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            if child.stdout is not None:
                child.stdout.close()


class Load:
    """A load generator, connected and waiting; :meth:`go` runs it."""

    def __init__(self, port: int, *arguments: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, str(BENCH / "load.py"), "--port", str(port), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.child.stdout is not None
        if self.child.stdout.readline().strip() != b"ready":
            self.child.wait()
            raise Failed("the load generator could not connect")

    def go(self) -> dict[str, Any]:
        """Run to the end. Raises Failed if any answer was wrong."""
        output, _ = self.child.communicate(b"go\n", timeout=180)
        try:
            figures: dict[str, Any] = json.loads(output)
        except ValueError:
            raise Failed("the load generator died") from None
        if figures["failures"]:
            raise Failed(f"{figures['failures']} requests failed, the first: {figures['first_failure'][:800]}")
        return figures


def which(*names: str) -> str | None:
    """The first of these programs found on the path."""
    for name in names:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if found:
            return found
    return None
