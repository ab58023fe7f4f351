"""What the pages say about money, in a real Chromium: against budgets, against before, corrected, changed in place."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Locator, expect

from tests.harness.browser import WAIT_MS, accessibility_faults, open_tab
from tests.harness.page_world import World, looked_at, running_world

expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("money")) as found:
        yield found


def put(world: World, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        world.url + path, json.dumps(body).encode(), {"content-type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.loads(answer.read()))


def exact(figure: Locator) -> int:
    """Nano-dollars, from the title."""
    found = re.search(r"\(([-\d,]+) nano-dollars\)", figure.get_attribute("title") or "")
    assert found is not None
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/Los_Angeles"])
def test_today_week_and_month_are_the_viewers(world: World, zone: str) -> None:
    now = datetime.now(ZoneInfo(zone))
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = {"day": today, "week": today - timedelta(days=today.weekday()), "month": today.replace(day=1)}
    with open_tab(world.browser, world.url, zone=zone) as tab:
        page = tab.open("/")
        for window, start in starts.items():
            shown = exact(page.locator(f"[data-figure={window}] .big .num"))
            stats = world.api(f"/api/logs/stats?from={int(start.timestamp())}&latency=false")["stats"]
            assert shown == stats["cost_nusd"], window
        expect(page.locator("[data-figure=week]")).to_contain_text("last week until this time")
        tab.check()


def test_each_figure_stands_against_the_budgets_of_its_window(world: World) -> None:
    team = world.seeded.teams["platform"]
    before = world.api(f"/api/governance/teams/{team}")["team"]
    assert [each["reset_duration"] for each in before["budgets"]] == ["1M"]
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/?team={team}")
        card = {name: page.locator(f"[data-figure={name}]") for name in ("day", "week", "month", "forecast")}
        expect(card["day"]).to_contain_text("No daily budget")
        expect(card["week"]).to_contain_text("No weekly budget")
        budget = before["budgets"][0]
        assert exact(card["month"].locator(".against .num").first) == budget["spent_nusd"]
        assert exact(card["month"].locator(".against .num").nth(1)) == budget["limit_nusd"]
        # The window is UTC's; the viewer is in Berlin.
        expect(card["month"].locator("time")).to_have_text(re.compile(r"^1 \w{3}, 0[12]:00$"))
        expect(card["month"].locator("time")).to_have_attribute(
            "title", re.compile(r"0[12]:00:00 (CET|CEST|GMT\+[12])")
        )
        expect(card["forecast"]).to_contain_text("monthly budget")
        week = {"max_limit": 40, "reset_duration": "1w", "calendar_aligned": True}
        loose = {"max_limit": 9, "reset_duration": "1d", "calendar_aligned": True, "enforcement": "observe"}
        kept = {"id": budget["id"]}
        put(world, "PATCH", f"/api/governance/teams/{team}", {"budgets": [kept, week, loose]})
        page = tab.open(f"/?team={team}")
        totals = {each["window"]: each for each in world.api(f"/api/governance/budget-totals?team={team}")["totals"]}
        assert {name: each["budgets"] for name, each in totals.items()} == {"day": 1, "week": 1, "month": 1}
        for name, limit in (("day", "$9.00 daily budget, observed"), ("week", "$40.00 weekly budget")):
            expect(card[name]).to_contain_text(limit)
            assert exact(card[name].locator(".against .num").first) == totals[name]["spent_nusd"]
        tab.check()
        # A user has no budget, the user's key has; a key stands for itself.
        document = world.seeded.keys["alice-laptop"].document
        for scope in (f"user={document['user_id']}", f"key={document['id']}"):
            page = tab.open(f"/?{scope}")
            expect(card["day"]).to_contain_text("of $10.00 daily budget")
            expect(card["month"]).to_contain_text("No monthly budget")
            assert accessibility_faults(page) == []
            tab.check()
        page = tab.open("/?team=somebody-who-is-gone")
        expect(page.locator(".against")).to_have_count(0)
        tab.check()


def test_a_limit_says_whom_it_would_have_refused_and_observe_goes_there_and_back(world: World) -> None:
    team = world.seeded.teams["payments"]
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/budgets")
        line = page.locator(".owner", has=page.get_by_title("payments", exact=True))
        expect(line.locator("time").first).to_have_text(re.compile(r"^1 \w{3}, 0[12]:00$"))
        line.get_by_role("button", name="Change the budget of payments").click()
        said = page.locator("[data-preview-days]")
        page.get_by_label("Limit").fill("100000")
        expect(said).to_contain_text(re.compile(r"Would have refused none of the [\d,]+ requests of the last 7 days"))
        page.get_by_label("Limit").fill("0.01")
        asked = "kind=team&reset_duration=1M&calendar_aligned=true&max_limit=0.01"
        wanted = world.api(f"/api/governance/budget-preview?id={team}&{asked}")
        assert wanted["would_refuse"] > 0
        expect(said).to_contain_text(
            f"Would have refused {wanted['would_refuse']:,} of the {wanted['requests']:,} requests of the last 7 days"
        )
        looked_at(tab, "budget-form-preview")
        tab.look()
        page.get_by_label("Limit").fill("nonsense")
        expect(said).to_be_empty()
        tab.expected.append("status of 400")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_label("Limit")).to_have_attribute("aria-invalid", "true")
        expect(page.locator('.problem[data-problem$="max_limit"]')).not_to_be_empty()
        page.get_by_role("button", name="Cancel").click()
        change = line.get_by_role("button", name="Change the budget of payments")
        for enforcement in ("observe", "standard"):
            change.click()
            page.get_by_label("Enforcement").select_option(enforcement)
            if enforcement == "observe":
                page.get_by_label("Limit").fill("0.01")
                expect(said).to_contain_text("Would have marked")
                page.get_by_label("Limit").fill("77.5")
            page.get_by_role("button", name="Save").click()
            expect(line.locator(".pill", has_text="observe")).to_have_count(1 if enforcement == "observe" else 0)
            expect(line).to_contain_text("$77.50")
            (budget,) = world.api(f"/api/governance/teams/{team}")["team"]["budgets"]
            assert (budget["enforcement"], budget["max_limit"]) == (enforcement, 77.5)
        tab.check()
