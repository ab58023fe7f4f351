"""``/api/content``: stored prompts and answers deleted. They are read with their request, at ``/api/logs/{id}``."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from typing_extensions import TypedDict

from bursar_admin.content import WHOSE, delete_content, read_deletion
from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal
from bursar_admin.queries.content import covered
from bursar_admin.requests import check_query, json_answer
from bursar_admin.routes import Parameter, Route
from bursar_common.clock import rfc3339
from bursar_common.governance import ContentDeletion
from bursar_common.topic_rules import FORGETTING_SEGMENT_MS

PATH: Final = "/api/content"
GONE_WAIT_S: Final = 5.0
"""Until a deletion that the analytics have not carried out yet is answered with 202."""
LOOK_EVERY_S: Final = 0.25
DAY_MS: Final = 86_400_000
LOG_SLACK_MS: Final = FORGETTING_SEGMENT_MS + 3_600_000
"""How much longer than its days a record can be in the topic: Kafka forgets segments of a day, and both Kafka and the
aggregator, which prunes the log of one machine, look for old ones every few minutes."""

WHAT: Final = (
    Parameter("user", "Whose: a user's id or name (also the id of one who was deleted)."),
    Parameter("key", "Or: a virtual key's id or name, likewise."),
    Parameter("session", "Or: a Claude Code session's id."),
    Parameter("before", "Of requests that started before this day or moment (default: now)."),
)


class ContentDeletedAnswer(TypedDict):
    message: str
    id: str
    event_id: str
    user_id: str
    virtual_key_id: str
    session_id: str
    before: str
    gone: bool
    log_until: str


class ContentRoutes:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        return [
            Route(
                "DELETE", PATH, self.delete, "delete_content",
                f"Delete the stored prompts and answers of exactly one of {', '.join(WHOSE)}, for ever: recorded in "
                "the governance log, so that nothing brings them back.", ContentDeletedAnswer, query=WHAT,
                may_be_pending=True,
            )
        ]  # fmt: skip

    async def delete(self, request: web.Request) -> web.Response:
        query = check_query(request, WHAT)
        desk = self.desk
        deletion = read_deletion(desk.projection, query, desk.clock.now_ms(), desk.mint())
        outcome = await desk.run(lambda _, moment: delete_content(deletion, moment))
        gone = await self._gone(deletion)
        until = rfc3339(log_until_ms(deletion, desk.settings.content_topic_days))
        said = (
            "Prompts and answers deleted: neither search nor any request shows them."
            if gone
            else "Recorded. Prompts and answers go from search and from their requests as soon as the analytics answer."
        )
        return json_answer(
            {
                "message": f"{said} The event log's own records of them, which only the aggregator reads and passes "
                f"over from now on, are gone by {until} at the latest.",
                "id": deletion.id,
                "event_id": outcome.event_id,
                "user_id": deletion.user_id,
                "virtual_key_id": deletion.virtual_key_id,
                "session_id": deletion.session_id,
                "before": rfc3339(deletion.before_ms),
                "gone": gone,
                "log_until": until,
            },
            status=200 if gone else 202,
        )

    async def _gone(self, deletion: ContentDeletion) -> bool:
        """Whether the analytics have nothing of it any more, within GONE_WAIT_S."""
        try:
            async with asyncio.timeout(GONE_WAIT_S):
                while True:
                    (row,) = await self.desk.analytics.rows(*covered(deletion))
                    if not row["rows"]:
                        return True
                    await asyncio.sleep(LOOK_EVERY_S)
        except (TimeoutError, Refusal):
            return False


def log_until_ms(deletion: ContentDeletion, topic_days: int) -> int:
    """When nothing is left in the event log of what was there at the deletion (Unix ms)."""
    return deletion.created_at_ms + topic_days * DAY_MS + LOG_SLACK_MS


def routes(desk: Desk) -> list[Route]:
    return ContentRoutes(desk).routes()
