"""The gateway under measurement: its services as processes of their own, governed through the admin API."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import BENCH, START_TIMEOUT_S, Failed, Processes, free_port, which
from bench.redis_server import start_redis

GOVERNED = ("edge", "enforcer", "redis")
"""Whose CPU time a request is charged with."""
BESIDE = ("aggregator", "admin-api")
"""Whose CPU time is reported beside it."""

BUDGET = {"max_limit": 1_000_000.0, "reset_duration": "1M"}
RATE_LIMIT = {
    "token_max_limit": 1_000_000_000_000,
    "token_reset_duration": "1d",
    "request_max_limit": 1_000_000_000,
    "request_reset_duration": "1h",
}
"""Limits that are checked and counted but never met."""


class UnixConnection(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Key(NamedTuple):
    """A virtual key made for the benchmark."""

    value: str
    id: str


class Gateway:
    """Redis, enforcer, admin-api, aggregator (chDB) and edge over one SQLite log, all below ``folder``."""

    def __init__(self, processes: Processes, folder: Path, upstream_port: int) -> None:
        self.processes = processes
        self.folder = folder
        self.port = free_port()
        self.clickhouse_port = free_port()
        self.admin_token = secrets.token_hex(16)
        self.internal_token = secrets.token_hex(16)
        self.environment = {
            "BURSAR_HOME": str(folder),
            "BURSAR_REDIS_URL": "unix:redis.sock",
            "BURSAR_ENFORCER_URL": "unix:enforcer.sock",
            "BURSAR_ENFORCER_LISTEN": "unix:enforcer.sock",
            "BURSAR_ADMIN_URL": "unix:admin.sock",
            "BURSAR_ADMIN_LISTEN": "unix:admin.sock",
            "BURSAR_AGGREGATOR_URL": "unix:aggregator.sock",
            "BURSAR_AGGREGATOR_LISTEN": "unix:aggregator.sock",
            "BURSAR_EDGE_LISTEN": f"127.0.0.1:{self.port}",
            "BURSAR_CLICKHOUSE_URL": f"http://127.0.0.1:{self.clickhouse_port}/bursar",
            "BURSAR_CLICKHOUSE_LISTEN": f"127.0.0.1:{self.clickhouse_port}",
            "BURSAR_INTERNAL_TOKEN": self.internal_token,
            "BURSAR_ADMIN_TOKEN": self.admin_token,
            "BURSAR_KEY_SECRET": secrets.token_hex(32),
            "BURSAR_ANTHROPIC_API_KEY": "bench",
            "BURSAR_ANTHROPIC_BASE_URL": f"http://127.0.0.1:{upstream_port}",
            "BURSAR_UPSTREAM_ALLOW": f"127.0.0.1:{upstream_port}",
            "BURSAR_SINGLE_MACHINE": "true",
            "BURSAR_LOG_LEVEL": "warning",
        }

    def start(self, *, profile: str = "") -> None:
        """Start all parts and wait until each is ready. ``profile`` names the service that runs under cProfile."""
        start_redis(self.processes, self.folder)
        for name, module in (("enforcer", "bursar_enforcer"), ("aggregator", "bursar_aggregator")):
            self._service(name, module, profile)
        self._ready("enforcer", self.folder / "enforcer.sock")
        self._ready("aggregator", self.folder / "aggregator.sock")
        self._service("admin-api", "bursar_admin", profile)
        self._ready("admin-api", self.folder / "admin.sock")
        self._service("edge", "bursar_edge", profile)
        self._ready("edge", self.port)

    def _service(self, name: str, module: str, profile: str) -> None:
        environment = dict(self.environment)
        if name == "aggregator":
            environment["BURSAR_CLICKHOUSE_URL"] = f"chdb://{self.folder / 'chdb'}"
        command = [sys.executable, "-m", module]
        if name == profile:
            command = [sys.executable, str(BENCH / "profile_service.py"), module, str(self.folder / f"{name}.prof")]
        self.processes.start(name, command, environment=environment)

    def _ready(self, name: str, address: int | Path) -> None:
        self.processes.wait_port(name, address)
        deadline = time.monotonic() + START_TIMEOUT_S
        last = ""
        while time.monotonic() < deadline:
            connection = (
                UnixConnection(address)
                if isinstance(address, Path)
                else http.client.HTTPConnection("127.0.0.1", address, timeout=10)
            )
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/readyz")
                answer = connection.getresponse()
                last = f"{answer.status} {answer.read()[:300]!r}"
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise Failed(f"{name} is not ready: {last} {self.processes.last_words(name)}")

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request to the admin API. Raises Failed on anything but 2xx."""
        with contextlib.closing(UnixConnection(self.folder / "admin.sock")) as connection:
            headers = {
                "Authorization": f"Bearer {self.admin_token}",
                "Content-Type": "application/json",
                "Host": "127.0.0.1",
            }
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        if not 200 <= answer.status < 300:
            raise Failed(f"{method} {path}: {answer.status} {text[:500]!r}")
        parsed: dict[str, Any] = json.loads(text)
        return parsed

    def govern(self, name: str, *, rate_limits: str) -> Key:
        """A customer, a team in it, a key in that with one provider config: each of the four with a budget; limits on
        requests and tokens on ``all`` of them, on the ``key`` alone (as in the published bodies), or on ``none``."""
        limits: dict[str, Any] = {"budget": BUDGET, **({"rate_limit": RATE_LIMIT} if rate_limits == "all" else {})}
        own: dict[str, Any] = {"budget": BUDGET, **({"rate_limit": RATE_LIMIT} if rate_limits != "none" else {})}
        customer = self.call("POST", "/api/governance/customers", {"name": f"{name}-customer", **limits})["customer"]
        team = self.call(
            "POST", "/api/governance/teams", {"name": f"{name}-team", "customer_id": customer["id"], **limits}
        )["team"]
        key = self.call(
            "POST",
            "/api/governance/virtual-keys",
            {
                "name": f"{name}-key",
                "team_id": team["id"],
                "provider_configs": [{"provider": "anthropic", **limits}],
                **own,
            },
        )["virtual_key"]
        return Key(key["value"], key["id"])

    def pids(self) -> dict[str, int]:
        return {name: self.processes.pid(name) for name in (*GOVERNED, *BESIDE)}


class References(NamedTuple):
    """Ports of the cheap upstream and of what stands between it and a client."""

    upstream: int
    bare: int
    nginx: int | None


def start_references(processes: Processes, folder: Path) -> References:
    """Start the upstream, the bare proxy and nginx (None where it is not installed)."""
    upstream = processes.start_script("upstream", "upstream.py")
    bare = processes.start_script("bare", "bare_proxy.py", f"http://127.0.0.1:{upstream}")
    nginx = which("nginx")
    port = free_port() if nginx else None
    if nginx and port:
        text = (BENCH / "nginx.conf.template").read_text(encoding="utf-8")
        for name, value in (("folder", folder), ("port", port), ("upstream_port", upstream)):
            text = text.replace("{{" + name + "}}", str(value))
        config = folder / "nginx.conf"
        config.write_text(text, encoding="utf-8")
        processes.start("nginx", [nginx, "-c", str(config), "-p", str(folder)])
        processes.wait_port("nginx", port)
    return References(upstream, bare, port)
