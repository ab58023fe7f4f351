"""A Redis-speaking server of a test's own: the embedded Valkey, or the system's Redis 7."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from tests.harness.processes import READY_WAIT_S, Process, free_port
from tests.harness.require import require

KINDS = ("valkey", "redis7")


class RedisServer:
    """``kind`` is ``valkey`` or ``redis7``. Data in ``folder`` (append-only file, ``noeviction``); the same port or
    socket after a restart. ``url`` is what ``BURSAR_REDIS_URL`` takes."""

    def __init__(
        self, folder: Path, kind: str = "valkey", *, unix: bool = False, arguments: Sequence[str] = ()
    ) -> None:
        assert kind in KINDS
        self.kind = kind
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket_path = folder / "redis.sock" if unix else None
        self.port = 0 if unix else free_port()
        self.url = f"unix:{self.socket_path}" if unix else f"redis://127.0.0.1:{self.port}/0"
        listen = ["--unixsocket", str(self.socket_path), "--unixsocketperm", "700"] if unix else []
        self.process = Process(
            [
                require(kind), "--port", str(self.port), "--bind", "127.0.0.1", *listen, "--dir", str(folder),
                "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
                "--daemonize", "no", *arguments,
            ],
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C"},
            cwd=folder,
            log_path=folder / "redis.log",
        )  # fmt: skip

    def start(self) -> RedisServer:
        """Start (again) on the same data; returns once it answers commands (the append-only file is loaded)."""
        self.process.start()
        deadline = time.monotonic() + READY_WAIT_S
        while not self._answers():
            if not self.process.running or time.monotonic() > deadline:
                raise AssertionError(f"{self.kind} did not start:\n{self.process.output()}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """SIGTERM: the data is saved. Idempotent."""
        self.process.stop()

    def kill9(self) -> None:
        self.process.kill9()

    def restart(self) -> None:
        self.stop()
        self.start()

    def command(self, *parts: str) -> bytes:
        """One raw command and its answer as bytes (for set-up; tests proper use a client)."""
        request = f"*{len(parts)}\r\n" + "".join(f"${len(part.encode())}\r\n{part}\r\n" for part in parts)
        with self._connect() as connection:
            connection.sendall(request.encode())
            return connection.recv(1 << 20)

    def _connect(self) -> socket.socket:
        if self.socket_path is None:
            return socket.create_connection(("127.0.0.1", self.port), timeout=5)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(str(self.socket_path))
        return connection

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class SecuredRedis(RedisServer):
    """Redis 7 that speaks TLS alone, with the certificates of a folder (``certificates.py``), and lets one user in."""

    def __init__(self, folder: Path, certificates: Path, *, user: str, password: str) -> None:
        self._user, self._password = user, password
        self._tls = ssl.create_default_context(cafile=certificates / "ca.pem")
        port = free_port()
        super().__init__(
            folder,
            "redis7",
            arguments=[
                *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"),
                *(
                    "--tls-cert-file",
                    str(certificates / "broker.crt"),
                    "--tls-key-file",
                    str(certificates / "broker.key"),
                ),
                *("--tls-ca-cert-file", str(certificates / "ca.pem")),
                *("--user", user, "on", f">{password}", "~*", "&*", "+@all"),
                *("--user", "default", "off"),
            ],
        )
        self.port = port
        self.url = f"rediss://{quote(user)}:{quote(password)}@127.0.0.1:{port}/0"

    def _connect(self) -> socket.socket:
        connection = self._tls.wrap_socket(super()._connect(), server_hostname="127.0.0.1")
        connection.sendall(f"AUTH {self._user} {self._password}\r\n".encode())
        assert connection.recv(100) == b"+OK\r\n"
        return connection
