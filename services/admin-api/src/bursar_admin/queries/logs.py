"""Requests one by one: a page of them, and one with all that is known. Pure.

A page is found in two steps. First the places of candidates, from a few columns and without merging duplicates; then
their rows, looked up by the table's own key, where the event of the highest rank stands. A candidate that another event
of its request has overtaken drops out there.

Amounts that a correction changed count as they are shown. Corrections are few: where amounts are sorted or filtered by,
the places of corrected requests are known beforehand and have candidates of their own (:func:`corrected_candidates`);
at its recorded amount such a request drops out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from bursar_admin.queries.criteria import TOKENS, Criteria
from bursar_admin.queries.ranges import DAY_MS, HOUR_MS, RECENT, Span
from bursar_admin.queries.sums import Question, Sql, relation
from bursar_common.usage_sums import TOPS

SORTS: Final = {
    "started_at": "toUnixTimestamp64Milli(started_at)",
    "cost": "cost_nusd",
    "list_cost": "list_cost_nusd",
    "tokens": f"toInt64(ifNull({' + '.join(TOKENS)}, -1))",
    "input_tokens": "toInt64(ifNull(input_tokens, -1))",
    "output_tokens": "toInt64(ifNull(output_tokens, -1))",
    "latency_ms": "toInt64(ifNull(latency_ms, -1))",
    "time_to_first_token_ms": "toInt64(ifNull(time_to_first_token_ms, -1))",
}
"""``sort_by`` to a whole number; what is unknown counts as less than anything."""
AMOUNTS: Final = frozenset({"cost", "list_cost", "tokens", "input_tokens", "output_tokens"})
"""Those that corrections change."""

_COUNTS: Final = (
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "web_searches",
)  # fmt: skip
_COSTS: Final = ("cost_nusd", "list_cost_nusd")
_LISTED: Final = (
    "request_id", "customer", "customer_id", "team", "team_id", "user_id", "virtual_key", "virtual_key_id",
    "session_id", "agent_id", "parent_agent_id", "project", "repository", "branch", "environment", "cost_center",
    "tags", "provider", "model", "requested_model", "stream", "effort", "speed", "outcome", "status", "error_type",
    "refused_by", "would_refuse", "estimated", "billing", "price_book_id", "latency_ms", "time_to_first_token_ms",
    "tools_offered", "tool_uses",
)  # fmt: skip
_FURTHER: Final = (
    "upstream_request_id", "message_id", "provider_credential", "max_tokens", "service_tier", "inference_geo",
    "attempts", "client_version", "device_id", "held_nusd", "bound_nusd", "charged_to", "text_bytes", "charged_n",
    "charged_t", "charged_tokens", "charged_r", "rank", "event_id", "log_topic", "log_partition", "log_offset",
)  # fmt: skip
EVENTS: Final = "bursar.usage_events"
RECORDED: Final = 2
"""The highest rank: an event of it stands, and what it says never changes."""
WINDOWS_MS: Final = (2 * HOUR_MS, 22 * HOUR_MS, 7 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS)
"""Sizes of the stretches of time in which a page by time is looked for, one after the other."""


def windows(span: Span, *, newest_first: bool, sizes: Iterable[int] = WINDOWS_MS) -> Iterator[Span]:
    """The range cut into stretches that grow: a page is mostly in the first. ``sizes``: of all but the last."""
    edge = span.to_ms if newest_first else span.from_ms
    for size in chain(sizes, (span.to_ms - span.from_ms,)):
        if newest_first:
            stretch = Span(max(span.from_ms, edge - size), edge)
            edge = stretch.from_ms
        else:
            stretch = Span(edge, min(span.to_ms, edge + size))
            edge = stretch.to_ms
        if stretch.to_ms <= stretch.from_ms:
            return
        yield stretch


TOP_OF: Final[dict[str, str]] = {
    "cost": "top_cost_nusd", "list_cost": "top_list_cost_nusd", "tokens": "top_tokens", "latency_ms": "top_latency_ms"
}  # fmt: skip
"""``sort_by`` to the column of sums that has the highest value of one request."""
assert set(TOP_OF.values()) == set(TOPS)
MAX_HAUNTS: Final = 2_000
"""Days of keys that are looked through for one page."""
NO_TOP: Final = -1
"""The highest value of requests none of which has a known one: no value is lower."""
Haunt = tuple[str, str]
"""A day of a key: what the table of requests is ordered by."""


def haunts(question: Question, sort_by: str) -> tuple[str, dict[str, Any]]:
    """Days of keys, of those that are summed up, by the highest value a request of theirs has."""
    top = TOP_OF[sort_by]
    summed = replace(question, plan=replace(question.plan, raw=()))
    inner, parameters = relation(summed, ["virtual_key_id"], [top])
    text = f"""SELECT toString(toDate(s.at)) AS day, toString(s.virtual_key_id) AS of_key, max(s.{top}) AS top FROM
