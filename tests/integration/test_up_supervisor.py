"""The supervisor with small real processes: order, restart, back-off, stopping, and its own sudden death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bursar.home import Home
from bursar.processes import LOG_MAX_BYTES, Child, Part
from bursar.supervisor import end_leftovers

PROGRAM = """
import os, sys
from pathlib import Path
from bursar.home import Home, StartRefused
from bursar.processes import Part
from bursar.supervisor import Stopped, Supervisor
home = Home(Path(sys.argv[1]))
home.prepare()
os.chdir(home.path)
tie_by_pipe = "pipe" in sys.argv
def part(name, body, stop_within_s=5.0):
    ready = lambda: Path(f"{name}.ready").exists()
    code = "import sys,time,signal,os\\nfrom pathlib import Path\\nname=%r\\n" % name + body
    return Part(name, [sys.executable, "-c", code], dict(os.environ), ready, stop_within_s)
SERVE = '''
def stop(*_):
    with open("order", "a") as f: f.write(f"stop {name}\\\\n")
    Path(f"{name}.ready").unlink(missing_ok=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with open("order", "a") as f: f.write(f"start {name}\\\\n")
Path(f"{name}.ready").touch()
while True: time.sleep(60)
'''
DEAF = SERVE.replace("sys.exit(0)", "return")
FAIL = "print('the reason is here', file=sys.stderr); sys.exit(7)"
groups = [[part("a", SERVE)], [part("b", DEAF if "deaf" in sys.argv else SERVE, 0.3), part("c", SERVE)]]
if "fail" in sys.argv: groups.append([part("d", FAIL)])
tell = lambda line: print(line, flush=True)
supervisor = Supervisor(home, tell, tie_by_pipe=tie_by_pipe)
if tie_by_pipe:
    import bursar.processes
    bursar.processes._libc = None
supervisor.listen_to_signals()
try:
    supervisor.start(groups)
    tell("ready")
    supervisor.watch()
except StartRefused as refusal:
    tell(f"refused: {refusal}")
except Stopped:
    tell("stopped while starting")
supervisor.stop()
tell("end")
"""


class Run:
    def __init__(self, home: Path, *words: str) -> None:
        self.home = home
        self.output = home.parent / "output"
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(home), *words], stdout=output, stderr=output
            )

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.output.read_text())

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def child(self, name: str) -> psutil.Process:
        """A part's process once it has become its own program."""
        return next(child for child in self.children() if f"name='{name}'" in "".join(child.cmdline()))

    def order(self) -> list[str]:
        return (self.home / "order").read_text().splitlines()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    started: list[Run] = []

    def begin(*words: str) -> Run:
        started.append(Run(tmp_path / "home", *words))
        return started[-1]

    yield begin  # type: ignore[misc]
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_parts_start_in_order_and_stop_the_other_way_round(run: Callable[..., Run]) -> None:
    up = run()
    up.until_said("ready")
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0
    order = up.order()
    assert order[0] == "start a"
    assert order[-3:] == ["stop c", "stop b", "stop a"]
    assert not (up.home / "run" / "children").exists()


def test_a_part_that_dies_is_started_again_and_said_so(run: Callable[..., Run]) -> None:
    up = run()
    up.until_said("ready")
    (up.home / "b.ready").unlink()
    up.child("b").kill()
    up.until_said("b serves again.")
    assert "b ended with signal SIGKILL; starting it again in 0.1 s." in up.output.read_text()
    assert up.order().count("start b") == 2
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0


def test_a_part_that_cannot_start_is_shown_and_everything_stops(run: Callable[..., Run]) -> None:
    up = run("fail")
    assert up.process.wait(60) == 0
    said = up.output.read_text()
    assert "refused: d ended with exit code 7 while starting" in said
    assert "the reason is here" in said
    assert sorted(up.order()[-3:]) == ["stop a", "stop b", "stop c"]


def test_a_part_that_does_not_stop_is_killed(run: Callable[..., Run]) -> None:
    up = run("deaf")
    up.until_said("ready")
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0
    assert "b is killed: it did not stop within 0 s" in up.output.read_text()
    assert up.order()[-1] == "stop a"


@pytest.mark.parametrize("tie", ["kernel", "pipe"])
def test_the_children_go_with_a_killed_supervisor(run: Callable[..., Run], tie: str) -> None:
    if tie == "kernel" and sys.platform != "linux":
        pytest.skip("only Linux ties children to their parent")
    up = run(tie)
    up.until_said("ready")
    children = up.children()
    assert len(children) == (3 if tie == "kernel" else 4)
    up.process.kill()
    up.process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_leftovers_of_this_home_are_ended_and_others_are_not(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    assert end_leftovers(home) is None
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    ours, other = subprocess.Popen(sleeping, cwd=home.path), subprocess.Popen(sleeping, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 60
        while psutil.Process(ours.pid).cwd() != str(home.path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        home.children.write_text(f"{ours.pid}\n{other.pid}\n999999999\n")
        assert end_leftovers(home) == 1
        assert ours.poll() is not None
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_a_log_stays_within_its_bound_while_the_child_goes_on_writing(tmp_path: Path) -> None:
    program = f"import os; os.write(1, b'x' * {LOG_MAX_BYTES + 1}); input(); os.write(1, b'after')"
    child = Child(
        Part("p", [sys.executable, "-c", program], dict(os.environ), lambda: True), tmp_path, tmp_path / "p.log"
    )
    child.start()
    assert child.process is not None
    assert child.process.wait(60) == 1  # no standard input
    child.bound_log()
    assert (tmp_path / "p.log").stat().st_size == 0
    assert (tmp_path / "p.log.1").stat().st_size > LOG_MAX_BYTES
    child.part = Part("p", [sys.executable, "-c", "print('after')"], dict(os.environ), lambda: True)
    child.start()
    assert child.process.wait(60) == 0
    assert child.last_lines() == ["after"]
    assert (tmp_path / "p.log").read_text() == "after\n"
