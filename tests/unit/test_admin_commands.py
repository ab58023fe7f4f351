"""Commands as history, command, outcome: what is written, what is refused, which versions collide."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from bursar_admin import keys, owners, providers
from bursar_admin.addresses import UpstreamRules
from bursar_admin.body import read_body
from bursar_admin.errors import Refusal
from bursar_admin.limits import Moment
from bursar_admin.projection import Projection
from bursar_admin.schemas import (
    ConfigBody,
    CustomerBody,
    NewVirtualKeyBody,
    ProviderBody,
    TeamBody,
    UserBody,
    VirtualKeyBody,
)
from bursar_admin.writes import Decision, NoChange, Write
from bursar_common.governance import Applied, Rejected

NOW_S = 1_795_000_000  # 2026-11-18
RULES = UpstreamRules(frozenset({"gw.internal:8080"}), frozenset({"ANTHROPIC_API_KEY"}), has_secrets_dir=True)
MONTH = {"max_limit": 100, "reset_duration": "1M"}


class World:
    """A projection with a history, built through the commands themselves."""

    def __init__(self) -> None:
        self.projection = Projection()
        self.ids = count(1)
        self.hashes = count(1)
        for event in providers.first_events(self.projection, self.moment()):
            assert isinstance(self.projection.apply(event), Applied)

    def moment(self, openings: dict[tuple[str, int], int] | None = None) -> Moment:
        return Moment(NOW_S, lambda: f"id-{next(self.ids):04}", "local", openings or {})

    def apply(self, decision: Decision) -> str:
        if isinstance(decision, Write):
            assert isinstance(self.projection.apply(decision.data), Applied)
        return decision.entity_id

    def decide(self, kind: str, **body: Any) -> Decision:
        projection, moment = self.projection, self.moment()
        if kind == "customer":
            return owners.create_customer(projection, parse(CustomerBody, body), moment)
        if kind == "team":
            return owners.create_team(projection, parse(TeamBody, body), moment)
        if kind == "user":
            return owners.create_user(projection, parse(UserBody, body), moment)
        if kind == "provider":
            return providers.create_provider(projection, parse(ProviderBody, body), RULES, moment)
        hmac = body.pop("hmac", None) or f"{next(self.hashes):064x}"
        return keys.create_key(projection, parse(NewVirtualKeyBody, body), hmac, moment)

    def change_decision(self, kind: str, entity_id: str, **body: Any) -> Decision:
        projection, moment = self.projection, self.moment()
        if kind == "customer":
            return owners.change_customer(projection, entity_id, parse(CustomerBody, body, False), moment)
        if kind == "team":
            return owners.change_team(projection, entity_id, parse(TeamBody, body, False), moment)
        if kind == "user":
            return owners.change_user(projection, entity_id, parse(UserBody, body, False), moment)
        if kind == "provider":
            return providers.change_provider(projection, entity_id, parse(ProviderBody, body, False), RULES, moment)
        if kind == "config":
            return providers.change_config(projection, parse(ConfigBody, {"client_config": body}, False), moment)
        return keys.change_key(projection, entity_id, parse(VirtualKeyBody, body, False), moment)

    def make(self, kind: str, **body: Any) -> str:
        return self.apply(self.decide(kind, **body))

    def change(self, kind: str, entity_id: str, **body: Any) -> str:
        return self.apply(self.change_decision(kind, entity_id, **body))

    def deletion(self, kind: str, entity_id: str, version: int | None = None) -> Decision:
        return owners.delete(self.projection, kind, entity_id, version, self.moment())

    def rotation(self, key_id: str, hmac: str) -> Decision:
        return keys.rotate_key(self.projection, key_id, hmac, None, self.moment())


def parse(model: Any, body: dict[str, Any], creating: bool = True) -> Any:
    return read_body(model, json.dumps(body).encode(), creating=creating)


@pytest.fixture
def world() -> World:
    return World()


def refused(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


def field_of(refusal: Refusal) -> str:
    return str(refusal.as_json("")["error"]["field"])


# ---- names


@pytest.mark.parametrize("kind", ["customer", "team", "user", "virtual_key"])
def test_a_name_is_unique_per_kind_and_parent(world: World, kind: str) -> None:
    first = world.make(kind, name="x")
    refusal = refused(lambda: world.decide(kind, name="x"))
    assert (refusal.status, refusal.extra["existing_id"]) == (409, first)
    for other in {"customer", "team", "user", "virtual_key"} - {kind}:
        world.make(other, name="x")


def test_the_same_name_below_another_parent_is_another(world: World) -> None:
    a, b = world.make("team", name="a"), world.make("team", name="b")
    world.make("virtual_key", name="x", team_id=a)
    moved = world.make("virtual_key", name="x", team_id=b)
    refusal = refused(lambda: world.change_decision("virtual_key", moved, team_id=a))
    assert refusal.status == 409


def test_a_name_is_free_again_after_renaming_and_deleting(world: World) -> None:
    first = world.make("team", name="x")
    world.change("team", first, name="y")
    second = world.make("team", name="x")
    world.apply(world.deletion("team", second))
    world.make("team", name="x")
    assert refused(lambda: world.decide("team", name="y")).extra["existing_id"] == first


# ---- races: two decisions on the same state, one after the other in the log


def test_concurrent_writers_collide_where_they_must(world: World) -> None:
    customer = world.make("customer", name="c")
    team = world.make("team", name="t", customer_id=customer)
    empty = world.make("team", name="empty")
    key = world.make("virtual_key", name="k", team_id=team)
    lonely = world.make("virtual_key", name="lonely")
    provider = world.make("provider", name="p", credential="client")
    idle = world.make("user", name="idle")
    cases: list[tuple[str, Decision, Decision]] = [
        ("one name twice", world.decide("team", name="n"), world.decide("team", name="n")),
        (
            "rename to a name being taken",
            world.change_decision("team", empty, name="n"),
            world.decide("team", name="n"),
        ),
        (
            "delete an empty team, add a key",
            world.deletion("team", empty),
            world.decide("virtual_key", name="z", team_id=empty),
        ),
        (
            "add a key, delete the team",
            world.decide("virtual_key", name="z", team_id=empty),
            world.deletion("team", empty),
        ),
        (
            "move a key in, delete the team",
            world.change_decision("virtual_key", key, team_id=empty),
            world.deletion("team", empty),
        ),
        (
            "delete a user, give it a key",
            world.deletion("user", idle),
            world.decide("virtual_key", name="z", user_id=idle),
        ),
        (
            "give a user a key, delete it",
            world.decide("virtual_key", name="z", user_id=idle),
            world.deletion("user", idle),
        ),
        (
            "use a provider, delete it",
            world.decide("virtual_key", name="z", provider_configs=[{"provider": "p"}]),
            world.deletion("provider", provider),
        ),
        (
            "delete a provider, use it",
            world.deletion("provider", provider),
            world.decide("virtual_key", name="z", provider_configs=[{"provider": "p"}]),
        ),
        (
            "one value twice",
            world.decide("virtual_key", name="y", hmac="f" * 64),
            world.decide("virtual_key", name="z", team_id=team, hmac="f" * 64),
        ),
        (
            "rotate to a value being taken",
            world.rotation(key, "f" * 64),
            world.decide("virtual_key", name="z", hmac="f" * 64),
        ),
        (
            "change twice",
            world.change_decision("team", team, name="t2"),
            world.change_decision("team", team, timezone="UTC"),
        ),
        (
            "delete and change",
            world.deletion("virtual_key", key),
            world.change_decision("virtual_key", key, is_active=False),
        ),
        (
            "delete a key, make it the default",
            world.deletion("virtual_key", lonely),
            world.change_decision("config", "", default_virtual_key_id=lonely),
        ),
        (
            "make a key the default, delete it",
            world.change_decision("config", "", default_virtual_key_id=lonely),
            world.deletion("virtual_key", lonely),
        ),
        (
            "zone changes, a limit by its calendar comes",
            world.change_decision("customer", customer, timezone="Asia/Tokyo"),
            world.change_decision("virtual_key", key, budget=MONTH),
        ),
        (
            "a limit by its calendar comes, zone changes",
            world.change_decision("virtual_key", key, budget=MONTH),
            world.change_decision("customer", customer, timezone="Asia/Tokyo"),
        ),
        (
            "team joins another zone, limit comes",
            world.change_decision("virtual_key", key, budget=MONTH),
            world.change_decision("team", team, timezone="Asia/Tokyo"),
        ),
    ]
    state = {**world.projection.versions}
    for name, first, second in cases:
        assert isinstance(first, Write)
        assert isinstance(second, Write)
        fresh = Projection()
        fresh.versions = {**state}
        assert isinstance(fresh.apply(first.data), Applied), name
        assert isinstance(fresh.apply(second.data), Rejected), name


def test_unrelated_writers_do_not_collide(world: World) -> None:
    a, b = world.make("team", name="a"), world.make("team", name="b")
    pairs = [
        (world.decide("virtual_key", name="x", team_id=a), world.decide("virtual_key", name="x", team_id=b)),
        (world.change_decision("team", a, name="a2"), world.decide("customer", name="c")),
        (world.decide("user", name="u", team_id=a), world.change_decision("team", b, timezone="UTC")),
    ]
    state = {**world.projection.versions}
    for first, second in pairs:
        fresh = Projection()
        fresh.versions = {**state}
        assert race_on(fresh, first, second)


def race_on(projection: Projection, first: Decision, second: Decision) -> bool:
    assert isinstance(first, Write)
    assert isinstance(second, Write)
    return all(isinstance(projection.apply(event.data), Applied) for event in (first, second))


# ---- children


def test_owners_with_children_stay(world: World) -> None:
    customer = world.make("customer", name="c")
    team = world.make("team", name="t", customer_id=customer)
    user = world.make("user", name="u", team_id=team)
    key = world.make("virtual_key", name="k", team_id=team, user_id=user, provider_configs=[{"provider": "anthropic"}])
    direct = world.make("virtual_key", name="d", customer_id=customer)
    provider = world.projection.provider_named("anthropic")
    assert provider is not None
    for kind, entity_id, children in [
        ("customer", customer, {team, direct}),
        ("team", team, {user, key}),
        ("user", user, {key}),
        ("provider", provider.id, {key}),
    ]:
        refusal = refused(lambda kind=kind, entity_id=entity_id: world.deletion(kind, entity_id))  # type: ignore[misc]
        assert refusal.status == 409
        assert {child["id"] for child in refusal.extra["children"]} == children
    world.apply(world.deletion("virtual_key", key))
    world.apply(world.deletion("virtual_key", direct))
    for kind, entity_id in [("user", user), ("team", team), ("customer", customer), ("provider", provider.id)]:
        world.apply(world.deletion(kind, entity_id))


def test_the_list_of_children_is_bounded(world: World) -> None:
    parent = world.make("customer", name="c")
    team = world.make("team", name="t", customer_id=parent)
    for number in range(30):
        world.make("virtual_key", name=f"k{number}", team_id=team)
    assert "still has 1 child:" in refused(lambda: world.deletion("customer", parent)).message
    refusal = refused(lambda: world.deletion("team", team))
    assert len(refusal.extra["children"]) == 20
    assert refusal.extra["children_count"] == 30
    assert "10 more" in refusal.message


# ---- references


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("team", {"customer_id": "nobody"}, "customer_id"),
        ("user", {"team_id": "nobody"}, "team_id"),
        ("virtual_key", {"team_id": "nobody"}, "team_id"),
        ("virtual_key", {"customer_id": "nobody"}, "customer_id"),
        ("virtual_key", {"user_id": "nobody"}, "user_id"),
        ("virtual_key", {"provider_configs": [{"provider": "groq"}]}, "provider_configs[0].provider"),
        ("virtual_key", {"provider_configs": [{"provider": "anthropic"}] * 2}, "provider_configs[1].provider"),
        ("virtual_key", {"provider_configs": [{"provider": "anthropic", "id": "x"}]}, "provider_configs[0].id"),
        ("virtual_key", {"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ("virtual_key", {"budget": MONTH, "budgets": [MONTH]}, "budgets"),
        ("virtual_key", {"budget": {"max_limit": 5}}, "budget.reset_duration"),
        ("virtual_key", {"budget": {"reset_duration": "1d"}}, "budget.max_limit"),
        ("virtual_key", {"budgets": [MONTH, {"id": "x"}]}, "budgets[1].id"),
        ("virtual_key", {"budget": {**MONTH, "id": "x"}}, "budget.id"),
        (
            "virtual_key",
            {"budget": {**MONTH, "reset_duration": "2M", "calendar_aligned": True}},
            "budget.reset_duration",
        ),
        ("virtual_key", {"budget": {**MONTH, "enforcement": "strict", "max_overshoot": 1}}, "budget.max_overshoot"),
        ("virtual_key", {"budget": {**MONTH, "enforcement": "observe", "max_overshoot": 0}}, "budget.max_overshoot"),
        (
            "virtual_key",
            {"calendar_aligned": True, "rate_limit": {"token_max_limit": 1, "token_reset_duration": "5h"}},
            "rate_limit.token_reset_duration",
        ),
        ("virtual_key", {"rate_limit": {}}, "rate_limit"),
        ("virtual_key", {"rate_limit": {"token_max_limit": 5}}, "rate_limit.token_reset_duration"),
        (
            "virtual_key",
            {"rate_limit": {"request_max_limit": 5, "token_max_limit": 1, "token_reset_duration": "1d"}},
            "rate_limit.request_reset_duration",
        ),
        (
            "virtual_key",
            {"provider_configs": [{"provider": "anthropic", "budget": {"max_limit": 1}}]},
            "provider_configs[0].budget.reset_duration",
        ),
        ("provider", {"credential": "env:HOME"}, "credential"),
        ("provider", {"credential": "file:../x"}, "credential"),
        ("provider", {"credential": "client,env:ANTHROPIC_API_KEY"}, "credential"),
        ("provider", {"credential": "sk-ant-api03-pasted"}, "credential"),
        ("provider", {"credential": "client", "base_url": "http://api.example.com"}, "base_url"),
        (
            "provider",
            {"credential": "client", "price_overrides": [{"model": "m", "input": 1, "output": 1}] * 2},
            "price_overrides[1]",
        ),
    ],
)
def test_what_does_not_fit_is_400_with_its_path(world: World, kind: str, body: dict[str, Any], field: str) -> None:
    refusal = refused(lambda: world.decide(kind, name="x", **body))
    assert refusal.status == 400
    assert field_of(refusal) == field
    assert "sk-ant" not in json.dumps(refusal.as_json(""))


def test_unpriced_models_are_refused_with_near_ones(world: World) -> None:
    body = [{"provider": "anthropic", "allowed_models": ["claude-sonnet-4-6", "claude-sonet-4-6"]}]
    refusal = refused(lambda: world.decide("virtual_key", name="x", provider_configs=body))
    assert field_of(refusal) == "provider_configs[0].allowed_models[1]"
    assert any("sonnet" in model for model in refusal.problems[0].allowed)


def test_an_override_makes_a_model_usable_and_cannot_be_taken_from_under_it(world: World) -> None:
    price = [{"model": "claude-next-1", "input": 3, "output": "15.5"}]
    provider = world.projection.provider_named("anthropic")
    assert provider is not None
    world.change("provider", provider.id, price_overrides=price)
    world.make(
        "virtual_key", name="x", provider_configs=[{"provider": "anthropic", "allowed_models": ["claude-next-1"]}]
    )
    refusal = refused(lambda: world.change_decision("provider", provider.id, price_overrides=[]))
    assert (refusal.status, field_of(refusal)) == (400, "price_overrides[0]")


# ---- keys and their customer


def test_a_key_inherits_its_teams_customer(world: World) -> None:
    c, d = world.make("customer", name="c"), world.make("customer", name="d")
    team = world.make("team", name="t", customer_id=c)
    key = world.make("virtual_key", name="k", team_id=team, customer_id=c)
    assert world.projection.virtual_keys[key].customer_id == ""
    for body in ({"customer_id": d}, {"customer_id": None}, {"team_id": team, "customer_id": d}):
        refusal = refused(lambda body=body: world.change_decision("virtual_key", key, **body))  # type: ignore[misc]
        assert (refusal.status, field_of(refusal)) == (400, "customer_id")
    world.change("virtual_key", key, team_id=None, customer_id=d)
    assert world.projection.virtual_keys[key].customer_id == d
    world.change("virtual_key", key, team_id=team)
    assert world.projection.virtual_keys[key].customer_id == ""
    assert refused(lambda: world.decide("virtual_key", name="z", team_id=team, customer_id=d)).status == 400


@pytest.mark.parametrize(
    ("configs", "stored"),
    [
        ({}, None),
        ({"provider_configs": None}, None),
        ({"provider_configs": []}, ()),
    ],
)
def test_absent_configs_mean_every_provider_and_empty_ones_none(
    world: World, configs: dict[str, Any], stored: Any
) -> None:
    key = world.make("virtual_key", name="k", **configs)
    assert world.projection.virtual_keys[key].provider_configs == stored


@pytest.mark.parametrize(
    ("models", "stored"), [({}, None), ({"allowed_models": ["*"]}, None), ({"allowed_models": []}, ())]
)
def test_absent_models_mean_all_and_an_empty_list_none(world: World, models: dict[str, Any], stored: Any) -> None:
    key = world.make("virtual_key", name="k", provider_configs=[{"provider": "anthropic", **models}])
    configs = world.projection.virtual_keys[key].provider_configs
    assert configs is not None
    assert configs[0].allowed_models == stored


def test_a_given_field_changes_and_the_others_stay(world: World) -> None:
    key = world.make("virtual_key", name="k", description="d", budget=MONTH, expires_at="2030-01-01T00:00:00Z")
    before = world.projection.virtual_keys[key]
    world.change("virtual_key", key, is_active=False)
    after = world.projection.virtual_keys[key]
    assert after.is_active is False
    assert (after.description, after.budgets, after.expires_at_s, after.hmac) == (
        before.description,
        before.budgets,
        before.expires_at_s,
        before.hmac,
    )
    world.change("virtual_key", key, expires_at=None, budget=None)
    after = world.projection.virtual_keys[key]
    assert (after.expires_at_s, after.budgets) == (None, ())


def test_nothing_is_written_when_nothing_changes(world: World) -> None:
    key = world.make("virtual_key", name="k", budget=MONTH)
    assert isinstance(world.change_decision("virtual_key", key, is_active=True, budget=MONTH), NoChange)


def test_rotation_changes_the_value_only_and_frees_the_old_one(world: World) -> None:
    key = world.make("virtual_key", name="k", hmac="a" * 64, budget=MONTH)
    before = world.projection.virtual_keys[key]
    world.apply(world.rotation(key, "b" * 64))
    after = world.projection.virtual_keys[key]
    assert (after.hmac, after.budgets) == ("b" * 64, before.budgets)
    assert refused(lambda: world.rotation(key, "b" * 64)).status == 409
    world.make("virtual_key", name="other", hmac="a" * 64)


def test_versions_are_checked(world: World) -> None:
    team = world.make("team", name="t")
    world.change("team", team, name="u", version=1)
    refusal = refused(lambda: world.change_decision("team", team, name="v", version=1))
    assert (refusal.status, refusal.extra["version"]) == (409, 2)
    assert refused(lambda: world.deletion("team", team, 1)).status == 409
    world.apply(world.deletion("team", team, 2))
    assert refused(lambda: world.change_decision("team", team, name="v")).status == 404


# ---- providers and configuration


def test_a_new_address_needs_the_credential_again(world: World) -> None:
    provider = world.projection.provider_named("anthropic")
    assert provider is not None
    refusal = refused(lambda: world.change_decision("provider", provider.id, base_url="https://llm.example.com"))
    assert (refusal.status, field_of(refusal)) == (400, "credential")
    world.change("provider", provider.id, base_url="https://llm.example.com/", credential="env:ANTHROPIC_API_KEY")
    assert world.projection.providers[provider.id].base_url == "https://llm.example.com"
    world.change("provider", provider.id, base_url="https://llm.example.com", discount_percent=12.5)
    assert world.projection.providers[provider.id].discount_percent == "12.5"
    for body in ({"name": "other"}, {"base_url": ""}):
        assert refused(lambda body=body: world.change_decision("provider", provider.id, **body)).status == 400  # type: ignore[misc]


def test_keys_may_be_left_out_only_with_a_default_key(world: World) -> None:
    refusal = refused(lambda: world.change_decision("config", "", enforce_auth_on_inference=False))
    assert (refusal.status, field_of(refusal)) == (400, "client_config.default_virtual_key_id")
    assert refused(lambda: world.change_decision("config", "", default_virtual_key_id="nobody")).status == 400
    key = world.make("virtual_key", name="k")
    world.change("config", "", enforce_auth_on_inference=False, default_virtual_key_id=key)
    assert refused(lambda: world.deletion("virtual_key", key)).status == 409
    assert refused(lambda: world.change_decision("config", "", default_virtual_key_id=None)).status == 400
    world.change("config", "", enforce_auth_on_inference=True, default_virtual_key_id=None)
    world.apply(world.deletion("virtual_key", key))


def test_first_events_are_written_once_and_a_deleted_provider_stays_away(world: World) -> None:
    assert providers.first_events(world.projection, world.moment()) == []
    provider = world.projection.provider_named("anthropic")
    assert provider is not None
    world.apply(world.deletion("provider", provider.id))
    assert providers.first_events(world.projection, world.moment()) == []


def test_replicas_that_start_together_make_one_of_each() -> None:
    projection = Projection()
    world = World()
    first = providers.first_events(projection, world.moment())
    second = providers.first_events(projection, world.moment())
    verdicts = [projection.apply(event) for event in (*first, *second)]
    assert [type(verdict) for verdict in verdicts] == [Applied, Applied, Rejected, Rejected]
    assert len(projection.providers) == 1


def test_documents_hold_no_defaults_and_no_secrets(world: World) -> None:
    decision = world.decide("virtual_key", name="k", value="0123456789abcdefghijkl")
    assert isinstance(decision, Write)
    assert "0123456789abcdefghijkl" not in json.dumps(decision.data.document)
