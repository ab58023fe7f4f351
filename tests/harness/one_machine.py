"""``bursar up`` as a user starts it, with the simulated provider of the test as its upstream."""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from bursar_common.eventlog import open_log
from bursar_common.settings import load_settings
from tests.harness.gateway import Gateway
from tests.harness.processes import Process, free_port
from tests.harness.simulated import SimulatedProvider

START_WAIT_S = 120.0
"""Bound for a cold start of all parts on a busy two-core machine."""

PARTS = ("bursar_edge", "bursar_enforcer", "bursar_aggregator", "bursar_admin", "redis")


class OneMachine:
    """State stays in ``folder`` over stop, kill and start."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.port, self.clickhouse_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        self.provider = SimulatedProvider(folder)
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        self.up = Process(
            [
                *(sys.executable, "-m", "bursar", "up", "--home", str(self.home)),
                *("--port", str(self.port), "--clickhouse-port", str(self.clickhouse_port)),
            ],
            env={
                **inherited,
                "HOME": str(folder),
                "BURSAR_ANTHROPIC_BASE_URL": self.provider.url,
                "BURSAR_ANTHROPIC_API_KEY": "sk-ant-test-credential",
                **settings,
            },
            cwd=folder,
            log_path=folder / "up.log",
        )

    def start(self) -> None:
        """Start provider and gateway; returns when ``/healthz`` says that all parts serve."""
        if not self.provider.running:
            self.provider.start()
        self.up.start()
        self.wait_healthy()
        # The gateway is healthy without its provider, and a test speaks to that one first.
        _until_ok(self.provider, self.provider.url + "/sim/totals")

    def wait_healthy(self) -> None:
        _until_ok(self.up, self.url + "/healthz")

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        return self.up.terminate(60)

    def pid_of(self, part: str) -> int:
        """Process id of one of :data:`PARTS`, started by the supervisor."""
        for child in psutil.Process(self.up.pid).children(recursive=True):
            try:
                command = " ".join(child.cmdline())
            except psutil.NoSuchProcess:  # it has ended since it was listed
                continue
            if (part == "redis" and ("valkey" in command or "redis-server" in command)) or f"-m {part}" in command:
                return child.pid
        raise AssertionError(f"no process of {part} runs")

    def kill9(self, part: str) -> None:
        """``kill -9`` of one part; the supervisor starts it again."""
        os.kill(self.pid_of(part), 9)

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Gateway]:
        settings = load_settings({"BURSAR_HOME": str(self.home)})
        log = open_log(settings)
        await log.start()
        try:
            yield Gateway(
                shape="one_machine",
                folder=self.folder,
                url=self.url,
                admin_url=self.url,
                clickhouse_url=f"http://127.0.0.1:{self.clickhouse_port}/",
                enforcer_url=f"unix:{self.home / 'run' / 'enforcer.sock'}",
                internal_token=(self.home / "internal-token").read_text().strip(),
                provider=self.provider,
                log=log,
            )
        finally:
            await log.close()

    def __enter__(self) -> OneMachine:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.up.stop()
        self.provider.stop()


def _until_ok(process: Process, url: str) -> None:
    """Until the process says 200 there."""
    deadline = time.monotonic() + START_WAIT_S
    while True:
        assert process.running, f"{process.command} ended with {process.returncode}:\n{process.output()[-4000:]}"
        last = "no answer"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            last = str(error)
            with contextlib.suppress(OSError, http.client.HTTPException):
                last = error.read().decode()
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        assert time.monotonic() < deadline, f"not well: {last}\n{process.output()[-4000:]}"
        time.sleep(0.1)
