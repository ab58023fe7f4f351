"""What every service's process does alike: listen, drain on SIGTERM, report health."""

from __future__ import annotations

import asyncio
import hmac
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import uvloop
from aiohttp import ClientSession, TCPConnector, UnixConnector, web

from bursar_common.wire import INTERNAL_TOKEN_HEADER

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def listen(runner: web.BaseRunner, address: str) -> None:
    """Bind a set-up runner to ``host:port`` or ``unix:<path>`` (a left-over socket file is replaced, mode 0600)."""
    if address.startswith("unix:"):
        path = address[5:]
        if os.path.exists(path):
            os.unlink(path)
        await web.UnixSite(runner, path).start()
        os.chmod(path, 0o600)
    else:
        host, _, port = address.rpartition(":")
        await web.TCPSite(runner, host.strip("[]"), int(port), backlog=1024).start()


def connect(url: str, *, limit: int = 64, **session_options: Any) -> tuple[ClientSession, str]:
    """A client session for a service address and the base URL to put before paths.

    ``http://host:port`` or ``unix:<path>``."""
    if url.startswith("unix:"):
        return ClientSession(connector=UnixConnector(url[5:], limit=limit), **session_options), "http://bursar"
    return ClientSession(connector=TCPConnector(limit=limit), **session_options), url.rstrip("/")


def internal_token_ok(request: web.BaseRequest, token: str) -> bool:
    """Whether the request carries the internal token (compared in constant time; an empty setting accepts nobody)."""
    given = request.headers.get(INTERNAL_TOKEN_HEADER, "")
    return bool(token) and hmac.compare_digest(given.encode(), token.encode())


def is_loopback(address: str) -> bool:
    """Whether a listen address (``host:port`` or ``unix:``) can be reached from this machine only."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


async def until_signalled() -> None:
    """Return at the first SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run a service's main coroutine on uvloop; its result is the exit code."""

    async def call() -> int:
        return await main()

    return uvloop.run(call())
