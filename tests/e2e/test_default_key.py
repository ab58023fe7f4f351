"""Keys not enforced: whoever sends no key of ours is the default key, from the client to the bill."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from tests.harness.gateway import CreatedKey, Gateway
from tests.harness.one_machine import OneMachine

MODEL = "claude-sonnet-4-6"
BODY = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = "/anthropic/v1/messages"
COUNT_TOKENS = "/anthropic/v1/messages/count_tokens"
MODELS = "/anthropic/v1/models?limit=1000"
LOGIN = {"authorization": "Bearer sk-ant-oat01-login-of-the-client", "x-api-key": "sk-ant-key-of-the-client"}


async def enforce(gateway: Gateway, on: bool, key_id: str | None = None) -> None:
    body = {"client_config": {"enforce_auth_on_inference": on, "default_virtual_key_id": key_id}}
    await gateway.api("PUT", "/api/config", body)


@pytest.fixture
async def gateway(one_machine: OneMachine) -> AsyncIterator[Gateway]:
    async with one_machine.gateway() as gateway:
        await gateway.reset_simulator()
        try:
            yield gateway
        finally:
            await enforce(gateway, True)


@pytest.fixture
async def default(request: pytest.FixtureRequest, gateway: Gateway) -> CreatedKey:
    """A key that all requests without one are booked on."""
    key = await gateway.create_key(
        f"everybody in {request.node.name}",
        provider_configs=[{"provider": "anthropic", "allowed_models": [MODEL]}],
        budget={"max_limit": 100, "reset_duration": "1M"},
    )
    await enforce(gateway, False, key.id)
    return key


async def call(gateway: Gateway, path: str, **headers: str) -> tuple[int, dict[str, object]]:
    async with ClientSession(headers=headers) as session:
        method, body = ("GET", None) if path == MODELS else ("POST", BODY)
        async with session.request(method, gateway.url + path, json=body) as answer:
            return answer.status, json.loads(await answer.read())


async def test_requests_without_a_key_are_the_default_keys(gateway: Gateway, default: CreatedKey) -> None:
    status, message = await call(gateway, MESSAGES)
    assert (status, message["type"]) == (200, "message")
    status, counted = await call(gateway, COUNT_TOKENS)
    assert (status, list(counted)) == (200, ["input_tokens"])
    status, listed = await call(gateway, MODELS)
    assert status == 200
    assert [model["id"] for model in listed["data"]] == [MODEL]  # type: ignore[attr-defined]
    [row] = await gateway.usage_rows(default.id, at_least=1)
    assert (row["virtual_key"], row["outcome"]) == (default.document["name"], "completed")
    assert row["cost_nusd"] > 0


async def test_a_clients_own_login_is_dropped_and_the_default_key_pays(gateway: Gateway, default: CreatedKey) -> None:
    assert (await call(gateway, MESSAGES, **LOGIN))[0] == 200
    assert (await call(gateway, COUNT_TOKENS, **LOGIN))[0] == 200
    assert (await call(gateway, MODELS, **LOGIN))[0] == 200
    assert len(await gateway.usage_rows(default.id, at_least=1)) == 1
    for record in await gateway.provider.served():
        sent = {name.lower(): value for name, value in record["headers"]}
        assert sent["x-api-key"] == "sk-ant-test-credential"
        assert "authorization" not in sent


async def test_a_key_of_its_own_pays_for_itself(gateway: Gateway, default: CreatedKey) -> None:
    own = await gateway.create_key("own")
    assert (await gateway.message(own.value)).status == 200
    assert len(await gateway.usage_rows(own.id, at_least=1)) == 1
    spent = (await gateway.key(default.id))["budgets"][0]
    assert (spent["spent_nusd"], spent["held_nusd"]) == (0, 0)


async def test_enforced_again_the_next_request_is_refused(gateway: Gateway, default: CreatedKey) -> None:
    assert (await call(gateway, MESSAGES))[0] == 200
    await enforce(gateway, True, default.id)
    for path in (MESSAGES, COUNT_TOKENS, MODELS):
        for headers, said in (({}, "no key was sent"), (LOGIN, "does not know the key")):
            status, refused = await call(gateway, path, **headers)
            assert status == 401
            assert said in refused["error"]["message"]  # type: ignore[index]
