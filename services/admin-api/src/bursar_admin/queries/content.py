"""Stored prompts and answers. Pure."""

from __future__ import annotations

from typing import Any

from bursar_admin.queries.logs import span_of_id
from bursar_common.governance import ContentDeletion


def content_of(request_id: str) -> tuple[str, dict[str, Any]]:
    """The content of one request. The id's own time narrows where to look."""
    span = span_of_id(request_id)
    within, parameters = span.sql("range") if span is not None else ("1", {})
    text = f"""SELECT
    prompt_parts, roles, kinds, names, texts, prompt_bytes, answer_bytes, prompt_cut, answer_cut, redacted
FROM bursar.content FINAL WHERE {within} AND request_id = {{id:String}}"""
    return text, {**parameters, "id": request_id}


def covered(deletion: ContentDeletion) -> tuple[str, dict[str, Any]]:
    """How many rows there are that a deletion covers."""
    text = """SELECT count() AS rows FROM bursar.content
WHERE started_at < fromUnixTimestamp64Milli({before:Int64}, 'UTC')
    AND (({user:String} != '' AND user_id = {user:String}) OR ({key:String} != '' AND virtual_key_id = {key:String})
        OR ({session:String} != '' AND session_id = {session:String}))"""
    return text, {
        "before": deletion.before_ms,
        "user": deletion.user_id,
        "key": deletion.virtual_key_id,
        "session": deletion.session_id,
    }


def content_json(row: dict[str, Any]) -> dict[str, Any]:
    """A row of :func:`content_of` as the REST API answers it."""
    parts = [
        {"role": role, "kind": kind, "name": name, "text": text}
        for role, kind, name, text in zip(row["roles"], row["kinds"], row["names"], row["texts"], strict=True)
    ]
    prompt = row["prompt_parts"]
    return {
        "prompt": parts[:prompt],
        "answer": parts[prompt:],
        **{name: row[name] for name in ("prompt_bytes", "answer_bytes", "redacted")},
        "prompt_cut": bool(row["prompt_cut"]),
        "answer_cut": bool(row["answer_cut"]),
    }
