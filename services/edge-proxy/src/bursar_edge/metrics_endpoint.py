"""``/metrics`` of the edge, and on one machine of all services together.

On one machine the public port is everybody's way in, so whoever shows no token for metrics is judged by admin-api, with
the rules of the admin API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

import structlog

from bursar_common.clock import Clock
from bursar_common.eventlog.port import LogUnavailable, OffsetLost
from bursar_common.metrics import (
    END,
    OPENMETRICS_TYPE,
    TEXT_TYPE,
    Family,
    Labels,
    joined,
    one,
    render,
    wants_openmetrics,
)
from bursar_common.metrics_endpoint import METRICS_PATH, READY, REFUSED, Metrics, MetricsAccess
from bursar_common.settings import Settings
from bursar_common.wire import INTERNAL_TOKEN_HEADER
from bursar_edge import metrics
from bursar_edge.admission import Enforcer
from bursar_edge.exchange import Parts
from bursar_edge.health import Neighbour
from bursar_edge.incoming import Incoming
from bursar_edge.link import NoAnswer, NotConnected, exchange
from bursar_edge.outbox import Outbox

log = structlog.get_logger()

SERVICE = "edge-proxy"
ANSWER_S = 5.0
"""A service of this machine that takes longer is told as not answering; a scrape waits ten."""
MAX_PAGE_BYTES = 32 << 20
"""Of one other service's page: the bound on its series is some megabytes."""
_PASSED = ("authorization", "x-api-key", "cookie", "host", "origin")
"""What admin-api judges by."""
_CONTENT_RESULTS = {result: Labels([("result", result)]) for result in ("stored", "lost", "failed")}


class Serves(Protocol):
    """The edge, as far as it is told about here."""

    settings: Settings
    parts: Parts
    enforcer: Enforcer
    outbox: Outbox

    @property
    def active(self) -> int: ...

    @property
    def problem(self) -> str: ...


class MetricsEndpoint:
    """Answers ``GET /metrics``."""

    def __init__(self, edge: Serves) -> None:
        self._edge = edge
        self._single = edge.settings.single_machine
        self._token = edge.settings.internal_token.get_secret_value()
        self._access = MetricsAccess(edge.settings, edge.settings.edge_listen)
        self.metrics = Metrics(SERVICE, version_of="bursar-edge")
        self.metrics.add(edge.parts.meter.families)
        self.metrics.add(lambda: now_families(edge))
        self.metrics.add_late(lambda: outbox_families(edge.outbox, edge.parts.clock))

    async def answer(self, incoming: Incoming, neighbours: Mapping[str, Neighbour]) -> None:
        """Answer one request. Raises ClientGone."""
        openmetrics = wants_openmetrics(incoming.headers.get("accept", ""))
        known = self._access.has_token(incoming.headers)
        admin = b""
        if self._single and not known:
            status, admin = await self._judged(incoming, neighbours.get("admin-api"), openmetrics)
            if status != 200:
                _say(incoming, status, admin)
                return
        elif not known and not self._access.allows(incoming.headers):
            _say(incoming, 401, REFUSED.encode())
            return
        pages = await self._pages(neighbours, openmetrics, admin)
        body = b"".join(joined(pages)) if len(pages) > 1 else pages[0]
        content_type = (OPENMETRICS_TYPE if openmetrics else TEXT_TYPE).encode()
        headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
        incoming.answer(200, headers, body + END if openmetrics else body)

    async def _judged(self, incoming: Incoming, admin: Neighbour | None, openmetrics: bool) -> tuple[int, bytes]:
        """Whether admin-api would let this caller read, and its page."""
        passed = [(name, value) for name in _PASSED for value in incoming.headers.getall(name, ())]
        page = await _page_of(admin, passed, openmetrics) if admin is not None else None
        if page is None:
            return (
                503,
                b"admin-api decides who may read this, and does not answer. BURSAR_METRICS_TOKEN is taken without.\n",
            )
        return page

    async def _pages(self, neighbours: Mapping[str, Neighbour], openmetrics: bool, admin: bytes) -> list[bytes]:
        """Of this service and, on one machine, of the others that answer; those that do not are told as unready."""
        pages = [b"".join(await self.metrics.pieces(openmetrics=openmetrics))]
        names = [name for name in neighbours if not (name == "admin-api" and admin)]
        own = [(INTERNAL_TOKEN_HEADER, self._token), ("host", "localhost")]
        found = await asyncio.gather(*(_page_of(neighbours[name], own, openmetrics) for name in names))
        for name, page in zip(names, found, strict=True):
            if page is not None and page[0] == 200:
                pages.append(page[1])
            else:
                log.warning("no_metrics_of", of=name, status=page[0] if page is not None else 0)
                pages.append(b"".join(render(name, [one(READY, 0)], openmetrics=openmetrics)))
        if admin:
            pages.append(admin)
        return pages


async def _page_of(
    neighbour: Neighbour, headers: Iterable[tuple[str, str]], openmetrics: bool
) -> tuple[int, bytes] | None:
    """Status and body of a service's page, without OpenMetrics' last line; None: it does not answer."""
    origin = neighbour.origin
    lines = [f"GET {origin.base_path}{METRICS_PATH} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"accept: {OPENMETRICS_TYPE if openmetrics else TEXT_TYPE}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    try:
        async with asyncio.timeout(ANSWER_S):
            reply = await exchange(
                neighbour.connector, origin, head.encode("utf-8", "surrogateescape"), b"", answer_s=ANSWER_S
            )
            body = await reply.read(MAX_PAGE_BYTES)
    except (NotConnected, NoAnswer, TimeoutError):
        return None
    return reply.status, body.removesuffix(END)


def now_families(edge: Serves) -> Iterable[Family]:
    """What the edge is doing."""
    yield one(READY, 0 if edge.problem else 1)
    yield one(metrics.TAGS_DROPPED, edge.parts.samples.counts["tags_dropped"])
    content = edge.parts.content.counts
    yield Family(metrics.CONTENT, [(labels, content[result]) for result, labels in _CONTENT_RESULTS.items()])
    yield one(metrics.CONTENT_LEFT_OUT, content["left_out"])
    yield one(metrics.ACTIVE, edge.active)
    yield one(metrics.OUTBOX_WRITABLE, int(edge.outbox.writable))
    yield one(metrics.QUEUED, edge.enforcer.queued)
    yield one(metrics.TURNS, edge.enforcer.waiting_turns)


async def outbox_families(outbox: Outbox, clock: Clock) -> list[Family]:
    """What waits for the log; nothing where the outbox cannot be read (it is not writable then, either)."""
    try:
        count = await outbox.unshipped()
        since_ms = await outbox.oldest_ms() if count else None
    except (LogUnavailable, OffsetLost):
        return [Family(metrics.OUTBOX, ()), Family(metrics.OUTBOX_AGE, ())]
    age_s = 0.0 if since_ms is None else max(0.0, (clock.now_ms() - since_ms) / 1000)
    return [one(metrics.OUTBOX, count), one(metrics.OUTBOX_AGE, age_s)]


def _say(incoming: Incoming, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    incoming.answer(status, headers, body)
