"""The last quota Bursar told, kept on disk, and fetched anew by a process of its own: whoever shows it never waits.

The fetching process is forked: it has the interpreter and the modules already. It belongs to no terminal, holds none
of the caller's pipes, and ends by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FETCH_WITHIN_S = 10.0
"""How long a fetching process waits for the answer. Analytics asked for the first time after a start may take
seconds."""
ENDS_S = 15
"""When a fetching process is ended, whatever it hangs in; no other is started until then."""
FORGET_S = 86_400.0
"""Age of files that are removed: yesterday's, and those of keys used before."""

Ask = Callable[[float], Mapping[str, Any]]
"""Asks Bursar, within so many seconds; raises whatever goes wrong."""
NO_ANSWER = {"no_answer": True}
"""What is kept where Bursar was asked and there is nothing else to show."""


class Kept:
    """One answer on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_suffix(".asking")
        self._unkept: Mapping[str, Any] | None = None

    def read(self) -> tuple[float, Any]:
        """(age in seconds, the answer or NO_ANSWER); None where there is nothing that can be read."""
        if self._unkept is not None:
            return 0.0, self._unkept
        try:
            age_s = time.time() - self.path.stat().st_mtime
            kept = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return 0.0, None
        return (age_s, kept) if isinstance(kept, dict) and age_s >= 0 else (0.0, None)

    def fetch(self, ask: Ask, *, fresh_s: float, keep_s: float, wait_s: float) -> bool:
        """Have a process ask, unless one does or just did, and wait for it so long. What is younger than ``fresh_s``
        is not asked for again; an answer younger than ``keep_s`` outlives a failure. Where nothing can be kept, or
        nothing be left running, the wait is all there is. Returns whether it is done."""
        try:
            if not self._locked():
                return False
        except OSError:
            self._unkept = _asked(ask, wait_s) or NO_ANSWER
            return True
        age_s, kept = self.read()
        if kept is not None and age_s <= fresh_s:  # by the process that had the lock
            self._lock.unlink(missing_ok=True)
            return True
        if not hasattr(os, "fork"):
            self._ask(ask, wait_s, keep_s)
            return True
        ended, ends = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _detach(ends)
                self._ask(ask, FETCH_WITHIN_S, keep_s)
            finally:
                os._exit(0)
        os.close(ends)
        try:
            return bool(select.select([ended], [], [], wait_s)[0])
        finally:
            os.close(ended)

    def _locked(self) -> bool:
        """Whether this process is the one to ask. Raises OSError where nothing can be written."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if time.time() - self._lock.stat().st_mtime > ENDS_S:  # its owner was killed
                self._lock.unlink(missing_ok=True)
        try:
            os.close(os.open(self._lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True

    def _ask(self, ask: Ask, within_s: float, keep_s: float) -> None:
        found = _asked(ask, within_s)
        if found is None:
            age_s, kept = self.read()
            if kept is None or kept == NO_ANSWER or age_s > keep_s:
                found = NO_ANSWER
        if found is not None:
            self._write(found)
        with contextlib.suppress(OSError):
            self._lock.unlink(missing_ok=True)

    def _write(self, kept: Mapping[str, Any]) -> None:
        """Replaced in one step; not made durable, since it is worth nothing after some seconds."""
        try:
            for old in self.path.parent.glob("quota-*"):
                if old != self.path and time.time() - old.stat().st_mtime > FORGET_S:
                    old.unlink()
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                json.dump(kept, file)
            os.replace(temporary, self.path)
        except OSError:
            return


def _asked(ask: Ask, within_s: float) -> Mapping[str, Any] | None:
    try:
        return ask(within_s)
    except Exception:
        return None


def _detach(keep: int) -> None:
    """Let go of the caller: its session and terminal, its pipes (it is waited for at their end), its life."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(ENDS_S)
