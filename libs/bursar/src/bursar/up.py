"""``bursar up``: everything on this machine, under one supervisor."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bursar.announce import ready_text
from bursar.credential_rules import Upstream, choose_upstream, credential_of, is_loopback_bind
from bursar.environment import Addresses, Secrets, check_own_settings, child_environments, home_secrets
from bursar.first_key import key_is_known, make_first_key, stored_first_key
from bursar.here import program
from bursar.home import Home, HomeLock, StartRefused, write_private
from bursar.parts import check_port, free_port, listening_socket, start_groups, unhealthy
from bursar.stored_governance import read_stored
from bursar.supervisor import Stopped, Supervisor, end_leftovers

LEFT_PORTS_WITHIN_S = 5.0
"""For the kernel to close the ports of killed processes."""


@dataclass(frozen=True)
class UpOptions:
    home: Path
    port: int
    clickhouse_port: int
    bind: str
    require_token: bool = False
    simulator: bool = False
    provider_config: Path | None = None

    def command(self) -> str:
        """The command line that would start this again."""
        words = [*program(), "up"]
        if self.home != Path("~/.bursar").expanduser():
            words += ["--home", str(self.home)]
        if self.port != 8080:
            words += ["--port", str(self.port)]
        if self.clickhouse_port != 8123:
            words += ["--clickhouse-port", str(self.clickhouse_port)]
        if self.bind != "127.0.0.1":
            words += ["--bind", self.bind]
        if self.require_token:
            words.append("--require-token")
        if self.provider_config is not None:
            words += ["--provider-config", str(self.provider_config)]
        return shlex.join(words)


def up(options: UpOptions, environ: Mapping[str, str], tell: Callable[[str], None]) -> int:
    """Run until SIGTERM or Ctrl-C; the exit code. Raises StartRefused before anything runs."""
    home = Home.at(options.home)
    check_own_settings(environ, home)
    first_key_config = read_provider_config(options.provider_config)
    home.prepare()
    lock = HomeLock(home)
    lock.take()
    supervisor = Supervisor(home, tell, tie_by_pipe=sys.platform != "linux")
    try:
        os.chdir(home.path)  # sockets are named relative to it: absolute names can be too long for a socket
        left = end_leftovers(home)
        if left:
            tell(f"{left} processes of a killed start were ended.")
        secrets = home_secrets(home, environ)
        upstream = _upstream(home, options, environ, secrets, first_key_config)
        wait_s = 0.0 if left is None else LEFT_PORTS_WITHIN_S
        check_port(options.bind, options.port, "--port", wait_s=wait_s)
        check_port("127.0.0.1", options.clickhouse_port, "--clickhouse-port", wait_s=wait_s)
        secrets, new_admin_token = _with_admin_token(secrets, home, options)
        addresses, simulator_socket = _addresses(options, upstream)
        environments = child_environments(environ, home, addresses, secrets, upstream.credential)
        if upstream.notice:
            tell(upstream.notice)
        tell(f"Starting Bursar in {home.path}")
        supervisor.listen_to_signals()
        try:
            supervisor.start(start_groups(home, addresses, environments, simulator_socket))
            supervisor.until_healthy(lambda: unhealthy(addresses.local_url))
            key_note = _first_key(home, addresses, secrets, first_key_config)
            write_private(home.address, f"{addresses.url}\n")
            write_private(home.clickhouse_address, f"http://127.0.0.1:{addresses.clickhouse_port}\n")
            notice = upstream.notice if upstream.simulator else ""
            said = ready_text(
                home,
                addresses,
                key_note=key_note,
                simulator_notice=notice,
                new_admin_token=new_admin_token,
                token_kept=bool(secrets.admin_token) and not environ.get("BURSAR_ADMIN_TOKEN"),
                own_login=upstream.own_login or _uses_client(first_key_config),
            )
            tell(said)
            supervisor.watch()
        except Stopped:
            pass
        _forget_address(home)
        tell("Stopping: streams are finished first (Ctrl-C again ends them).")
        supervisor.stop()
        tell("Stopped.")
        return 0
    except BaseException:
        _forget_address(home)
        supervisor.stop(quiet=True)
        raise
    finally:
        lock.drop()


def _forget_address(home: Home) -> None:
    """Somebody else's Bursar may be the next one there."""
    with suppress(OSError):
        home.address.unlink()


