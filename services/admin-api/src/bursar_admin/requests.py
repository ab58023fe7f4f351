"""Reading a request and writing an answer: what all handlers do alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from bursar_admin.access import check_content_type
from bursar_admin.body import MAX_BODY_BYTES, read_body
from bursar_admin.errors import Problem, Refusal, bad_field, invalid
from bursar_admin.routes import Parameter
from bursar_admin.schemas import Body

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
"""Entities of one page."""
MAX_OFFSET = (1 << 53) - 1

BODY_TIMEOUT_S = 30.0
"""Until a body of at most 1 MiB must have arrived."""

PAGING = (
    Parameter(
        "limit",
        "Entities of one page.",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    ),
    Parameter("offset", "Entities to skip, oldest first.", {"type": "integer", "minimum": 0, "default": 0}),
)

Model = TypeVar("Model", bound=Body)


async def raw_body(request: web.Request) -> bytes:
    """Raises Refusal (408, 413)."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, "timeout_error", f"The body did not arrive within {BODY_TIMEOUT_S:g} s.") from None
    except web.HTTPRequestEntityTooLarge:
        raise Refusal(413, "request_too_large", f"The body is larger than {MAX_BODY_BYTES} bytes.") from None


async def read(request: web.Request, model: type[Model], *, creating: bool = False, optional: bool = False) -> Model:
    """The validated body; ``optional``: none counts as ``{}``. Raises Refusal (400, 413, 415)."""
    raw = await raw_body(request)
    if optional and not raw:
        return model()
    check_content_type(request.headers)
    return read_body(model, raw, creating=creating)


def check_query(request: web.Request, allowed: tuple[Parameter, ...] = ()) -> dict[str, str]:
    """The query parameters. Raises Refusal (400) for one that is unknown or repeated."""
    names = [parameter.name for parameter in allowed]
    problems = [
        Problem("is not a query parameter here", name, None, names) for name in request.query if name not in names
    ]
    problems += [
        Problem("is given more than once", name, None, "each once")
        for name in names
        if len(request.query.getall(name, [])) > 1
    ]
    if problems:
        raise invalid(*problems)
    return dict(request.query)


def page(query: Mapping[str, str]) -> tuple[int, int]:
    """(limit, offset). Raises Refusal (400)."""
    return whole(query, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT), whole(query, "offset", 0, 0, MAX_OFFSET)


def whole(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number. Raises Refusal (400)."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise bad_field(name, "must be a whole number", text, f"{least} to {most}")
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """A true/false parameter. Raises Refusal (400)."""
    text = query.get(name)
    if text is None:
        return None
    if text not in ("true", "false"):
        raise bad_field(name, "must be true or false", text, ["true", "false"])
    return text == "true"


def expected_version(request: web.Request, body_version: int | None = None) -> int | None:
    """The version the caller read, from ``If-Match`` or the body. Raises Refusal (400)."""
    text = request.headers.get("If-Match")
    if text is None or text.strip() == "*":
        return body_version
    digits = text.strip().removeprefix("W/").strip('"')
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 15):
        raise bad_field("If-Match", "must be a version", text, 'the ETag of an answer, such as "3"')
    version = int(digits)
    if body_version is not None and body_version != version:
        raise bad_field("version", "disagrees with If-Match", body_version, version)
    return version


def json_answer(content: Mapping[str, Any], *, status: int = 200, version: int | None = None) -> web.Response:
    """A JSON answer; ``version`` becomes its ETag."""
    response = web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")
    if version is not None:
        response.headers["ETag"] = f'"{version}"'
    return response
