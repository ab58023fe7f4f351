"""Child processes that never outlive the test run, ports, and waiting for something to become true."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness.require import CHECKOUT
from tests.harness.waiting import eventually

__all__ = ["PYTHON_PATH", "READY_WAIT_S", "Process", "ServiceProcess", "eventually", "free_port"]

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_waitid = getattr(os, "waitid", None)  # macOS before Python 3.13 has none
# The kernel sends the death signal when the *thread* that forked ends, so all forking happens in one that never does.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")
_alive: set[Process] = set()

READY_WAIT_S = 120.0
"""Bound for anything to become ready: a cold import of pandas and Faust on a busy two-core machine takes 15 s, on one
that stands still now and then much longer."""


_FIRST_PORT, _LAST_PORT = 10_240, 32_767
"""Below what the system gives to outgoing connections (Linux: from 32768), so that none of them takes a port between
its being chosen and the server's listening on it, seconds later for a JVM."""


def _own_ports() -> Iterator[int]:
    """Ports of this process's own, each once a round: workers of one run (pytest-xdist) never share any."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(_FIRST_PORT + number, _LAST_PORT + 1, workers)
    start = random.randrange(len(own))  # other runs on this machine start elsewhere
    return itertools.cycle([*own[start:], *own[:start]])


_ports = _own_ports()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, and that was not given out before."""
    while True:
        port = next(_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: what lingers is no obstacle
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    """A child process in a process group of its own, with its output in a file.

    It is killed when the test run ends, however that ends (also by kill -9, on Linux)."""

    def __init__(self, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, log_path: Path) -> None:
        self.command = [str(part) for part in command]
        self.env = dict(env)
        self.cwd = cwd
        self.log_path = log_path
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start (again). Does not wait for anything."""
        assert not self.running, f"{self.command} runs already"
        self.cwd.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as output:
            self._popen = _spawner.submit(
                subprocess.Popen,
                self.command,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            ).result()
        _alive.add(self)

    @property
    def running(self) -> bool:
        if self._popen is None or self._popen.returncode is not None:
            return False
        if _waitid is None:
            return self._popen.poll() is None
        if _waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return True
        self._reap()
        return False

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        return None if self._popen is None or self.running else self._popen.returncode

    def output(self) -> str:
        """What the process wrote since it was last started."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def signal(self, number: int) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """The exit code. Raises AssertionError (with the end of the log) when it does not end."""
        assert self._popen is not None
        deadline = time.monotonic() + timeout_s
        while self.running:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.command} did not end within {timeout_s:g} s:\n{self._tail()}")
            time.sleep(0.02)
        return self._popen.returncode

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, then the exit code."""
        if self.running:
            self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill9(self) -> None:
        """SIGKILL to the process and what it started; returns when it is gone."""
        if self.running:
            self._reap()

    def stop(self) -> None:
        """End it for good: politely, then not. For tear-down; never raises."""
        if self.running:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                self.wait(10)
        self.kill9()

    def _reap(self) -> None:
        """Kill what there is of the process group, then collect the process: in this order, because until it is
        collected its id cannot be given to somebody else's group."""
        assert self._popen is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        _alive.discard(self)

    def _tail(self) -> str:
        return self.output()[-4000:]

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ServiceProcess(Process):
    """``python -m <module>`` with exactly the environment given (and PATH, HOME), ready when ``/readyz`` says 200.

    ``address`` is where it listens: ``host:port``, ``http://host:port`` or ``unix:<path>`` (relative to ``cwd``)."""

    def __init__(
        self,
        module: str,
        *,
        env: Mapping[str, str],
        address: str,
        folder: Path,
        cwd: Path | None = None,
        name: str = "",
    ) -> None:
        self.name = name or module
        self.address = address
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        super().__init__(
            [sys.executable, "-m", module],
            env={**inherited, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **env},
            cwd=cwd or folder,
            log_path=folder / f"{self.name}.log",
        )

    async def ready(self, timeout_s: float = READY_WAIT_S) -> None:
        """Wait for ``/readyz``. Raises AssertionError with the end of the log if it ends or stays unready."""
        deadline = time.monotonic() + timeout_s
        last = "no answer"
        while True:
            if not self.running:
                raise AssertionError(f"{self.name} ended with {self.returncode}:\n{self._tail()}")
            try:
                status, text = await self.get("/readyz")
                if status == 200:
                    return
                last = f"{status} {text}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                last = repr(error)
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} not ready after {timeout_s:g} s: {last}\n{self._tail()}")
            await asyncio.sleep(0.05)

    async def start_ready(self, timeout_s: float = READY_WAIT_S) -> None:
        self.start()
        await self.ready(timeout_s)

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        """(status, body) of a GET to the service's own listener."""
        timeout = aiohttp.ClientTimeout(total=5)
        connector: aiohttp.BaseConnector
        if self.address.startswith("unix:"):
            connector, base = aiohttp.UnixConnector(str(self.cwd / self.address[5:])), "http://bursar"
        else:
            connector = aiohttp.TCPConnector()
            base = self.address if "://" in self.address else f"http://{self.address}"
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            async with session.get(base + path, **options) as response:
                return response.status, await response.text()


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@atexit.register
def _kill_the_rest() -> None:
    for process in list(_alive):
        process.kill9()


PYTHON_PATH = str(CHECKOUT)
"""For child processes that import ``tests.…`` themselves: put it into PYTHONPATH."""
