"""From the bytes of a request body to a validated model, or to an answer that names every fault with its path."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bursar_admin.errors import HIDDEN, Problem, Refusal, bad_field, invalid
from bursar_admin.fields import MIN_VALUE_CHARS
from bursar_admin.schemas import REQUIRED, Body

MAX_BODY_BYTES = 1 << 20
"""Bytes of a request body; the largest useful one (hundreds of price overrides) is a tenth of it."""

NEVER_NULL = frozenset({"name", "is_active", "kind", "credential", "enforcement", "weight", "version", "client_config"})
"""Fields that cannot be absent from an entity, so ``null`` cannot mean "clear"."""

_MUST_BE = {
    "string_type": ("must be a string", "a string"),
    "bool_type": ("must be true or false", "true or false"),
    "list_type": ("must be a list", "a list"),
    "model_type": ("must be an object", "an object"),
    "dict_type": ("must be an object", "an object"),
    "missing": ("is required", "a value"),
}

Model = TypeVar("Model", bound=Body)


def parse_json(raw: bytes) -> Any:
    """The JSON value. Numbers with a fraction become ``Decimal``; so do NaN, Infinity and -Infinity, which no field
    takes: where they stand is known only to whoever knows the fields.

    Raises Refusal (400) for what is not JSON, for a name that stands twice in one object and for text that is not
    Unicode (half of a surrogate pair)."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_float=Decimal, parse_constant=Decimal, object_pairs_hook=_no_duplicates)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except Refusal:
        raise
    except RecursionError:
        raise invalid(Problem("The body is nested too deeply.", allowed="a JSON object")) from None
    except (ValueError, ArithmeticError) as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise invalid(Problem(f"The body is not valid JSON{where}.", allowed="a JSON object")) from None
    return value


def read_body(model: type[Model], raw: bytes, *, creating: bool) -> Model:
    """Validate. Raises Refusal (400) listing every fault."""
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise invalid(Problem("The body must be an object.", given=value, allowed="a JSON object"))
    problems: list[Problem] = []
    body: Model | None = None
    try:
        body = model.model_validate(value)
    except ValidationError as error:
        problems += [
            _problem(model, dict(item), value) for item in error.errors(include_url=False, include_input=False)
        ]
    if creating:
        problems += [
            Problem("is required", name, None, "a value")
            for name in REQUIRED.get(model, ())
            if name not in value or value[name] is None
        ]
    problems += _nulls(value, creating, frozenset(REQUIRED.get(model, ())))
    if not problems:  # fields refuse them each in its own words; this is for a field that would not
        problems += _constants(value, ())
    if problems or body is None:
        raise invalid(*problems)
    return body


def _constants(value: Any, location: tuple[str | int, ...]) -> list[Problem]:
    """NaN and infinities anywhere inside a value."""
    if isinstance(value, Decimal) and not value.is_finite():
        return [Problem("is not a JSON number", path_text(location), value, "finite numbers")]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [problem for name, part in parts for problem in _constants(part, (*location, name))]


def _nulls(value: Any, creating: bool, required: frozenset[str]) -> list[Problem]:
    return [
        Problem("cannot be null", name, None, "leave the field out to keep it")
        for name, given in value.items()
        if given is None and name in NEVER_NULL and not (creating and name in required)
    ]


def path_text(location: Sequence[str | int]) -> str:
    """``provider_configs[0].budget.max_limit``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _problem(model: type[BaseModel], item: dict[str, Any], value: Any) -> Problem:
    location = item["loc"]
    path = path_text(location)
    kind, context = item["type"], item.get("ctx", {})
    given = _at(value, location)
    if kind == "extra_forbidden":
        fields = _fields_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        if model.__name__ == "UserBody" and location[-1] in ("budget", "budgets", "rate_limit"):
            return Problem("is not supported on users yet: set it on the key or the team", path, given, fields)
        if isinstance(given, str) and len(given) >= MIN_VALUE_CHARS:
            given = HIDDEN  # long enough to be a key under a misspelled `value`
        return Problem(f"is not a field here{hint}", path, given, fields)
    if kind == "fault":
        return Problem(context["message"], path, given, context["allowed"])
    if kind == "literal_error":
        return Problem("is not one of the allowed values", path, given, context["expected"])
    if kind in ("too_long", "string_too_long"):
        most = context.get("max_length")
        return Problem("is too long", path, given, f"at most {most}")
    if kind == "string_too_short":
        return Problem("is too short", path, given, f"at least {context.get('min_length')}")
    message, allowed = _MUST_BE.get(kind, ("is not valid", None))
    return Problem(message, path, given, allowed)


def _at(value: Any, location: Sequence[str | int]) -> Any:
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the model that stands at a location."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        field = current.model_fields.get(part)
        current = _model_in(field.annotation) if field else None
    return sorted(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _model_in(argument)
        if found:
            return found
    return None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise bad_field(name[:100], "stands twice in one object", None, "each field once")
            seen.add(name)
    return value
