"""The question whose requests were corrected. Pure builder of SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

MAX_IDS: Final = 500
"""Requests asked for at once."""


def owners(request_ids: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Whose each request was, as it is on record. Ids nobody has are left out."""
    assert len(request_ids) <= MAX_IDS
    names = ("customer_id", "team_id", "user_id", "virtual_key_id", "virtual_key", "team")
    listed = ", ".join(f"any(u.{name}) AS {name}" for name in names)
    sql = f"""SELECT u.request_id AS request_id, {listed}
FROM bursar.usage_events AS u WHERE u.request_id IN {{ids:Array(String)}} GROUP BY u.request_id"""
    return sql, {"ids": list(request_ids)}
