"""Claude Code's sessions: which there are, and the turns of one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.ranges import Plan, Span
from bursar_admin.queries.sums import MEASURES, METRICS, Question, Sql, relation
from bursar_common.usage_sums import COSTS, COUNTS

SORTS: Final[dict[str, tuple[str, ...]]] = {**METRICS, "last_at": (), "started_at": ()}
"""``sort_by`` of sessions; the last two are moments."""
_TURN_OF_CACHES: Final = (
    "request_id", "session_id", "agent_id", "model", "price_book_id", "speed", "inference_geo", "latency_ms",
)  # fmt: skip
"""What is looked at to see whether caches ran out."""
_TURN: Final = (
    "request_id", "session_id", "agent_id", "parent_agent_id", "provider", "model", "outcome", "status", "billing",
    "estimated", "refused_by", "error_type", "price_book_id", "speed", "inference_geo", "latency_ms",
    "time_to_first_token_ms", "user_id", "virtual_key_id", "virtual_key", "team_id", "team", "customer_id", "customer",
    "project",
)  # fmt: skip


RANKED_BY: Final = ("session_id", "virtual_key_id")


def ranked(question: Question, sort_by: str, *, descending: bool, count: int, offset: int) -> Sql:
    """Ids of sessions in order, and how many there are."""
    measures = SORTS[sort_by]
    inner, parameters = relation(question, RANKED_BY, measures, at="first" if sort_by == "started_at" else "last")
    direction = "DESC" if descending else "ASC"
    moments = {"last_at": "toUnixTimestamp64Milli(max(s.at))", "started_at": "toUnixTimestamp64Milli(min(s.at))"}
    metric = moments.get(sort_by) or " + ".join(f"sum(s.{name})" for name in measures)
    return (
        f"SELECT s.session_id AS session, {metric} AS metric, count() OVER () AS sessions_found\n"
        f"FROM\n(\n{inner}\n) AS s\nWHERE s.session_id != ''\nGROUP BY s.session_id\n"
        f"ORDER BY metric {direction}, session {direction} LIMIT {{count:UInt32}} OFFSET {{skip:UInt32}}",
        {**parameters, "count": count, "skip": offset},
    )


def summed(question: Question) -> Sql:
    """Sums over all sessions together, and how many there are."""
    inner, parameters = relation(question, RANKED_BY, MEASURES)
    sums = ", ".join(f"sum(s.{name}) AS sum_{name}" for name in MEASURES)
    return (
        f"SELECT uniqExact(s.session_id) AS sessions, {sums}\nFROM\n(\n{inner}\n) AS s\nWHERE s.session_id != ''",
        parameters,
    )


MAX_PLACES: Final = 400
"""Days and keys of one session that are noted; with more of them its requests are looked for everywhere."""
Place = tuple[str, str]


LAST: Final = (
    "virtual_key_id", "virtual_key", "user_id", "team_id", "team", "customer_id", "customer", "project",
)  # fmt: skip
"""Columns a session is shown with, as of its last request."""


def places(question: Question, sessions: Sequence[str]) -> Sql:
    """Days and keys of sessions' requests, which is what the table of requests is ordered by."""
    inner, parameters = relation(question, RANKED_BY, (), also=["session_id IN {sessions:Array(String)}"], at="last")
    return (
        f"SELECT s.session_id AS session, {_PLACES} AS places\nFROM\n(\n{inner}\n) AS s\nGROUP BY s.session_id",
        {**parameters, "sessions": list(sessions)},
    )


def sums_of(question: Question, sessions: Sequence[str]) -> Sql:
    """Sums of certain sessions, whose they are as of their last request, ``of_ms``, and the places of all of them."""
    of_these = "session_id IN {sessions:Array(String)}"
    # Of a request that expired and was recorded later both say the same session, or the first one none.
    inner, parameters = relation(question, ["session_id", *LAST], MEASURES, also=[of_these], early=of_these, at="last")
    sums = ", ".join(f"sum(s.{name}) AS sum_{name}" for name in MEASURES)
    # Of several at one moment the same is taken however they are read.
    latest = ", ".join(("s.at", *(f"s.{name}" for name in LAST)))
    last = ", ".join(f"argMax(s.{name}, ({latest})) AS of_{name}" for name in LAST)
    return (
        f"SELECT s.session_id AS session, {_PLACES} AS places, groupUniqArray(20)(s.virtual_key) AS keys, {last},"
        f" toUnixTimestamp64Milli(max(s.at)) AS of_ms, {sums}\nFROM\n(\n{inner}\n) AS s\nGROUP BY s.session_id",
        {**parameters, "sessions": list(sessions)},
    )


_PLACES: Final = f"groupUniqArray({MAX_PLACES})((toString(toDate(s.at)), toString(s.virtual_key_id)))"


