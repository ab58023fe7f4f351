"""Cursors: where a page of a listing ended, bound to the question it was a page of. Pure.

Opaque to clients. Nothing secret stands in one, and a forged one only names another place of the same listing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Final

import msgspec

from bursar_admin.errors import bad_field

MAX_CHARS: Final = 1000
_FORM: Final = 1
"""Of what is inside; raised when it changes, so that older cursors are refused instead of misread."""


class _Cursor(msgspec.Struct, array_like=True):
    form: int
    question: str
    place: list[int | str]


def question_id(path: str, asked: dict[str, Any]) -> str:
    """What a cursor is bound to: everything asked but the place and the size of the page."""
    return hashlib.sha256(msgspec.json.encode([path, sorted(asked.items())])).hexdigest()[:16]


def make_cursor(question: str, place: list[int | str]) -> str:
    encoded = msgspec.json.encode(_Cursor(_FORM, question, place))
    return base64.urlsafe_b64encode(encoded).decode().rstrip("=")


def read_cursor(text: str, question: str, kinds: tuple[type, ...]) -> list[Any]:
    """The place, of the given kinds. Raises Refusal (400): no cursor, or one of another question."""
    allowed = "next_cursor of an answer to the same question (same filters, sort_by and order)"
    try:
        if len(text) > MAX_CHARS:
            raise ValueError
        cursor = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", True), type=_Cursor)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise bad_field("cursor", "is not a cursor", text[:40], allowed) from None
    if cursor.form != _FORM or cursor.question != question:
        raise bad_field("cursor", "is a cursor of another question", None, allowed)
    if len(cursor.place) != len(kinds) or any(
        type(value) is not kind for value, kind in zip(cursor.place, kinds, strict=True)
    ):
        raise bad_field("cursor", "is not a cursor", text[:40], allowed)
    if any(isinstance(value, int) and abs(value) >= 1 << 63 for value in cursor.place):
        raise bad_field("cursor", "is not a cursor", text[:40], allowed)
    return cursor.place
