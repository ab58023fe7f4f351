"""``/api/health/system`` and ``/api/installation``: how the parts do, and what is set up how."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.letters import Letters
from bursar_admin.log_answers import InstallationAnswer, SystemAnswer
from bursar_admin.pages import session_cookie
from bursar_admin.requests import check_query, json_answer
from bursar_admin.retention import kept
from bursar_admin.routes import Route
from bursar_admin.system import System

SYSTEM_PATH = "/api/health/system"
INSTALLATION_PATH = "/api/installation"


def routes(desk: Desk) -> list[Route]:
    system = System(desk, Letters(desk.journal.event_log))

    async def health(request: web.Request) -> web.Response:
        check_query(request)
        return json_answer(await system.look())

    async def installation(request: web.Request) -> web.Response:
        check_query(request)
        settings = desk.settings
        kafka = bool(settings.kafka_bootstrap)
        answer: InstallationAnswer = {
            "version": _version(),
            "shape": "one_machine" if settings.single_machine else "cluster",
            "event_log": "kafka" if kafka else "sqlite",
            "usage_kept_days": settings.usage_retention_days,
            "content_kept_days": settings.content_retention_days,
            "kept": kept(settings),
            "content_max_bytes": settings.content_max_bytes,
            "public_url": f"{request.scheme}://{request.host}" if settings.single_machine else None,
            "analytics": bool(settings.clickhouse_url),
            "access": {
                "actor": desk.access.actor,
                "signed_in_with": _signed_in_with(desk, request),
                "hosts": desk.access.hosts,
            },
        }
        return json_answer(answer)

    return [
        Route(
            "GET", SYSTEM_PATH, health, "system_health",
            "How the parts do, how far readers of the log are behind, open holds, dead letters.", SystemAnswer,
        ),
        Route(
            "GET", INSTALLATION_PATH, installation, "get_installation",
            "What comes from the deployment: shape, retention, access.", InstallationAnswer,
        ),
    ]  # fmt: skip


def _signed_in_with(desk: Desk, request: web.Request) -> Literal["cookie", "token", "loopback"]:
    if not desk.access.has_token:
        return "loopback"
    return "cookie" if session_cookie.NAME in request.cookies else "token"


def _version() -> str:
    try:
        return version("bursar-admin")
    except PackageNotFoundError:
        return "0"
