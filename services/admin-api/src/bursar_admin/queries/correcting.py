"""Questions what a request costs, and how it was corrected so far. Pure builders of SQL."""

from __future__ import annotations

from typing import Any


def charged(request_id: str) -> tuple[str, dict[str, Any]]:
    """What one request was charged, without corrections, and whether its month is about to leave (or has left);
    nothing for one that was refused, or is unknown."""
    sql = """SELECT toUnixTimestamp64Milli(started_at) AS started_at_ms, outcome, cost_nusd, list_cost_nusd,
    toDate(started_at) < (SELECT taken_from FROM bursar.usage_kept) AS leaving
FROM bursar.usage_events FINAL
WHERE request_id = {request:String} AND outcome != 'refused' AND provider != 'simulator' LIMIT 1"""
    return sql, {"request": request_id}


def standing(request_id: str, correction_id: str) -> tuple[str, dict[str, Any]]:
    """One row: the corrections of a request, and the one of that id whosever it is; and the first offset of the topic
    behind everything that is in the table."""
    names = ("correction_id", "request_id", "cost_nusd", "list_cost_nusd", "log_offset", "corrected_at_ms", "reason")
    sql = f"""SELECT (SELECT if(count() = 0, 0, max(log_offset) + 1) FROM bursar.corrections) AS next_offset,
    {", ".join(f"groupArray({name}) AS {name}s" for name in names)}
FROM (
    SELECT *, toUnixTimestamp64Milli(corrected_at) AS corrected_at_ms FROM bursar.corrections FINAL
    WHERE request_id = {{request:String}} OR correction_id = {{correction:String}} ORDER BY log_offset
)"""
    return sql, {"request": request_id, "correction": correction_id}
