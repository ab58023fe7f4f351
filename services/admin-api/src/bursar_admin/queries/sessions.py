"""Claude Code's sessions: which there are, and the turns of one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.ranges import Plan, Span
from bursar_admin.queries.sums import COUNTS, MEASURES, METRICS, Question, Sql, relation

SORTS: Final[dict[str, tuple[str, ...]]] = {**METRICS, "last_at": (), "started_at": ()}
"""``sort_by`` of sessions; the last two are moments."""
_TURN: Final = (
    "request_id", "session_id", "agent_id", "parent_agent_id", "provider", "model", "outcome", "status", "billing",
    "estimated", "refused_by", "error_type", "price_book_id", "speed", "inference_geo", "latency_ms",
    "time_to_first_token_ms", "user_id", "virtual_key_id", "virtual_key", "team_id", "team", "customer_id", "customer",
    "project",
)  # fmt: skip


def ranked(question: Question, sort_by: str, *, descending: bool, count: int, offset: int) -> Sql:
    """Ids of sessions in order, and how many there are."""
    measures = SORTS[sort_by]
    inner, parameters = relation(question, ["session_id"], measures)
    direction = "DESC" if descending else "ASC"
    moments = {"last_at": "toInt64(toUnixTimestamp(max(s.at)))", "started_at": "toInt64(toUnixTimestamp(min(s.at)))"}
    metric = moments.get(sort_by) or " + ".join(f"sum(s.{name})" for name in measures)
    return (
        f"SELECT s.session_id AS session, {metric} AS metric, count() OVER () AS sessions_found\n"
        f"FROM\n(\n{inner}\n) AS s\nWHERE s.session_id != ''\nGROUP BY s.session_id\n"
        f"ORDER BY metric {direction}, session {direction} LIMIT {{count:UInt32}} OFFSET {{skip:UInt32}}",
        {**parameters, "count": count, "skip": offset},
    )


def summaries(criteria: Criteria, span: Span, sessions: Sequence[str], *, corrected: bool) -> Sql:
    """Sums of certain sessions, read request by request: also how many agents there were, and of which models."""
    columns = [
        "session_id", "agent_id", "model", "virtual_key_id", "virtual_key", "user_id", "team_id", "team", "customer_id",
        "customer", "project", "toUnixTimestamp64Milli(started_at) AS at_ms",
        "toUnixTimestamp64Milli(started_at) + ifNull(toInt64(latency_ms), 0) AS end_ms",
    ]  # fmt: skip
    question = Question(criteria, Plan(None, (), (span,), corrected))
    inner, parameters = relation(question, columns, MEASURES, early="session_id IN {sessions:Array(String)}")
    sums = ", ".join(f"sum(s.{name}) AS sum_{name}" for name in MEASURES)
    last = ", ".join(
        f"argMax(s.{name}, s.at_ms) AS of_{name}"
        for name in (
            "virtual_key_id",
            "virtual_key",
            "user_id",
            "team_id",
            "team",
            "customer_id",
            "customer",
            "project",
        )
    )
    return (
        f"SELECT s.session_id AS session, min(s.at_ms) AS first_ms, max(s.end_ms) AS last_ms,"
        f" uniqExact(s.agent_id) AS agents, groupUniqArray(20)(s.model) AS models,"
        f" groupUniqArray(20)(s.virtual_key) AS keys, {last}, {sums}\n"
        f"FROM\n(\n{inner}\n) AS s\nGROUP BY s.session_id",
        {**parameters, "sessions": list(sessions)},
    )


def turns(sessions: Sequence[str], count: int, criteria: Criteria | None = None, span: Span | None = None) -> Sql:
    """Requests of sessions, oldest first, corrections added."""
    conditions: list[str] = []
    parameters: dict[str, Any] = {"sessions": list(sessions), "count": count}
    if criteria is not None:
        more, own = criteria.sql("f_")
        conditions += more
        parameters |= own
    # Before duplicates are merged: an expiry, which may know no session, is left out; the record replacing it stays.
    prewhere = "session_id IN {sessions:Array(String)}"
    if span is not None:
        text, own = span.sql("range")
        prewhere = f"{text} AND {prewhere}"
        parameters |= own
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = ", ".join(f"e.{name} AS {name}" for name in _TURN)
    counts = ", ".join(f"toInt64(e.{name} + c.{name}) AS {name}" for name in COUNTS)
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*COUNTS, "cost_nusd", "list_cost_nusd"))
    return (
        f"SELECT {columns}, {counts}, toUnixTimestamp64Milli(e.started_at) AS started_at_ms,"
        f" e.cost_nusd + c.cost_nusd AS cost_nusd, e.list_cost_nusd + c.list_cost_nusd AS list_cost_nusd\n"
        f"FROM (SELECT * FROM bursar.usage_events FINAL PREWHERE {prewhere}{where}"
        " ORDER BY started_at, request_id LIMIT {count:UInt32}) AS e\n"
        f"LEFT JOIN (SELECT request_id, {sums} FROM bursar.corrections FINAL GROUP BY request_id) AS c"
        " ON c.request_id = e.request_id\nORDER BY started_at_ms, request_id",
        parameters,
    )
