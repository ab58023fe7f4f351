"""The engines the other tests stand on: they start, keep their data over kill -9, and end with the test run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.harness import KafkaServer, RedisServer, eventually, require
from tests.harness.require import CHECKOUT


def test_redis_keeps_its_data_over_a_clean_restart(redis_server: RedisServer) -> None:
    assert redis_server.command("SET", "a", "1").startswith(b"+OK")
    redis_server.restart()
    assert redis_server.command("GET", "a") == b"$1\r\n1\r\n"


def test_redis_on_a_unix_socket_survives_kill_9(tmp_path: Path) -> None:
    with RedisServer(tmp_path, unix=True, arguments=["--appendfsync", "always"]) as server:
        server.command("SET", "a", "1")
        server.kill9()
        server.start()
        assert server.command("GET", "a") == b"$1\r\n1\r\n"


@pytest.mark.kafka
async def test_kafka_starts_and_is_wiped(fresh_kafka: KafkaServer) -> None:
    await fresh_kafka.create_topic("some.topic", 3, retention_ms="-1")
    await fresh_kafka.wipe()
    await fresh_kafka.create_topic("some.topic", 1)


async def test_children_die_with_a_killed_test_run(tmp_path: Path) -> None:
    """kill -9 of the test run must leave nothing behind on the developer's machine."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent was killed")
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from tests.harness import RedisServer
        server = RedisServer(Path({str(tmp_path / "redis")!r})).start()
        print(server.process.pid, flush=True)
        time.sleep(600)
    """)
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert run.stdout is not None
    child = int(run.stdout.readline())
    os.kill(child, 0)
    run.send_signal(signal.SIGKILL)
    run.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    assert await eventually(gone, 60)


@pytest.mark.parametrize("what", ["java", "node", "redis7", "kafka", "claude"])
def test_what_a_laptop_lacks_is_skipped_there_and_fails_in_ci(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"is not on this machine; (install|run) "):
        require(what)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="is not on this machine"):
        require(what)
