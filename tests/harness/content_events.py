"""Content events and deletions for tests."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from bursar_common.clock import rfc3339
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import (
    CONTENT_RECORDED,
    CONTENT_TOPIC,
    GOVERNANCE_TOPIC,
    Content,
    ContentPart,
    GovernanceData,
    encode_event,
)
from bursar_common.governance import CONTENT_DELETION, ContentDeletion
from bursar_common.ids import uuid7


def content(number: int, prompt: str = "question", answer: str = "answer", **more: Any) -> Content:
    """Content of a request of now; ids are made of ``number``."""
    return Content(
        **{
            "request_id": f"request-{number}",
            "started_at_ms": time.time_ns() // 1_000_000,
            "virtual_key_id": "key-1",
            "user_id": "user-1",
            "session_id": "session-1",
            "model": "claude-sonnet-4-6",
            "prompt": (ContentPart("system", "text", "", "be good"), ContentPart("user", "text", "", prompt)),
            "answer": (ContentPart("assistant", "text", "", answer),),
            "prompt_bytes": len(prompt),
            "answer_bytes": len(answer),
            **more,
        }
    )


def content_record(event: Content, **envelope: Any) -> NewRecord:
    value = encode_event(
        **{
            "id": f"content:{event.request_id}",
            "source": "bursar/edge",
            "type": CONTENT_RECORDED,
            "time": rfc3339(event.started_at_ms),
            "subject": event.request_id,
            "data": event,
            **envelope,
        }
    )
    return NewRecord(CONTENT_TOPIC, event.request_id, value)


def deletion_record(before_ms: int, *, seen: int = 0, **whom: str) -> NewRecord:
    """A deletion as admin-api writes it."""
    deletion = ContentDeletion(id=uuid7(), created_at_ms=before_ms, before_ms=before_ms, **whom)
    data = GovernanceData(
        entity=CONTENT_DELETION,
        entity_id=deletion.id,
        actor="test",
        seen={deletion.id: seen},
        document=msgspec.to_builtins(deletion),
    )
    value = encode_event(
        id=uuid7(),
        source="bursar/admin",
        type=f"bursar.{CONTENT_DELETION}.created.v1",
        time=rfc3339(before_ms),
        subject=deletion.id,
        data=data,
    )
    return NewRecord(GOVERNANCE_TOPIC, deletion.id, value)