(
{inner}
) AS s GROUP BY day, of_key ORDER BY top DESC LIMIT {MAX_HAUNTS}"""
    return text, parameters


def nearest(
    found: Sequence[dict[str, Any]], after: tuple[int, str] | None, count: int
) -> tuple[list[Haunt], int] | None:
    """Of days found those that have the ``count`` requests of the highest values behind ``after``, and how far these
    reach: each of the last ``count`` days has one as high as the lowest of them, and no other day has a higher one.
    Days with a value above ``after`` can have some below it; of days with that very value it is not known on which side
    of ``after`` theirs are. None: too many to be known."""
    above = sum(after is not None and row["top"] >= after[0] for row in found)
    if len(found) >= MAX_HAUNTS and (
        len(found) <= above + count or found[above + count - 1]["top"] == found[-1]["top"]
    ):
        return None
    # With ties: of requests of one value those of the highest ids come first, wherever they are.
    least = found[above + count - 1]["top"] if len(found) >= above + count else NO_TOP
    return [(row["day"], row["of_key"]) for row in found if row["top"] >= least], least


_MOST: Final = (1 << 63) - 1


def any_value(*, descending: bool) -> int:
    """The last value of an order: all others are in reach of it."""
    return NO_TOP if descending else _MOST


def candidates(
    criteria: Criteria,
    span: Span,
    sort_by: str,
    *,
    descending: bool,
    after: tuple[int, str] | None,
    count: int,
    only: tuple[Sequence[Haunt], Sequence[Span], int] | None = None,
    recent_ms: int | None = None,
) -> Sql:
    """Places (``sort_value``, ``request_id``) behind ``after``, with what finds their rows, and the event's ``rank``.
    ``only``: in these days of keys, and in these stretches of time, with values from here on. ``recent_ms``: from when
    on requests may be looked for in ``bursar.usage_recent``, where an hour is a few granules.

    First only how far the value reaches, from its column alone; everything else is read where it is in reach."""
    if recent_ms is not None and not criteria.in_recent:
        recent_ms = None
    if only is None:
        recent = recent_ms is not None and span.from_ms >= recent_ms
        return _candidates(criteria, span, sort_by, descending, after, count, RECENT if recent else EVENTS)
    days_of_keys, stretches, least = only
    recent = recent_ms is not None and not days_of_keys and all(each.from_ms >= recent_ms for each in stretches)
    if recent:
        places, own = _stretches(stretches, "new")
    else:
        places, own = _among(days_of_keys, stretches)
    text, parameters = _candidates(
        criteria, span, sort_by, descending, after, count, RECENT if recent else EVENTS, places, least
    )
    return text, own | parameters


def _among(days_of_keys: Sequence[Haunt], stretches: Sequence[Span]) -> Sql:
    """The condition for days of keys, and for stretches of time."""
    places = (
        "(toDate(started_at), virtual_key_id) IN (SELECT toDate(place.1), place.2 FROM"
        " (SELECT arrayJoin(arrayZip({haunt_days:Array(String)}, {haunt_keys:Array(String)})) AS place))"
    )
    text, parameters = _stretches(stretches, "only")
    parameters |= {"haunt_days": [day for day, _ in days_of_keys], "haunt_keys": [key for _, key in days_of_keys]}
    return f"({places} OR {text})" if stretches else places, parameters


def _stretches(stretches: Sequence[Span], name: str) -> Sql:
    texts: list[str] = []
    parameters: dict[str, Any] = {}
    for number, stretch in enumerate(stretches):
        text, own = stretch.recent_sql(f"{name}{number}") if name == "new" else stretch.sql(f"{name}{number}")
        texts.append(f"({text})")
        parameters |= own
    return f"({' OR '.join(texts)})", parameters


def _candidates(
    criteria: Criteria,
    span: Span,
    sort_by: str,
    descending: bool,
    after: tuple[int, str] | None,
    count: int,
    table: str,
    places: str = "",
    least: int | None = None,
) -> Sql:
    """Places as of :func:`candidates` in one table; ``places``: a further condition, for values from ``least`` on."""
    value, sign, direction = SORTS[sort_by], "<" if descending else ">", "DESC" if descending else "ASC"
    # What is in reach lies on this side of the furthest value: the other one than what comes after a place.
    back = ">" if descending else "<"
    within, parameters = span.recent_sql("within") if table == RECENT else span.sql("range")
    if places:
        within += f" AND {places}"
    conditions, own = criteria.sql("f_", within)
    beyond, exact = list(conditions), list(conditions)
    # Where nothing is found nothing is in reach.
    nothing = f"toInt64({_MOST if descending else -_MOST})"
    if after is not None:
        # Rows of the very value of the place are in reach as well, whatever their ids.
        nothing = "{after_value:Int64}"
        beyond.append(f"{value} {sign} {nothing}")
        exact.append(
            f"({value} {sign} {{after_value:Int64}}"
            f" OR ({value} = {{after_value:Int64}} AND request_id {sign} {{after_id:String}}))"
        )
        own |= {"after_value": after[0], "after_id": after[1]}
    reach = f"""SELECT if(count() = 0, {nothing}, {"min" if descending else "max"}(reached)) FROM
