"""``/api/events/dead-letters``: records that could not be read, and appending them again."""

from __future__ import annotations

import re
from typing import Any, Final

from aiohttp import web

from bursar_admin.chronicle import Chronicle
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field, not_found
from bursar_admin.letters import (
    CUT_HEADER,
    POSITION_HEADER,
    REASON_HEADER,
    SUFFIX,
    TOPICS,
    Letter,
    Letters,
    Place,
    place_of,
    retry,
)
from bursar_admin.log_answers import DeadLetterAnswer, DeadLetterDoneAnswer, DeadLetterPageAnswer
from bursar_admin.queries.cursors import make_cursor, question_id, read_cursor
from bursar_admin.requests import check_query, json_answer, read, whole
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.entities import outcome_answer
from bursar_admin.schemas import Body
from bursar_common.events import RETRY_HEADER

PATH: Final = "/api/events/dead-letters"
MAX_LIMIT: Final = 200
DEFAULT_LIMIT: Final = 50
QUERY: Final = (
    Parameter("limit", f"Letters of one page, at most {MAX_LIMIT}.",
              {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}),
    Parameter("cursor", "next_cursor of the page before."),
)  # fmt: skip
_QUESTION: Final = question_id(PATH, {})
_END = re.compile(r"([0-9]{1,3}):([0-9]{1,5}):([0-9]{1,15})")


class RetryBody(Body):
    """Nothing needs to be said."""


def routes(desk: Desk) -> list[Route]:
    letters = Letters(desk.journal.event_log)
    chronicle = desk.journal.chronicle

    async def listed(request: web.Request) -> web.Response:
        query = check_query(request, QUERY)
        limit = whole(query, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        ends = _read_ends(query["cursor"]) if "cursor" in query else None
        total = await letters.count()
        found, following = await letters.page(ends, limit)
        return json_answer(
            {
                "dead_letters": [letter_answer(letter, chronicle) for letter in found],
                "count": len(found),
                "total_count": total,
                "waiting_count": max(0, total - chronicle.retried),
                "next_cursor": None if following is None else _cursor(following),
            }
        )

    async def find(request: web.Request) -> Letter:
        check_query(request)
        letter_id = request.match_info["id"]
        if place_of(letter_id) is None:
            raise bad_field("id", "is not the id of a dead letter", letter_id, "<topic>.dlq:<partition>:<offset>")
        letter = await letters.find(letter_id)
        if letter is None:
            raise not_found("dead letter", letter_id)
        return letter

    async def get(request: web.Request) -> web.Response:
        return json_answer({"dead_letter": letter_answer(await find(request), chronicle)})

    async def retried(request: web.Request) -> web.Response:
        letter = await find(request)
        await read(request, RetryBody, optional=True)
        before = chronicle.retry_of(letter.entity_id)
        if before is not None:
            return json_answer(
                {
                    "message": f"It was appended again before, at {before.time}. Nothing was done.",
                    "dead_letter": letter_answer(letter, chronicle),
                    "appended": False,
                }
            )
        record = await letters.again(letter)
        outcome = await desk.journal.submit(
            lambda projection: retry(projection, letter, desk.access.actor), beside=[record]
        )
        content: dict[str, Any] = {
            "message": "Appended to its topic again.",
            "dead_letter": letter_answer(letter, chronicle),
            "appended": bool(outcome.event_id),
        }
        return outcome_answer(content, outcome, None)

    return [
        Route(
            "GET", PATH, listed, "list_dead_letters", "Records that could not be read, newest first.",
            DeadLetterPageAnswer, query=QUERY,
        ),
        Route("GET", PATH + "/{id}", get, "get_dead_letter", "One of them.", dict[str, DeadLetterAnswer]),
        Route(
            "POST", PATH + "/{id}/retry", retried, "retry_dead_letter",
            "Append the record to its topic again, once: a second time does nothing. Analytics count it by its request "
            "id; budgets are not charged again.", DeadLetterDoneAnswer, body=RetryBody, body_required=False,
            may_be_pending=True,
        ),
    ]  # fmt: skip


def _cursor(ends: dict[Place, int]) -> str:
    """Where each partition's next page ends; short, whatever the number of partitions."""
    parts = [f"{TOPICS.index(topic.removesuffix(SUFFIX))}:{part}:{end}" for (topic, part), end in sorted(ends.items())]
    return make_cursor(_QUESTION, [" ".join(parts)])


def _read_ends(text: str) -> dict[Place, int]:
    """Raises Refusal (400)."""
    ends: dict[Place, int] = {}
    for part in str(read_cursor(text, _QUESTION, (str,))[0]).split():
        match = _END.fullmatch(part)
        if match is None or int(match[1]) >= len(TOPICS):
            raise bad_field("cursor", "is not a cursor", None, "next_cursor of an answer")
        ends[f"{TOPICS[int(match[1])]}{SUFFIX}", int(match[2])] = int(match[3])
    return ends


def letter_answer(letter: Letter, chronicle: Chronicle) -> DeadLetterAnswer:
    retried = chronicle.retry_of(letter.entity_id)
    return {
        "id": letter.id,
        "topic": letter.topic,
        "key": letter.record.key,
        "reason": letter.header(REASON_HEADER),
        "set_aside_at": letter.time,
        "position": letter.header(POSITION_HEADER),
        "bytes": len(letter.record.value),
        "cut": bool(letter.header(CUT_HEADER)),
        "retry_of": letter.header(RETRY_HEADER) or None,
        "retried": None if retried is None else {"time": retried.time, "actor": retried.actor, "event_id": retried.id},
        "content": letter.text,
    }
