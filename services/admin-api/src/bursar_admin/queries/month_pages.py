"""Questions for pages of what is booked in a month: by team, and its corrections by request. Pure builders of SQL."""

from __future__ import annotations

from typing import Any, Final

Question = tuple[str, dict[str, Any]]

TEAM_SORTS: Final = {"billed": "billed_nusd", "list": "list_nusd", "requests": "requests", "team": "lowerUTF8(team)"}
"""Name in the REST API to what is sorted by."""
CORRECTION_SORTS: Final = {
    "cost": "cost_nusd", "list": "list_cost_nusd", "team": "lowerUTF8(team)", "key": "lowerUTF8(virtual_key)",
    "of_month": "of_month", "request_id": "request_id",
}  # fmt: skip
_BOOKED: Final = "booked_month = toDate({month:String})"


def _page(by: str, order: str, then: str, limit: int, offset: int) -> tuple[str, dict[str, Any]]:
    assert order in ("asc", "desc")
    tail = f"ORDER BY {by} {order}, {then} LIMIT {{limit:UInt32}} OFFSET {{offset:UInt64}}"
    return tail, {"limit": limit, "offset": offset}


def teams(month: str, sort_by: str, order: str, limit: int, offset: int) -> Question:
    """What each team is charged in a month; the empty id is what no team is charged."""
    tail, bound = _page(TEAM_SORTS[sort_by], order, "team_id", limit, offset)
    sql = f"""SELECT b.team_id AS team_id, argMax(b.team, (b.team != '', b.belongs_to_month)) AS team,
    sum(b.requests) AS requests, sum(b.billed_nusd) AS billed_nusd, sum(b.list_nusd) AS list_nusd
FROM bursar.booked_monthly AS b WHERE b.{_BOOKED} AND b.billing = 'metered'
GROUP BY b.team_id {tail}"""
    return sql, {"month": f"{month}-01", **bound}


def team_totals(month: str) -> Question:
    """The same of all teams together, on however many pages."""
    sql = f"""SELECT uniqExact(b.team_id) AS total_count, sum(b.requests) AS requests,
    sum(b.billed_nusd) AS billed_nusd, sum(b.list_nusd) AS list_nusd
FROM bursar.booked_monthly AS b WHERE b.{_BOOKED} AND b.billing = 'metered'"""
    return sql, {"month": f"{month}-01"}


def corrections(month: str, sort_by: str, order: str, limit: int, offset: int) -> Question:
    """Charges of kind correction booked in a month, by request."""
    tail, bound = _page(CORRECTION_SORTS[sort_by], order, "request_id", limit, offset)
    sql = f"""SELECT c.request_id AS request_id, formatDateTime(c.belongs_to_month, '%Y-%m') AS of_month,
    c.team_id AS team_id, any(c.team) AS team, c.virtual_key_id AS virtual_key_id, any(c.virtual_key) AS virtual_key,
    sum(c.cost_nusd) AS cost_nusd, sum(c.list_cost_nusd) AS list_cost_nusd
FROM bursar.booked_charges AS c WHERE c.{_BOOKED} AND c.charge_kind = 'correction'
GROUP BY c.request_id, c.belongs_to_month, c.team_id, c.virtual_key_id {tail}"""
    return sql, {"month": f"{month}-01", **bound}


def correction_totals(month: str) -> Question:
    sql = f"""SELECT uniqExact(c.request_id, c.belongs_to_month, c.team_id, c.virtual_key_id) AS total_count,
    sum(c.cost_nusd) AS cost_nusd, sum(c.list_cost_nusd) AS list_cost_nusd
FROM bursar.booked_charges AS c WHERE c.{_BOOKED} AND c.charge_kind = 'correction'"""
    return sql, {"month": f"{month}-01"}
