"""``/api/events``: the governance log and the corrections of requests: what happened, who did it, when."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from multidict import MultiDict

from bursar_admin.chronicle import Entry
from bursar_admin.corrected import ACTION as CORRECTED
from bursar_admin.corrected import ENTITY as REQUEST
from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal, not_found
from bursar_admin.event_pages import SORTS, EventPage, Place, merged, sorted_page
from bursar_admin.log_answers import ChangeAnswer, EventAnswer, EventOne, EventOneAnswer, EventPageAnswer
from bursar_admin.past import Asked, PastPage, Test
from bursar_admin.projection import Projection
from bursar_admin.queries.cursors import make_cursor, question_id, read_cursor
from bursar_admin.queries.filters import MOMENT_ALLOWED, read_filters
from bursar_admin.requests import check_query, json_answer, whole
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import choice
from bursar_common.clock import rfc3339
from bursar_common.finance import FINANCE_TYPES
from bursar_common.governance import CONTENT_DELETION, DOCUMENT_TYPES

PATH: Final = "/api/events"
ENTITIES: Final = (*DOCUMENT_TYPES, *FINANCE_TYPES, CONTENT_DELETION, "price_book", "dead_letter", REQUEST)
ACTIONS: Final = ("created", "changed", "rotated", "deleted", "retried", CORRECTED)
OUTCOMES: Final = ("applied", "overtaken")
OWNERS: Final = {"customer": "customer", "team": "team", "user": "user", "key": "virtual_key"}
"""Filter to kind of entity."""
MAX_LIMIT: Final = 500
DEFAULT_LIMIT: Final = 50
CHANGES_LISTED: Final = 12
"""Changes of one event in a list; all of them stand at the event itself."""

QUERY: Final = (
    Parameter("entity", "Kind of what it happened to.", {"type": "string", "enum": list(ENTITIES)}),
    Parameter("action", "What happened.", {"type": "string", "enum": list(ACTIONS)}),
    Parameter("actor", "Who did it: local, admin-token or system."),
    Parameter("outcome", "Whether it took effect.", {"type": "string", "enum": list(OUTCOMES)}),
    Parameter("customer", "Id or name: events of the customer, its teams and their keys."),
    Parameter("team", "Id or name: events of the team, its keys and users."),
    Parameter("user", "Id or name: events of the user and their keys."),
    Parameter("key", "Id or name of a virtual key."),
    Parameter("id", "Id of the entity it happened to."),
    Parameter("text", "Part of the entity's name, or of a correction's reason; upper and lower case are alike."),
    Parameter("from", f"Start: {MOMENT_ALLOWED}."),
    Parameter("to", "End (a day: its end), likewise."),
    Parameter("limit", f"Events of one page, at most {MAX_LIMIT}.",
              {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}),
    Parameter("sort_by", "What to sort by.", {"type": "string", "enum": list(SORTS), "default": "time"}),
    Parameter("order", "Direction.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    Parameter("cursor", "next_cursor of the page before, of the same filters and order."),
)  # fmt: skip


def routes(desk: Desk) -> list[Route]:
    async def listed(request: web.Request) -> web.Response:
        query = check_query(request, QUERY)
        limit = whole(query, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        asked = asked_of(query, desk.projection)
        question = question_id(PATH, {name: value for name, value in query.items() if name not in ("limit", "cursor")})
        sort_by = choice(query, "sort_by", SORTS, "time")
        descending = choice(query, "order", ("asc", "desc"), "desc") == "desc"
        corrections, corrections_known = await corrected(asked, set(OWNERS) & query.keys())
        in_order = sort_by == "time" and descending
        looked_back_to: str | None = None
        if in_order:
            place = Place(*read_cursor(query["cursor"], question, (int, int))) if "cursor" in query else Place()
            governance = await before(place.offset, asked, limit + 1)
            corrections = [entry for entry in corrections if entry.offset < place.correction]
            found = merged(governance, corrections, place, limit)
            if governance.stopped_at is not None and len(governance.entries) <= limit:
                looked_back_to = governance.looked_back_to
        else:
            last = read_cursor(query["cursor"], question, (str, str, str)) if "cursor" in query else None
            kept = [entry for entry in desk.journal.chronicle.newest_first() if asked.fits(entry)]
            found = sorted_page([*kept, *corrections], sort_by, descending, tuple(last) if last else None, limit)
        return json_answer(answer_of(found, question, in_order, looked_back_to, corrections_known))

    def answer_of(
        found: EventPage, question: str, in_order: bool, looked_back_to: str | None, corrections_known: bool
    ) -> EventPageAnswer:
        chronicle = desk.journal.chronicle
        return {
            "events": [event_answer(entry) for entry in found.entries],
            "count": len(found.entries),
            "next_cursor": make_cursor(question, found.following) if found.following is not None else None,
            "complete": not chronicle.index.trimmed and not desk.corrected.trimmed,
            "looked_back_to": looked_back_to,
            "sorted_since": None if in_order or not chronicle.forgotten else chronicle.oldest_time,
            "corrections_known": corrections_known,
            "corrections_since": desk.corrected.oldest_time,
        }

    async def corrected(asked: Asked, of_owner: set[str]) -> tuple[list[Entry], bool]:
        """Corrections that fit, newest first, and whether there may be others that fit as well."""
        try:
            entries, known = await desk.corrected.newest_first()
        except Refusal:
            return [], False
        return [entry for entry in entries if asked.fits(entry)], known or not of_owner

    async def before(offset: int, asked: Asked, most: int) -> PastPage:
        """Governance events before an offset: those in memory, then those of the log."""
        chronicle = desk.journal.chronicle
        found: list[Entry] = []
        for entry in chronicle.newest_first():
            if entry.offset < offset and asked.fits(entry):
                found.append(entry)
                if len(found) >= most:
                    return PastPage(found, None, None)
        if not chronicle.forgotten:
            return PastPage(found, None, None)
        older = await desk.past.page(min(offset, chronicle.oldest_kept), asked, most - len(found))
        return PastPage([*found, *older.entries], older.stopped_at, older.looked_back_to)

    async def get(request: web.Request) -> web.Response:
        check_query(request)
        event_id = request.match_info["id"]
        entry = (
            desk.journal.chronicle.find(event_id)
            or await desk.corrected.find(event_id)
            or await desk.past.find(event_id)
        )
        if entry is None:
            raise not_found("event", event_id)
        return json_answer({"event": whole_event(entry)})

    return [
        Route(
            "GET", PATH, listed, "list_events", "What happened in governance, and which requests were corrected, "
            "newest first: who did what, when, and what it changed.", EventPageAnswer, query=QUERY,
        ),
        Route("GET", PATH + "/{id}", get, "get_event", "One event whole.", EventOne),
    ]  # fmt: skip


def asked_of(query: dict[str, str], projection: Projection) -> Asked:
    """What an event must pass. Raises Refusal (400)."""
    light: list[Test] = []
    deep: list[Test] = []
    if "entity" in query:
        entity = choice(query, "entity", ENTITIES, "")
        light.append(lambda entry: entry.entity == entity)
    if "action" in query:
        action = choice(query, "action", ACTIONS, "")
        (deep if action in ("changed", "rotated") else light).append(lambda entry: entry.action == action)
    if "outcome" in query:
        overtaken = choice(query, "outcome", OUTCOMES, "") == "overtaken"
        light.append(lambda entry: bool(entry.overtaken_by) == overtaken)
    if "actor" in query:
        actor = query["actor"]
        light.append(lambda entry: entry.actor == actor)
    if "id" in query:
        entity_id = query["id"]
        light.append(lambda entry: entry.entity_id == entity_id)
    deep += [_about(owner_id(projection, kind, query[name])) for name, kind in OWNERS.items() if name in query]
    moments: MultiDict[str] = MultiDict((name, query[name]) for name in ("text", "from", "to") if name in query)
    filters = read_filters(moments)
    if filters.text is not None:
        wanted = filters.text.casefold()
        deep.append(lambda entry: wanted in entry.name.casefold() or wanted in _reason(entry).casefold())
    if filters.from_ms is not None:
        first = rfc3339(filters.from_ms)
        light.append(lambda entry: entry.time >= first)
    if filters.to_ms is not None:
        last = rfc3339(filters.to_ms)
        light.append(lambda entry: entry.time < last)
    since = rfc3339(filters.from_ms) if filters.from_ms is not None else ""
    return Asked(light, deep, since)


def owner_id(projection: Projection, entity: str, text: str) -> str:
    """The id of the owner that is meant; of deleted owners only the id is known, and kept as it is."""
    documents = projection.entities(entity)
    if text in documents:
        return text
    named = [document.id for document in documents.values() if document.name == text]
    return str(named[0]) if len(named) == 1 else text


def _reason(entry: Entry) -> str:
    """Why a request was corrected; empty of all others."""
    return str((entry.document or {}).get("reason", "")) if entry.entity == REQUEST else ""


def _about(wanted: str) -> Test:
    return lambda entry: wanted in entry.owners


def event_answer(entry: Entry) -> EventAnswer:
    changes: list[ChangeAnswer] = [
        {"field": change.field, "before": change.before, "after": change.after} for change in entry.changes
    ]
    answer: EventAnswer = {
        "id": entry.id,
        "offset": entry.offset,
        "time": entry.time,
        "type": entry.type,
        "entity": entry.entity,
        "entity_id": entry.entity_id,
        "name": entry.name,
        "action": entry.action,
        "actor": entry.actor,
        "outcome": "overtaken" if entry.overtaken_by else "applied",
        "changes": changes[:CHANGES_LISTED],
        "changes_count": len(changes),
    }
    if entry.overtaken_by:
        answer["overtaken_by"] = entry.overtaken_by
    return answer


def whole_event(entry: Entry) -> EventOneAnswer:
    document: dict[str, Any] | None = dict(entry.document) if entry.document is not None else None
    answer = event_answer(entry)
    changes: list[ChangeAnswer] = [
        {"field": change.field, "before": change.before, "after": change.after} for change in entry.changes
    ]
    return {**answer, "changes": changes, "document": document, "seen": dict(entry.seen)}
