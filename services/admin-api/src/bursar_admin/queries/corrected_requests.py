"""Questions which requests were corrected, whose they were and where they lie. Pure builders of SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bursar_admin.queries.logs import span_of_id
from bursar_admin.queries.ranges import DAY_MS, day_of

MAX_IDS: Final = 500
"""Requests asked for at once."""
IDS: Final = "SELECT DISTINCT request_id FROM bursar.corrections"


def owners(request_ids: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Whose each request was, as it is on record. Ids nobody has are left out."""
    assert len(request_ids) <= MAX_IDS
    names = ("customer_id", "team_id", "user_id", "virtual_key_id", "virtual_key", "team")
    listed = ", ".join(f"any(u.{name}) AS {name}" for name in names)
    sql = f"""SELECT u.request_id AS request_id, {listed}
FROM bursar.usage_events AS u WHERE u.request_id IN {{ids:Array(String)}} GROUP BY u.request_id"""
    return sql, {"ids": list(request_ids)}


def places(request_ids: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Day and key of each: what the table of requests is ordered by. Its id's own time narrows where to look."""
    assert len(request_ids) <= MAX_IDS
    spans = [span_of_id(request_id) for request_id in request_ids]
    days = {day_of(span.from_ms + days * DAY_MS) for span in spans if span is not None for days in range(3)}
    parameters: dict[str, Any] = {"ids": list(request_ids)}
    within = "1"
    if None not in spans:
        within = "toDate(u.started_at) IN (SELECT toDate(arrayJoin({days:Array(String)})))"
        parameters["days"] = sorted(days)
    sql = f"""SELECT
    u.request_id AS request_id, any(toString(toDate(u.started_at))) AS day, any(u.virtual_key_id) AS of_key
FROM bursar.usage_events AS u PREWHERE {within} AND u.request_id IN {{ids:Array(String)}} GROUP BY u.request_id"""
    return sql, parameters
