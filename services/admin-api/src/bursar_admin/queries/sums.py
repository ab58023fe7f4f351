"""Sums over requests: from the sums by hour where they are complete, from the requests themselves elsewhere. Pure.

Every builder takes a :class:`Question` and gives a text with its parameters. The inner relation has the same columns
whichever table it came from; a request is in exactly one of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.dimensions import LATENCY_COLUMNS, Dimension
from bursar_admin.queries.ranges import RECENT, Plan, Span
from bursar_common.usage_sums import (
    COUNTS,
    FEW_TOOL_USES,
    HOURS_OF,
    LATENCY_HOURS_OF,
    PARTS,
    SHORT,
    SHORT_ANSWER_TOKENS,
    TOPS,
    UNKNOWN_TOOLS,
)

Sql = tuple[str, dict[str, Any]]
Metric = Literal["cost", "list_cost", "tokens", "requests", "refused", "errors"]

_SHORT_ANSWER: Final = (
    f"ifNull(u.outcome = 'completed' AND u.output_tokens < {SHORT_ANSWER_TOKENS} AND ifNull(u.web_searches, 0) = 0, 0)"
)
_FEW_TOOLS: Final = f"({_SHORT_ANSWER} AND ifNull(u.tool_uses <= {FEW_TOOL_USES}, 0))"
_UNKNOWN_TOOLS: Final = f"({_SHORT_ANSWER} AND isNull(u.tool_uses))"
_OF_ONE: Final[dict[str, str]] = {
    "requests": "toUInt64(u.outcome != 'refused')",
    "refused": "toUInt64(u.outcome = 'refused')",
    "errors": "toUInt64(u.outcome = 'upstream_error')",
    "estimated": "toUInt64(u.estimated)",
    "without_counts": (
        "toUInt64(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL)"
    ),
    **{name: f"toInt64(ifNull(u.{name}, 0))" for name in COUNTS},
    "cost_nusd": "toInt128(u.cost_nusd)",
    "list_cost_nusd": "toInt128(u.list_cost_nusd)",
}
"""Measures of one request, as the sums have them of many."""
MEASURES: Final = tuple(_OF_ONE)
At = Literal["start", "first", "last"]
_AT: Final[dict[At, tuple[str, str, str]]] = {
    "start": ("at", "hour", "toDateTime(started_at, 'UTC')"),
    "first": ("first_at", "first_at", "started_at"),
    "last": ("last_at", "last_at", "started_at"),
}
"""What ``at`` is of rows of days, hours and requests."""
_CORRECTED: Final = (*COUNTS, "cost_nusd", "list_cost_nusd")
METRICS: Final[dict[str, tuple[str, ...]]] = {
    "cost": ("cost_nusd",),
    "list_cost": ("list_cost_nusd",),
    "tokens": ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens"),
    "requests": ("requests",),
    "refused": ("refused",),
    "errors": ("errors",),
}


@dataclass(frozen=True)
class Question:
    criteria: Criteria
    plan: Plan


def relation(
    question: Question,
    columns: Sequence[str],
    measures: Sequence[str],
    also: Sequence[str] = (),
    early: str = "",
    at: At = "start",
) -> Sql:
    """``at`` (the beginning of the hour or day, or the first or last moment of the row's requests), the columns (given
    as ``expression AS name`` or a name) and the measures; ``also`` are further conditions. ``early`` is one that may be
    applied to requests before their events are merged: it holds for the event that stands, whatever it says of
    others."""
    conditions, parameters = question.criteria.sql("f_")
    conditions += also
    parts: list[str] = []
    early = " AND ".join(each for each in (early, question.criteria.early) if each)
    plan = question.plan
    summed = [f"toInt64({name}) AS {name}" if PARTS.get(name, name) in COUNTS else name for name in measures]
    of_day, of_hour, of_request = _AT[at]
    # Columns of sums are named as those of requests, and what they have not is not asked of them. Numbers of tokens are
    # signed everywhere: corrections lower them, and the parts must be of one type.
    if plan.buildings is not None:
        if plan.buildings:
            text, own = cut_rows(plan)
            parts.append(_select("bursar.usage_days", [f"{of_day} AS at", *columns, *summed], [text, *conditions]))
            parameters |= own
    elif plan.days is not None:
        text, own = _days("bursar.usage_days", plan, [f"{of_day} AS at", *columns, *summed], conditions)
        parts.append(text)
        parameters |= own
    if plan.buildings is None and plan.hours:
        text, own = _hours("bursar.usage_hours", plan, [f"{of_hour} AS at", *columns, *summed], conditions)
        parts.append(text)
        parameters |= own
    for source in plan.raw_sources:
        text, own = _requests(source, plan, [f"{of_request} AS at", *columns], measures, conditions, early)
        parts.append(text)
        parameters |= own
    if not parts:
        nothing = ", ".join([f"{of_request} AS at", *columns, *(f"{_of_one(name)} AS {name}" for name in measures)])
        parts.append(f"SELECT {nothing} FROM bursar.usage_events AS u WHERE 0")
    return "\n    UNION ALL\n".join(parts), parameters


def _of_one(measure: str) -> str:
    if measure in TOPS:
        return TOPS[measure]
    return f"if({_part(measure)}, {_OF_ONE[PARTS[measure]]}, 0)" if measure in PARTS else _OF_ONE[measure]


def _part(measure: str) -> str:
    """Whether a request belongs to the part that a measure is of."""
    return _SHORT_ANSWER if measure in SHORT else _UNKNOWN_TOOLS if measure in UNKNOWN_TOOLS else _FEW_TOOLS


def _select(table: str, columns: Sequence[str], conditions: Sequence[str]) -> str:
    return f"    SELECT {', '.join(columns)} FROM {table} WHERE {' AND '.join(conditions)}"


def cut_rows(plan: Plan, hours_of: Mapping[str, str] = HOURS_OF) -> Sql:
    """Rows of the plan's buildings: of days and of hours, which stand in one table. The days are what the table is
    ordered by; the buildings alone would do."""
    stretches = [*plan.hours, *([plan.days] if plan.days is not None else [])]
    first, last = min(each.from_ms for each in stretches), max(each.to_ms for each in stretches)
    return (
        "cut IN {cuts:Array(String)} AND day >= toDate(toDateTime({cuts_from:UInt32}, 'UTC'))"
        " AND day <= toDate(toDateTime({cuts_to:UInt32}, 'UTC')) AND generation IN {buildings:Array(UInt64)}",
        {
            "cuts": [plan.cut, hours_of[plan.cut]],
            "cuts_from": first // 1000,
            "cuts_to": last // 1000 - 1,
            "buildings": list(plan.buildings or ()),
        },
    )


def _days(table: str, plan: Plan, columns: Sequence[str], conditions: Sequence[str]) -> Sql:
    days = plan.days
    assert days is not None
    between = (
        "day >= toDate(toDateTime({days_from:UInt32}, 'UTC')) AND day < toDate(toDateTime({days_to:UInt32}, 'UTC'))"
    )
    within = [
        "cut = {cut:String}",
        between,
        "generation IN (SELECT argMax(generation, built_at) FROM bursar.usage_days_built"
        f" WHERE {between} GROUP BY day)",
    ]
    parameters: dict[str, Any] = {
        "cut": plan.cut,
        "days_from": days.from_ms // 1000,
        "days_to": days.to_ms // 1000,
    }
    if plan.open_days:
        within.append("NOT has({open_days:Array(UInt32)}, toUnixTimestamp(toDateTime(day, 'UTC')))")
        parameters["open_days"] = list(plan.open_days)
    return f"    SELECT {', '.join(columns)} FROM {table} WHERE {' AND '.join([*within, *conditions])}", parameters


def _hours(table: str, plan: Plan, columns: Sequence[str], conditions: Sequence[str]) -> Sql:
    parameters: dict[str, Any] = {}
    stretches = []
    for number, span in enumerate(plan.hours):
        names = f"hours{number}_from", f"hours{number}_to"
        stretches.append(
            f"(hour >= toDateTime({{{names[0]}:UInt32}}, 'UTC') AND hour < toDateTime({{{names[1]}:UInt32}}, 'UTC'))"
        )
        parameters |= {names[0]: span.from_ms // 1000, names[1]: span.to_ms // 1000}
    between = f"({' OR '.join(stretches)})"
    # By hour and building: several hours may have been built as one, and some of them again since.
    within = [
        between,
        "(hour, generation) IN (SELECT hour, argMax(generation, built_at) FROM bursar.usage_hours_built"
        f" WHERE {between} GROUP BY hour)",
    ]
    if plan.open_hours:
        within.append("NOT has({open_hours:Array(UInt32)}, toUnixTimestamp(hour))")
        parameters["open_hours"] = list(plan.open_hours)
    return f"    SELECT {', '.join(columns)} FROM {table} WHERE {' AND '.join([*within, *conditions])}", parameters


Source = tuple[str, tuple[Span, ...]]
"""A table of requests and stretches of time."""


def _within(source: Source) -> Sql:
    """The stretches of time that are read request by request."""
    texts: list[str] = []
    parameters: dict[str, Any] = {}
    table, spans = source
    for number, span in enumerate(spans):
        text, own = span.recent_sql(f"recent{number}") if table == RECENT else span.sql(f"raw{number}")
        texts.append(f"({text})")
        parameters |= own
    return " OR ".join(texts), parameters


def _requests(
    source: Source,
    plan: Plan,
    columns: Sequence[str],
    measures: Sequence[str],
    conditions: Sequence[str],
    early: str,
) -> Sql:
    within, parameters = _within(source)
    within = f"({within}) AND {early}" if early else within
    # PREWHERE is applied before duplicates are merged: only by what is the same on all events of a request.
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    # A query of its own, so that conditions see columns and not the names measures are given.
    rows = f"(SELECT * FROM {source[0]} FINAL PREWHERE {within}{where}) AS u"
    added = [name for name in measures if PARTS.get(name, name) in _CORRECTED]
    if not plan.corrected or not added:
        selected = [*columns, *(f"{_of_one(name)} AS {name}" for name in measures)]
        return f"    SELECT {', '.join(selected)} FROM {rows}", parameters
    amounts = dict.fromkeys(PARTS.get(name, name) for name in added)
    inner = [*columns, "request_id AS of_request"]
    inner += [f"{_of_one(name)} AS own_{name}" for name in measures if name not in added]
    inner += [f"{_OF_ONE[name]} AS own_{name}" for name in amounts]
    kinds = {
        text: f"own_part_{number}"
        for number, text in enumerate(dict.fromkeys(_part(name) for name in added if name in PARTS))
    }
    inner += [f"{text} AS {name}" for text, name in kinds.items()]
    selected = [column.rpartition(" AS ")[2] for column in columns]
    for name in measures:
        if name not in added:
            selected.append(f"own_{name} AS {name}")
            continue
        of = PARTS.get(name, name)
        whole = f"own_{of} + c.{of}"
        selected.append(f"if({kinds[_part(name)]}, {whole}, 0) AS {name}" if name in PARTS else f"{whole} AS {name}")
    sums = ", ".join(f"sum({name}) AS {name}" for name in amounts)
    return (
        f"    SELECT {', '.join(selected)} FROM (SELECT {', '.join(inner)} FROM {rows}) AS e"
        f" LEFT JOIN (SELECT request_id, {sums} FROM bursar.corrections FINAL GROUP BY request_id) AS c"
        " ON c.request_id = e.of_request",
        parameters,
    )


def _summed(measures: Sequence[str]) -> str:
    """Aliases differ from the columns: else ClickHouse would take one sum for the argument of another."""
    return ", ".join(f"sum(s.{name}) AS sum_{name}" for name in measures)


TOTALS_BY: Final = ("price_book_id", "model", "billing")


def totals(question: Question) -> Sql:
    """Sums by price book and model (cache savings need the prices)."""
    inner, parameters = relation(question, TOTALS_BY, MEASURES)
    return (
        f"SELECT price_book_id, model, billing, {_summed(MEASURES)}\nFROM\n(\n{inner}\n) AS s\n"
        "GROUP BY price_book_id, model, billing",
        parameters,
    )


def latencies(question: Question, bucket: Sql | None = None) -> Sql:
    """Quantiles (0.5, 0.95) of the time to the end and to the first content, over requests where they are known."""
    conditions, parameters = question.criteria.sql("f_")
    plan = question.plan
    states = (
        "quantilesTDigestState(0.5, 0.95)(latency_ms) AS latency_states,"
        " quantilesTDigestState(0.5, 0.95)(time_to_first_token_ms) AS time_to_first_token_states"
    )
    parts: list[str] = []
    columns = ["latency_states", "time_to_first_token_states"]
    if plan.buildings is not None:
        if plan.buildings:
            text, own = cut_rows(plan, LATENCY_HOURS_OF)
            parts.append(_select("bursar.usage_latency_days", ["at", *columns], [text, *conditions]))
            parameters |= own
    elif plan.days is not None:
        text, own = _days("bursar.usage_latency_days", plan, ["at", *columns], conditions)
        parts.append(text)
        parameters |= own
    if plan.buildings is None and plan.hours:
        text, own = _hours("bursar.usage_latencies", plan, ["hour AS at", *columns], conditions)
        parts.append(text)
        parameters |= own
    sources = plan.raw_sources
    if not sources and not parts:
        sources = (("bursar.usage_events", ()),)
    for source in sources:
        within, own = _within(source) if source[1] else ("0", {})
        if criteria_early := question.criteria.early:
            within = f"({within}) AND {criteria_early}"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        parts.append(
            f"    SELECT toStartOfInterval(toDateTime(started_at, 'UTC'), INTERVAL 15 MINUTE) AS at, {states}"
            f" FROM {source[0]} FINAL PREWHERE {within}{where} GROUP BY at"
        )
        parameters |= own
    key, group = ("", "")
    if bucket is not None:
        key, group = f"{bucket[0]} AS bucket, ", " GROUP BY bucket"
        parameters |= bucket[1]
    union = "\n    UNION ALL\n".join(parts)
    return (
        f"SELECT {key}quantilesTDigestMerge(0.5, 0.95)(s.latency_states) AS latency,"
        f" quantilesTDigestMerge(0.5, 0.95)(s.time_to_first_token_states) AS first_token\n"
        f"FROM\n(\n{union}\n) AS s{group}",
        parameters,
    )


def latency_summed(criteria: Criteria) -> bool:
    """Whether ``bursar.usage_latencies`` can answer under these filters."""
    return criteria.summed_by_hour and not any(
        getattr(criteria.filters, name)
        for name in ("user", "key", "project", "repository", "environment", "cost_center", "session", "refused_by")
    )


assert {"team", "model"} <= LATENCY_COLUMNS


def bucket_key(interval: str, timezone: str) -> Sql:
    """The key of a moment ``s.at``, as :func:`bursar_admin.queries.ranges.buckets` makes them."""
    zone = timezone or "UTC"
    if interval == "hour":
        return "toString(toUnixTimestamp(toStartOfInterval(s.at, INTERVAL 1 HOUR, {zone:String})))", {"zone": zone}
    return "toString(toDate(s.at, {zone:String}))", {"zone": zone}


def by_bucket(question: Question, bucket: Sql, metric: str, by: Dimension | None, top: Sequence[str]) -> Sql:
    """The metric by bucket and, with ``by``, by its values in ``top``; the others together (``other`` 1)."""
    measures = METRICS[metric]
    columns = [f"{by.column} AS value"] if by is not None else []
    inner, parameters = relation(question, columns, measures)
    parameters |= bucket[1]
    value = "'' AS series, 0 AS other"
    if by is not None:
        parameters |= {**by.parameters, "top": list(top)}
        value = (
            "if(toString(s.value) IN {top:Array(String)}, toString(s.value), '') AS series,"
            " toString(s.value) NOT IN {top:Array(String)} AS other"
        )
    return (
        f"SELECT {bucket[0]} AS bucket, {value}, {' + '.join(f'sum(s.{name})' for name in measures)} AS amount\n"
        f"FROM\n(\n{inner}\n) AS s\nGROUP BY bucket, series, other",
        parameters,
    )


def ranking(question: Question, by: Dimension, order: str, *, descending: bool, count: int, offset: int) -> Sql:
    """Sums by the dimension's values, ordered by a metric."""
    label = f"{by.label} AS value_label" if by.label else "'' AS value_label"
    inner, parameters = relation(question, [f"{by.column} AS value", label], MEASURES, at="last")
    metric = " + ".join(f"sum(s.{name})" for name in METRICS[order])
    return (
        f"SELECT toString(s.value) AS id, toString(argMax(s.value_label, s.at)) AS label, {metric} AS metric,"
        f" {_summed(MEASURES)}, count() OVER () AS values_found, sum(metric) OVER () AS whole\n"
        f"FROM\n(\n{inner}\n) AS s\nGROUP BY s.value\n"
        f"ORDER BY metric {'DESC' if descending else 'ASC'}, id LIMIT {{count:UInt32}} OFFSET {{skip:UInt32}}",
        {**parameters, **by.parameters, "count": count, "skip": offset},
    )


