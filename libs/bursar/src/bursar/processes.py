"""A child process of the supervisor: started, watched, restarted with back-off, stopped."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LOG_MAX_BYTES = 10 * 1024 * 1024
"""Of one child's log; one older file of that size is kept beside it."""
BACK_OFF_FIRST_S = 0.1
BACK_OFF_MOST_S = 10.0
"""A child that dies again and again is tried every ten seconds: often enough to mend, rarely enough to read."""
STEADY_S = 30.0
"""A child that ran this long is restarted as if it had never died."""
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent(parent: int) -> Callable[[], None]:
    """For the new process, before it becomes the child's program: SIGKILL it when the supervisor is gone.

    Killed and not asked, because everything is built to survive that, and the next start must find nothing left."""

    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


@dataclass(frozen=True)
class Part:
    """What to run. ``ready`` says whether the part serves, without waiting long."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    ready: Callable[[], bool]
    stop_within_s: float = 30.0
    pass_fds: tuple[int, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass
class Child:
    """One part's process over its lives."""

    part: Part
    cwd: Path
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    restart_at_s: float | None = None
    """Monotonic time of the next start; None while it runs."""
    back_off_s: float = BACK_OFF_FIRST_S
    log_start: int = 0
    """Size of the log when this life began."""
    announced: bool = field(default=True)
    """Whether the terminal knows that this life serves."""

    def start(self) -> None:
        """Raises OSError where the program cannot be run."""
        self.log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.process = subprocess.Popen(
                list(self.part.argv),
                cwd=self.cwd,
                env=dict(self.part.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.part.pass_fds,
                process_group=0,  # Ctrl-C reaches the supervisor alone, which stops the children in order.
                preexec_fn=_die_with_parent(os.getpid()) if _libc is not None else None,
            )
        finally:
            os.close(log)
        self.started_s = time.monotonic()
        self.restart_at_s = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    def ended(self) -> int | None:
        """The exit code (negative: the signal) once the process has ended."""
        return self.process.poll() if self.process is not None else None

    def plan_restart(self) -> float:
        """Set when to start again; the seconds until then."""
        if time.monotonic() - self.started_s >= STEADY_S:
            self.back_off_s = BACK_OFF_FIRST_S
        wait_s = self.back_off_s
        self.back_off_s = min(BACK_OFF_MOST_S, self.back_off_s * 2)
        self.restart_at_s = time.monotonic() + wait_s
        self.process = None
        self.announced = False
        return wait_s

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.part.stop_signal)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def last_lines(self, many: int = 12, most_bytes: int = 8192) -> list[str]:
        """The end of what this life wrote to its log."""
        try:
            with open(self.log_path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self.log_start, size), size - most_bytes))
                return file.read().decode(errors="replace").splitlines()[-many:]
        except FileNotFoundError:
            return []

    def bound_log(self) -> None:
        """Move a log that has grown too large aside. The child goes on appending to the same, now empty, file; lines
        written between the copy and the cut are lost, the file's bound is not."""
        try:
            if self.log_path.stat().st_size <= LOG_MAX_BYTES:
                return
        except FileNotFoundError:
            return
        shutil.copyfile(self.log_path, self.log_path.with_suffix(".log.1"))
        os.truncate(self.log_path, 0)
        self.log_start = 0


def how_it_ended(code: int) -> str:
    """``exit code 3`` or ``signal SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


WATCH_SCRIPT = 'cat >/dev/null; while read -r pid; do kill -KILL "$pid" 2>/dev/null; done <"$1"'
"""Where the kernel cannot tie a child's life to its parent's (macOS): a shell that waits for the end of a pipe which
only the supervisor holds open, then kills the children written down in a file."""


def start_watcher(children_file: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The watching shell and the pipe's end to keep open."""
    reading, writing = os.pipe()
    try:
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCH_SCRIPT, "sh", str(children_file)],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
    finally:
        os.close(reading)
    return watcher, writing
