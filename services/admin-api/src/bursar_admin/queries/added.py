"""The two statements whose answers are added up: sums of named buildings, and requests of hours that are open. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bursar_admin.queries.sums import Question, Sql, bucket_key, cut_rows, relation
from bursar_common.usage_sums import COUNTS, PARTS


def of_buildings(
    question: Question,
    keys: Sequence[str],
    measures: Sequence[str],
    *,
    label: str = "",
    bucket: tuple[str, str] | None = None,
    only: str = "",
    count: int,
) -> Sql:
    """Sums by columns of the plan's cut; ``bucket``: interval and time zone. One level, since a statement over cuts
    takes longer to be planned than to be run."""
    conditions, parameters = question.criteria.sql("f_")
    within, own = cut_rows(question.plan)
    parameters |= own
    selected = [f"s.{name} AS {name}" for name in keys]
    groups = [f"s.{name}" for name in keys]
    if label:
        selected += [f"argMax(s.{label}, s.last_at) AS label", "toUnixTimestamp64Milli(max(s.last_at)) AS label_ms"]
    if bucket is not None:
        text, own = bucket_key(*bucket)
        parameters |= own
        selected.append(f"{text} AS bucket")
        groups.append("bucket")
    for name in measures:
        counted = PARTS.get(name, name) in COUNTS
        selected.append(f"toInt64(sum(s.{name})) AS sum_{name}" if counted else f"sum(s.{name}) AS sum_{name}")
    where = " AND ".join((within, *conditions, *([only] if only else [])))
    grouped = f"\nGROUP BY {', '.join(groups)}" if groups else ""
    return (
        f"SELECT {', '.join(selected)}\nFROM bursar.usage_days AS s\nWHERE {where}{grouped} LIMIT {{count:UInt32}}",
        {**parameters, "count": count},
    )


def of_requests(
    question: Question, columns: Sequence[str], measures: Sequence[str], *, only: str = "", count: int
) -> Sql:
    """Sums over the plan's requests by at least the columns, and by hour: ``hour_s`` and, of the last, ``last_ms``."""
    by, plan = tuple(dict.fromkeys(columns)), question.plan
    open_only = replace(plan, hours=(), open_hours=(), days=None, open_days=(), buildings=None)
    also = [only] if only else []
    inner, parameters = relation(Question(question.criteria, open_only), by, measures, also, at="last")
    selected = [
        *(f"s.{name} AS {name}" for name in by),
        "toUnixTimestamp(toStartOfHour(s.at)) AS hour_s",
        "toUnixTimestamp64Milli(max(s.at)) AS last_ms",
        *(f"sum(s.{name}) AS sum_{name}" for name in measures),
    ]
    groups = ", ".join((*(f"s.{name}" for name in by), "hour_s"))
    return (
        f"SELECT {', '.join(selected)}\nFROM\n(\n{inner}\n) AS s\nGROUP BY {groups} LIMIT {{count:UInt32}}",
        {**parameters, "count": count},
    )


def groups_of(question: Question, columns: Sequence[str], measures: Sequence[str], *, count: int) -> Sql:
    """Likewise, for thousands of groups: the values of the columns are one list (``of``), the sums another."""
    plan = question.plan
    open_only = replace(plan, hours=(), open_hours=(), days=None, open_days=(), buildings=None)
    inner, parameters = relation(Question(question.criteria, open_only), columns, measures, at="last")
    by = ", ".join(f"s.{name}" for name in columns)
    sums = ", ".join(f"toInt128(sum(s.{name}))" for name in measures)
    return (
        f"SELECT [{by}] AS of, toUnixTimestamp(toStartOfHour(s.at)) AS hour_s,"
        f" toUnixTimestamp64Milli(max(s.at)) AS last_ms, [{sums}] AS sums\n"
        f"FROM\n(\n{inner}\n) AS s\nGROUP BY {by}, hour_s LIMIT {{count:UInt32}}",
        {**parameters, "count": count},
    )