(
    SELECT {value} AS reached FROM {table}
    WHERE {" AND ".join([within, *beyond])}
    ORDER BY reached {direction} LIMIT {{count:UInt32}}
)"""
    if least is not None:
        reach = "SELECT {least:Int64}"
        parameters["least"] = least
    text = f"""SELECT {value} AS sort_value, request_id, virtual_key_id, toString(toDate(started_at)) AS day, rank
FROM {table}
PREWHERE {" AND ".join([f"{value} {back}= ({reach})", within, *exact])}
ORDER BY sort_value {direction}, request_id {direction}
LIMIT {{count:UInt32}}"""
    return text, {**parameters, **own, "count": count}


def corrected_candidates(
    criteria: Criteria,
    span: Span,
    sort_by: str,
    *,
    descending: bool,
    after: tuple[int, str] | None,
    count: int,
    among: Mapping[str, Haunt],
) -> Sql:
    """Places as of :func:`candidates`, of corrected requests at today's amounts. ``among``: where they lie."""
    value, sign, direction = SORTS[sort_by], "<" if descending else ">", "DESC" if descending else "ASC"
    within, parameters = span.sql("range")
    conditions, own = criteria.sql("f_", within)
    parameters |= own | _places(list(among), list(among.values())) | {"corrected": list(among), "count": count}
    if after is not None:
        conditions.append(
            f"({value} {sign} {{after_value:Int64}}"
            f" OR ({value} = {{after_value:Int64}} AND request_id {sign} {{after_id:String}}))"
        )
        parameters |= {"after_value": after[0], "after_id": after[1]}
    standing = (
        f"SELECT * FROM bursar.usage_events PREWHERE {_AT_PLACES} AND {within} ORDER BY rank DESC LIMIT 1 BY request_id"
    )
    text = f"""SELECT {value} AS sort_value, request_id, virtual_key_id, toString(toDate(started_at)) AS day
FROM ({_shown(standing)})
WHERE {" AND ".join(conditions or ["1"])}
ORDER BY sort_value {direction}, request_id {direction}
LIMIT {{count:UInt32}}"""
    return text, parameters


