"""``/api/openapi.json``, generated from the route table and the types of bodies and answers."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from bursar_admin.answers import ErrorAnswer, ProviderErrorAnswer
from bursar_admin.errors import PROVIDER_SHAPED
from bursar_admin.requests import check_query, json_answer
from bursar_admin.routes import Route
from bursar_admin.schemas import REQUIRED

PATH = "/api/openapi.json"
REFERENCE = "#/components/schemas/{model}"

ERRORS = {
    "400": "The request is wrong: the field, what was given and what is allowed are named.",
    "401": "The admin token is missing or wrong.",
    "403": "Host or Origin is not allowed.",
    "404": "There is no such entity.",
    "409": "It conflicts with what exists: a name, a version, children.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "503": "The event log cannot be written, or ClickHouse cannot be asked.",
}


def route(table: list[Route]) -> Route:
    """The route that describes ``table`` and itself."""
    document: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        check_query(request)
        if not document:
            document.update(describe([*table, own]))
        return json_answer(document)

    own = Route("GET", PATH, handler, "openapi", "This document.", dict[str, Any])
    return own


def describe(table: list[Route]) -> dict[str, Any]:
    """An OpenAPI 3.1 document of every route."""
    bodies = {route.body for route in table if route.body is not None}
    modes: list[tuple[Any, JsonSchemaMode]] = [
        (body, "validation") for body in sorted(bodies, key=lambda b: b.__name__)
    ]
    _, definitions = models_json_schema(modes, ref_template=REFERENCE)
    schemas: dict[str, Any] = dict(definitions.get("$defs", {}))
    errors = {shape: _answer(shape, schemas) for shape in (ErrorAnswer, ProviderErrorAnswer)}
    paths: dict[str, dict[str, Any]] = {}
    for entry in table:
        paths.setdefault(entry.path, {})[entry.method.lower()] = _operation(
            entry, schemas, errors[ProviderErrorAnswer if entry.path.startswith(PROVIDER_SHAPED) else ErrorAnswer]
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bursar admin API",
            "version": _version(),
            "description": "Governance of the spend gateway. Unknown fields and query parameters are refused.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{"bearer": []}, {"apiKey": []}, {}],
    }


def _operation(entry: Route, schemas: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {media: {"schema": {"type": "string"}} for media in entry.media}
    if entry.answer:
        content["application/json"] = {"schema": _answer(entry.answer, schemas)}
    content = content or {"text/html": {"schema": {"type": "string"}}}
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    if entry.may_be_pending:
        responses["202"] = {"description": "Recorded; the ledger has not taken it over yet.", "content": content}
    if entry.probe:
        responses["503"] = {"description": "Not ready.", "content": content}
    else:
        writing = entry.method != "GET"
        for status, description in ERRORS.items():
            if status in ("404",) and "{id}" not in entry.path:
                continue
            if (
                status in ("409", "413", "415", "503")
                and not writing
                and not (status == "503" and entry.asks_analytics)
            ):
                continue
            responses[status] = {"description": description, "content": {"application/json": {"schema": error}}}
        responses["default"] = {
            "description": "Any other failure, in the same envelope.",
            "content": {"application/json": {"schema": error}},
        }
    operation: dict[str, Any] = {
        "operationId": entry.operation_id,
        "summary": entry.summary,
        "responses": responses,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", entry.path)
        ]
        + [
            {"name": item.name, "in": "query", "description": item.description, "schema": dict(item.schema)}
            for item in entry.query
        ],
    }
    if entry.may_be_pending and not entry.creating:
        operation["parameters"].append(
            {
                "name": "If-Match",
                "in": "header",
                "description": "The ETag the entity was read with; 409 when it has changed since.",
                "schema": {"type": "string"},
            }
        )
    if entry.body is not None:
        schema: dict[str, Any] = {"$ref": REFERENCE.format(model=entry.body.__name__)}
        if entry.creating and REQUIRED.get(entry.body):
            schema = {"allOf": [schema], "required": list(REQUIRED[entry.body])}
        operation["requestBody"] = {
            "required": entry.body_required,
            "content": {"application/json": {"schema": schema}},
        }
    if entry.open_page or entry.probe:
        operation["security"] = [{}]
    return operation


def _answer(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to (or the schema of) an answer's type; its definitions are added to ``schemas``."""
    schema = TypeAdapter(kind).json_schema(ref_template=REFERENCE, mode="serialization")
    schemas.update(schema.pop("$defs", {}))
    title = schema.get("title")
    if not title:
        return schema
    schemas[title] = schema
    return {"$ref": REFERENCE.format(model=title)}


def _version() -> str:
    try:
        return version("bursar-admin")
    except PackageNotFoundError:
        return "0"
