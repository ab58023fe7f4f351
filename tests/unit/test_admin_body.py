"""Every way a body can be wrong: the answer names the path, what was given and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bursar_admin.allocations import AllocationBody, PartBody
from bursar_admin.body import parse_json, read_body
from bursar_admin.errors import HIDDEN, Refusal
from bursar_admin.imports import ImportBody
from bursar_admin.schemas import (
    Body,
    ConfigBody,
    CustomerBody,
    NewVirtualKeyBody,
    ProviderBody,
    TeamBody,
    UserBody,
    VirtualKeyBody,
)


def refusal(model: type[Body], raw: bytes, *, creating: bool = True) -> dict[str, Any]:
    with pytest.raises(Refusal) as caught:
        read_body(model, raw, creating=creating)
    assert caught.value.status == 400
    return dict(caught.value.as_json("r")["error"])


def key_with(**fields: Any) -> bytes:
    return json.dumps({"name": "k", **fields}).encode()


def budget(**fields: Any) -> bytes:
    return key_with(budget={"max_limit": 1, "reset_duration": "1d", **fields})


def in_config(**fields: Any) -> bytes:
    return key_with(provider_configs=[{"provider": "anthropic", **fields}])


def limit(**fields: Any) -> bytes:
    return key_with(rate_limit={"token_max_limit": 1, "token_reset_duration": "1d", **fields})


@pytest.mark.parametrize(
    ("raw", "path", "given"),
    [
        (key_with(nam="x"), "nam", "x"),
        (key_with(vlaue="sk-bf-0123456789abcdef0123"), "vlaue", HIDDEN),
        (key_with(vlaue="0123456789abcdef0123"), "vlaue", HIDDEN),
        (key_with(value="short"), "value", HIDDEN),
        (key_with(value="a" * 40), "value", HIDDEN),
        (key_with(value="sk-ant-api03-abcdefghijklmnopqrstuvwxyz"), "value", HIDDEN),
        (key_with(value="clé-0123456789abcdefghij"), "value", HIDDEN),
        (key_with(value_sha256="zz"), "value_sha256", HIDDEN),
        (key_with(value_sha256="g" * 64), "value_sha256", HIDDEN),
        (key_with(is_active="yes"), "is_active", "yes"),
        (key_with(is_active=1), "is_active", 1),
        (key_with(is_active=None), "is_active", None),
        (key_with(description="line\nbreak"), "description", "line\nbreak"),
        (key_with(description=7), "description", 7),
        (key_with(expires_at="tomorrow"), "expires_at", "tomorrow"),
        (key_with(expires_at="2027-01-01T00:00:00"), "expires_at", "2027-01-01T00:00:00"),
        (key_with(expires_at=1800000000), "expires_at", 1800000000),
        (key_with(version=0), "version", 0),
        (key_with(version="3"), "version", "3"),
        (key_with(calendar_aligned="true"), "calendar_aligned", "true"),
        (key_with(team_id=7), "team_id", 7),
        (key_with(team_id=""), "team_id", ""),
        (key_with(budget=100), "budget", 100),
        (key_with(budget=[]), "budget", "a list of 0"),
        (key_with(budgets={}), "budgets", "an object"),
        (key_with(budgets=[None]), "budgets[0]", None),
        (key_with(budgets=[{"max_limit": 1, "reset_duration": "1d"}] * 17), "budgets", "a list of 17"),
        (budget(max_limit=-1), "budget.max_limit", -1),
        (budget(max_limit="100 $"), "budget.max_limit", "100 $"),
        (budget(max_limit=True), "budget.max_limit", True),
        (budget(max_limit=9_000_000_001), "budget.max_limit", 9_000_000_001),
        (budget(max_limit=0.0000000001), "budget.max_limit", "1E-10"),
        (budget(max_limit=1e300), "budget.max_limit", "1E+300"),
        (budget(max_limit=[1]), "budget.max_limit", "a list of 1"),
        (budget(max_overshoot=-0.01), "budget.max_overshoot", "-0.01"),
        (budget(reset_duration="1 day"), "budget.reset_duration", "1 day"),
        (budget(reset_duration="59s"), "budget.reset_duration", "59s"),
        (budget(reset_duration="13M"), "budget.reset_duration", "13M"),
        (budget(reset_duration="2Y"), "budget.reset_duration", "2Y"),
        (budget(reset_duration=86400), "budget.reset_duration", 86400),
        (budget(enforcement="hard"), "budget.enforcement", "hard"),
        (budget(limit=5), "budget.limit", 5),
        (limit(token_max_limit=1.5), "rate_limit.token_max_limit", "1.5"),
        (limit(token_max_limit="5"), "rate_limit.token_max_limit", "5"),
        (limit(token_max_limit=-1), "rate_limit.token_max_limit", -1),
        (limit(token_max_limit=False), "rate_limit.token_max_limit", False),
        (limit(request_max_limit=1 << 60), "rate_limit.request_max_limit", 1 << 60),
        (limit(request_reset_duration="1x"), "rate_limit.request_reset_duration", "1x"),
        (limit(count_cache_reads=1), "rate_limit.count_cache_reads", 1),
        (limit(tokens=1), "rate_limit.tokens", 1),
        (key_with(provider_configs={}), "provider_configs", "an object"),
        (key_with(provider_configs=[{}]), "provider_configs[0].provider", None),
        (in_config(weight="1"), "provider_configs[0].weight", "1"),
        (in_config(weight=-1), "provider_configs[0].weight", -1),
        (in_config(weight=True), "provider_configs[0].weight", True),
        (in_config(allowed_models="*"), "provider_configs[0].allowed_models", "*"),
        (in_config(allowed_models=["*", "x"]), "provider_configs[0].allowed_models", "a list of 2"),
        (in_config(allowed_models=[1]), "provider_configs[0].allowed_models", "a list of 1"),
        (in_config(credential="env:X"), "provider_configs[0].credential", HIDDEN),
        (in_config(budget={"max_limit": -5, "reset_duration": "1d"}), "provider_configs[0].budget.max_limit", -5),
        (in_config(budgets=[{"reset_duration": "x"}]), "provider_configs[0].budgets[0].reset_duration", "x"),
        (in_config(models=[]), "provider_configs[0].models", "a list of 0"),
        (b"{}", "name", None),
        (b'{"name": null}', "name", None),
        (b'{"name": ""}', "name", ""),
        (b'{"name": " x"}', "name", " x"),
        (b'{"name": "a\\u0007b"}', "name", "a\x07b"),
        (b'{"name": 5}', "name", 5),
        (b'{"name": "k", "name": "l"}', "name", None),
        (b'{"name": "k", "budget": {"max_limit": 1, "max_limit": 2}}', "max_limit", None),
        (json.dumps({"name": "n" * 129}).encode(), "name", "n" * 120 + "..."),
        (b'{"name": "k", "description": "\\ud800"}', "", None),
        (b"", "", None),
        (b"[]", "", "a list of 0"),
        (b'"sk-bf-secret"', "", HIDDEN),
        (b"{", "", None),
        (b"\xef\xbb\xbf{}", "", None),
        (b'{"name": "\xff"}', "", None),
        (b'{"name": "k", "version": ' + b"9" * 5000 + b"}", "", None),
        (b'{"name": "k", "version": 1e99999999999999999999}', "", None),
        (b'{"name":' + b"[" * 100_000, "", None),
    ],
)
def test_a_wrong_key_is_named_by_its_path(raw: bytes, path: str, given: Any) -> None:
    error = refusal(NewVirtualKeyBody, raw)
    assert error["field"] == path
    assert error["given"] == given
    assert error["allowed"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("model", "body", "path"),
    [
        (CustomerBody, {"name": "c", "timezone": "Mars/Olympus"}, "timezone"),
        (CustomerBody, {"name": "c", "customer_id": "x"}, "customer_id"),
        (TeamBody, {"name": "t", "timezone": 5}, "timezone"),
        (TeamBody, {"name": "t", "provider_configs": []}, "provider_configs"),
        (UserBody, {"name": "u", "email": "nobody"}, "email"),
        (UserBody, {"name": "u", "budget": {"max_limit": 1, "reset_duration": "1d"}}, "budget"),
        (UserBody, {"name": "u", "rate_limit": {}}, "rate_limit"),
        (ProviderBody, {"name": "p"}, "credential"),
        (ProviderBody, {"name": "p", "credential": "client", "kind": "openai"}, "kind"),
        (ProviderBody, {"name": "p", "credential": "client", "discount_percent": 101}, "discount_percent"),
        (ProviderBody, {"name": "p", "credential": "client", "discount_percent": "NaN"}, "discount_percent"),
        (ProviderBody, {"name": "p", "credential": "client", "unpriced_models": "free"}, "unpriced_models"),
        (
            ProviderBody,
            {"name": "p", "credential": "client", "price_overrides": [{"model": "m", "input": "-1", "output": "1"}]},
            "price_overrides[0].input",
        ),
        (
            ProviderBody,
            {"name": "p", "credential": "client", "price_overrides": [{"model": "m", "input": 1}]},
            "price_overrides[0].output",
        ),
        (ConfigBody, {}, "client_config"),
        (ConfigBody, {"client_config": None}, "client_config"),
        (ConfigBody, {"client_config": {"enforce_auth_on_inference": "on"}}, "client_config.enforce_auth_on_inference"),
        (ConfigBody, {"client_config": {"enforce_auth": True}}, "client_config.enforce_auth"),
        (VirtualKeyBody, {"value": "0123456789abcdefghijklmn"}, "value"),
    ],
)
def test_other_kinds_likewise(model: type[Body], body: dict[str, Any], path: str) -> None:
    assert refusal(model, json.dumps(body).encode())["field"] == path


CONSTANTS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
PATHS_OF_A_KEY = [
    ("budget.max_limit", lambda n: budget(max_limit=n)),
    ("budget.max_overshoot", lambda n: budget(max_overshoot=n)),
    ("budget.reset_duration", lambda n: budget(reset_duration=n)),
    ("budget.enforcement", lambda n: budget(enforcement=n)),
    ("budget.calendar_aligned", lambda n: budget(calendar_aligned=n)),
    ("budgets[0].max_limit", lambda n: key_with(budgets=[{"max_limit": n, "reset_duration": "1d"}])),
    ("rate_limit.token_max_limit", lambda n: limit(token_max_limit=n)),
    ("provider_configs[0].budget.max_limit", lambda n: in_config(budget={"max_limit": n, "reset_duration": "1d"})),
    ("provider_configs[0].budget", lambda n: in_config(budget=n)),
    ("provider_configs[0].weight", lambda n: in_config(weight=n)),
    ("provider_configs[0]", lambda n: key_with(provider_configs=[n])),
    ("provider_configs", lambda n: key_with(provider_configs=n)),
    ("name", lambda n: key_with(name=n)),
    ("team_id", lambda n: key_with(team_id=n)),
    ("is_active", lambda n: key_with(is_active=n)),
    ("expires_at", lambda n: key_with(expires_at=n)),
    ("content", lambda n: key_with(content=n)),
    ("version", lambda n: key_with(version=n)),
    ("colour", lambda n: key_with(colour=n)),
    ("", lambda n: json.dumps(n).encode()),
]


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize(("path", "body"), PATHS_OF_A_KEY, ids=[path or "body" for path, _ in PATHS_OF_A_KEY])
def test_no_field_takes_nan_or_infinity_and_its_path_is_named(
    path: str, body: Callable[[float], bytes], constant: str
) -> None:
    raw = body(CONSTANTS[constant])
    assert constant.encode() in raw
    error = refusal(NewVirtualKeyBody, raw)
    assert (error["field"], error["given"]) == (path, constant)
    assert error["allowed"]
    assert "problems" not in error


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize(
    ("model", "body", "path"),
    [
        (ProviderBody, {"name": "p", "credential": "client", "discount_percent": "?"}, "discount_percent"),
        (
            ProviderBody,
            {"name": "p", "credential": "client", "price_overrides": [{"model": "m", "input": "?", "output": 1}]},
            "price_overrides[0].input",
        ),
        (PartBody, {"team_id": "t", "percent": "?"}, "percent"),
        (
            ImportBody,
            {"entries": [{"message_id": "m", "started_at_ms": "?", "model": "m"}]},
            "entries[0].started_at_ms",
        ),
    ],
)
def test_other_kinds_take_neither(model: type[Body], body: dict[str, Any], path: str, constant: str) -> None:
    error = refusal(model, json.dumps(body).replace('"?"', constant).encode())
    assert path in {problem["field"] for problem in error.get("problems", [error])}


def test_a_field_that_would_take_anything_takes_neither() -> None:
    class Loose(Body):
        anything: Any = None

    error = refusal(Loose, b'{"anything": [1, {"x": 2.5, "y": [-Infinity]}]}')
    assert (error["field"], error["given"]) == ("anything[1].y[0]", "-Infinity")


def test_all_faults_are_listed_at_once() -> None:
    raw = key_with(budget={"max_limit": -1, "reset_duration": "x"}, colour="red", is_active="no")
    error = refusal(NewVirtualKeyBody, raw)
    fields = {problem["field"] for problem in error["problems"]}
    assert fields == {"budget.max_limit", "budget.reset_duration", "colour", "is_active"}


def test_a_misspelled_field_is_suggested() -> None:
    error = refusal(NewVirtualKeyBody, key_with(provider_config=[]))
    assert "provider_configs" in error["message"]
    assert "provider_configs" in error["allowed"]


def test_a_user_with_a_budget_is_told_where_it_goes() -> None:
    raw = json.dumps({"name": "u", "budget": {"max_limit": 5, "reset_duration": "1d"}}).encode()
    assert "not supported on users yet" in refusal(UserBody, raw)["message"]


@pytest.mark.parametrize(
    ("text", "nusd"),
    [
        (b"100.00", 100_000_000_000),
        (b"100", 100_000_000_000),
        (b"0", 0),
        (b"0.000000001", 1),
        (b"0.1", 100_000_000),
        (b"1e2", 100_000_000_000),
        (b"8999999999.999999999", 8_999_999_999_999_999_999),
        (b"9000000000", 9_000_000_000_000_000_000),
    ],
)
def test_dollars_are_exact(text: bytes, nusd: int) -> None:
    body = read_body(
        TeamBody, b'{"name":"t","budget":{"max_limit":' + text + b',"reset_duration":"1d"}}', creating=True
    )
    assert body.budget is not None
    assert body.budget.max_limit == nusd


def test_null_clears_and_absence_keeps() -> None:
    body = read_body(VirtualKeyBody, b'{"team_id": null, "budget": null}', creating=False)
    assert body.given("team_id")
    assert body.given("budget")
    assert not body.given("rate_limit")


def test_parsing_keeps_fractions_exact() -> None:
    assert str(parse_json(b"0.10")) == "0.10"


def allocation(text: str) -> bytes:
    """With an amount and a percentage of this JSON."""
    parts = f'[{{"percent": {text}}}]'
    return f'{{"name": "a", "kind": "fee", "from_month": "2026-12", "amount": {text}, "parts": {parts}}}'.encode()


@pytest.mark.parametrize("text", ["20.000000001", "0.1", "20", "33.3333", "0"])
def test_amounts_and_percentages_are_numbers_or_decimal_text_alike_and_exact(text: str) -> None:
    found = [read_body(AllocationBody, allocation(written), creating=True) for written in (text, f'"{text}"')]
    for each in found:
        assert each.amount == Decimal(text) * 1_000_000_000
        assert each.parts is not None
        assert Decimal(each.parts[0].percent or "") == Decimal(text)


NO_DECIMALS = ["1e1", " 20", "20.", ".5", "+1", "-1", "1_0", "NaN", "\N{ARABIC-INDIC DIGIT THREE}", "", "ten", "0" * 41]


@pytest.mark.parametrize("text", [*(json.dumps(text) for text in NO_DECIMALS), "true", "-1", "[1]", "99999999999"])
def test_what_is_no_amount_is_no_percentage(text: str) -> None:
    error = refusal(AllocationBody, allocation(text))
    assert {each["field"] for each in error["problems"]} == {"amount", "parts[0].percent"}
    assert all("a number or a decimal string" in each["allowed"] for each in error["problems"])