_AT_PLACES: Final = (
    # By what the table is ordered by, which leads to a granule each; the ids, one column, say which are worth reading.
    "request_id IN {ids:Array(String)}"
    " AND (toDate(started_at), virtual_key_id) IN (SELECT toDate(place.1), place.2 FROM"
    " (SELECT arrayJoin(arrayZip({days:Array(String)}, {keys:Array(String)})) AS place))"
)


def _places(ids: Sequence[str], haunts: Sequence[Haunt]) -> dict[str, Any]:
    there = list(dict.fromkeys(haunts))
    return {"ids": list(ids), "days": [day for day, _ in there], "keys": [key for _, key in there]}


def _shown(source: str) -> str:
    """``source`` with the corrections of the requests ``corrected`` added to their amounts."""
    amounts = [f"toInt64(s.{name} + k.{name}) AS {name}" for name in _COUNTS]
    amounts += [f"s.{name} + k.{name} AS {name}" for name in _COSTS]
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*_COUNTS, *_COSTS))
    return (
        f"SELECT s.* REPLACE ({', '.join(amounts)}), k.corrections AS added, k.cost_nusd AS added_nusd"
        f" FROM ({source}) AS s LEFT JOIN (SELECT request_id, count() AS corrections, {sums}"
        " FROM bursar.corrections FINAL WHERE request_id IN {corrected:Array(String)} GROUP BY request_id) AS k"
        " ON k.request_id = s.request_id"
    )


def rows_at(places: Sequence[dict[str, Any]], criteria: Criteria, sort_by: str) -> Sql:
    """The rows of candidates, of each of their events, without corrections; in no order. ``matches``: whether it passes
    the filters, which counts for the event that stands (:func:`standing`).

    One level, and nothing joined: planning this took a third of its time."""
    ids = [place["request_id"] for place in places]
    conditions, parameters = criteria.sql("f_", _AT_PLACES)
    parameters |= _places(ids, [(place["day"], place["virtual_key_id"]) for place in places])
    columns = [
        *_LISTED,
        *(f"toInt64({name}) AS {name}" for name in _COUNTS),
        *_COSTS,
        "toUnixTimestamp64Milli(started_at) AS started_at_ms",
        "toUnixTimestamp64Milli(ended_at) AS ended_at_ms",
        f"{SORTS[sort_by]} AS sort_value",
        "rank",
        f"ifNull({' AND '.join(conditions)}, 0) AS matches" if conditions else "1 AS matches",
    ]
    return f"SELECT {', '.join(columns)}\nFROM bursar.usage_events PREWHERE {_AT_PLACES}", parameters


def corrections_of(request_ids: Sequence[str]) -> Sql:
    """What corrections add to requests, of those that have any."""
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*_COUNTS, *_COSTS))
    return (
        f"SELECT request_id, count() AS corrections, {sums}\n"
        "FROM bursar.corrections FINAL WHERE request_id IN {ids:Array(String)} GROUP BY request_id",
        {"ids": list(request_ids)},
    )