def read_provider_config(path: Path | None) -> list[dict[str, Any]] | None:
    """The provider configs for the first key: a JSON object, or a list of them. admin-api judges what is in it."""
    if path is None:
        return None
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise StartRefused(f"--provider-config {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise StartRefused(f"--provider-config {path} is not JSON: {error}.") from None
    configs = value if isinstance(value, list) else [value]
    if not all(isinstance(config, dict) for config in configs):
        raise StartRefused(f"--provider-config {path} must be a JSON object or a list of objects.")
    return configs


def _with_admin_token(secrets: Secrets, home: Home, options: UpOptions) -> tuple[Secrets, str]:
    """The secrets with an admin token where one is asked for; and that token if it was made just now. Only after
    every reason to refuse the start was looked at: a token is printed by the start that made it, and no other."""
    made = False
    if not secrets.admin_token and (options.require_token or not is_loopback_bind(options.bind)):
        admin_token, made = home.secret("admin-token")
        secrets = replace(secrets, admin_token=admin_token)
    return secrets, secrets.admin_token if made else ""


def _uses_client(first_key_config: list[dict[str, Any]] | None) -> bool:
    return any(config.get("credential") == "client" for config in first_key_config or ())


def _upstream(
    home: Home,
    options: UpOptions,
    environ: Mapping[str, str],
    secrets: Secrets,
    first_key_config: list[dict[str, Any]] | None,
) -> Upstream:
    folder = Path(environ.get("BURSAR_SECRETS_DIR") or home.credentials)
    readable: set[str] = set()
    with suppress(OSError):
        readable = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    _, credential = credential_of(environ)
    return choose_upstream(
        environ,
        bind=options.bind,
        simulator=options.simulator,
        stored=read_stored(home, credential, secrets.key_secret),
        readable_files=frozenset(readable),
        first_key_uses_client=_uses_client(first_key_config),
        command=options.command(),
    )


def _addresses(options: UpOptions, upstream: Upstream) -> tuple[Addresses, socket.socket | None]:
    """Ports (0: a free one), and the simulator's socket: kept open here, so that its port stays when it restarts."""
    simulator_socket = listening_socket("127.0.0.1", 0) if upstream.simulator else None
    addresses = Addresses(
        bind=options.bind,
        port=options.port or free_port(options.bind),
        clickhouse_port=options.clickhouse_port or free_port("127.0.0.1"),
        simulator_url=f"http://127.0.0.1:{simulator_socket.getsockname()[1]}" if simulator_socket else "",
    )
    return addresses, simulator_socket


def _first_key(
    home: Home, addresses: Addresses, secrets: Secrets, first_key_config: list[dict[str, Any]] | None
) -> str:
    """Make the first key where there is none; what to say about it."""
    value = stored_first_key(home)
    if not value:
        make_first_key(home, "unix:run/admin.sock", secrets.admin_token, first_key_config)
        return "made now, mode 0600"
    if key_is_known(addresses.local_url, value) is False:
        return (
            "WARNING: this key is no longer valid (deleted, rotated, inactive or expired); "
            "delete the file and start again for a new one, or bursar keys create NAME"
        )
    return "from an earlier start"


def tell_on_terminal(line: str) -> None:
    """One line (or text) to standard output, at once; a closed terminal is no reason to stop serving."""
    with suppress(OSError, ValueError):
        print(line, flush=True)


def run(options: UpOptions) -> int:
    return up(options, os.environ, tell_on_terminal)