def places_of(rows: Sequence[dict[str, Any]]) -> list[Place] | None:
    """The places of sessions found, of all together; None where those of one are too many to be known."""
    if any(len(row["places"]) >= MAX_PLACES for row in rows):
        return None
    return sorted({(day, key) for row in rows for day, key in row["places"]})


def at_places(sessions: Sequence[str], places: Sequence[Place] | None) -> Sql:
    """The condition on requests of sessions: by the table's own order as well, so that little is read."""
    text, parameters = "session_id IN {sessions:Array(String)}", {"sessions": list(sessions)}
    if places is None:
        return text, parameters
    return (
        "(toString(toDate(started_at)), virtual_key_id) IN"
        " (SELECT place.1, place.2 FROM (SELECT arrayJoin(arrayZip({place_days:Array(String)},"
        f" {{place_keys:Array(String)}})) AS place)) AND {text}",
        {**parameters, "place_days": [day for day, _ in places], "place_keys": [key for _, key in places]},
    )


def agents(criteria: Criteria, spans: Sequence[Span], sessions: Sequence[str], places: Sequence[Place] | None) -> Sql:
    """What sums do not have of certain sessions, from their requests: which agents there were, of which models, and
    when the first request began and the last one ended. Few columns: thousands of values of each are unpacked to get at
    those of a session."""
    columns = [
        "session_id", "agent_id", "model", "toUnixTimestamp64Milli(started_at) AS at_ms",
        "toUnixTimestamp64Milli(started_at) + ifNull(toInt64(latency_ms), 0) AS end_ms",
    ]  # fmt: skip
    early, own = at_places(sessions, places)
    inner, parameters = relation(Question(criteria, Plan(tuple(spans), corrected=False)), columns, (), early=early)
    return (
        f"SELECT s.session_id AS session, min(s.at_ms) AS first_ms, max(s.end_ms) AS last_ms,"
        f" groupUniqArray(s.agent_id) AS agent_ids, groupUniqArray(20)(s.model) AS models, count() AS seen\n"
        f"FROM\n(\n{inner}\n) AS s\nGROUP BY s.session_id",
        {**parameters, **own},
    )


def agents_of(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """As :func:`agents` finds it, of all turns of one session; None: there are none."""
    if not turns:
        return None
    return {
        "first_ms": min(turn["started_at_ms"] for turn in turns),
        "last_ms": max(turn["started_at_ms"] + (turn["latency_ms"] or 0) for turn in turns),
        "agents": len({turn["agent_id"] for turn in turns}),
        "models": list(dict.fromkeys(turn["model"] for turn in turns))[:20],
        "seen": len(turns),
    }


def requests_of(sums: Mapping[str, Any]) -> int:
    """How many requests a session's sums are of."""
    return int(sums["sum_requests"] + sums["sum_refused"])


def with_agents(sums: dict[str, Any], looked_at: Mapping[str, Any] | None) -> dict[str, Any]:
    """A session's sums and what :func:`agents` found of it; None for each where not all of its requests are there any
    more: a part of them would say something else."""
    if looked_at is None or looked_at["seen"] < requests_of(sums):
        return {**sums, "first_ms": None, "last_ms": None, "agents": None, "models": None}
    return {**sums, **looked_at}


def turns(
    sessions: Sequence[str],
    count: int,
    criteria: Criteria | None = None,
    span: Span | None = None,
    places: Sequence[Place] | None = None,
    *,
    caches: bool = False,
) -> Sql:
    """Requests of sessions, oldest first, corrections added. ``caches``: only the columns that caches are judged by."""
    conditions: list[str] = []
    parameters: dict[str, Any] = {"count": count}
    if criteria is not None:
        more, own = criteria.sql("f_")
        conditions += more
        parameters |= own
    # Before duplicates are merged: an expiry, which may know no session, is left out; the record replacing it stays.
    prewhere, own = at_places(sessions, places)
    parameters |= own
    if span is not None:
        text, own = span.sql("range")
        prewhere = f"{text} AND {prewhere}"
        parameters |= own
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = ", ".join(f"e.{name} AS {name}" for name in (_TURN_OF_CACHES if caches else _TURN))
    counted, costs = (COUNTS[:5], ()) if caches else (COUNTS, COSTS)
    counts = ", ".join(f"toInt64(e.{name} + c.{name}) AS {name}" for name in counted)
    amounts = "".join(f", e.{name} + c.{name} AS {name}" for name in costs)
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*counted, *costs))
    return (
        f"SELECT {columns}, {counts}, toUnixTimestamp64Milli(e.started_at) AS started_at_ms{amounts}\n"
        f"FROM (SELECT * FROM bursar.usage_events FINAL PREWHERE {prewhere}{where}"
        " ORDER BY started_at, request_id LIMIT {count:UInt32}) AS e\n"
        f"LEFT JOIN (SELECT request_id, {sums} FROM bursar.corrections FINAL GROUP BY request_id) AS c"
        " ON c.request_id = e.request_id\nORDER BY started_at_ms, request_id",
        parameters,
    )
