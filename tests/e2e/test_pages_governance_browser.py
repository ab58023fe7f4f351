"""Governance, Events and Settings in a real Chromium before a whole gateway: teams and keys made, changed, deleted; a
dead letter retried; the switch flipped."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from bursar_common.eventlog.port import NewRecord
from bursar_common.events import USAGE_TOPIC
from tests.harness.browser import WAIT_MS, WIDTHS, Tab, accessibility_faults, open_tab, running_browser
from tests.harness.one_machine import OneMachine
from tests.harness.processes import eventually

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.timeout(600)  # every page at every width, beside whatever else the machine does
WRITTEN_S = 120
"""Until what a test appended to the log is where pages read, on a busy machine."""
HTML_NAME = '<script>document.title="x"</script> & <img src=x>'
LONG_NAME = "a-team-whose-name-has-one-hundred-and-twenty-characters-" + "x" * 64
MESSAGE = {"model": "claude-haiku-4-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Say ledger."}]}


def apart(work: Coroutine[Any, Any, None]) -> None:
    """Run it in a thread of its own: the browser has the event loop of this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


@dataclass
class World:
    machine: OneMachine
    browser: Browser
    ids: dict[str, str]

    @property
    def url(self) -> str:
        return self.machine.url

    def api(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.loads(answer.read()))

    def ask(self, key: str = "") -> int:
        """One request of a developer; the status."""
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(
            self.url + "/anthropic/v1/messages", data=json.dumps(MESSAGE).encode(), headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.read()
            return error.code

    def append(self, *records: NewRecord) -> None:
        async def appended() -> None:
            async with self.machine.gateway() as gateway:
                await gateway.log.append(list(records))

        apart(appended())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with OneMachine(tmp_path_factory.mktemp("governance")) as machine, running_browser() as browser:
        found = World(machine, browser, {})
        create = "/api/governance"
        customer = found.api("POST", f"{create}/customers", {"name": "Northwind", "timezone": "Europe/Berlin"})
        found.ids["customer"] = customer["customer"]["id"]
        monthly = {"max_limit": 500, "reset_duration": "1M", "calendar_aligned": True}
        for name, more in (
            (
                "data-science",
                {"customer_id": found.ids["customer"], "budgets": [monthly, {**monthly, "max_limit": 9e9}]},
            ),
            (HTML_NAME, {}),
            (LONG_NAME, {"budget": {"max_limit": 0, "reset_duration": "1d", "enforcement": "observe"}}),
        ):
            found.ids[name] = found.api("POST", f"{create}/teams", {"name": name, **more})["team"]["id"]
        person = found.api("POST", f"{create}/users", {"name": "Dana Levi", "team_id": found.ids["data-science"]})
        found.ids["user"] = person["user"]["id"]
        key = found.api(
            "POST", f"{create}/virtual-keys",
            {"name": "dana-laptop", "team_id": found.ids["data-science"], "user_id": found.ids["user"]},
        )["virtual_key"]  # fmt: skip
        found.ids["key"], value = key["id"], key["value"]
        found.ids["value"] = value
        for _ in range(4):
            assert found.ask(value) == 200
        letters = [
            NewRecord(
                f"{USAGE_TOPIC}.dlq", found.ids["key"], b'{"type":"bursar.usage.recorded.v9","x":"<img src=x>"}',
                (("bursar-dlq-reason", b"not a type of usage event that this release knows"),
                 ("bursar-dlq-position", f"{USAGE_TOPIC}:0:{number}".encode())),
            )
            for number in range(2)
        ]  # fmt: skip
        found.append(*letters)

        async def counted() -> bool:
            return bool(found.api("GET", f"/api/logs?key={found.ids['key']}")["count"] == 4)

        apart(eventually(counted, WRITTEN_S))
        yield found


def paths(world: World) -> dict[str, str]:
    ids = world.ids
    event = world.api("GET", "/api/events?entity=team&text=data-science&limit=1")["events"][0]["id"]
    return {
        "governance-customers": "/governance/customers",
        "governance-teams": "/governance",
        "governance-users": "/governance/users",
        "governance-keys": "/governance/keys",
        "governance-providers": "/governance/providers",
        "governance-prices": "/governance/prices",
        "governance-empty": "/governance/teams?text=nobody",
        "governance-customer": f"/governance/customers/{ids['customer']}",
        "governance-team": f"/governance/teams/{ids['data-science']}",
        "governance-team-long": f"/governance/teams/{ids[LONG_NAME]}",
        "governance-user": f"/governance/users/{ids['user']}",
        "governance-key": f"/governance/keys/{ids['key']}",
        "governance-key-new": f"/governance/keys/new?team={ids['data-science']}",
        "governance-customer-new": "/governance/customers/new",
        "governance-team-new": "/governance/teams/new",
        "governance-user-new": "/governance/users/new",
        "governance-provider-new": "/governance/providers/new",
        "governance-provider": "/governance/providers/anthropic?override=claude-opus-4-8",
        "events": "/events",
        "event": f"/events/log/{event}",
        "events-dead-letters": "/events/dead-letters",
        "events-system": "/events/system",
        "settings": "/settings",
    }


NAMES = (
    "governance-customers", "governance-teams", "governance-users", "governance-keys", "governance-providers",
    "governance-prices", "governance-empty", "governance-customer", "governance-team", "governance-team-long",
    "governance-user", "governance-key", "governance-key-new", "governance-customer-new", "governance-team-new",
    "governance-user-new", "governance-provider-new", "governance-provider", "events", "event", "events-dead-letters",
    "events-system", "settings",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_page_loads_clean_at_every_width_in_both_themes(world: World, name: str) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(paths(world)[name])
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.locator("main img").count() == 0
        looked_at(tab, name)


def looked_at(tab: Tab, name: str) -> None:
    """The page as it is, at every width in both themes, each noted as a screenshot."""
    for theme in ("light", "dark"):
        for width in WIDTHS:
            tab.look(theme=theme, width=width)
            tab.check()
            tab.page.evaluate("scrollTo(0, 0)")
            if width == WIDTHS[0] or (theme, width) == ("light", WIDTHS[-1]):
                tab.screenshot(f"{name}-{theme}" + ("" if width == WIDTHS[0] else f"-{width}"))
        # What a theme changes is colour.
        assert accessibility_faults(tab.page, *(("color-contrast",) if theme == "dark" else ())) == []
    tab.look()


def field(page: Page, name: str) -> Any:
    return page.locator(f'[name="{name}"]')


def beside(page: Page, name: str) -> Any:
    """The place of a field's error."""
    return page.locator(f'[data-problem="{name}"]')


def saved(tab: Tab, button: str = "Save") -> None:
    with tab.page.expect_navigation():
        tab.page.get_by_role("button", name=button, exact=True).click()
    tab.settled()


def copied(page: Page, button: str) -> str:
    """What a button copies: the clipboard has it a moment after the click."""
    page.evaluate("navigator.clipboard.writeText('')")
    page.get_by_role("button", name=button).click()
    return str(page.wait_for_function("() => navigator.clipboard.readText()").json_value())


def test_a_team_is_made_changed_and_deleted_by_its_name(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/governance/teams")
        page.get_by_role("link", name="New team").click()
        expect(page.get_by_label("Name")).to_be_focused()
        tab.expected += ["status of 400", "status of 409"]
        page.get_by_role("button", name="Create team").click()
        expect(beside(page, "name")).to_contain_text("required")
        page.get_by_label("Name").fill("platform")
        page.get_by_role("button", name="Add a budget").click()
        expect(field(page, "budgets[0].max_limit")).to_be_focused()
        field(page, "budgets[0].max_limit").fill("much")
        field(page, "budgets[0].reset_duration").fill("90m")
        page.get_by_role("button", name="Add a budget").click()
        field(page, "budgets[1].max_limit").fill("7")
        page.get_by_role("button", name="Create team").click()
        expect(beside(page, "budgets[0].max_limit")).to_contain_text("number")
        expect(field(page, "budgets[0].max_limit")).to_have_attribute("aria-invalid", "true")
        assert accessibility_faults(page) == []
        # The row in front goes, and what is behind moves up: in the page as in the body.
        page.get_by_role("button", name="Remove this budget").first.click()
        expect(field(page, "budgets[1].max_limit")).to_have_count(0)
        expect(field(page, "budgets[0].max_limit")).to_have_value("7")
        field(page, "budgets[0].max_limit").fill("1,250.50")
        with page.expect_navigation():
            page.get_by_role("button", name="Create team").click()
        page.wait_for_url(re.compile(r"/governance/teams/[0-9a-f-]{36}$"))
        expect(page.locator("#toast")).to_have_text("Team created.")
        team = world.api("GET", "/api/governance/teams?name=platform")["teams"][0]
        (budget,) = team["budgets"]
        assert (budget["max_limit"], budget["reset_duration"], budget["calendar_aligned"]) == (1250.5, "1M", True)

        # Raised; a rate limit with it.
        field(page, "budgets[0].max_limit").fill("2000")
        page.get_by_text("Rate limits").click()
        field(page, "rate_limit.token_max_limit").fill("5")
        page.get_by_text("Rate limits").click()
        page.get_by_role("button", name="Save", exact=True).click()
        # What is wrong is never folded away.
        expect(beside(page, "rate_limit.token_reset_duration")).to_contain_text("required")
        expect(field(page, "rate_limit.token_reset_duration")).to_be_focused()
        field(page, "rate_limit.token_max_limit").fill("")
        field(page, "rate_limit.request_max_limit").fill("100")
        field(page, "rate_limit.request_reset_duration").fill("1h")
        saved(tab)
        expect(page.get_by_text("of $2,000.00")).to_be_visible()
        team = world.api("GET", f"/api/governance/teams/{team['id']}")["team"]
        assert team["budgets"][0]["id"] == budget["id"], "what was spent stays"
        assert team["rate_limit"]["request_max_limit"] == 100
        assert team["rate_limit"]["token_max_limit"] is None

        # Somebody else is faster: nothing is overwritten, and what was typed stays.
        world.api("PATCH", f"/api/governance/teams/{team['id']}", {"timezone": "Europe/Paris"})
        page.get_by_label("Time zone").fill("Asia/Tokyo")
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.get_by_text("Somebody changed this since you opened it")).to_be_visible()
        expect(page.get_by_label("Time zone")).to_have_value("Asia/Tokyo")
        page.get_by_role("link", name="Load it as it is now").click()
        expect(page.get_by_label("Time zone")).to_have_value("Europe/Paris")

        # A name that is taken leads to who has it.
        page.get_by_label("Name").fill(HTML_NAME)
        page.get_by_role("button", name="Save", exact=True).click()
        expect(beside(page, "name")).to_contain_text("already")
        assert page.title().startswith("platform")
        expect(page.get_by_role("link", name="Open it")).to_have_attribute(
            "href", f"/governance/teams/{world.ids[HTML_NAME]}"
        )
        page.reload()

        # Deleted, by its name only.
        destroy = page.get_by_role("button", name="Delete this team")
        expect(destroy).to_be_disabled()
        page.get_by_label(re.compile("to delete it")).fill("platfor")
        expect(destroy).to_be_disabled()
        page.get_by_label(re.compile("to delete it")).press_sequentially("m")
        expect(destroy).to_be_enabled()
        with page.expect_navigation():
            destroy.click()
        page.wait_for_url("**/governance/teams")
        assert world.api("GET", "/api/governance/teams?name=platform")["total_count"] == 0
        tab.check()


def test_what_is_in_the_way_of_a_deletion_is_named(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/governance/teams/{world.ids['data-science']}")
        expect(page.get_by_text("Its 1 key and 1 user must be moved or deleted first.")).to_be_visible()
        page.get_by_label(re.compile("to delete it")).fill("data-science")
        tab.expected.append("status of 409")
        page.get_by_role("button", name="Delete this team").click()
        way = page.get_by_role("form", name="Delete data-science").get_by_role("alert").last
        expect(way).to_contain_text("Move or delete it first")
        expect(way.get_by_role("link", name="dana-laptop")).to_have_attribute(
            "href", f"/governance/keys/{world.ids['key']}"
        )
        assert accessibility_faults(page) == []
        tab.check()


def test_the_value_of_a_key_is_shown_once_and_its_curl_works(world: World) -> None:
    with open_tab(world.browser, world.url, permissions=["clipboard-read", "clipboard-write"]) as tab:
        page = tab.open(f"/governance/keys/new?team={world.ids['data-science']}")
        expect(field(page, "team_id")).to_have_value(world.ids["data-science"])
        page.get_by_label("Name").fill("erin-laptop")
        page.get_by_label("What the key may use").select_option("some")
        tab.expected.append("status of 400")
        field(page, "provider_configs[0].allowed_models").fill("claude-haiku-4-5, claude-sonet-4-6")
        page.get_by_role("button", name="Create virtual key").click()
        expect(beside(page, "provider_configs[0].allowed_models")).to_contain_text("Has no price")
        expect(field(page, "provider_configs[0].allowed_models")).to_be_focused()
        field(page, "provider_configs[0].allowed_models").fill("claude-haiku-4-5")
        page.get_by_role("button", name="Create virtual key").click()
        heading = page.get_by_role("heading", name="The value of erin-laptop")
        expect(heading).to_be_focused()
        value = page.locator(".key-value code").inner_text()
        assert re.fullmatch(r"sk-bf-[0-9a-f]{64}", value)
        expect(page.get_by_role("button", name="Create virtual key")).to_be_hidden()
        looked_at(tab, "governance-key-made")
        assert copied(page, "Copy the key") == value
        assert copied(page, "Copy the lines for the shell").splitlines() == [
            f"export ANTHROPIC_BASE_URL={world.url}/anthropic",
            f"export ANTHROPIC_AUTH_TOKEN={value}",
            "export ENABLE_TOOL_SEARCH=true",
        ]
        settings = json.loads(copied(page, "Copy the settings"))
        assert settings["env"]["ANTHROPIC_AUTH_TOKEN"] == value
        command = copied(page, "Copy the curl command")
        answer = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=True).stdout
        assert json.loads(answer)["type"] == "message", answer
        page.get_by_role("link", name="I have copied it").click()
        page.wait_for_url(re.compile(r"/governance/keys/[0-9a-f-]{36}$"))
        assert value not in page.content()
        page.go_back()
        assert value not in page.content()
        tab.check()

        # Another value: the one before stops working at once.
        key = world.api("GET", "/api/governance/virtual-keys?name=erin-laptop")["virtual_keys"][0]
        page = tab.open(f"/governance/keys/{key['id']}")
        page.get_by_role("button", name="Rotate the key").click()
        expect(heading).to_be_visible()
        rotated = page.locator(".key-value code").inner_text()
        assert rotated != value
        assert (world.ask(value), world.ask(rotated)) == (401, 200)

        # Switched off, and on again. What nobody touched stays to the second; what is set is of the browser's zone.
        path = f"/api/governance/virtual-keys/{key['id']}"
        world.api("PATCH", path, {"expires_at": "2031-07-01T10:00:30Z"})
        page = tab.open(f"/governance/keys/{key['id']}")
        expect(page.get_by_label("Expires")).to_have_value("2031-07-01T12:00")
        page.get_by_role("switch", name="Active").uncheck()
        saved(tab)
        expect(page.get_by_text("inactive")).to_be_visible()
        assert world.ask(rotated) in (401, 403)
        assert world.api("GET", path)["virtual_key"]["expires_at"] == "2031-07-01T10:00:30.000Z"
        page.get_by_label("Expires").fill("2031-12-24T18:00")
        page.get_by_role("switch", name="Active").check()
        saved(tab)
        assert world.ask(rotated) == 200
        assert world.api("GET", path)["virtual_key"]["expires_at"] == "2031-12-24T17:00:00.000Z"
        tab.check()


def test_budgets_of_a_keys_providers_are_set_on_its_form_and_changed_on_budgets(world: World) -> None:
    world.api("POST", "/api/providers", {"name": "eu", "kind": "anthropic", "credential": "env:ANTHROPIC_API_KEY"})
    made = world.api(
        "POST", "/api/governance/virtual-keys",
        {"name": "two-accounts", "team_id": world.ids["data-science"], "provider_configs": [
            {"provider": "anthropic", "budget": {"max_limit": 20, "reset_duration": "1d"}}]},
    )["virtual_key"]  # fmt: skip
    api = f"/api/governance/virtual-keys/{made['id']}"
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/governance/keys/{made['id']}")
        expect(field(page, "provider_configs[0].budgets[0].max_limit")).to_have_value("20")
        page.get_by_role("button", name="Add a provider").click()
        field(page, "provider_configs[1].provider").select_option("eu")
        group = page.get_by_role("group", name="Provider", exact=True).nth(1)
        group.get_by_role("button", name="Add a budget here").click()
        expect(field(page, "provider_configs[1].budgets[0].max_limit")).to_be_focused()
        field(page, "provider_configs[1].budgets[0].max_limit").fill("much")
        group.get_by_role("button", name="Add a budget here").click()
        field(page, "provider_configs[1].budgets[1].max_limit").fill("7")
        field(page, "provider_configs[1].budgets[1].reset_duration").fill("1w")
        tab.expected.append("status of 400")
        page.get_by_role("button", name="Save", exact=True).click()
        expect(beside(page, "provider_configs[1].budgets[0].max_limit")).to_contain_text("number")
        # The provider in front goes: what is behind moves up with its budgets, in the page as in the body.
        page.get_by_role("button", name="Remove this provider").first.click()
        expect(field(page, "provider_configs[1].provider")).to_have_count(0)
        expect(field(page, "provider_configs[0].budgets[1].max_limit")).to_have_value("7")
        page.get_by_role("button", name="Add a budget here").click()
        expect(field(page, "provider_configs[0].budgets[2].max_limit")).to_be_focused()
        for _ in range(2):
            page.get_by_role("group", name="Provider", exact=True).get_by_role(
                "button", name="Remove this budget"
            ).last.click()
        field(page, "provider_configs[0].budgets[0].max_limit").fill("12.5")
        # The rate limit of the key with this provider, beside its budgets; what is wrong is never folded away.
        limits = page.get_by_text("Rate limits here")
        limits.click()
        field(page, "provider_configs[0].rate_limit.request_max_limit").fill("30")
        limits.click()
        page.get_by_role("button", name="Save", exact=True).click()
        expect(beside(page, "provider_configs[0].rate_limit.request_reset_duration")).to_contain_text("required")
        field(page, "provider_configs[0].rate_limit.request_reset_duration").fill("1m")
        for width in WIDTHS:
            tab.look(width=width)
            tab.check()
        tab.look()
        assert accessibility_faults(page) == []
        for theme in ("light", "dark"):
            tab.look(theme=theme)
            page.locator("#configs").scroll_into_view_if_needed()
            tab.screenshot(f"governance-key-providers-{theme}")
        tab.look()
        saved(tab)
        (config,) = world.api("GET", api)["virtual_key"]["provider_configs"]
        assert [(each["max_limit"], each["reset_duration"]) for each in config["budgets"]] == [(12.5, "1M")]
        assert config["provider"] == "eu"
        assert (config["rate_limit"]["request_max_limit"], config["rate_limit"]["token_max_limit"]) == (30, None)

        # Changed here, without its id or counters being lost; emptied, it is gone; and every provider again is null.
        field(page, "provider_configs[0].rate_limit.request_max_limit").fill("60")
        saved(tab)
        (changed,) = world.api("GET", api)["virtual_key"]["provider_configs"]
        assert changed["rate_limit"]["request_max_limit"] == 60
        assert changed["rate_limit"]["id"] == config["rate_limit"]["id"]
        for name in ("request_max_limit", "request_reset_duration"):
            field(page, f"provider_configs[0].rate_limit.{name}").fill("")
        saved(tab)
        (changed,) = world.api("GET", api)["virtual_key"]["provider_configs"]
        assert changed["rate_limit"] is None
        page.get_by_label("What the key may use").select_option("all")
        saved(tab)
        assert world.api("GET", api)["virtual_key"]["provider_configs"] is None
        page.get_by_label("What the key may use").select_option("some")
        field(page, "provider_configs[0].provider").select_option("eu")
        page.get_by_role("button", name="Add a budget here").click()
        field(page, "provider_configs[0].budgets[0].max_limit").fill("12.5")
        saved(tab)

        page = tab.open(f"/budgets?key={made['id']}")
        change = page.get_by_role("button", name="Change the budget of two-accounts on eu")
        change.click()
        page.get_by_label("Limit").fill("99")
        page.get_by_label("Enforcement").select_option("observe")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("$99.00")).to_be_visible()
        expect(page.locator(".pill", has_text="observe")).to_be_visible()
        change.click()
        page.get_by_label("Enforcement").select_option("standard")
        with page.expect_response(lambda answer: answer.request.method in ("PUT", "PATCH")):
            page.get_by_role("button", name="Save").click()
        expect(page.locator(".pill", has_text="observe")).to_have_count(0)
        budget = world.api("GET", api)["virtual_key"]["provider_configs"][0]["budgets"][0]
        assert budget["max_limit"] == 99
        assert budget["enforcement"] == "standard"
        tab.check()


def test_who_is_charged_each_month_is_not_deleted_and_leads_to_what_charges(world: World) -> None:
    team = world.api("POST", "/api/governance/teams", {"name": "seated"})["team"]["id"]
    fee = world.api(
        "POST", "/api/finance/allocations",
        {"name": "Seats", "kind": "fee", "amount": 25, "from_month": "2099-01",
         "parts": [{"team_id": team, "seats": 3}]},
    )["allocation"]["id"]  # fmt: skip
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/governance/teams/{team}")
        expect(page.get_by_text("1 allocation names it and must end or be deleted first.")).to_be_visible()
        page.get_by_label(re.compile("to delete it")).fill("seated")
        tab.expected.append("status of 409")
        page.get_by_role("button", name="Delete this team").click()
        way = page.get_by_role("form", name="Delete seated").get_by_role("alert").last
        expect(way).to_contain_text("named by what is charged each month")
        expect(way.get_by_role("link", name="Seats")).to_have_attribute("href", f"/finance/allocations/{fee}")
        way.get_by_role("link", name="Seats").click()
        page.wait_for_url(re.compile(f"/finance/allocations/{fee}"))
        tab.check()


def test_a_budget_says_what_it_would_have_refused(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/governance/keys/{world.ids['key']}")
        page.get_by_role("button", name="Add a budget").click()
        field(page, "budgets[0].max_limit").fill("0.00000001")
        said = page.locator("[data-preview]").first
        expect(said).to_contain_text("Would have refused 3 of the 4 requests of the last 7 days")
        field(page, "budgets[0].enforcement").select_option("observe")
        expect(said).to_contain_text("Would have marked 3 of the 4")
        field(page, "budgets[0].max_limit").fill("1000")
        expect(said).to_contain_text("Would have marked none of the 4 requests")
        field(page, "budgets[0].reset_duration").fill("sometimes")
        tab.expected.append("status of 400")
        expect(said).to_be_hidden()
        tab.check()


def test_a_price_is_set_from_the_book(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/governance/prices?text=opus-4-8")
        page.get_by_role("link", name="Set a price of claude-opus-4-8").click()
        expect(field(page, "price_overrides[0].model")).to_have_value("claude-opus-4-8")
        expect(field(page, "price_overrides[0].input")).to_have_value("5")
        expect(field(page, "price_overrides[0].input")).to_be_focused()
        field(page, "price_overrides[0].input").fill("4.5")
        page.get_by_label("Discount").fill("10")
        saved(tab)
        page = tab.open("/governance/prices?show=overridden")
        row = page.get_by_role("row").filter(has_text="claude-opus-4-8")
        expect(row).to_contain_text("$4.05")
        page.get_by_label("Price", exact=True).select_option("list")
        with page.expect_navigation():
            page.get_by_role("button", name="Show").click()
        expect(row).to_contain_text("$4.50")
        tab.check()
        world.api("PATCH", "/api/providers/anthropic", {"discount_percent": "0", "price_overrides": []})


def test_the_log_tells_what_was_done_and_filters_stand_in_its_address(world: World) -> None:
    world.api("PATCH", f"/api/governance/teams/{world.ids[LONG_NAME]}", {"budget": {"max_limit": 25}})
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/events")
        # A price book that a change of prices before led to may be newer.
        newest = page.get_by_role("row").filter(has_text="Changed team").first
        expect(newest).to_contain_text("budget limit $0.00 → $25.00")
        page.get_by_label("What it happened to").select_option("user")
        with page.expect_navigation():
            page.get_by_role("button", name="Show").click()
        assert "entity=user" in page.url
        expect(page.get_by_role("row")).to_have_count(2)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/events/log/**")
        expect(page.get_by_role("heading", name="Created user Dana Levi")).to_be_visible()
        page = tab.open(f"/events?key={world.ids['key']}")
        expect(page.get_by_role("row")).to_have_count(2)
        expect(page.get_by_role("row").nth(1)).to_contain_text("person Dana Levi")
        tab.check()


def test_a_dead_letter_is_retried_once(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/events/dead-letters")
        letters = page.get_by_role("article")
        before = letters.count()
        waiting = page.get_by_role("button", name="Retry").count()
        letters.first.get_by_text("Content").click()
        expect(letters.first.get_by_text("<img src=x>")).to_be_visible()
        assert accessibility_faults(page) == []
        oldest = letters.nth(before - 1)
        with page.expect_navigation():
            oldest.get_by_role("button", name="Retry").click()
        tab.settled()
        expect(page.locator("#toast")).to_have_text("Appended to its topic again.")

        # It still cannot be read by this release: it comes back, and says what it is.
        async def came_back() -> bool:
            return bool(world.api("GET", "/api/events/dead-letters")["total_count"] == before + 1)

        apart(eventually(came_back, WRITTEN_S))
        page = tab.open("/events/dead-letters")
        expect(letters.first).to_contain_text("could not be read either")
        expect(letters.last).to_contain_text("Retried by")
        assert page.get_by_role("button", name="Retry").count() == waiting
        page = tab.open("/events?entity=dead_letter")
        expect(page.get_by_role("row").nth(1)).to_contain_text("Retried dead letter")
        tab.check()


def test_what_nobody_can_read_is_set_aside_and_stands_here(world: World) -> None:
    """From the usage topic itself: the reader of requests sets it aside, goes on, and the page tells why."""
    before = world.api("GET", "/api/events/dead-letters")["total_count"]
    world.append(NewRecord(USAGE_TOPIC, world.ids["key"], b'{"half an <b>event</b>": '))

    async def set_aside() -> bool:
        return bool(world.api("GET", "/api/events/dead-letters")["total_count"] == before + 1)

    apart(eventually(set_aside, WRITTEN_S))
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/events/dead-letters")
        letter = page.get_by_role("article").first
        expect(letter.get_by_role("heading")).to_contain_text("not a CloudEvents envelope")
        expect(letter).to_contain_text(USAGE_TOPIC)
        letter.get_by_text("Content, 25 bytes").click()
        expect(letter.get_by_text('{"half an <b>event</b>":')).to_be_visible()
        looked_at(tab, "events-dead-letter-open")
        page = tab.open("/events/system")
        waiting = world.api("GET", "/api/health/system")["dead_letters_waiting"]
        assert waiting > 0
        card = page.locator(".card").filter(has=page.get_by_role("heading", name="Dead letters"))
        expect(card).to_contain_text(str(waiting))
        card.get_by_role("link", name="Look at them").click()
        page.wait_for_url("**/events/dead-letters")
        # Requests go on behind it.
        assert world.ask(world.ids["value"]) == 200
        tab.check()


def test_lists_are_sorted_by_their_heads_and_saved_as_they_are_seen(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        for path, column, what in (
            ("/governance/teams", "Budget", "Teams"), ("/governance/keys", "Team", "Keys"),
            ("/governance/users", "E-mail", "Users"), ("/governance/customers", "Teams", "Customers"),
            ("/governance/providers", "Discount", "Providers"), ("/governance/prices", "Output", "Prices"),
            ("/events", "What happened", "Events"),
        ):  # fmt: skip
            page = tab.open(path)
            head = page.get_by_role("columnheader", name=column, exact=True)
            assert page.locator("th[aria-sort]").count() == 1
            expect(head).not_to_have_attribute("aria-sort", re.compile("."))
            head = page.get_by_role("columnheader", name=column)
            head.get_by_role("link").focus()
            page.keyboard.press("Enter")
            expect(head).to_have_attribute("aria-sort", re.compile("^(asc|desc)ending$"))
            other = {"ascending": "descending", "descending": "ascending"}[str(head.get_attribute("aria-sort"))]
            page.wait_for_url(re.compile(f"order={'asc' if other == 'descending' else 'desc'}"))
            head.get_by_role("link").focus()
            page.keyboard.press("Enter")
            # Of the page that it leads to: the one before says the other direction.
            expect(head).to_have_attribute("aria-sort", other)
            page.wait_for_url(re.compile(f"order={other.removesuffix('ending')}"))
            tab.settled()
            assert accessibility_faults(page) == []
            with page.expect_download() as download:
                page.get_by_role("button", name=f"{what} as CSV").click()
            rows = list(csv.reader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
            heads = page.locator("thead th:not([data-aside])").all_inner_texts()
            assert rows[0] == [head.rstrip(" ↑↓") for head in heads]
            assert len(rows) - 1 == page.locator("tbody tr").count(), path
            tab.check()
        page = tab.open("/governance/teams?sort_by=budget&order=desc")
        expect(page.locator("tbody tr").first).to_contain_text("data-science")
        page = tab.open("/governance/prices?sort_by=output&order=desc")
        dearest = page.locator("tbody tr").first.locator("td").nth(5).inner_text()
        page = tab.open("/governance/prices?sort_by=output&order=asc")
        cheapest = page.locator("tbody tr").first.locator("td").nth(5).inner_text()
        assert float(dearest.strip("$")) > float(cheapest.strip("$"))
        tab.expected.append("status of 400")
        page = tab.open("/governance/prices?sort_by=nonsense")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        tab.check()


def test_the_system_says_how_it_does(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/events/system")
        expect(page.get_by_text("All is well")).to_be_visible()
        expect(page.get_by_text("New requests are let in")).to_be_visible()
        for part in ("admin-api", "enforcer", "event log", "aggregator", "analytics"):
            expect(page.get_by_role("listitem").filter(has_text=part).get_by_text("ok", exact=True)).to_be_visible()
        tab.check()


def test_the_switch_lets_requests_without_a_key_pass(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        assert world.ask() == 401
        page = tab.open("/settings")
        switch = page.get_by_role("switch", name="Enforce virtual keys")
        expect(switch).to_be_checked()
        switch.focus()
        page.keyboard.press("Space")
        tab.expected.append("status of 400")
        form = page.get_by_role("form", name="Virtual keys")
        form.get_by_role("button", name="Save").click()
        expect(beside(page, "client_config.default_virtual_key_id")).to_contain_text("required while")
        assert accessibility_faults(page) == []
        page.get_by_label("Default key").select_option(label="dana-laptop")
        with page.expect_navigation():
            form.get_by_role("button", name="Save").click()
        tab.settled()
        expect(switch).not_to_be_checked()
        assert world.ask() == 200
        switch.check()
        with page.expect_navigation():
            form.get_by_role("button", name="Save").click()
        tab.settled()
        assert world.ask() == 401
        tab.check()


def test_lists_are_walked_by_keyboard(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/governance/teams")
        page.keyboard.press("j")
        page.keyboard.press("j")
        row = page.locator("tr[data-open]").nth(1)
        expect(row).to_have_attribute("aria-selected", "true")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/governance/teams/[0-9a-f-]{36}"))
        tab.check()
