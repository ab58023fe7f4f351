"""Whom and what a request is booked on, from its headers and ``metadata.user_id``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

MAX_TAGS = 20
"""Tags of one request; more are dropped and counted."""
MAX_VALUE_CHARS = 200
"""Characters of an attribution value; a longer one is dropped: half a name would book on the wrong owner."""
MAX_TAG_NAME_CHARS = 64
"""Characters of a tag's name."""

_OWN = {
    "x-bursar-project": "project",
    "x-bursar-repository": "repository",
    "x-bursar-branch": "branch",
    "x-bursar-environment": "environment",
    "x-bursar-cost-center": "cost_center",
    "x-claude-code-session-id": "session_id",
    "x-claude-code-agent-id": "agent_id",
    "x-claude-code-parent-agent-id": "parent_agent_id",
}
_LIMITED = ("project", "repository", "branch", "environment", "cost_center")
_TAG_PREFIXES = ("x-bursar-tag-", "x-bf-dim-")
_CLIENT = re.compile(r"claude-cli/(\d[\w.+-]{0,30})")
_LEGACY_USER_ID = re.compile(r"user_([0-9a-f]{8,128})_account_[0-9a-f-]*_session_([0-9a-f-]{8,64})")


class Attribution(msgspec.Struct, frozen=True):
    """``fields`` are the fields of the usage event that attribution fills."""

    fields: dict[str, Any]
    dropped_tags: int = 0
    tags: dict[str, str] = {}
    """Every attribute that a limit may one day be set on, by its header's own name."""

    @property
    def session(self) -> str:
        return str(self.fields.get("session_id", ""))

    @property
    def agent(self) -> str:
        return str(self.fields.get("agent_id", ""))


def attribute(headers: Mapping[str, str], user_id: str) -> Attribution:
    """Read the attribution of a request."""
    return with_user_id(attribute_headers(headers), user_id)


def attribute_headers(headers: Mapping[str, str]) -> Attribution:
    """What the headers alone say."""
    fields: dict[str, Any] = {}
    tags: dict[str, str] = {}
    dropped = 0
    for name, value in headers.items():
        name = name.lower()
        if not name.startswith("x-"):
            continue
        field = _OWN.get(name)
        if field is not None:
            if good_value(value):
                fields.setdefault(field, value)
        elif name.startswith(_TAG_PREFIXES):
            tag = name[13:] if name.startswith("x-bursar-tag-") else name[9:]
            if not tag or len(tag) > MAX_TAG_NAME_CHARS or not good_value(value) or tag in tags:
                continue
            if len(tags) >= MAX_TAGS:
                dropped += 1
            else:
                tags[tag] = value
    if tags:
        fields["tags"] = tags
    agent = headers.get("user-agent")
    if agent and (client := _CLIENT.search(agent[:512])):
        fields["client_version"] = client[1]
    limited = dict(tags)
    for name in _LIMITED:
        if name in fields:
            limited.setdefault(name, fields[name])
    return Attribution(fields, dropped, limited)


def with_user_id(attribution: Attribution, user_id: str) -> Attribution:
    """The same with what ``metadata.user_id`` adds; a session named by a header stands."""
    device, session = device_and_session(user_id) if user_id else ("", "")
    if not device and not session:
        return attribution
    fields = dict(attribution.fields)
    if device:
        fields["device_id"] = device
    if session:
        fields.setdefault("session_id", session)
    return Attribution(fields, attribution.dropped_tags, attribution.tags)


def good_value(value: str) -> bool:
    """1 to 200 printable characters."""
    return 0 < len(value) <= MAX_VALUE_CHARS and value.isprintable()


def device_and_session(user_id: str) -> tuple[str, str]:
    """Device and session in ``metadata.user_id``: JSON, formerly ``user_<hex>_account_<uuid>_session_<uuid>``."""
    if user_id.startswith("{"):
        try:
            known = msgspec.json.decode(user_id)
        except (msgspec.DecodeError, RecursionError):
            return "", ""
        device, session = known.get("device_id"), known.get("session_id")
        return (
            device if isinstance(device, str) and good_value(device) else "",
            session if isinstance(session, str) and good_value(session) else "",
        )
    legacy = _LEGACY_USER_ID.fullmatch(user_id)
    return (legacy[1], legacy[2]) if legacy is not None else ("", "")
