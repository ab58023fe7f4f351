"""A page's form read as js/forms.js reads it: fields to a body, and where each error would be shown."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_VOID = {"input", "meta", "link", "br", "img", "path", "rect", "line", "circle"}


@dataclass
class Field:
    name: str
    kind: str
    value: str
    checked: bool
    checkbox: bool
    empty: str
    label_id: str
    moment: str = ""
    """Of a field of date and time: what the browser writes into it, and sends as it is while nobody touches it."""


@dataclass
class Form:
    """One ``<form data-api>``."""

    attributes: dict[str, str]
    fields: list[Field] = field(default_factory=list)
    problems: set[str] = field(default_factory=set)
    """Paths that have a place for their error."""
    labels: set[str] = field(default_factory=set)
    groups: dict[str, list[str]] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.attributes["data-api"].split(" ")[0]

    @property
    def path(self) -> str:
        return self.attributes["data-api"].split(" ")[1]

    @property
    def headers(self) -> dict[str, str]:
        version = self.attributes.get("data-version")
        return {"If-Match": f'"{version}"'} if version else {}

    def body(self, **given: Any) -> dict[str, Any]:
        """What would be sent; ``given``: by label or name, what a person typed (a bool for a checkbox)."""
        body: dict[str, Any] = {}
        typed = {each.name: given.pop(each.name) for each in self.fields if each.name in given}
        assert not given, f"no such fields: {given}"
        values = {
            each.name: typed.get(each.name, each.checked if each.checkbox else each.moment or each.value)
            for each in self.fields
        }
        for each in self.fields:
            said = _said(each, values[each.name])
            if said is not None:
                _put(body, each.name, said[0])
        for group, names in self.groups.items():
            there = [values[name] for name in names if name in values]
            if there and all(str(value).strip() == "" for value in there):
                _put(body, group, None)
        return body

    def shows(self, path: str) -> bool:
        """Whether an error at a path of the body stands beside a field (or its group), not below the form."""
        while path:
            if path in self.problems:
                return True
            path = re.sub(r"(\.[^.\[]+|\[\d+\]|^[^.\[]+)$", "", path)
        return False


def _said(each: Field, value: Any) -> tuple[Any] | None:
    if each.checkbox:
        return (bool(value),)
    if each.kind == "json":
        return (json.loads(value),)
    text = str(value).strip()
    if each.kind == "list":
        return ([part.strip() for part in re.split(r"[,\n]+", text) if part.strip()],)
    if not text:
        return (None,) if each.empty == "null" else ("",) if each.empty == "text" else None
    if each.kind == "number":
        try:
            return (json.loads(text.replace(",", "")),)
        except ValueError:
            return (text,)
    if each.kind == "time":
        return (text if text == each.moment else f"{text}:00Z",)
    return (text,)


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    steps: list[str | int] = []
    for part in path.split("."):
        name, *indices = part.split("[")
        steps += [name, *(int(index.rstrip("]")) for index in indices)]
    place: Any = body
    for step, following in zip(steps, steps[1:], strict=False):
        blank: Any = [] if isinstance(following, int) else {}
        if isinstance(step, int):
            while len(place) <= step:
                place.append(blank)
            place = place[step]
        else:
            place = place.setdefault(step, blank)
    last = steps[-1]
    if isinstance(last, int):
        place.insert(last, value)
    else:
        place[last] = value


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.open: list[tuple[str, dict[str, str]]] = []
        self.select: Field | None = None
        self.first_option: str | None = None
        self.chosen: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self.open.append((tag, named))
        if tag == "form" and "data-api" in named:
            self.forms.append(Form(named))
        if not self.forms or not any(each == "form" for each, _ in self.open) or self._set_aside():
            return
        form = self.forms[-1]
        if "data-problem" in named:
            form.problems.add(named["data-problem"])
        if tag == "label":
            form.labels.add(named.get("for", ""))
        if tag == "input" and named.get("name"):
            self._add(form, named, named.get("value", ""))
        if tag == "select":
            self.select, self.chosen, self.first_option = self._field(named, ""), None, None
        if tag == "option" and self.select is not None:
            if self.first_option is None:
                self.first_option = named["value"]
            if "selected" in named:
                self.chosen = named["value"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "select" and self.select is not None:
            self.select.value = self.chosen if self.chosen is not None else self.first_option or ""
            if self.select.name:
                self.forms[-1].fields.append(self.select)
            self.select = None
        while self.open and tag not in _VOID:
            if self.open.pop()[0] == tag:
                break

    def _set_aside(self) -> bool:
        """Within a template, or what is disabled."""
        return any(tag == "template" or "disabled" in named for tag, named in self.open)

    def _field(self, named: dict[str, str], value: str) -> Field:
        return Field(
            named.get("name", ""),
            named.get("data-type", "text"),
            value,
            "checked" in named,
            named.get("type") == "checkbox",
            named.get("data-empty", ""),
            named.get("id", ""),
            named.get("data-moment", ""),
        )

    def _add(self, form: Form, named: dict[str, str], value: str) -> None:
        form.fields.append(self._field(named, value))
        for _, attributes in self.open:
            group = attributes.get("data-null-if-empty")
            if group and named.get("type") not in ("hidden", "checkbox"):
                form.groups.setdefault(group, []).append(named["name"])


def forms_of(page: str) -> list[Form]:
    """Every form of a page that speaks to the REST API, in order."""
    reader = _Reader()
    reader.feed(page)
    return reader.forms
