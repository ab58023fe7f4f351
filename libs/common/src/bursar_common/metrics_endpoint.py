"""``/metrics`` of a service: what the page consists of, who may read it, what the process itself uses."""

from __future__ import annotations

import asyncio
import hmac
import importlib.metadata
import os
import resource
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web

from bursar_common.metrics import (
    END,
    OPENMETRICS_TYPE,
    TEXT_TYPE,
    Family,
    Labels,
    Metric,
    one,
    render,
    wants_openmetrics,
)
from bursar_common.service import is_loopback
from bursar_common.settings import Settings
from bursar_common.wire import INTERNAL_TOKEN_HEADER

METRICS_PATH = "/metrics"

INFO = Metric(name="bursar_build_info", kind="gauge", help="Always 1; the release that runs.", labels=("version",))
READY = Metric(name="bursar_ready", kind="gauge", help="1 while the service's /readyz answers 200, else 0.")
STARTED = Metric(name="process_start_time_seconds", kind="gauge", help="Unix time at which the process began.")
CPU = Metric(name="process_cpu_seconds_total", kind="counter", help="Processor time used, user and system.")
MEMORY = Metric(name="process_resident_memory_bytes", kind="gauge", help="Memory in use (resident set).")
FILES = Metric(name="process_open_fds", kind="gauge", help="Open file descriptors, connections included.")
COMMON = (INFO, READY, STARTED, CPU, MEMORY, FILES)
"""What every service has."""

Source = Callable[[], Iterable[Family]]
LateSource = Callable[[], Awaitable[Iterable[Family]]]


class Metrics:
    """A process' metrics: sources that are asked when somebody reads."""

    def __init__(self, service: str, *, version_of: str = "bursar-common") -> None:
        """``service``: value of the ``service`` label; ``version_of``: the distribution whose version is told."""
        self.service = service
        self._sources: list[Source] = [_Process(version_of).families]
        self._late: list[LateSource] = []

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def add_late(self, source: LateSource) -> None:
        """A source that has to ask somebody; it bounds its own time and never raises."""
        self._late.append(source)

    async def families(self) -> list[Family]:
        """Everything, as of now."""
        found = [family for source in self._sources for family in source()]
        for source in self._late:
            found += await source()
        return found

    async def pieces(self, *, openmetrics: bool) -> list[bytes]:
        """The rendered page without its end. Others get their turn between pieces."""
        pieces = []
        for piece in render(self.service, await self.families(), openmetrics=openmetrics):
            pieces.append(piece)
            await asyncio.sleep(0)
        return pieces


async def page(metrics: Metrics, accept: str) -> tuple[str, bytes]:
    """Content type and body."""
    openmetrics = wants_openmetrics(accept)
    pieces = await metrics.pieces(openmetrics=openmetrics)
    if openmetrics:
        pieces.append(END)
    return (OPENMETRICS_TYPE if openmetrics else TEXT_TYPE), b"".join(pieces)


class MetricsAccess:
    """Who may read: names of teams and keys, and what they spend, are nobody else's business.

    The metrics token or the internal token opens (``Authorization: Bearer``, or the header that services use). Where no
    metrics token is set, anybody on this machine may read a listener that only this machine reaches, by a name of the
    machine itself (or a page of a foreign site could have its name resolve to here)."""

    def __init__(self, settings: Settings, listen: str) -> None:
        self._tokens = [
            token.get_secret_value().encode()
            for token in (settings.metrics_token, settings.internal_token)
            if token.get_secret_value()
        ]
        self._open = is_loopback(listen) and not settings.metrics_token.get_secret_value()
        self._socket = listen.startswith("unix:")

    def has_token(self, headers: Mapping[str, str]) -> bool:
        """Whether a token that opens was given."""
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        given = [headers.get(INTERNAL_TOKEN_HEADER, ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        matches = [
            hmac.compare_digest(each.encode("utf-8", "surrogateescape"), token)
            for each in given
            for token in self._tokens
        ]
        return any(matches)

    def allows(self, headers: Mapping[str, str]) -> bool:
        return self.has_token(headers) or (self._open and (self._socket or _local_name(headers.get("Host", ""))))


REFUSED = "Send BURSAR_METRICS_TOKEN as Authorization: Bearer.\n"
"""Body of a 401."""


async def answer(metrics: Metrics, access: MetricsAccess, request: web.BaseRequest) -> web.Response:
    """The answer to ``GET /metrics`` of a service's own listener."""
    if not access.allows(request.headers):
        return web.Response(status=401, text=REFUSED, headers={"WWW-Authenticate": "Bearer"})
    content_type, body = await page(metrics, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _local_name(host: str) -> bool:
    name = host.rpartition(":")[0] if host.count(":") == 1 else host.partition("]")[0]
    name = (name or host).strip("[]").lower()
    return name in ("localhost", "::1") or name.startswith("127.")


class _Process:
    """The process' own figures."""

    def __init__(self, version_of: str) -> None:
        self._version = _version(version_of)
        self._started_s = round(time.time() - _age_s(), 3)

    def families(self) -> list[Family]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        found = [
            Family(INFO, ((Labels((("version", self._version),)), 1),)),
            one(STARTED, self._started_s),
            one(CPU, round(used.ru_utime + used.ru_stime, 6)),
        ]
        try:
            with open("/proc/self/statm", "rb") as statm:
                found.append(one(MEMORY, int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")))
            found.append(one(FILES, len(os.listdir("/proc/self/fd"))))
        except OSError:  # not Linux: what is not known is left out
            found += [Family(MEMORY, ()), Family(FILES, ())]
        return found


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _age_s() -> float:
    """How long the process has lived."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b") ")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.process_time()
