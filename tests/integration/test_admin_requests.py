"""admin-api over HTTP: versions, paging, filters, limits of a request, the shape of every error, who gets in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from openapi_spec_validator import OpenAPIV31SpecValidator

from bursar_admin.app import route_table
from bursar_common.metrics import OPENMETRICS_TYPE, TEXT_TYPE
from bursar_common.telemetry import configure_logging
from tests.harness.admin import KEY_SECRET, running_admin

KEYS = "/api/governance/virtual-keys"
TEAMS = "/api/governance/teams"


async def test_etag_if_match_and_version(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name="t"))["team"]
        path = f"{TEAMS}/{team['id']}"
        _, answer, headers = await admin.call("GET", path)
        assert headers["ETag"] == '"1"'
        assert answer["team"]["version"] == 1
        status, answer, headers = await admin.call("PUT", path, {"name": "u"}, headers={"If-Match": '"1"'})
        assert (status, headers["ETag"]) == (200, '"2"')
        for headers, body in [
            ({"If-Match": '"1"'}, {"name": "v"}),
            ({"If-Match": 'W/"1"'}, {"name": "v"}),
            ({}, {"name": "v", "version": 1}),
            ({"If-Match": '"9"'}, {"name": "u"}),
        ]:
            status, answer, _ = await admin.call("PATCH", path, body, headers=headers)
            assert (status, answer["error"]["version"]) == (409, 2)
        status, answer, _ = await admin.call("PATCH", path, {"version": 2}, headers={"If-Match": '"1"'})
        assert (status, answer["error"]["field"]) == (400, "version")
        status, answer, _ = await admin.call("PATCH", path, {}, headers={"If-Match": "new"})
        assert (status, answer["error"]["field"]) == (400, "If-Match")
        assert (await admin.call("DELETE", path, headers={"If-Match": '"1"'}))[0] == 409
        assert (await admin.call("PATCH", path, {"name": "v"}, headers={"If-Match": "*"}))[0] == 200
        assert (await admin.call("DELETE", path, headers={"If-Match": '"3"'}))[0] == 200
        assert (await admin.call("DELETE", path))[0] == 404


async def test_pages_and_filters(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        customer = (await admin.create("customers", name="c", timezone="Europe/Paris"))["customer"]["id"]
        team = (await admin.create("teams", name="t", customer_id=customer))["team"]["id"]
        user = (await admin.create("users", name="u", team_id=team, email="u@example.com"))["user"]["id"]
        for number in range(5):
            await admin.create("virtual-keys", name=f"k{number}", team_id=team, is_active=number != 3)
        await admin.create("virtual-keys", name="direct", customer_id=customer, user_id=user)
        await admin.create("virtual-keys", name="alone")

        async def names(query: str) -> list[str]:
            status, answer, _ = await admin.call("GET", f"{KEYS}?{query}")
            assert status == 200, answer
            assert answer["count"] == len(answer["virtual_keys"])
            return [key["name"] for key in answer["virtual_keys"]]

        assert await names("limit=2&offset=1") == ["k1", "k2"]
        assert await names("offset=100") == []
        assert await names(f"team_id={team}&is_active=false") == ["k3"]
        assert await names(f"customer_id={customer}") == ["k0", "k1", "k2", "k3", "k4", "direct"]
        assert await names(f"user_id={user}") == ["direct"]
        assert await names("name=alone") == ["alone"]
        assert await names("name=nobody") == []
        _, answer, _ = await admin.call("GET", f"{TEAMS}?customer_id={customer}")
        assert (answer["count"], answer["total_count"], answer["limit"], answer["offset"]) == (1, 1, 50, 0)
        _, answer, _ = await admin.call("GET", f"{KEYS}?name=k0")
        assert answer["virtual_keys"][0]["customer_id"] == customer
        _, answer, _ = await admin.call("GET", f"/api/governance/users?team_id={team}")
        assert answer["users"][0]["email"] == "u@example.com"
        for query, field in [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("limit=ten", "limit"),
            ("limit=%D9%A1", "limit"),
            ("offset=-1", "offset"),
            ("offset=1e3", "offset"),
            ("limit=1&limit=2", "limit"),
            ("is_active=yes", "is_active"),
            ("teamid=x", "teamid"),
        ]:
            status, answer, _ = await admin.call("GET", f"{KEYS}?{query}")
            assert (status, answer["error"]["field"]) == (400, field), query
        assert (await admin.call("GET", f"{TEAMS}/{team}?x=1"))[0] == 400
        assert (await admin.call("POST", f"{TEAMS}?dry_run=1", {"name": "x"}))[0] == 400


async def test_every_error_has_one_shape(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        cases: list[tuple[str, str, dict[str, Any], int, str]] = [
            ("GET", "/api/nothing", {}, 404, "not_found_error"),
            ("GET", "/v1/organizations/usage", {}, 404, "not_found_error"),
            ("GET", f"{KEYS}/nobody", {}, 404, "not_found_error"),
            ("POST", f"{KEYS}/nobody/rotate", {"body": {}}, 404, "not_found_error"),
            ("DELETE", f"{KEYS}/sk-bf-mistaken-for-an-id", {}, 404, "not_found_error"),
            ("PUT", KEYS, {"body": {}}, 405, "method_not_allowed_error"),
            ("OPTIONS", KEYS, {}, 405, "method_not_allowed_error"),
            ("POST", KEYS, {"raw": b"{"}, 400, "invalid_request_error"),
            (
                "POST",
                KEYS,
                {"raw": b"{}", "headers": {"content-type": "text/plain"}},
                415,
                "unsupported_media_type_error",
            ),
            (
                "POST",
                KEYS,
                {"raw": b"\x1f", "headers": {"content-encoding": "gzip"}},
                415,
                "unsupported_media_type_error",
            ),
            ("POST", KEYS, {"raw": b" " * ((1 << 20) + 1)}, 413, "request_too_large"),
            ("GET", KEYS, {"headers": {"Host": "evil.example"}}, 403, "permission_error"),
            ("GET", "/", {"headers": {"Host": "evil.example"}}, 403, "permission_error"),
            (
                "POST",
                KEYS,
                {"body": {"name": "x"}, "headers": {"Origin": "https://evil.example"}},
                403,
                "permission_error",
            ),
            ("POST", f"{KEYS}/nobody/rotate", {}, 415, "unsupported_media_type_error"),
        ]
        for method, path, options, status, kind in cases:
            given, answer, headers = await admin.call(method, path, **options)
            assert given == status, (method, path, answer)
            error = answer["error"]
            assert error["type"] == kind
            assert {"type", "message", "field", "given", "allowed", "request_id"} <= set(error)
            assert error["request_id"] == headers["x-bursar-request-id"]
            assert "sk-bf" not in str(answer)
        status, answer, _ = await admin.call("POST", KEYS, raw=b" " * ((1 << 20) - 20) + b'{"name":"big"}')
        assert status == 200
        assert (await admin.call("HEAD", KEYS))[0] == 200
        status, page, headers = await admin.call("GET", "/")
        assert status == 200
        assert "/api/openapi.json" in page
        assert "default-src 'none'" in headers["Content-Security-Policy"]


async def test_with_a_token_everything_below_api_asks_for_it(tmp_path: Path) -> None:
    async with running_admin(tmp_path, admin_token="right") as admin:
        for route in route_table(admin.desk):
            path = route.path.replace("{id}", "x")
            status, answer, headers = await admin.call(route.method, path, {} if route.body else None)
            if route.probe or route.open_page:
                assert status == 200, path
            else:
                assert status == 401, path
                assert answer["error"]["type"] == "authentication_error"
                assert "Bearer" in headers["WWW-Authenticate"]
            if path.endswith("/stream"):
                continue  # its answer has no end
            for right in ({"Authorization": "Bearer right"}, {"x-api-key": "right"}):
                status, _, _ = await admin.call(route.method, path, {} if route.body else None, headers=right)
                own = route.key_page and route.method == "GET"  # about the key that asks: the admin token is none
                assert (status == 401) == own, path
        status, answer, _ = await admin.call("POST", KEYS, {"name": "k"}, headers={"x-api-key": "right"})
        assert status == 200
        status, answer, _ = await admin.call(
            "POST", f"{KEYS}/{answer['virtual_key']['id']}/rotate", headers={"x-api-key": "right"}
        )
        assert status == 200
        assert b'"actor":"admin-token"' in (await admin.events())[-1]


async def test_rotation_and_keys_brought_along(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        created = (await admin.create("virtual-keys", name="k"))["virtual_key"]
        path = f"{KEYS}/{created['id']}"
        status, answer, _ = await admin.call("POST", f"{path}/rotate", {})
        assert status == 200
        rotated = answer["virtual_key"]["value"]
        assert rotated.startswith("sk-bf-")
        assert rotated != created["value"]
        brought = "corp-key-7f3c9a1e5b2d4860"
        status, answer, _ = await admin.call("POST", f"{path}/rotate", {"value": brought})
        assert status == 200
        assert "value" not in answer["virtual_key"]
        status, answer, _ = await admin.call("POST", KEYS, {"name": "two", "value": brought})
        assert (status, answer["error"]["existing_id"]) == (409, created["id"])
        status, answer, _ = await admin.call("POST", KEYS, {"name": "two", "value": brought, "value_sha256": "a" * 64})
        assert (status, answer["error"]["field"]) == (400, "value_sha256")
        for method in ("GET", "PUT", "PATCH"):
            _, answer, _ = await admin.call(method, path, None if method == "GET" else {"description": method})
            assert "value" not in answer["virtual_key"]
            assert "hmac" not in str(answer)


async def test_providers_by_id_and_name_and_never_a_value(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        _, answer, _ = await admin.call("GET", "/api/providers/anthropic")
        provider = answer["provider"]
        assert provider["credential"] == "env:BURSAR_ANTHROPIC_API_KEY,env:ANTHROPIC_API_KEY"
        status, answer, _ = await admin.call(
            "PATCH",
            f"/api/providers/{provider['id']}",
            {"discount_percent": 12.5, "price_overrides": [{"model": "claude-x-1", "input": 3, "output": 15}]},
        )
        assert status == 200, answer
        assert answer["provider"]["discount_percent"] == "12.5"
        assert answer["provider"]["price_overrides"][0]["input"] == "3"
        pasted = "sk-ant-api03-" + "x" * 40
        status, answer, _ = await admin.call("POST", "/api/providers", {"name": "p", "credential": pasted})
        assert status == 400
        assert pasted not in str(answer)
        status, answer, _ = await admin.call("POST", "/api/providers", {"name": "p", "credential": "client"})
        assert status == 200
        assert (await admin.call("DELETE", "/api/providers/p"))[0] == 200


@pytest.fixture
def service_logging() -> Iterator[None]:
    """Logs as the process writes them, on standard error."""
    handlers, level = list(logging.root.handlers), logging.root.level
    configure_logging("admin-api", "debug")
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


async def test_secrets_stay_out_of_logs_events_and_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], service_logging: None
) -> None:
    brought, misspelled = "corp-key-7f3c9a1e5b2d4860", "other-key-5b2d48607f3c9a1e"
    async with running_admin(tmp_path, admin_token="the-token-of-admins") as admin:
        token = {"x-api-key": "the-token-of-admins"}
        said = []
        _, answer, _ = await admin.call("POST", KEYS, {"name": "a"}, headers=token)
        value = answer["virtual_key"]["value"]
        for body in (
            {"name": "b", "value": brought},
            {"name": "c", "value": brought},
            {"name": "d", "vlaue": misspelled},
            {"name": "e", "value": 5, "colour": value},
            {"name": "f", "value_sha256": brought},
        ):
            said.append(str(await admin.call("POST", KEYS, body, headers=token)))
        said.append(str(await admin.call("GET", f"{KEYS}/{value}", headers=token)))
        said.append(str(await admin.call("GET", KEYS, headers=token)))
        said.append(str(await admin.call("GET", f"{KEYS}?name={brought}", headers={"x-api-key": "wrong-token"})))
        original = admin.desk.represent

        async def broken(*_: Any) -> Any:
            secret = value
            raise RuntimeError("a fault of ours") from ValueError(len(secret))

        admin.desk.represent = broken  # type: ignore[method-assign]
        status, answer, _ = await admin.call("POST", KEYS, {"name": "g", "value": brought[::-1]}, headers=token)
        assert status == 500
        assert "a fault" not in str(answer)
        said.append(str(answer))
        admin.desk.represent = original  # type: ignore[method-assign]
        said += [event.decode() for event in await admin.events()]
    captured = capsys.readouterr()
    assert "a fault of ours" in captured.err
    said += [captured.out, captured.err]
    for secret in (value, brought, brought[::-1], misspelled, "the-token-of-admins", "wrong-token", KEY_SECRET):
        for text in said:
            assert secret not in text


async def test_a_malformed_request_is_not_repeated_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_admin(tmp_path):
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/admin.http")
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nx-api-key: sk-bf-leaked" + b"x" * 20_000 + b"\r\n\r\n")
        await writer.drain()
        head = await reader.read(4096)
        assert head.startswith(b"HTTP/1.1 4") or head.startswith(b"HTTP/1.0 4")
        writer.close()
    assert "sk-bf-leaked" not in caplog.text


async def test_the_openapi_document_is_valid_and_complete(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        status, document, _ = await admin.call("GET", "/api/openapi.json")
        assert status == 200
        OpenAPIV31SpecValidator(document).validate()
        described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        served = {(route.method, route.path) for route in route_table(admin.desk)}
        assert described == served
        operations = [operation for methods in document["paths"].values() for operation in methods.values()]
        assert len({operation["operationId"] for operation in operations}) == len(operations)
        key = document["components"]["schemas"]["NewVirtualKeyBody"]
        assert key["additionalProperties"] is False
        assert {"budget", "budgets", "rate_limit", "provider_configs", "value_sha256"} <= set(key["properties"])
        unnamed = document["paths"][KEYS]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert unnamed["required"] == ["name"]
        media = {path: set(methods["get"]["responses"]["200"]["content"]) for path, methods in
                 document["paths"].items() if "get" in methods}  # fmt: skip
        assert media["/metrics"] == {TEXT_TYPE, OPENMETRICS_TYPE}
        assert media["/api/exports/focus"] == {"text/csv; charset=utf-8", "application/vnd.apache.parquet"}
        assert media["/api/logs/stream"] == {"text/event-stream"}
        assert media["/api/finance/statements/{team}/{month}"] == {"text/csv", "application/json"}
        assert "text/html" not in set().union(*media.values()), "pages are not described"
        _, _, headers = await admin.call("GET", "/metrics")
        assert headers["Content-Type"] in media["/metrics"]


async def test_answers_are_what_the_document_says(tmp_path: Path) -> None:
    from jsonschema import Draft202012Validator

    async with running_admin(tmp_path) as admin:
        _, document, _ = await admin.call("GET", "/api/openapi.json")

        def check(method: str, path: str, answer: Any, status: str = "200") -> None:
            schema = document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
            Draft202012Validator({**schema, "components": document["components"]}).validate(answer)

        body = {
            "name": "k",
            "budgets": [{"max_limit": 1, "reset_duration": "1d"}],
            "rate_limit": {"request_max_limit": 5, "request_reset_duration": "1h"},
            "provider_configs": [{"provider": "anthropic", "budget": {"max_limit": 1, "reset_duration": "1M"}}],
        }
        _, answer, _ = await admin.call("POST", KEYS, body)
        check("post", KEYS, answer)
        one = f"{KEYS}/{answer['virtual_key']['id']}"
        check("get", f"{KEYS}/{{id}}", (await admin.call("GET", one))[1])
        check("get", KEYS, (await admin.call("GET", KEYS))[1])
        check("get", "/api/providers", (await admin.call("GET", "/api/providers"))[1])
        check("get", "/api/config", (await admin.call("GET", "/api/config"))[1])
        check("post", KEYS, (await admin.call("POST", KEYS, body))[1], "409")
        check("post", KEYS, (await admin.call("POST", KEYS, {"x": 1, "name": 5}))[1], "400")
        check("delete", f"{KEYS}/{{id}}", (await admin.call("DELETE", one))[1])
        await admin.call("POST", TEAMS, {"name": "t"})
        check("get", TEAMS, (await admin.call("GET", TEAMS))[1])
