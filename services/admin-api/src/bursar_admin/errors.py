"""The one shape of every answer that is not a success, and what may be repeated in it.

``{"error": {"type", "message", "field", "given", "allowed", "request_id"}}``; a body with several faults lists all of
them under ``problems``, the first one being repeated at the top. Below ``/v1/organizations/``, whose answers have the
provider's shape, ``type`` (``error``) and ``request_id`` stand beside ``error``, as in the provider's envelope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROVIDER_SHAPED = "/v1/organizations/"
"""Paths whose answers, errors too, have the shape of the provider's own API."""
MAX_PROBLEMS = 50
"""Faults listed in one answer: an answer stays readable, and small, whatever was sent."""
MAX_GIVEN_CHARS = 120
"""Characters of a given value that are repeated."""
MAX_ALLOWED = 100
"""Entries of a list of allowed values (every model of a catalogue would be a wall of text)."""

HIDDEN = "[hidden]"
SECRET_FIELDS = frozenset({"value", "value_sha256", "credential"})
"""Fields whose content is never repeated: a key, its hash, or a credential pasted where a reference belongs."""


@dataclass(frozen=True)
class Problem:
    """One fault of a request: where, what was given, what is allowed."""

    message: str
    field: str = ""
    """Path into the body (``provider_configs[0].budget.max_limit``), or the name of a query parameter or header."""
    given: Any = None
    allowed: Any = None

    def as_json(self) -> dict[str, Any]:
        allowed = self.allowed
        if isinstance(allowed, list | tuple) and len(allowed) > MAX_ALLOWED:
            allowed = [*allowed[:MAX_ALLOWED], f"... {len(allowed) - MAX_ALLOWED} more"]
        return {
            "message": self.message,
            "field": self.field,
            "given": shown(self.field, self.given),
            "allowed": allowed,
        }


def shown(path: str, given: Any) -> Any:
    """``given`` as far as it may be repeated: never a secret, never more than a line."""
    if given is None or isinstance(given, bool | int):
        return given if not isinstance(given, int) or abs(given) < 1 << 63 else "an integer beyond 64 bits"
    if any(part.partition("[")[0] in SECRET_FIELDS for part in path.split(".")):
        return HIDDEN
    if isinstance(given, Mapping):
        return "an object"
    if isinstance(given, list | tuple):
        return f"a list of {len(given)}"
    text = str(given)
    if "sk-" in text.lower():
        return HIDDEN
    return text if len(text) <= MAX_GIVEN_CHARS else text[:MAX_GIVEN_CHARS] + "..."


@dataclass
class Refusal(Exception):
    """A request that is answered with no. Raised by commands and handlers, turned into an answer in one place."""

    status: int
    type: str
    message: str
    problems: Sequence[Problem] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further members of ``error``, of those that ``answers.ErrorBody`` has: ``existing_id``, ``version`` ..."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def as_json(self, request_id: str) -> dict[str, Any]:
        """The body of the answer."""
        listed = [problem.as_json() for problem in self.problems[:MAX_PROBLEMS]]
        first = listed[0] if listed else {"field": "", "given": None, "allowed": None}
        error: dict[str, Any] = {
            "type": self.type,
            "message": self.message,
            "field": first["field"],
            "given": first["given"],
            "allowed": first["allowed"],
            "request_id": request_id,
            **self.extra,
        }
        if len(self.problems) > 1:
            error["problems"] = listed
        return {"error": error}

    def as_provider_json(self, request_id: str) -> dict[str, Any]:
        """The body in the provider's envelope, for tools made for the provider's API; ``error`` is as ever."""
        return {"type": "error", **self.as_json(request_id), "request_id": request_id}


def invalid(*problems: Problem) -> Refusal:
    """400: the request itself is wrong."""
    first = problems[0]
    where = f"{first.field}: " if first.field else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Refusal(400, "invalid_request_error", f"{where}{first.message}{more}", problems)


def bad_field(path: str, message: str, given: Any = None, allowed: Any = None) -> Refusal:
    """400 for one field."""
    return invalid(Problem(message, path, given, allowed))


def not_found(noun: str, entity_id: str) -> Refusal:
    return Refusal(404, "not_found_error", f"There is no {noun} with the id {shown('id', entity_id)!r}.")


def conflict(message: str, **extra: Any) -> Refusal:
    """409: the request is right but the state is not what it supposes."""
    return Refusal(409, "conflict_error", message, extra=extra)


def unauthorized(message: str) -> Refusal:
    return Refusal(401, "authentication_error", message, headers={"WWW-Authenticate": 'Bearer realm="bursar"'})


def forbidden(message: str, field: str, given: Any, allowed: Any) -> Refusal:
    return Refusal(403, "permission_error", message, (Problem(message, field, given, allowed),))


def unavailable(message: str, **extra: Any) -> Refusal:
    """503: nothing is wrong with the request; asking again later helps."""
    return Refusal(503, "unavailable_error", message, extra=extra, headers={"Retry-After": "2"})
