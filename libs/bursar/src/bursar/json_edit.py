"""Change members of a JSON object in its text, leaving every other byte as it stands. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

_BLANK = " \t\r\n"
_DEFAULT_INDENT = "  "


class NotEditable(ValueError):
    """The text is not what can be edited; the message says why."""


@dataclass(frozen=True)
class Member:
    name: str
    start: int
    """Of the name's opening quote."""
    value_start: int
    end: int
    """Just after the value."""


@dataclass(frozen=True)
class ObjectSpan:
    start: int
    """Of the opening brace."""
    end: int
    """Just after the closing brace."""
    members: tuple[Member, ...]

    def find(self, name: str) -> Member | None:
        """The member of that name. Raises NotEditable where there are two: readers disagree on which counts."""
        found = [member for member in self.members if member.name == name]
        if len(found) > 1:
            raise NotEditable(f"{name!r} stands in it twice")
        return found[0] if found else None


def parse(text: str) -> Any:
    """Strict JSON: no NaN, no comments, no byte order mark. Raises NotEditable."""

    def refuse(name: str) -> NoReturn:
        raise NotEditable(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise NotEditable(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise NotEditable("it is nested too deeply") from None


def object_at(text: str, start: int) -> ObjectSpan:
    """The object whose brace stands at ``start`` of valid JSON."""
    decode = json.JSONDecoder().raw_decode
    members = []
    at = _skip(text, start + 1)
    while text[at] != "}":
        name_start = at
        name, at = decode(text, at)
        value_start = _skip(text, _skip(text, at) + 1)
        _, value_end = decode(text, value_start)
        members.append(Member(name, name_start, value_start, value_end))
        at = _skip(text, value_end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return ObjectSpan(start, at + 1, tuple(members))


def top_object(text: str) -> ObjectSpan:
    """The object that the whole text is. Raises NotEditable where it is none."""
    if not isinstance(parse(text), dict):
        raise NotEditable("it is not a JSON object")
    return object_at(text, _skip(text, 0))


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def set_value(text: str, member: Member, raw: str) -> str:
    """Replace a member's value by the JSON text ``raw``."""
    return text[: member.value_start] + raw + text[member.end :]


def add_member(text: str, span: ObjectSpan, name: str, raw: str, *, outer_gap: str = "\n") -> str:
    """Put a member behind the last, formatted as the others are. ``outer_gap``: the white space before the object's own
    member in its parent, to indent from where the object is empty."""
    new = f"{json.dumps(name)}: {raw}"
    if span.members:
        gap = text[span.start + 1 : span.members[0].start]
        last = span.members[-1].end
        return text[:last] + "," + (gap or " ") + new + text[last:]
    if "\n" not in outer_gap:
        return text[: span.start + 1] + new + text[span.end - 1 :]
    return text[: span.start + 1] + deeper(outer_gap) + new + outer_gap + text[span.end - 1 :]


def deeper(gap: str) -> str:
    """The white space before a member one level further in."""
    line, _, indent = gap.rpartition("\n")
    unit = "\t" if "\t" in indent else _DEFAULT_INDENT if len(indent) != 4 else "    "
    return f"{line}\n{indent}{unit}"


def member_gap(text: str, span: ObjectSpan) -> str:
    """The white space before an object's first member."""
    return text[span.start + 1 : span.members[0].start] if span.members else "\n" + _DEFAULT_INDENT


def remove_member(text: str, span: ObjectSpan, member: Member) -> str:
    """Take a member out, with the comma that it no longer needs."""
    index = span.members.index(member)
    if index > 0:
        return text[: span.members[index - 1].end] + text[member.end :]
    if len(span.members) > 1:
        return text[: member.start] + text[span.members[1].start :]
    return text[: span.start + 1] + text[span.end - 1 :]
