"""What insights are made of. Pure."""

from __future__ import annotations

from typing import Final

from bursar_admin.queries.sessions import RANKED_BY
from bursar_admin.queries.sums import Question, Sql, relation
from bursar_common.usage_sums import SHORT

OPUS: Final = "positionCaseInsensitive(model, 'opus') > 0"
SHORT_BY: Final = ("price_book_id", "model", "user_id", "virtual_key_id", "virtual_key", "team_id", "team")


def short_opus(question: Question) -> Sql:
    """Short answers of Opus (see ``bursar_common.usage_sums``) by book, model and owner."""
    inner, parameters = relation(question, SHORT_BY, tuple(SHORT), also=[OPUS])
    sums = ", ".join(f"sum(s.{name}) AS sum_{whole}" for name, whole in SHORT.items())
    return (
        "SELECT s.price_book_id AS of_book, s.model AS of_model, s.user_id AS of_user, s.virtual_key_id AS of_key,"
        f" any(s.virtual_key) AS of_key_name, s.team_id AS of_team, any(s.team) AS of_team_name, {sums}\n"
        f"FROM\n(\n{inner}\n) AS s\nWHERE s.short_requests > 0\n"
        "GROUP BY s.price_book_id, s.model, s.user_id, s.virtual_key_id, s.team_id"
        " ORDER BY sum_list_cost_nusd DESC LIMIT 20000",
        parameters,
    )


def opus_total(question: Question) -> Sql:
    """All that Opus cost under the same filters."""
    inner, parameters = relation(question, ["model"], ("requests", "list_cost_nusd"), also=[OPUS])
    return (
        f"SELECT sum(s.requests) AS sum_requests, sum(s.list_cost_nusd) AS sum_list_cost_nusd FROM\n(\n{inner}\n) AS s",
        parameters,
    )


def cache_writers(question: Question, count: int) -> Sql:
    """Sessions that wrote most to the 5 minute cache, and what all wrote."""
    inner, parameters = relation(question, RANKED_BY, ("cache_write_5m_tokens",))
    return (
        "SELECT s.session_id AS session, sum(s.cache_write_5m_tokens) AS written, sum(written) OVER () AS all_written\n"
        f"FROM\n(\n{inner}\n) AS s\nWHERE s.session_id != '' GROUP BY s.session_id HAVING written > 0\n"
        "ORDER BY written DESC, session LIMIT {count:UInt32}",
        {**parameters, "count": count},
    )


def by_user(question: Question) -> Sql:
    """List cost and requests of every user."""
    inner, parameters = relation(question, ["user_id"], ("requests", "list_cost_nusd"))
    return (
        "SELECT s.user_id AS of_user, sum(s.requests) AS sum_requests, sum(s.list_cost_nusd) AS sum_list_cost_nusd\n"
        f"FROM\n(\n{inner}\n) AS s\nWHERE s.user_id != '' GROUP BY s.user_id"
        " ORDER BY sum_list_cost_nusd DESC LIMIT 50000",
        parameters,
    )


def refusals(question: Question, count: int) -> Sql:
    """Refusals by team and reason, most first, with the team's requests."""
    inner, parameters = relation(question, ["team_id", "team", "refused_by"], ("requests", "refused"), at="last")
    return (
        "SELECT s.team_id AS of_team, argMax(s.team, s.at) AS of_team_name, sum(s.refused) AS sum_refused,"
        " sum(s.requests) AS sum_requests, sumMap(map(s.refused_by, s.refused)) AS reasons\n"
        f"FROM\n(\n{inner}\n) AS s\nGROUP BY s.team_id HAVING sum_refused > 0\n"
        "ORDER BY sum_refused DESC, of_team LIMIT {count:UInt32}",
        {**parameters, "count": count},
    )
