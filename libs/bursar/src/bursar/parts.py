"""The parts of one machine: which processes, in which order, and how to tell that each serves."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Mapping

from bursar.engines import redis_answers, redis_argv
from bursar.environment import Addresses
from bursar.home import Home, StartRefused
from bursar.local_http import call
from bursar.processes import Part

EDGE_DRAIN_S = 310.0
"""The edge finishes its streams within 300 s of being asked to stop."""
PROBE_WITHIN_S = 3.0
SIMULATOR_RECORDS = 1000
"""Requests that the simulator of one machine remembers: for a look, not for an audit."""


def start_groups(
    home: Home,
    addresses: Addresses,
    environments: Mapping[str, Mapping[str, str]],
    simulator_socket: socket.socket | None,
) -> list[list[Part]]:
    """The parts in start order; those of one group start together, the next group once they serve. Stopping goes the
    other way round."""
    first = [Part("redis", redis_argv(home), environments["redis"], redis_answers)]
    if simulator_socket is not None:
        number = simulator_socket.fileno()
        argv = [*_module("bursar"), "simulate", "--fd", str(number), "--records", str(SIMULATOR_RECORDS)]
        ready = _probe(addresses.simulator_url, "/")
        first.append(Part("simulator", argv, environments["simulator"], ready, pass_fds=(number,)))
    services = {
        name: Part(
            name, _module(f"bursar_{name}"), environments[name], _probe(f"unix:{home.run / name}.sock", "/readyz")
        )
        for name in ("enforcer", "aggregator", "admin")
    }
    edge = Part(
        "edge",
        _module("bursar_edge"),
        environments["edge"],
        _probe(addresses.local_url, "/readyz"),
        stop_within_s=EDGE_DRAIN_S,
    )
    return [first, [services["enforcer"], services["aggregator"]], [services["admin"]], [edge]]


def _module(name: str) -> list[str]:
    # -P: the working directory is a data folder, from which nothing may be imported.
    return [sys.executable, "-P", "-m", name]


def _probe(address: str, path: str) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            return call(address, "GET", path, headers={"host": "localhost"}, timeout_s=PROBE_WITHIN_S).status == 200
        except OSError:
            return False

    return ready


def unhealthy(local_url: str) -> str:
    """What ``/healthz`` names as not serving; empty when it answers 200."""
    try:
        answer = call(local_url, "GET", "/healthz", headers={"host": "localhost"}, timeout_s=PROBE_WITHIN_S)
    except OSError as error:
        return f"edge ({error})"
    return "" if answer.status == 200 else answer.body[:500].decode(errors="replace")


def check_port(bind: str, port: int, flag: str, *, wait_s: float) -> None:
    """Raises StartRefused where nobody could listen there. ``wait_s``: for the last sockets of killed processes."""
    host = {"localhost": "127.0.0.1"}.get(bind, bind.strip("[]"))
    give_up_s = time.monotonic() + wait_s
    while True:
        try:
            with listening_socket(host, port):
                return
        except OSError as error:
            if time.monotonic() < give_up_s:
                time.sleep(0.05)
                continue
            raise StartRefused(
                f"Port {port} on {bind} cannot be used ({error.strerror or error}); choose another with {flag}."
            ) from None


def free_port(bind: str) -> int:
    """A port nobody listens on now."""
    with listening_socket({"localhost": "127.0.0.1"}.get(bind, bind.strip("[]")), 0) as listening:
        port: int = listening.getsockname()[1]
        return port


def listening_socket(host: str, port: int) -> socket.socket:
    """Bound and listening, so that a port in use is an error whatever its user's options are."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except BaseException:
        listening.close()
        raise
    return listening
