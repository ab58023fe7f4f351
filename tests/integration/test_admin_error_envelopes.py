"""Errors are what the OpenAPI document says of them: ours, and below /v1/organizations/ in the provider's envelope."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

import bursar_admin
from bursar_admin.answers import ErrorBody
from tests.harness.admin import running_admin

KEYS, TEAMS = "/api/governance/virtual-keys", "/api/governance/teams"
USAGE, COSTS = "/v1/organizations/usage_report/messages", "/v1/organizations/cost_report"
TOKEN = {"x-api-key": "the-token"}
NOBODY = "01a1fd72-4de3-7527-a891-e224136950ff"


def error_schema(document: Mapping[str, Any], method: str, path: str, status: int) -> dict[str, Any]:
    responses = document["paths"][path][method.lower()]["responses"]
    answer = responses.get(str(status)) or responses["default"]
    schema: dict[str, Any] = answer["content"]["application/json"]["schema"]
    return {**schema, "components": document["components"]}


def envelope(document: Mapping[str, Any], path: str) -> str:
    reference: str = error_schema(document, "GET", path, 400)["$ref"]
    return reference.rpartition("/")[2]


async def test_real_errors_are_what_the_document_says(tmp_path: Path) -> None:
    async with running_admin(tmp_path, admin_token="the-token") as admin:
        _, document, _ = await admin.call("GET", "/api/openapi.json", headers=TOKEN)
        _, team, _ = await admin.call("POST", TEAMS, {"name": "t"}, headers=TOKEN)
        team_id = team["team"]["id"]
        key = {"name": "k", "team_id": team_id}
        assert (await admin.call("POST", KEYS, key, headers=TOKEN))[0] == 200
        stale = TOKEN | {"If-Match": '"77"'}
        json_only = TOKEN | {"content-type": "text/plain"}
        cases: list[tuple[int, str, str, str, Any, Mapping[str, str]]] = [
            # status, method, path of the document, path asked, body (bytes: as they are), headers
            (401, "GET", KEYS, KEYS, None, {}),
            (403, "POST", KEYS, KEYS, {"name": "x"}, TOKEN | {"Origin": "https://elsewhere.example"}),
            (404, "GET", KEYS + "/{id}", f"{KEYS}/{NOBODY}", None, TOKEN),
            (400, "GET", KEYS, KEYS + "?what=1", None, TOKEN),
            (400, "POST", KEYS, KEYS, {"name": 5, "x": 1, "budgets": "y"}, TOKEN),  # problems
            (400, "POST", KEYS, KEYS, b"{", TOKEN),
            (409, "POST", KEYS, KEYS, key, TOKEN),  # existing_id
            (409, "PATCH", TEAMS + "/{id}", f"{TEAMS}/{team_id}", {"name": "u"}, stale),  # version
            (409, "DELETE", TEAMS + "/{id}", f"{TEAMS}/{team_id}", None, TOKEN),  # children
            (415, "POST", KEYS, KEYS, b"{}", json_only),
            (413, "POST", KEYS, KEYS, b"[" + b" " * (8 << 20), TOKEN),
            (503, "GET", "/api/logs", "/api/logs", None, TOKEN),
            (401, "GET", USAGE, f"{USAGE}?starting_at=2026-11-01", None, {}),
            (403, "GET", USAGE, USAGE, None, TOKEN | {"Origin": "https://elsewhere.example"}),
            (400, "GET", USAGE, USAGE, None, TOKEN),
            (400, "GET", USAGE, f"{USAGE}?starting_at=x&group_by[]=y&limit=z", None, TOKEN),
            (400, "GET", COSTS, f"{COSTS}?bucket_width=2d", None, TOKEN),
            (503, "GET", USAGE, f"{USAGE}?starting_at=2026-11-01", None, TOKEN),
        ]
        seen = set()
        for status, method, path, asked, body, headers in cases:
            what: dict[str, Any] = {"raw": body} if isinstance(body, bytes) else {"body": body}
            got, answer, _ = await admin.call(method, asked, headers=headers, **what)
            assert got == status, (method, asked, answer)
            Draft202012Validator(error_schema(document, method, path, status)).validate(answer)
            seen |= set(answer["error"])
            # One envelope is not the other, so the document cannot be right about both by saying little.
            other = USAGE if not path.startswith("/v1/organizations/") else KEYS
            with pytest.raises(ValidationError):
                Draft202012Validator(error_schema(document, "GET", other, 400)).validate(answer)
        assert {"problems", "existing_id", "version", "children", "children_count"} <= seen


async def test_every_operation_has_its_envelope_and_a_way_to_fail(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        _, document, _ = await admin.call("GET", "/api/openapi.json")
        for path, methods in document["paths"].items():
            for operation in methods.values():
                if set(operation["responses"]) == {"200", "503"}:
                    continue  # a probe: its 503 is an answer
                wanted = "ProviderErrorAnswer" if path.startswith("/v1/organizations/") else "ErrorAnswer"
                failures = {
                    status: told for status, told in operation["responses"].items() if status not in ("200", "202")
                }
                assert "default" in failures, path
                for told in failures.values():
                    reference = told["content"]["application/json"]["schema"]["$ref"]
                    assert reference == f"#/components/schemas/{wanted}", path
        assert envelope(document, USAGE) == "ProviderErrorAnswer"
        assert envelope(document, KEYS) == "ErrorAnswer"


def test_whatever_the_code_adds_to_an_error_is_described() -> None:
    """``conflict(..., existing_id=...)``: every such word is a member of the documented type."""
    described, found = set(ErrorBody.__annotations__), set()
    for path in Path(bursar_admin.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id in ("conflict", "unavailable"):
                found |= {word.arg for word in node.keywords if word.arg is not None}
    assert {"existing_id", "version", "event_id"} <= found
    assert found <= described
