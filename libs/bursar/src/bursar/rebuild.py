"""``bursar rebuild ledger|analytics``, ``bursar archive``: run a service's own command against the right store.

On one machine the stores belong to running processes, or to nobody: Redis is reached over its socket, or started for
the occasion; chDB's files can be opened by one process only, so a running aggregator does the work through its HTTP
interface, and otherwise the rebuild opens them itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from bursar.engines import redis_answers, redis_argv
from bursar.environment import Addresses, child_environments, home_secrets
from bursar.home import Home, HomeLock, StartRefused
from bursar.processes import Part
from bursar.supervisor import Stopped, Supervisor, end_leftovers

COMMANDS = {
    "ledger": "bursar_enforcer.rebuild",
    "analytics": "bursar_aggregator.rebuild",
    "archive": "bursar_aggregator.archive_command",
}


def run(
    store: str, home: Home, environ: Mapping[str, str], tell: Callable[[str], None], arguments: Sequence[str] = ()
) -> int:
    """The exit code of the service's own command, which gets the ``arguments``. Raises StartRefused."""
    argv = [sys.executable, "-P", "-m", COMMANDS[store], *arguments]
    if environ.get("BURSAR_KAFKA_BOOTSTRAP"):
        return subprocess.run(argv, env=dict(environ), check=False).returncode
    if not home.log_database.exists():
        what = "no Bursar was started there" if store == "archive" else "nothing to rebuild from"
        raise StartRefused(f"There is no event log in {home.path}: {what} (see --home).")
    os.chdir(home.path)  # sockets are named relative to it
    lock = HomeLock(home)
    try:
        lock.take()
    except StartRefused:
        return _beside_running(store, home, environ, argv)
    try:
        end_leftovers(home)
        return _offline(store, home, environ, argv, tell)
    finally:
        lock.drop()


def _environment(store: str, home: Home, environ: Mapping[str, str], clickhouse_port: int) -> dict[str, str]:
    """``clickhouse_port``: where a running aggregator serves its analytics; 0: none runs."""
    addresses = Addresses(bind="127.0.0.1", port=0, clickhouse_port=clickhouse_port)
    secrets = home_secrets(home, environ)
    return child_environments(environ, home, addresses, secrets, {})["enforcer" if store == "ledger" else "aggregator"]


def _beside_running(store: str, home: Home, environ: Mapping[str, str], argv: list[str]) -> int:
    """`bursar up` runs: use its Redis, or its analytics over HTTP."""
    port = 0
    if store != "ledger":
        with suppress(OSError, ValueError):
            port = int(home.clickhouse_address.read_text().rpartition(":")[2])
        if not port:
            raise StartRefused("Bursar is just starting: try again once it is ready.")
    return subprocess.run(argv, env=_environment(store, home, environ, port), check=False).returncode


def _offline(store: str, home: Home, environ: Mapping[str, str], argv: list[str], tell: Callable[[str], None]) -> int:
    """Nothing runs: open the store for the occasion."""
    environment = _environment(store, home, environ, 0)
    if store != "ledger":
        return subprocess.run(argv, env=environment, check=False).returncode
    home.prepare()
    supervisor = Supervisor(home, tell, tie_by_pipe=sys.platform != "linux")
    supervisor.listen_to_signals()
    try:
        supervisor.start([[Part("redis", redis_argv(home), dict(environ), redis_answers)]])
        return subprocess.run(argv, env=environment, check=False).returncode
    except Stopped:
        return 130
    finally:
        supervisor.stop(quiet=True)
