"""``/metrics``: for Prometheus, with the metrics token; else for whoever may use the admin API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from aiohttp import web

from bursar_admin import metrics
from bursar_admin.desk import Desk
from bursar_admin.routes import Route
from bursar_common.eventlog.port import LogUnavailable
from bursar_common.events import GOVERNANCE_TOPIC
from bursar_common.metrics import OPENMETRICS_TYPE, TEXT_TYPE, Family, Labels, one
from bursar_common.metrics_endpoint import METRICS_PATH, READY, Metrics, page

SERVICE = "admin-api"
ANSWER_S = 3.0
"""Longest wait for the log; what it does not tell is left out."""
_KINDS = ("customer", "team", "user", "virtual_key", "provider")


def metrics_of(desk: Desk) -> Metrics:
    """All that admin-api tells."""
    if desk.metrics is not None:
        return desk.metrics
    made = desk.metrics = Metrics(SERVICE, version_of="bursar-admin")
    made.add(desk.meter.families)
    made.add(lambda: _now(desk))
    made.add_late(lambda: _behind(desk))
    return made


def _now(desk: Desk) -> Iterator[Family]:
    yield one(READY, 0 if desk.journal.failure else 1)
    yield one(metrics.WATCHERS, desk.live.watchers)
    yield one(metrics.WATCHERS_DROPPED, desk.live.dropped)
    yield Family(metrics.OWNERS, [(Labels([("kind", kind)]), len(desk.projection.entities(kind))) for kind in _KINDS])


async def _behind(desk: Desk) -> Iterable[Family]:
    if not desk.journal.started:
        return [Family(metrics.LAG, ())]
    try:
        async with asyncio.timeout(ANSWER_S):
            end = await desk.journal.event_log.end_offset(GOVERNANCE_TOPIC, 0)
    except (LogUnavailable, TimeoutError):
        return [Family(metrics.LAG, ())]
    return [one(metrics.LAG, max(0, end - desk.journal.next_offset))]


def routes(desk: Desk) -> list[Route]:
    told = metrics_of(desk)

    async def answer(request: web.Request) -> web.Response:
        if not desk.metrics_access.has_token(request.headers):
            desk.access.check(request.headers)
        content_type, body = await page(told, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    return [
        Route(
            "GET", METRICS_PATH, answer, "metrics", "Metrics for Prometheus, in its text format or as OpenMetrics.",
            media=(TEXT_TYPE, OPENMETRICS_TYPE), own_access=True,
        )
    ]  # fmt: skip
