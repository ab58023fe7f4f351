"""Every form of Governance, Events and Settings as a browser fills it in, against the REST API it is sent to: good,
wrong in a field, too late, gone. js/forms.js itself runs in tests/e2e/test_pages_governance_browser.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar_common.eventlog.port import NewRecord
from tests.harness.admin import Admin, running_admin
from tests.harness.page_forms import Form, forms_of

HTML = '<script>alert(1)</script> & "Söhne" \''
HTML_ACCEPT = {"accept": "text/html"}


async def page(admin: Admin, path: str, status: int = 200) -> str:
    found, text, headers = await admin.call("GET", path, headers=HTML_ACCEPT)
    assert found == status, text[-2000:]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "<script>alert" not in text
    return str(text)


async def forms(admin: Admin, path: str) -> list[Form]:
    found = forms_of(await page(admin, path))
    for form in found:
        for each in form.fields:
            hidden = each.kind == "json" or each.name.endswith("].id")
            hidden = hidden or (each.name.endswith("].provider") and not each.label_id)
            assert hidden or each.label_id in form.labels, f"{each.name} has no label"
    return found


async def send(admin: Admin, form: Form, **given: Any) -> tuple[int, dict[str, Any]]:
    status, answer, _ = await admin.call(form.method, form.path, form.body(**given), headers=form.headers)
    return status, answer


async def some(admin: Admin) -> dict[str, str]:
    """One of every kind, with everything a form can show."""
    budget = {"max_limit": 12.5, "reset_duration": "1M", "calendar_aligned": True}
    observed = {"max_limit": 3, "reset_duration": "90m", "enforcement": "observe"}
    limits = {"token_max_limit": 5000, "token_reset_duration": "1d", "count_cache_reads": True}
    customer = (await admin.create("customers", name=HTML, timezone="Europe/Berlin", budgets=[budget, observed]))[
        "customer"
    ]["id"]
    team = (
        await admin.create(
            "teams", name=HTML, customer_id=customer, budget={**budget, "max_overshoot": 1}, rate_limit=limits
        )
    )["team"]["id"]
    user = (await admin.create("users", name=HTML, email="a@example.com", team_id=team))["user"]["id"]
    key = (
        await admin.create(
            "virtual-keys", name=HTML, team_id=team, user_id=user, description=HTML, expires_at="2030-01-31T12:30:00Z",
            budget=budget, rate_limit={"request_max_limit": 7, "request_reset_duration": "1h"},
            provider_configs=[{"provider": "anthropic", "allowed_models": ["claude-sonnet-4-6"], "budget": budget}],
        )
    )["virtual_key"]["id"]  # fmt: skip
    overrides = [{"model": "our-model", "input": "1", "output": "2.5", "effective_from": "2026-01-01T00:00:00Z"}]
    _, answer, _ = await admin.call(
        "PATCH", "/api/providers/anthropic", {"discount_percent": "12.5", "price_overrides": overrides}
    )
    return {
        "customers": customer, "teams": team, "users": user, "keys": key, "providers": answer["provider"]["id"],
    }  # fmt: skip


API = {
    "customers": "/api/governance/customers",
    "teams": "/api/governance/teams",
    "users": "/api/governance/users",
    "keys": "/api/governance/virtual-keys",
    "providers": "/api/providers",
}
ENTITY = {"customers": "customer", "teams": "team", "users": "user", "keys": "virtual_key", "providers": "provider"}


@pytest.mark.parametrize("kind", list(API))
async def test_saving_a_form_nobody_touched_changes_nothing(tmp_path: Path, kind: str) -> None:
    async with running_admin(tmp_path) as admin:
        ids = await some(admin)
        before = (await admin.call("GET", f"{API[kind]}/{ids[kind]}"))[1][ENTITY[kind]]
        form = (await forms(admin, f"/governance/{kind}/{ids[kind]}"))[0]
        assert form.method == "PATCH"
        status, answer = await send(admin, form)
        assert status == 200, answer
        assert answer[ENTITY[kind]] == before
        assert "event_id" not in answer, "nothing was written"


@pytest.mark.parametrize("kind", list(API))
async def test_whoever_saves_second_is_told_and_overwrites_nothing(tmp_path: Path, kind: str) -> None:
    async with running_admin(tmp_path) as admin:
        ids = await some(admin)
        path = f"/governance/{kind}/{ids[kind]}"
        mine, *others = await forms(admin, path)
        changed = {"providers": {"discount_percent": "20"}}.get(kind, {"name": "somebody else's"})
        assert (await admin.call("PATCH", f"{API[kind]}/{ids[kind]}", changed))[0] == 200
        for form in (mine, *others):
            status, answer, _ = await admin.call(form.method, form.path, form.body(), headers=form.headers)
            assert status == 409, (form.path, answer)
            assert "version" in answer["error"] or "children" in answer["error"]
        assert mine.attributes["data-here"] == path
        now = (await admin.call("GET", f"{API[kind]}/{ids[kind]}"))[1][ENTITY[kind]]
        assert all(now[name] == value for name, value in changed.items())


CREATIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("customers", {"name": "Northwind", "timezone": "Europe/Berlin"},
     {"name": "Northwind", "timezone": "Europe/Berlin"}),
    ("teams", {"name": "platform", "rate_limit.request_max_limit": "1,000", "rate_limit.request_reset_duration": "1h"},
     {"name": "platform", "timezone": ""}),
    ("users", {"name": "Alice", "email": "alice@example.com"}, {"name": "Alice", "email": "alice@example.com"}),
    ("keys", {"name": "alice-laptop", "expires_at": "2031-01-31T12:30", "description": "office"},
     {"name": "alice-laptop", "expires_at": "2031-01-31T12:30:00.000Z", "description": "office", "is_active": True,
      "provider_configs": None}),
    ("providers", {"name": "eu", "credential": "env:ANTHROPIC_API_KEY", "discount_percent": "7.5"},
     {"name": "eu", "discount_percent": "7.5", "base_url": None, "price_overrides": []}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "typed", "made"), CREATIONS, ids=[kind for kind, _, _ in CREATIONS])
async def test_one_is_created_and_its_name_is_taken(
    tmp_path: Path, kind: str, typed: dict[str, Any], made: dict[str, Any]
) -> None:
    async with running_admin(tmp_path) as admin:
        (form,) = await forms(admin, f"/governance/{kind}/new")
        status, answer = await send(admin, form, **typed)
        assert status == 200, answer
        entity = answer[ENTITY[kind]]
        assert {name: entity[name] for name in made} == made
        if kind == "keys":
            assert entity["value"].startswith("sk-bf-")
        text = await page(admin, form.attributes["data-then"].replace("{id}", entity["id"]))
        assert typed["name"] in text
        # The value stands in no page: it was in the answer, once.
        assert entity.get("value", "no value") not in text
        status, answer = await send(admin, form, **typed)
        assert status == 409, answer
        assert answer["error"]["existing_id"] == entity["id"]
        assert form.shows("name")
        await page(admin, form.attributes["data-existing"] + entity["id"])


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("customers", {}, "name"),
    ("customers", {"name": "x", "timezone": "Mars"}, "timezone"),
    ("teams", {"name": "x" * 129}, "name"),
    ("teams", {"name": "t", "rate_limit.token_max_limit": "many", "rate_limit.token_reset_duration": "1d"},
     "rate_limit.token_max_limit"),
    ("teams", {"name": "t", "rate_limit.token_max_limit": "5"}, "rate_limit.token_reset_duration"),
    ("teams", {"name": "t", "rate_limit.request_reset_duration": "1h"}, "rate_limit"),
    ("users", {"name": "u", "email": "nowhere"}, "email"),
    ("keys", {"name": "k", "expires_at": "2001-01-01T00:00"}, "expires_at"),
    ("keys", {"name": " k"}, ""),
    ("providers", {"name": "a/b", "credential": "env:ANTHROPIC_API_KEY"}, "name"),
    ("providers", {"name": "p", "credential": "sk-ant-api03-something"}, "credential"),
    ("providers", {"name": "p", "credential": "env:ANTHROPIC_API_KEY", "base_url": "http://10.0.0.1"}, "base_url"),
    ("providers", {"name": "p", "credential": "env:ANTHROPIC_API_KEY", "discount_percent": "101"}, "discount_percent"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "typed", "at"), WRONG, ids=[f"{kind}-{at}" for kind, _, at in WRONG])
async def test_a_wrong_field_is_told_beside_it(tmp_path: Path, kind: str, typed: dict[str, Any], at: str) -> None:
    async with running_admin(tmp_path) as admin:
        (form,) = await forms(admin, f"/governance/{kind}/new")
        status, answer = await send(admin, form, **typed)
        if not at:  # the form takes spaces off the ends
            assert status == 200, answer
            return
        assert status == 400, answer
        assert at in [each["field"] for each in answer["error"].get("problems", [answer["error"]])]
        assert at in form.problems, "its error has no place beside the field"
        assert "sk-ant" not in str(answer)


async def test_errors_in_rows_of_a_list_stand_in_their_row(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        ids = await some(admin)
        form = (await forms(admin, f"/governance/customers/{ids['customers']}"))[0]
        for typed, at in (
            ({"budgets[1].max_limit": "-3"}, "budgets[1].max_limit"),
            ({"budgets[0].reset_duration": "soon"}, "budgets[0].reset_duration"),
            ({"budgets[0].reset_duration": "90m"}, "budgets[0].reset_duration"),
            ({"budgets[1].max_overshoot": "1"}, "budgets[1].max_overshoot"),
        ):
            status, answer = await send(admin, form, **typed)
            assert status == 400, answer
            assert answer["error"]["field"] == at
            assert at in form.problems
        form = (await forms(admin, f"/governance/keys/{ids['keys']}"))[0]
        status, answer = await send(admin, form, **{"provider_configs[0].allowed_models": "claude-sonet-4-6, x"})
        assert (status, answer["error"]["field"]) == (400, "provider_configs[0].allowed_models[0]")
        assert form.shows(answer["error"]["field"])
        form = (await forms(admin, f"/governance/providers/{ids['providers']}"))[0]
        status, answer = await send(admin, form, **{"price_overrides[0].output": "dear"})
        assert (status, answer["error"]["field"]) == (400, "price_overrides[0].output")
        assert form.shows(answer["error"]["field"])


async def test_what_is_taken_out_of_a_form_is_taken_away(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        ids = await some(admin)
        form = (await forms(admin, f"/governance/customers/{ids['customers']}"))[0]
        form.fields = [each for each in form.fields if not each.name.startswith("budgets[")]
        status, answer = await send(admin, form)
        assert (status, answer["customer"]["budgets"]) == (200, [])
        form = (await forms(admin, f"/governance/teams/{ids['teams']}"))[0]
        empty = {each.name: "" for each in form.fields if each.name.startswith("rate_limit.") and not each.checkbox}
        status, answer = await send(admin, form, customer_id="", **empty)
        assert status == 409 or (answer["team"]["rate_limit"], answer["team"]["customer_id"]) == (None, None), answer
        form = (await forms(admin, f"/governance/keys/{ids['keys']}"))[0]
        status, answer = await send(admin, form, expires_at="", description="", user_id="", is_active=False)
        assert status == 200, answer
        key = answer["virtual_key"]
        assert (key["expires_at"], key["description"], key["user_id"], key["is_active"]) == (None, "", None, False)
        assert key["provider_configs"][0]["budgets"], "limits of a provider's config stay"
        form = (await forms(admin, f"/governance/keys/{ids['keys']}"))[0]
        form.fields = [each for each in form.fields if not each.name.startswith("provider_configs[")]
        status, answer = await send(admin, form, provider_configs="null")
        assert (status, answer["virtual_key"]["provider_configs"]) == (200, None)


async def test_a_deletion_names_what_it_destroys_and_what_is_in_its_way(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        ids = await some(admin)
        for kind, in_the_way in (("customers", "team"), ("teams", "virtual_key"), ("users", "virtual_key")):
            form = (await forms(admin, f"/governance/{kind}/{ids[kind]}"))[-1]
            assert form.method == "DELETE"
            status, answer = await send(admin, form)
            assert status == 409, answer
            assert in_the_way in [child["kind"] for child in answer["error"]["children"]]
        text = await page(admin, f"/governance/teams/{ids['teams']}")
        assert "1 key and 1 user must be moved or deleted first" in text
        form = (await forms(admin, f"/governance/keys/{ids['keys']}"))[-1]
        assert (await send(admin, form))[0] == 200
        assert (await send(admin, form))[0] == 404
        await page(admin, f"/governance/keys/{ids['keys']}", 404)
        await page(admin, form.attributes["data-then"])


async def test_a_key_is_rotated_once_per_look(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        ids = await some(admin)
        form = next(
            form for form in await forms(admin, f"/governance/keys/{ids['keys']}") if form.path.endswith("/rotate")
        )
        status, answer = await send(admin, form)
        assert status == 200
        assert answer["virtual_key"]["value"].startswith("sk-bf-")
        assert (await send(admin, form))[0] == 409


async def test_settings_are_changed_and_the_default_key_is_asked_for(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        keys_form = (await forms(admin, "/settings"))[0]
        enforce, default = "client_config.enforce_auth_on_inference", "client_config.default_virtual_key_id"
        status, answer = await send(admin, keys_form, **{enforce: False})
        assert (status, answer["error"]["field"]) == (400, default)
        assert default in keys_form.problems
        key = (await admin.create("virtual-keys", name=HTML))["virtual_key"]["id"]
        await page(admin, "/settings")
        status, answer = await send(admin, keys_form, **{enforce: False, default: key})
        assert status == 200
        assert answer["client_config"]["enforce_auth_on_inference"] is False
        status, answer = await send(admin, keys_form, **{default: key})
        assert (status, "version" in answer["error"]) == (409, True)
        content = (await forms(admin, "/settings"))[1]
        status, answer = await send(admin, content, **{"client_config.content": "on"})
        assert (status, answer["client_config"]["content"]) == (200, "on")
        assert answer["client_config"]["default_virtual_key_id"] == key


async def test_a_dead_letter_is_retried_from_its_page(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        assert "No dead letters" in await page(admin, "/events/dead-letters")
        record = NewRecord("bursar.usage.v1.dlq", HTML, HTML.encode(), (("bursar-dlq-reason", b"<b>broken</b>"),))
        await admin.desk.journal.event_log.append([record])
        (form,) = await forms(admin, "/events/dead-letters")
        status, answer = await send(admin, form)
        assert (status, answer["appended"]) == (200, True)
        text = await page(admin, "/events/dead-letters")
        assert forms_of(text) == []
        assert "<b>broken" not in text
        assert "retried" in text


async def test_every_page_shows_everything_and_nothing_as_markup(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        for kind, says in (
            ("customers", "No customers yet"), ("teams", "No teams yet"), ("users", "No users yet"),
            ("keys", "No keys yet"),
        ):  # fmt: skip
            assert says in await page(admin, f"/governance/{kind}")
        ids = await some(admin)
        _, found, _ = await admin.call("GET", "/api/events")
        for path in (
            "/governance", "/governance/prices", "/governance/prices?text=our&show=overridden&price=list",
            "/governance/providers/anthropic?override=claude-opus-4-8", "/events", "/events?entity=team&action=created",
            "/events/system", "/fragments/system",
            f"/governance/keys?team={ids['teams']}&text=alert&sort_by=created_at",
            f"/governance/keys/new?team={ids['teams']}&customer={ids['customers']}",
            *(f"/events/log/{event['id']}" for event in found["events"]),
            *(f"/governance/{kind}" for kind in API), *(f"/governance/{kind}/new" for kind in API),
        ):  # fmt: skip
            text = await page(admin, path)
            assert " style=" not in text
            assert " onclick=" not in text
        for path, status in (
            ("/governance/nothing", 404), ("/governance/teams/nobody", 404), ("/events/log/nothing", 404),
            ("/governance/teams/a%2Fb", 404), ("/governance/prices?provider=nobody", 404), ("/events/nothing", 404),
            ("/governance?teem=x", 400), ("/events?entity=teams", 400), ("/events?cursor=x", 400),
            ("/events/dead-letters?cursor=x", 400), ("/governance/keys?sort_by=spend", 400), ("/settings?x=1", 400),
            ("/governance/prices?provider=a%3Fb%2F..%2F..", 404),
        ):  # fmt: skip
            await page(admin, path, status)


async def test_lists_are_searched_sorted_and_paged(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        for number in range(53):
            await admin.create("teams", name=f"team {number:02}")
        first = await page(admin, "/governance/teams")
        assert "1 to 50 of 53" in first
        assert "team 49" in first
        assert "team 50" not in first
        assert "team 52" in await page(admin, "/governance/teams?offset=50")
        assert "team 52" in await page(admin, "/governance/teams?order=desc")
        found = await page(admin, "/governance/teams?text=TEAM+07")
        assert ("team 07" in found, "team 08" in found) == (True, False)


async def test_a_budget_of_a_keys_provider_is_changed_in_place_and_on_the_keys_form(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        status, answer, _ = await admin.call(
            "POST", "/api/providers", {"name": "eu", "kind": "anthropic", "credential": "env:ANTHROPIC_API_KEY"}
        )
        assert status == 200, answer
        monthly = {"max_limit": 10, "reset_duration": "1M", "calendar_aligned": True}
        daily = {"max_limit": 3, "reset_duration": "1d", "max_overshoot": 1}
        limit = {"request_max_limit": 7, "request_reset_duration": "1h"}
        made = await admin.create(
            "virtual-keys", name="k", budget=monthly,
            provider_configs=[
                {"provider": "anthropic", "allowed_models": ["claude-sonnet-4-6"], "budget": monthly},
                {"provider": "eu", "weight": 3, "budgets": [monthly, daily], "rate_limit": limit},
            ],
        )  # fmt: skip
        key = made["virtual_key"]
        path = f"/api/governance/virtual-keys/{key['id']}"
        before = (await admin.call("GET", path))[1]["virtual_key"]
        budget = before["provider_configs"][1]["budgets"][1]
        tree = await page(admin, f"/fragments/budgets/tree?key={key['id']}")
        assert "Change the budget of k on eu" in tree
        (form,) = await forms(admin, f"/fragments/budgets/virtual_key/{key['id']}/{budget['id']}")
        at = "provider_configs[1].budgets[1]"
        status, answer = await send(admin, form, **{f"{at}.max_limit": "much"})
        assert status == 400
        assert form.shows(answer["error"]["field"])
        status, answer = await send(admin, form, **{f"{at}.max_limit": "42", f"{at}.enforcement": "observe"})
        assert status == 200, answer
        now = answer["virtual_key"]
        changed = now["provider_configs"][1]["budgets"][1]
        assert (changed["id"], changed["max_limit"], changed["enforcement"]) == (budget["id"], 42, "observe")
        # Everything else is as it was: the other budgets, models, weight, rate limit.
        same = [{**config, "budgets": config["budgets"][:1]} for config in now["provider_configs"]]
        assert same == [{**config, "budgets": config["budgets"][:1]} for config in before["provider_configs"]]
        assert now["budgets"] == before["budgets"]
        status, answer = await send(admin, form, **{f"{at}.max_limit": "43"})
        assert status == 409, "somebody was faster"

        (form, *_) = await forms(admin, f"/governance/keys/{key['id']}")
        status, answer = await send(admin, form)
        assert (status, "event_id" in answer) == (200, False), "an untouched form changes nothing"
        at = "provider_configs[0].budgets[0]"
        status, answer = await send(admin, form, **{f"{at}.max_limit": "77", f"{at}.enforcement": "strict"})
        assert status == 200, answer
        raised = answer["virtual_key"]["provider_configs"][0]["budgets"][0]
        first = before["provider_configs"][0]["budgets"][0]
        assert (raised["id"], raised["max_limit"], raised["enforcement"]) == (first["id"], 77, "strict")


async def test_forms_of_allocations(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        team = (await admin.create("teams", name=HTML))["team"]["id"]
        customer = (await admin.create("customers", name="Northwind"))["customer"]["id"]
        key = (await admin.create("virtual-keys", name=HTML, team_id=team))["virtual_key"]["id"]
        assert "Nothing is charged beside requests" in await page(admin, "/finance/allocations")
        (form,) = await forms(admin, "/finance/allocations/new")
        split = {
            "name": HTML, "virtual_key_id": key, "from_month": "2099-01",
            "parts[0].team_id": team, "parts[0].percent": "12.5",
        }  # fmt: skip
        for wrong, at in (
            ({"name": ""}, "name"), ({"virtual_key_id": ""}, "virtual_key_id"), ({"from_month": "soon"}, "from_month"),
            ({"parts[0].percent": "101"}, "parts[0].percent"), ({"parts[0].team_id": ""}, "parts[0]"),
            ({"to_month": "2098-12"}, "to_month"),
        ):  # fmt: skip
            status, answer = await send(admin, form, **{**split, **wrong})
            assert status == 400, wrong
            assert at in [each["field"] for each in answer["error"].get("problems", [answer["error"]])]
            assert form.shows(at)
        status, answer = await send(admin, form, **split)
        assert status == 200, answer
        made = answer["allocation"]["id"]
        status, answer = await send(admin, form, **{**split, "name": "again"})
        assert (status, answer["error"]["field"], answer["error"]["existing_id"]) == (409, "virtual_key_id", made)
        (form,) = await forms(admin, "/finance/allocations/new?kind=fee")
        status, answer = await send(
            admin, form, name="Seats", amount="25", **{"parts[0].team_id": team, "parts[0].seats": "3"}
        )
        assert status == 200, answer
        fee = answer["allocation"]
        assert (fee["kind"], fee["parts"][0]["amount_nusd"], fee["provider"]) == ("fee", 75_000_000_000, "anthropic")
        (form,) = await forms(admin, "/finance/allocations/new?kind=commitment")
        assert form.body(name="c", amount="1")["kind"] == "commitment"
        for each in (made, fee["id"]):
            change, destroy = await forms(admin, f"/finance/allocations/{each}")
            status, answer = await send(admin, change)
            assert (status, "event_id" in answer) == (200, False), "an untouched form changes nothing"
            assert (await send(admin, destroy))[0] == 200
            assert (await send(admin, change))[0] == 404
        # A part that a customer bears is the customer's again.
        body = {"name": "whole", "kind": "commitment", "amount": 5, "from_month": "2099-01",
                "parts": [{"customer_id": customer, "percent": 100}]}  # fmt: skip
        status, answer, _ = await admin.call("POST", "/api/finance/allocations", body)
        assert status == 200, answer
        change, _ = await forms(admin, f"/finance/allocations/{answer['allocation']['id']}")
        assert change.body()["parts"] == [{"customer_id": customer, "percent": "100", "cost_center": None}]
        assert HTML.replace("<", "&lt;")[:8] in await page(admin, "/finance/allocations/new")
        for query in ("?kind=gift", "?colour=red"):
            await page(admin, f"/finance/allocations{query}", 400)
        await page(admin, "/finance/allocations/nobody", 404)