def standing(events: Iterable[dict[str, Any]], corrections: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of rows that :func:`rows_at` found, those that stand and match, with their corrections, by id."""
    found: dict[str, dict[str, Any]] = {}
    for row in events:
        there = found.get(row["request_id"])
        if there is None or row["rank"] > there["rank"]:
            found[row["request_id"]] = row
    found = {request_id: row for request_id, row in found.items() if row["matches"]}
    for row in found.values():
        row["corrections"], row["corrected_nusd"] = 0, 0
    for added in corrections:
        row_added_to = found.get(added["request_id"])
        if row_added_to is None:
            continue
        row_added_to["corrections"], row_added_to["corrected_nusd"] = added["corrections"], added["cost_nusd"]
        for name in (*_COUNTS, *_COSTS):
            if row_added_to[name] is not None:
                row_added_to[name] += added[name]
    return found


def corrected_rows_at(places: Sequence[dict[str, Any]], criteria: Criteria, sort_by: str) -> Sql:
    """The rows of candidates that still match, in no order: of requests that are sorted and filtered by what
    corrections made of their amounts."""
    ids = [place["request_id"] for place in places]
    conditions, parameters = criteria.sql("f_", _AT_PLACES)
    parameters |= _places(ids, [(place["day"], place["virtual_key_id"]) for place in places])
    # What FINAL would do, over rows that are few already: it reads half as many granules again at their borders.
    columns = dict.fromkeys((*_LISTED, *_COUNTS, *_COSTS, "started_at", "ended_at", *criteria.reads))
    source = (
        f"SELECT {', '.join(columns)} FROM bursar.usage_events PREWHERE {_AT_PLACES}"
        " ORDER BY rank DESC LIMIT 1 BY request_id"
    )
    parameters["corrected"] = ids
    where = " AND ".join(conditions or ["1"])
    source = f"SELECT *, {SORTS[sort_by]} AS sort_value FROM ({_shown(source)}) WHERE {where}"
    return _rows(source, "0", added=True), parameters


def row_of(request_id: str) -> tuple[str, dict[str, Any]]:
    """One request, with all that is known. The id's own time narrows where to look (see :func:`span_of_id`)."""
    span = span_of_id(request_id)
    within, parameters = span.sql("range") if span is not None else ("1", {})
    found = f"{within} AND request_id IN {{ids:Array(String)}}"
    source = f"SELECT *, 0 AS sort_value FROM bursar.usage_events FINAL PREWHERE {found}"
    return _rows(source, "request_id IN {ids:Array(String)}", everything=True), {**parameters, "ids": [request_id]}


def span_of_id(request_id: str) -> Span | None:
    """A UUIDv7 begins with the moment it was minted, which is the request's admission within a day on any clock."""
    digits = request_id.replace("-", "")
    if len(digits) != 32 or digits[12] != "7":
        return None
    try:
        at_ms = int(digits[:12], 16)
    except ValueError:
        return None
    return Span(at_ms - DAY_MS, at_ms + DAY_MS) if 946_684_800_000 < at_ms < 7_289_654_400_000 else None


def _rows(source: str, corrected: str, *, everything: bool = False, added: bool = False) -> str:
    """Rows of ``source`` as they are shown; ``corrected``: which corrections are yet to be added; ``added``: some are
    in its amounts already."""
    columns = [f"e.{name} AS {name}" for name in (*_LISTED, *(_FURTHER if everything else ()))]
    columns += [f"toInt64(e.{name} + c.{name}) AS {name}" for name in _COUNTS]
    columns += [f"e.{name} + c.{name} AS {name}" for name in _COSTS]
    columns += [f"{'e.added + ' if added else ''}c.corrections AS corrections"]
    columns += [f"{'e.added_nusd + ' if added else ''}c.cost_nusd AS corrected_nusd"]
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*_COUNTS, *_COSTS))
    return f"""SELECT {", ".join(columns)},
    toUnixTimestamp64Milli(e.started_at) AS started_at_ms,
    toUnixTimestamp64Milli(e.ended_at) AS ended_at_ms,
    e.sort_value AS sort_value
FROM
(
    {source}
) AS e
LEFT JOIN
(
    SELECT request_id, count() AS corrections, {sums}
    FROM bursar.corrections FINAL WHERE {corrected} GROUP BY request_id
) AS c ON c.request_id = e.request_id"""


OLDEST: Final = "SELECT count() AS rows, toUnixTimestamp64Milli(min(started_at)) AS oldest_ms FROM bursar.usage_events"
"""Where reading from the oldest on begins."""
