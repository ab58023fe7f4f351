"""Keeps the parts of one machine running: start in order, restart what dies, stop in order.

Single-threaded: signals wake a ``select`` through a socket pair, and nothing else happens between looks.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType

from bursar.home import Home, StartRefused, write_private
from bursar.processes import Child, Part, how_it_ended, start_watcher

START_WITHIN_S = 90.0
"""For one group of parts to serve: the analytics engine takes some seconds on a cold disk."""
LOOK_EVERY_S = 0.5
"""How often ended children and logs are looked at without a signal (SIGCHLD wakes at once)."""
LOGS_EVERY_S = 5.0
PROBE_EVERY_S = 0.05
KILLED_WITHIN_S = 5.0


class Stopped(Exception):
    """SIGTERM or Ctrl-C arrived while starting."""


class Supervisor:
    """``tell`` writes a line for the person at the terminal."""

    def __init__(self, home: Home, tell: Callable[[str], None], *, tie_by_pipe: bool) -> None:
        self._home = home
        self._tell = tell
        self._children: list[Child] = []
        self._stop_signals = 0
        self._waking, self._woken = socket.socketpair()
        self._tie_by_pipe = tie_by_pipe
        self._watcher: tuple[subprocess.Popen[bytes], int] | None = None
        self._logs_looked_at_s = 0.0

    def listen_to_signals(self) -> None:
        """From now on SIGTERM and Ctrl-C ask to stop instead of ending this process."""
        for waking in (self._waking, self._woken):
            waking.setblocking(False)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_signals += 1

    @property
    def stopping(self) -> bool:
        return self._stop_signals > 0

    def _wait(self, seconds: float) -> None:
        """Until a signal or the time is over."""
        if select.select([self._woken], [], [], seconds)[0]:
            try:
                self._woken.recv(4096)
            except BlockingIOError:
                pass

    def start(self, groups: Sequence[Sequence[Part]]) -> None:
        """Start group by group. Raises StartRefused with a failed part's last words, Stopped when asked to stop."""
        if self._tie_by_pipe:
            self._watcher = start_watcher(self._home.children)
        for group in groups:
            began = [self._begin(part) for part in group]
            for child in began:
                self._until_ready(child)
                took_s = time.monotonic() - child.started_s
                self._tell(f"  {child.part.name} serves ({took_s:.1f} s)")

    def _begin(self, part: Part) -> Child:
        child = Child(part, self._home.path, self._home.logs / f"{part.name}.log")
        self._children.append(child)
        try:
            child.start()
        except OSError as error:
            raise StartRefused(f"{part.name} cannot be run: {error}.") from None
        self._write_down()
        return child

    def _until_ready(self, child: Child) -> None:
        while not child.part.ready():
            if self.stopping:
                raise Stopped
            for other in self._children:
                code = other.ended()
                if code is not None:
                    raise StartRefused(_failed(other, f"ended with {how_it_ended(code)} while starting"))
            if time.monotonic() - child.started_s > START_WITHIN_S:
                raise StartRefused(_failed(child, f"does not serve after {START_WITHIN_S:.0f} s"))
            self._wait(PROBE_EVERY_S)

    def until_healthy(self, unhealthy: Callable[[], str]) -> None:
        """Wait for the whole. Raises as :meth:`start`."""
        give_up_s = time.monotonic() + START_WITHIN_S
        while why := unhealthy():
            if self.stopping:
                raise Stopped
            self.mend()
            if time.monotonic() > give_up_s:
                raise StartRefused(f"Bursar is not healthy after {START_WITHIN_S:.0f} s: {why}")
            self._wait(PROBE_EVERY_S)

    def watch(self) -> None:
        """Keep everything running until asked to stop."""
        while not self.stopping:
            self.mend()
            waits = [child.restart_at_s - time.monotonic() for child in self._children if child.restart_at_s]
            self._wait(max(0.0, min([LOOK_EVERY_S, *waits])))

    def mend(self) -> None:
        """Restart what has died, tell what serves again, keep the logs within their bound."""
        for child in self._children:
            code = child.ended()
            if code is not None:
                wait_s = child.plan_restart()
                self._tell(f"{child.part.name} ended with {how_it_ended(code)}; starting it again in {wait_s:.1f} s.")
                if wait_s >= 1:
                    for line in child.last_lines(3):
                        self._tell(f"  {child.part.name}: {line}")
            if child.restart_at_s is not None and time.monotonic() >= child.restart_at_s:
                try:
                    child.start()
                except OSError as error:
                    self._tell(f"{child.part.name} cannot be run: {error}.")
                    child.plan_restart()
                self._write_down()
            if not child.announced and child.process is not None and child.part.ready():
                child.announced = True
                self._tell(f"{child.part.name} serves again.")
        if time.monotonic() - self._logs_looked_at_s > LOGS_EVERY_S:
            self._logs_looked_at_s = time.monotonic()
            for child in self._children:
                child.bound_log()

    def stop(self, *, quiet: bool = False) -> None:
        """Stop the children in the reverse order of their start, each once the one before has ended. ``quiet``: a
        failed start has said what matters."""
        signals_before = max(1, self._stop_signals)
        for child in reversed(self._children):
            child.restart_at_s = None
            child.ask_to_stop()
            asked_s = time.monotonic()
            hurried = False
            while child.process is not None and child.ended() is None:
                waited_s = time.monotonic() - asked_s
                hurried = hurried or self._stop_signals > signals_before
                if hurried or waited_s > child.part.stop_within_s:
                    why = "as asked again" if hurried else f"it did not stop within {child.part.stop_within_s:.0f} s"
                    self._tell(f"{child.part.name} is killed: {why}. Nothing recorded is lost.")
                    child.kill()
                    break
                self._wait(LOOK_EVERY_S)
            code = child.ended()
            if code is not None and code not in (0, -signal.SIGKILL) and not quiet:
                self._tell(f"{child.part.name} stopped with {how_it_ended(code)}.")
        if self._watcher is not None:
            watcher, pipe_end = self._watcher
            watcher.kill()
            watcher.wait()
            os.close(pipe_end)
        self._home.children.unlink(missing_ok=True)

    def _write_down(self) -> None:
        pids = "".join(f"{child.pid}\n" for child in self._children if child.pid is not None)
        write_private(self._home.children, pids)


def _failed(child: Child, how: str) -> str:
    said = "\n".join(f"  {line}" for line in child.last_lines())
    return f"{child.part.name} {how}. Its last lines ({child.log_path}):\n{said or '  (none)'}"


def end_leftovers(home: Home) -> int | None:
    """Kill children that outlived a killed supervisor; how many there were, None after a clean stop.

    Called with the home's lock held: whatever was written down belongs to a supervisor that is gone. A process id that
    meanwhile names something else is left alone: ours run in this home."""
    try:
        pids = [int(line) for line in home.children.read_text().split()]
    except (OSError, ValueError):
        return None
    import psutil  # type: ignore[import-untyped]

    ours = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.cwd() in (str(home.path.resolve()), str(home.path.resolve() / "redis")):
                process.kill()
                ours.append(process)
        except psutil.Error:
            continue
    psutil.wait_procs(ours, timeout=KILLED_WITHIN_S)
    home.children.unlink(missing_ok=True)
    return len(ours)
