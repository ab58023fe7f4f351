"""What insights are made of. Pure."""

from __future__ import annotations

from typing import Any, Final

from bursar_admin.queries.sessions import RANKED_BY
from bursar_admin.queries.sums import Question, Sql, relation
from bursar_common.usage_sums import FEW_TOOLS, UNKNOWN_TOOLS

OPUS: Final = "positionCaseInsensitive(model, 'opus') > 0"
OPUS_BY: Final = ("price_book_id", "model", "user_id", "virtual_key_id", "virtual_key", "team_id", "team")
OPUS_MEASURES: Final = (
    "requests", "list_cost_nusd", "short_requests", *FEW_TOOLS, *UNKNOWN_TOOLS,
)  # fmt: skip


def opus(question: Question) -> Sql:
    """What Opus was used for (see ``bursar_common.usage_sums``), by book, model and owner."""
    inner, parameters = relation(question, OPUS_BY, OPUS_MEASURES, also=[OPUS])
    keys = ", ".join(f"s.{name} AS {name}" for name in OPUS_BY)
    sums = ", ".join(f"sum(s.{name}) AS sum_{name}" for name in OPUS_MEASURES)
    return (
        f"SELECT {keys}, {sums}\nFROM\n(\n{inner}\n) AS s\nGROUP BY {', '.join(f's.{name}' for name in OPUS_BY)}"
        " ORDER BY sum_list_cost_nusd DESC LIMIT 50000",
        parameters,
    )


def is_opus(row: dict[str, Any]) -> bool:
    """:data:`OPUS` of a row."""
    return "opus" in row["model"].lower()


def leading_sessions(question: Question, writers: int, dearest: int) -> Sql:
    """Of all sessions together: those that wrote most to the 5 minute cache, what all wrote, the dearest ones at list
    prices, and how many there are. One row; lists of (amount below zero, session), the highest first."""
    inner, parameters = relation(question, RANKED_BY, ("cache_write_5m_tokens", "list_cost_nusd"))
    # Grouping the sessions is what takes its time, and is done once.
    return (
        "SELECT groupArraySorted({writers:UInt8})((-t.written, t.session)) AS writers,"
        " groupArraySorted({dearest:UInt8})((-t.cost, t.session)) AS dearest,"
        " toInt64(sum(greatest(t.written, 0))) AS all_written, count() AS sessions\n"
        "FROM\n(\nSELECT s.session_id AS session, sum(s.cache_write_5m_tokens) AS written,"
        " sum(s.list_cost_nusd) AS cost\n"
        f"FROM\n(\n{inner}\n) AS s\nWHERE s.session_id != '' GROUP BY s.session_id\n) AS t",
        {**parameters, "writers": writers, "dearest": dearest},
    )


def by_user(question: Question) -> Sql:
    """List cost and requests of every user."""
    inner, parameters = relation(question, ["user_id"], ("requests", "list_cost_nusd"))
    return (
        "SELECT s.user_id AS user_id, sum(s.requests) AS sum_requests, sum(s.list_cost_nusd) AS sum_list_cost_nusd\n"
        f"FROM\n(\n{inner}\n) AS s\nWHERE s.user_id != '' GROUP BY s.user_id"
        " ORDER BY sum_list_cost_nusd DESC LIMIT 50000",
        parameters,
    )


REFUSED_BY: Final = ("team_id", "refused_by")


def refusals(question: Question) -> Sql:
    """Refusals and requests by team and reason."""
    inner, parameters = relation(question, [*REFUSED_BY, "team"], ("requests", "refused"), at="last")
    return (
        "SELECT s.team_id AS team_id, s.refused_by AS refused_by, argMax(s.team, s.at) AS label,"
        " toUnixTimestamp64Milli(max(s.at)) AS label_ms, sum(s.refused) AS sum_refused,"
        " sum(s.requests) AS sum_requests\n"
        f"FROM\n(\n{inner}\n) AS s\nGROUP BY s.team_id, s.refused_by LIMIT 50000",
        parameters,
    )
