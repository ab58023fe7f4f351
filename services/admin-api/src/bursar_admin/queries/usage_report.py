"""Usage by period and model, for people who look at their own bill: days, months, sessions, minutes. Pure."""

from __future__ import annotations

from typing import Any, Final

from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.ranges import Span

PERIODS: Final = {
    "day": "toString(toDate(started_at, {zone:String}))",
    "month": "formatDateTime(started_at, '%Y-%m', {zone:String})",
    "session": "session_id",
    "minute": "toString(toUnixTimestamp(toStartOfMinute(started_at)))",
}
"""``by`` and its expression; a minute is its start in Unix seconds."""


def usage_by(criteria: Criteria, span: Span, by: str, zone: str) -> tuple[str, dict[str, Any]]:
    """A row a period and model, in order. Refused requests cost nothing and are left out."""
    conditions, bound = criteria.sql("f_")
    within, moments = span.sql("span")
    where = " AND ".join(
        [within, *conditions, "outcome != 'refused'", *(["session_id != ''"] if by == "session" else [])]
    )
    sql = f"""SELECT {PERIODS[by]} AS period, model,
    count() AS requests,
    countIf(estimated) AS estimated,
    toUInt64(ifNull(sum(input_tokens), 0)) AS input_tokens,
    toUInt64(ifNull(sum(cache_read_tokens), 0)) AS cache_read_tokens,
    toUInt64(ifNull(sum(cache_write_5m_tokens), 0)) AS cache_write_5m_tokens,
    toUInt64(ifNull(sum(cache_write_1h_tokens), 0)) AS cache_write_1h_tokens,
    toUInt64(ifNull(sum(output_tokens), 0)) AS output_tokens,
    toInt64(sum(cost_nusd)) AS cost_nusd,
    toInt64(sum(list_cost_nusd)) AS list_cost_nusd,
    argMax(project, started_at) AS project,
    toUnixTimestamp64Milli(min(started_at)) AS first_ms,
    toUnixTimestamp64Milli(max(started_at)) AS last_ms
FROM bursar.usage
WHERE {where}
GROUP BY period, model
ORDER BY period, model"""
    return sql, {**bound, **moments, **({"zone": zone or "UTC"} if by in ("day", "month") else {})}


def known_messages(message_ids: list[str]) -> tuple[str, dict[str, Any]]:
    """Which of these messages are recorded already, and by which request of the provider."""
    sql = """SELECT DISTINCT message_id, upstream_request_id
FROM bursar.usage_events
WHERE message_id IN {ids:Array(String)}"""
    return sql, {"ids": message_ids}