def amounts_of(question: Question, by: Dimension, values: Sequence[str], metric: str) -> Sql:
    """The metric of certain values of the dimension, and of all together (``everything`` 1)."""
    measures = METRICS[metric]
    inner, parameters = relation(question, [f"{by.column} AS value"], measures)
    return (
        f"SELECT toString(s.value) AS id, {' + '.join(f'sum(s.{name})' for name in measures)} AS metric\n"
        f"FROM\n(\n{inner}\n) AS s\nGROUP BY s.value HAVING id IN {{wanted:Array(String)}}",
        {**parameters, **by.parameters, "wanted": list(values)},
    )


def distinct_values(question: Question, by: Dimension, prefix: str, count: int) -> Sql:
    """Values of a dimension with the requests they stand on; ``prefix``: of the value or its name, case alike."""
    label = f"{by.label} AS value_label" if by.label else "'' AS value_label"
    inner, parameters = relation(question, [f"{by.column} AS value", label], ("requests", "refused"), at="last")
    having = ""
    if prefix:
        parameters["prefix"] = prefix
        having = (
            "\nHAVING startsWith(lower(id), lower({prefix:String})) OR startsWith(lower(label), lower({prefix:String}))"
        )
    return (
        "SELECT toString(s.value) AS id, toString(argMax(s.value_label, s.at)) AS label,"
        f" sum(s.requests) + sum(s.refused) AS found\nFROM\n(\n{inner}\n) AS s\nGROUP BY s.value{having}\n"
        "ORDER BY found DESC, id LIMIT {count:UInt32}",
        {**parameters, **by.parameters, "count": count},
    )


def tag_names(criteria: Criteria, span: Span, prefix: str, count: int) -> Sql:
    """Names of tags with the requests that have them."""
    conditions, parameters = criteria.sql("f_")
    within, own = span.sql("range")
    where = " AND ".join([within, *conditions])
    return (
        f"SELECT tag AS id, '' AS label, count() AS found\n"
        f"FROM (SELECT arrayJoin(mapKeys(tags)) AS tag FROM bursar.usage_events WHERE {where})\n"
        "WHERE startsWith(tag, {prefix:String}) GROUP BY tag ORDER BY found DESC, id LIMIT {count:UInt32}",
        {**parameters, **own, "prefix": prefix.lower(), "count": count},
    )
