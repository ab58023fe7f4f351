"""Who may do what: keys, models, providers, and changes that the next request sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bursar_common.governance import Config, PriceOverride, Provider, ProviderConfig
from bursar_common.keys import key_hmac, sha256_hex
from bursar_common.wire import Admitted, Authorize, Authorized, Features, KeyHash, Refused, ServerTool
from tests.integration.enforcer_world import KEY_SECRET, KEY_VALUE, MODEL, NOW_S, Inside, budget, limits_of_now

OTHER = "sk-bf-" + "1" * 64


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    async with Inside(tmp_path) as world:
        yield world


def presented(*values: str) -> tuple[KeyHash, ...]:
    headers = ("x-bf-vk", "authorization", "x-api-key")
    return tuple(KeyHash(header, sha256_hex(value)) for header, value in zip(headers, values, strict=False))


async def reason(world: Inside, request: str = "r", **more: Any) -> str:
    reply = await world.admit(request, **more)
    assert isinstance(reply, Refused), reply
    return reply.reason


async def test_unknown_missing_and_conflicting_keys(inside: Inside) -> None:
    await inside.govern_default()
    await inside.govern("virtual_key", inside.key(id="key2", name="bob", hmac=key_hmac(KEY_SECRET, sha256_hex(OTHER))))
    await inside.governed()
    assert await reason(inside, key_hashes=()) == "no_key"
    assert await reason(inside, key_hashes=presented("sk-ant-unknown")) == "unknown_key"
    assert await reason(inside, key_hashes=presented(KEY_VALUE, OTHER)) == "conflicting_keys"
    admitted = await inside.admit("r1", key_hashes=presented("sk-ant-own-login", KEY_VALUE, KEY_VALUE))
    assert isinstance(admitted, Admitted)
    assert admitted.header == "authorization"
    assert await reason(inside, "r2", key_hashes=presented(OTHER, KEY_VALUE)) == "conflicting_keys"


async def test_without_enforcement_requests_without_a_key_are_the_default_keys(inside: Inside) -> None:
    await inside.govern_default()
    await inside.govern("config", Config(enforce_auth_on_inference=False, default_virtual_key_id="key1"), id="config")
    await inside.governed()
    admitted = await inside.admit("r1", key_hashes=())
    assert isinstance(admitted, Admitted)
    assert (admitted.header, admitted.owners.virtual_key_id) == ("", "key1")
    bob = key_hmac(KEY_SECRET, sha256_hex(OTHER))
    await inside.govern("virtual_key", inside.key(id="key2", name="bob", hmac=bob))
    await inside.governed()
    # A client's own login is nobody's key: it is the default key's too, in whatever header it comes.
    login = await inside.admit("r2", key_hashes=presented("sk-ant-one", "sk-ant-another"))
    assert isinstance(login, Admitted)
    assert (login.header, login.owners.virtual_key_id) == ("", "key1")
    own = await inside.admit("r3", key_hashes=presented("sk-ant-one", OTHER))
    assert (own.header, own.owners.virtual_key_id) == ("authorization", "key2")
    (who,) = await inside.batch(Authorize((), list_models=True))
    assert isinstance(who, Authorized)
    assert (who.header, who.owners.virtual_key_id) == ("", "key1")
    await inside.govern("config", Config(default_virtual_key_id="key1"), id="config")
    await inside.governed()
    assert await reason(inside, "r4", key_hashes=()) == "no_key"
    assert await reason(inside, "r5", key_hashes=presented("sk-ant-one")) == "unknown_key"


async def test_the_next_request_sees_a_change(inside: Inside) -> None:
    await inside.govern_default()
    assert isinstance(await inside.admit("r1"), Admitted)
    await inside.govern("virtual_key", inside.key(is_active=False))
    await inside.governed()
    assert await reason(inside, "r2") == "inactive_key"
    await inside.govern("virtual_key", inside.key(expires_at_s=NOW_S + 1))
    await inside.governed()
    assert await reason(inside, "r3") == "expired_key"
    await inside.govern("virtual_key", inside.key(budgets=(budget("bk", 5),)))
    await inside.governed()
    refused = await inside.admit("r4")
    assert (refused.reason, refused.owner, refused.limit) == ("budget_too_large", "alice", 5)
    await inside.govern("virtual_key", inside.key())
    await inside.governed()
    assert isinstance(await inside.admit("r5"), Admitted)
    await inside.govern("virtual_key", None, id="key1")
    await inside.governed()
    assert await reason(inside, "r6") == "unknown_key"


async def test_a_rotated_keys_old_value_is_unknown(inside: Inside) -> None:
    await inside.govern_default()
    assert isinstance(await inside.admit("r1"), Admitted)
    await inside.govern("virtual_key", inside.key(hmac=key_hmac(KEY_SECRET, sha256_hex(OTHER))))
    await inside.governed()
    assert await reason(inside, "r2") == "unknown_key"
    assert isinstance(await inside.admit("r3", key_hashes=presented(OTHER)), Admitted)


async def test_an_event_judged_by_old_versions_has_no_effect(inside: Inside) -> None:
    await inside.govern_default()
    inside.versions["key1"] = 0
    await inside.govern("virtual_key", inside.key(is_active=False))
    await inside.governed()
    assert isinstance(await inside.admit("r1"), Admitted)


async def test_models_and_providers(inside: Inside) -> None:
    config = ProviderConfig(id="pc", provider="anthropic", allowed_models=("claude-haiku-4-5",))
    await inside.govern_default(provider_configs=(config,))
    refused = await inside.admit("r1")
    assert (refused.reason, refused.subject, refused.allowed) == ("model_not_allowed", MODEL, ("claude-haiku-4-5",))
    assert isinstance(await inside.admit("r2", model="claude-haiku-4-5-20251001"), Admitted)
    assert await reason(inside, "r3", provider="groq") == "unknown_provider"
    await inside.govern("provider", Provider(id="p2", name="second", kind="anthropic", created_at_s=NOW_S))
    await inside.governed()
    assert await reason(inside, "r4", provider="second", model="claude-haiku-4-5") == "provider_not_allowed"
    await inside.govern("virtual_key", inside.key(provider_configs=None))
    await inside.governed()
    assert isinstance(await inside.admit("r5", provider="second"), Admitted)
    assert await reason(inside, "r6", model="mystery-model") == "unpriced_model"
    await inside.govern("virtual_key", inside.key(provider_configs=()))
    await inside.governed()
    assert await reason(inside, "r7") == "provider_not_allowed"


async def test_a_price_override_makes_a_new_book_and_prices_the_unknown(inside: Inside) -> None:
    await inside.govern_default()
    first = await inside.admit("r1")
    assert await reason(inside, "r2", model="mystery-model") == "unpriced_model"
    override = PriceOverride(model="mystery-model", input="1", output="2")
    await inside.govern(
        "provider",
        Provider(id="prov1", name="anthropic", kind="anthropic", created_at_s=NOW_S, price_overrides=(override,)),
    )
    await inside.governed()
    second = await inside.admit("r3", model="mystery-model")
    assert isinstance(second, Admitted)
    assert second.price_book_id != first.price_book_id
    assert await inside.main.books.encoded(first.price_book_id) is not None


async def test_price_books_are_published_once(inside: Inside) -> None:
    await inside.govern_default()
    admitted = await inside.admit("r1")
    other = inside.enforcer()
    await other.ledger.connect()
    await other.event_log.start()
    await other.books.of_all()
    before = inside.governance_events
    await inside.main.projector.publish_once()
    await other.projector.publish_once()
    inside.governance_events = before + 1
    await inside.governed()
    await inside.main.projector.publish_once()
    assert inside.main.books.unpublished == []
    records = await inside.log.read("bursar.governance.v1", 0, before)
    assert admitted.price_book_id.encode() in records[0].value
    assert len(records) <= 2


async def test_authorize_lists_what_the_key_may_use(inside: Inside) -> None:
    config = ProviderConfig(id="pc", provider="anthropic", allowed_models=("claude-haiku-4-5",))
    await inside.govern_default(provider_configs=(config,), budgets=(budget("bk", 0),))
    (reply,) = await inside.batch(Authorize(presented(KEY_VALUE), list_models=True))
    assert isinstance(reply, Authorized)
    assert reply.owners.virtual_key == "alice"
    assert [model.id for model in reply.models] == ["claude-haiku-4-5"]
    (reply,) = await inside.batch(Authorize(presented(KEY_VALUE), model=MODEL))
    assert reply.reason == "model_not_allowed"
    (reply,) = await inside.batch(Authorize(presented("nobody")))
    assert reply.reason == "unknown_key"


async def test_strict_needs_a_bound(inside: Inside) -> None:
    await inside.govern_default(budgets=(budget("bk", 10**12, enforcement="strict"),))
    assert await reason(inside, "r1", features=Features(text_bytes=1, unbounded="mcp_servers")) == "no_bound"
    refused = await inside.admit("r2", features=Features(text_bytes=1, server_tools=(ServerTool("web_search"),)))
    assert (refused.reason, refused.subject, refused.owner) == ("no_bound", "web_search", "alice")
    admitted = await inside.admit("r3")
    strict = next(entry for entry in admitted.hold if entry.counter.startswith("n:bk:"))
    assert strict.strict
    assert strict.expected == strict.bound > admitted.expected_nusd


async def test_the_callers_own_login_pays_no_dollars_but_counts_tokens(inside: Inside) -> None:
    rate = limits_of_now(token_limit_id="rlt", request_limit_id="rlr", request_max=1)
    config = ProviderConfig(id="pc", provider="anthropic", credential="client", rate_limit=rate)
    await inside.govern_default(provider_configs=(config,), budgets=(budget("bk", 0),))
    admitted = await inside.admit("r1")
    assert isinstance(admitted, Admitted)
    assert admitted.route.credential == "client"
    assert [entry.counter[:6] for entry in admitted.hold] == ["t:rlt:", "r:rlr:"]
    refused = await inside.admit("r2")
    assert (refused.reason, refused.owner_kind, refused.unit) == ("requests_limited", "provider_config", "r")
    assert 0 < refused.retry_after_s <= 3600
