"""Everything that is asked about money, by finance and by developers: one list for the route table."""

from __future__ import annotations

from bursar_admin.desk import Desk
from bursar_admin.routes import Route, exports, imports, organizations, quota, usage_report


def routes(desk: Desk) -> list[Route]:
    return [route for module in (quota, usage_report, imports, exports, organizations) for route in module.routes(desk)]
