"""Every page, fragment and file. A page is added here, in ``frame.RAIL`` and with a template; nothing else knows."""

from __future__ import annotations

from bursar_admin.desk import Desk
from bursar_admin.pages import (
    allocations,
    budgets,
    correcting,
    events,
    finding,
    governance,
    insights,
    logs,
    overview,
    sessions,
    settings,
    signing_in,
    statements,
)
from bursar_admin.pages.assets import PREFIX
from bursar_admin.pages.frame import Frame
from bursar_admin.routes import Route

MODULES = (
    overview,
    logs,
    correcting,
    sessions,
    insights,
    budgets,
    governance,
    events,
    settings,
    statements,
    allocations,
    finding,
    signing_in,
)


def routes(desk: Desk, frame: Frame) -> list[Route]:
    found = [route for module in MODULES for route in module.routes(desk, frame)]
    static = f"{PREFIX}/{{hash}}/{{path:.+}}"
    return [*found, Route("GET", static, frame.assets.handler, "static", "A static file.", open_page=True)]
