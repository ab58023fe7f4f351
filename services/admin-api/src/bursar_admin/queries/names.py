"""Where a text can stand: the days of keys that have a name with it, or stored content. Pure.

``bursar.usage_names`` has every name, tag's value and person's id once for each key's day; it may have some more, of
requests that are no longer there, and never less. So the requests of these days are compared, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any, Final

from bursar_admin.queries.criteria import Criteria, in_content
from bursar_admin.queries.logs import MAX_HAUNTS, Haunt
from bursar_admin.queries.ranges import DAY_MS, HOUR_MS, Span, day_of, day_start_ms
from bursar_admin.queries.sums import Sql

COMMON_MS: Final = (2 * HOUR_MS,)
"""The first stretch of a day on which a text may be common: there a page of it is."""
FIRST_HAUNTS: Final = 100
"""Days of keys that are looked through first. Each has a request with the text, mostly: they fill a page."""
TIMES_MORE: Final = 4
"""So many times as many the next time, up to MAX_HAUNTS."""


def windows_ms() -> Iterator[int]:
    """Sizes of the stretches for which days of keys are asked, one after the other: a common text is in the first, and
    none is so long that names take longer than a page may."""
    return chain((DAY_MS, 7 * DAY_MS), repeat(30 * DAY_MS))


def haunts_of(criteria: Criteria, span: Span, *, newest_first: bool, content: bool) -> Sql:
    """The first days of keys (``day``, ``of_key``) in the page's order, one more than MAX_HAUNTS at most. ``content``:
    those with stored content as well."""
    parameters: dict[str, Any] = {
        "text": criteria.filters.text,
        "text_users": list(criteria.text_user_ids),
        "first_day": day_of(span.from_ms),
        "last_day": day_of(span.to_ms - 1),
        "most": MAX_HAUNTS + 1,
    }
    source = (
        "SELECT day, virtual_key_id FROM bursar.usage_names"
        " WHERE day >= toDate({first_day:String}) AND day <= toDate({last_day:String})"
        " AND (positionCaseInsensitive(name, {text:String}) > 0 OR name IN {text_users:Array(String)})"
    )
    if criteria.filters.key and criteria.by_key_id:
        source += " AND virtual_key_id IN {keys:Array(String)}"
        parameters["keys"] = list(criteria.values("key"))
    if content:
        within, own = span.sql("content")
        parameters |= own
        source += (
            " UNION ALL SELECT toDate(started_at) AS day, virtual_key_id FROM bursar.content"
            f" WHERE {within} AND {in_content('{text:String}')}"
        )
    direction = "DESC" if newest_first else "ASC"
    text = (
        f"SELECT toString(s.day) AS day, s.virtual_key_id AS of_key FROM ({source}) AS s"
        f" GROUP BY s.day, s.virtual_key_id ORDER BY s.day {direction} LIMIT {{most:UInt32}}"
    )
    return text, parameters


def has_content(span: Span) -> Sql:
    """One row where anything is stored of requests of a range."""
    within, parameters = span.sql("content")
    return f"SELECT 1 AS one FROM bursar.content WHERE {within} LIMIT 1", parameters


Part = tuple[Span, Sequence[Haunt] | None]
"""A stretch and the days of keys to look through in it; None: all that is there."""


def parts(found: Sequence[Haunt], span: Span, *, newest_first: bool) -> Iterator[Part]:
    """A range cut into stretches of whole days, in the page's order, of few days of keys at first. ``found``: what
    :func:`haunts_of` found. On a day of more keys than are looked through at once the text is a common one, and all
    requests are. The last stretch ends where not all was found, or with the range."""
    days: dict[str, list[Haunt]] = {}
    for haunt in found:
        days.setdefault(haunt[0], []).append(haunt)
    whole = len(found) <= MAX_HAUNTS
    if not whole and len(days) > 1:
        days.popitem()  # maybe some of its keys are missing
    rest, limit = span, FIRST_HAUNTS
    group: list[Haunt] = []
    for day, haunts in days.items():
        if group and len(group) + len(haunts) > limit:
            # Up to the day, which begins the next stretch.
            part, rest = _cut(rest, day, newest_first=newest_first, before=True)
            yield part, group
            group, limit = [], min(limit * TIMES_MORE, MAX_HAUNTS)
        if len(haunts) > MAX_HAUNTS:
            before, rest = _cut(rest, day, newest_first=newest_first, before=True)
            if before.to_ms > before.from_ms:
                yield before, []
            common, rest = _cut(rest, day, newest_first=newest_first, before=False)
            yield common, None
        else:
            group += haunts
    if whole:
        if rest.to_ms > rest.from_ms:
            yield rest, group
    elif group:
        last, _ = _cut(rest, group[-1][0], newest_first=newest_first, before=False)
        yield last, group


def _cut(span: Span, day: str, *, newest_first: bool, before: bool) -> tuple[Span, Span]:
    """What comes before a day in the page's order, or through its end, and the rest."""
    start_ms = max(span.from_ms, min(span.to_ms, day_start_ms(day)))
    end_ms = max(span.from_ms, min(span.to_ms, day_start_ms(day) + DAY_MS))
    if newest_first:
        edge = end_ms if before else start_ms
        return Span(edge, span.to_ms), Span(span.from_ms, edge)
    edge = start_ms if before else end_ms
    return Span(span.from_ms, edge), Span(edge, span.to_ms)
