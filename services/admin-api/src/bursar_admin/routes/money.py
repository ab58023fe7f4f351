"""Everything that is asked about money, by finance and by developers: one list for the route table."""

from __future__ import annotations

from bursar_admin.desk import Desk
from bursar_admin.routes import (
    Route,
    allocations,
    corrections,
    exports,
    finance,
    imports,
    organizations,
    quota,
    statements,
    usage_report,
)


def routes(desk: Desk) -> list[Route]:
    modules = (quota, usage_report, imports, exports, organizations, finance, allocations, corrections, statements)
    return [route for module in modules for route in module.routes(desk)]
