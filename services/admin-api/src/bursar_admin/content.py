"""The command that deletes stored prompts and answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar_admin.errors import bad_field
from bursar_admin.limits import Moment
from bursar_admin.projection import Projection
from bursar_admin.queries.filters import MOMENT_ALLOWED, moment_ms
from bursar_admin.writes import Write
from bursar_common.events import GovernanceData
from bursar_common.governance import CONTENT_DELETION, ContentDeletion
from bursar_common.ids import is_uuid

WHOSE = ("user", "key", "session")
MAX_SESSION_CHARS = 200


def read_deletion(projection: Projection, query: Mapping[str, str], now_ms: int, new_id: str) -> ContentDeletion:
    """What a request asks to be deleted. Raises Refusal (400) naming every parameter that is missing or wrong."""
    given = [name for name in WHOSE if name in query]
    if len(given) != 1:
        wrong = given[0] if given else WHOSE[0]
        message = f"{', '.join(given)} are given" if given else f"none of {', '.join(WHOSE)} is given"
        raise bad_field(wrong, f"{message}; exactly one is needed", query.get(wrong), list(WHOSE))
    value, before_ms = query[given[0]], now_ms
    if "before" in query:
        found = moment_ms(query["before"])
        if found is None:
            raise bad_field("before", "is not a day or moment", query["before"], MOMENT_ALLOWED)
        if found > now_ms:
            raise bad_field("before", "is in the future", query["before"], "now, or earlier; content.off is for later")
        before_ms = found
    whom: dict[str, str] = {}
    if given[0] == "user":
        whom["user_id"] = _one_of(projection.users, "user", value)
    elif given[0] == "key":
        whom["virtual_key_id"] = _one_of(projection.virtual_keys, "key", value)
    else:
        if not 1 <= len(value) <= MAX_SESSION_CHARS or not value.isprintable():
            raise bad_field("session", "is not a session id", value[:100], f"1 to {MAX_SESSION_CHARS} characters")
        whom["session_id"] = value
    return ContentDeletion(id=new_id, created_at_ms=now_ms, before_ms=before_ms, **whom)


def _one_of(entities: Mapping[str, Any], what: str, value: str) -> str:
    """The id meant by an id or a name; ids of those who were deleted are taken at their word."""
    if value in entities:
        return value
    found = [entity_id for entity_id, document in entities.items() if document.name == value]
    if len(found) == 1:
        return found[0]
    if found:
        raise bad_field(what, "is the name of several", value, found[:20])
    if is_uuid(value):
        return value
    raise bad_field(what, f"there is no such {what}", value[:100], "an id, or the name of exactly one")


def delete_content(deletion: ContentDeletion, moment: Moment) -> Write:
    """The event that says so, for ever."""
    data = GovernanceData(
        entity=CONTENT_DELETION,
        entity_id=deletion.id,
        actor=moment.actor,
        seen={deletion.id: 0},
        document=msgspec.to_builtins(deletion),
    )
    return Write("created", data)
