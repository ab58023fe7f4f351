"""Governance events about people, for tests of whoever shows their names."""

from __future__ import annotations

from typing import Any

from bursar_common.clock import rfc3339
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import GOVERNANCE_TOPIC, GovernanceData, encode_event
from bursar_common.ids import uuid7


def user_value(user_id: str, name: str | None, *, seen: int, entity: str = "user", **more: Any) -> bytes:
    """The event that gives a user this name (None: deletes the user), judged by version ``seen``."""
    verb = "deleted" if name is None else "changed" if seen else "created"
    document = None if name is None else {"id": user_id, "name": name, "created_at_s": 1}
    data = GovernanceData(
        entity=entity, entity_id=user_id, actor="test", seen={user_id: seen}, document=document, **more
    )
    return encode_event(
        id=uuid7(),
        source="bursar/admin",
        type=f"bursar.{entity}.{verb}.v1",
        time=rfc3339(0),
        subject=user_id,
        data=data,
    )


def user_record(user_id: str, name: str | None, *, seen: int) -> NewRecord:
    return NewRecord(GOVERNANCE_TOPIC, user_id, user_value(user_id, name, seen=seen))
