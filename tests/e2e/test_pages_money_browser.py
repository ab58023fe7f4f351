"""What the pages say about money, in a real Chromium: against budgets, against before, corrected, changed in place."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Locator, expect

from tests.harness.browser import WAIT_MS, accessibility_faults, open_tab
from tests.harness.page_world import World, looked_at, running_world, same, until

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.timeout(600)  # every page at every width, beside whatever else the machine does


FIRST_OF_MONTH = re.compile(r"^1 \w{3,4}, 0[12]:00$")
"""Of UTC, as a browser of Berlin says it; September is Sept."""


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


def berlin_today() -> datetime:
    """Where the day began for a tab."""
    return datetime.now(ZoneInfo("Europe/Berlin")).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/Los_Angeles"])
def test_today_week_and_month_are_the_viewers(world: World, zone: str) -> None:
    with open_tab(world.browser, world.url, zone=zone) as tab:

        def shown_and_counted() -> tuple[dict[str, int], dict[str, int]]:
            today = datetime.now(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
            starts = {"day": today, "week": today - timedelta(days=today.weekday()), "month": today.replace(day=1)}
            page = tab.open("/")
            shown = {window: exact(page.locator(f"[data-figure={window}] .big .num")) for window in starts}
            return shown, {
                window: world.api(f"/api/logs/stats?from={int(start.timestamp())}&latency=false")["stats"]["cost_nusd"]
                for window, start in starts.items()
            }

        same(shown_and_counted)
        expect(tab.page.locator("[data-figure=week]")).to_contain_text("last week until this time")
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
        expect(card["month"].locator("time")).to_have_text(FIRST_OF_MONTH)
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
        expect(line.locator("time").first).to_have_text(FIRST_OF_MONTH)
        line.get_by_role("button", name="Change the budget of payments").click()
        said = page.locator("[data-preview-days]")
        page.get_by_label("Limit").fill("100000")
        expect(said).to_contain_text(re.compile(r"Would have refused none of the [\d,]+ requests of the last 7 days"))
        asked = "kind=team&reset_duration=1M&calendar_aligned=true&max_limit=0.01"

        def said_and_counted() -> tuple[str, str]:
            """The last 7 days begin a second later with every second, maybe behind a request."""
            page.get_by_label("Limit").fill("")
            expect(said).to_be_empty()
            page.get_by_label("Limit").fill("0.01")
            expect(said).not_to_be_empty()
            wanted = world.api(f"/api/governance/budget-preview?id={team}&{asked}")
            assert wanted["would_refuse"] > 0
            numbers = f"{wanted['would_refuse']:,} of the {wanted['requests']:,} requests"
            return said.inner_text().split(" (")[0], f"Would have refused {numbers} of the last 7 days"

        same(said_and_counted)
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
            with page.expect_response(lambda answer: answer.request.method in ("PUT", "PATCH")):
                page.get_by_role("button", name="Save").click()
            expect(line.locator(".pill", has_text="observe")).to_have_count(1 if enforcement == "observe" else 0)
            expect(line).to_contain_text("$77.50")
            (budget,) = world.api(f"/api/governance/teams/{team}")["team"]["budgets"]
            assert (budget["enforcement"], budget["max_limit"]) == (enforcement, 77.5)
        tab.check()


def test_a_corrected_request_says_what_it_was_who_changed_it_and_why(world: World) -> None:
    record = world.api("/api/logs?outcome=completed&provider=anthropic&min_cost_usd=0.05&limit=1")["logs"][0]
    assert not record["corrections"]
    body = {
        "request_id": record["id"],
        "cost_nusd": -10_000_000,
        "reason": "Billed twice by the provider, credit note 4711",
    }
    made = put(world, "POST", "/api/finance/corrections", body)["correction"]
    corrected = record["cost_nusd"] - 10_000_000
    with open_tab(world.browser, world.url) as tab:
        page = tab.page
        row = page.locator(f"tr[data-open='{record['id']}']").locator("[data-col=cost]")

        def shown() -> bool:
            """ClickHouse has it a moment after the log, and the list is asked for before the panel."""
            tab.open(f"/logs?range=7d&text={record['id']}&request={record['id']}")
            expect(page.locator(f"tr[data-open='{record['id']}']")).to_have_count(1)
            return page.get_by_role("heading", name="Corrected").count() == row.locator(".was").count() == 1

        until(shown)
        assert exact(row.locator(".num").first) == corrected
        assert exact(row.locator(".was")) == record["cost_nusd"]
        panel = page.get_by_role("complementary", name="Request")
        section = panel.locator("section", has=page.get_by_role("heading", name="Corrected"))
        assert [exact(cell) for cell in section.locator("td.right[title]").all()] == [
            record["cost_nusd"], -10_000_000, corrected,
        ]  # fmt: skip
        expect(section).to_contain_text("local")
        link = section.get_by_role("link", name=body["reason"])
        # The sum of the arithmetic is what was billed then.
        billed = panel.locator("tfoot tr", has_text="Billed, as recorded").locator("td.right")
        assert exact(billed) == record["cost_nusd"]
        expect(panel).not_to_contain_text("The amount on record differs")
        section.scroll_into_view_if_needed()
        looked_at(tab, "request-corrected")
        tab.look()
        link.click()
        page.wait_for_url(re.compile(made["correction_id"]))
        expect(page.locator("main")).to_contain_text(body["reason"])
        tab.check()


def test_sessions_open_beside_the_list_and_columns_are_chosen(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/sessions?range=7d")  # some, on any day of a month
        rows = page.locator("#session-rows tr[data-open]")
        panel = page.get_by_role("complementary", name="Session")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(panel.get_by_role("heading", name="What made it dear")).to_be_visible()
        chosen = str(rows.nth(1).get_attribute("data-open"))
        assert f"open={chosen}" in page.url
        session = world.api(f"/api/sessions/{chosen}")["session"]
        assert exact(panel.locator(".big")) == (session["cost_nusd"] or session["list_cost_nusd"])
        page.keyboard.press("k")
        expect(rows.first).to_have_attribute("aria-selected", "true")
        first = str(rows.first.get_attribute("data-open"))
        expect(panel.get_by_role("link", name="Open the session")).to_have_attribute(
            "href", re.compile(f"/sessions/{first}")
        )
        looked_at(tab, "session-panel")
        tab.look()
        # The address opens it again; Esc closes it and takes it out of the address.
        page = tab.open(page.url.removeprefix(world.url))
        expect(panel).to_contain_text("Cost of each turn")
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        assert "open=" not in page.url
        rows.nth(2).locator("[data-col=who]").click()
        expect(panel).to_be_visible()
        panel.get_by_role("button", name="Close").click()
        page.locator("summary", has_text="Columns").click()
        page.get_by_role("checkbox", name="Models").uncheck()
        page = tab.open("/sessions?range=7d&sort_by=cost")
        expect(page.get_by_role("columnheader", name="Models")).to_be_hidden()
        expect(page.get_by_role("columnheader", name="Cost")).to_have_attribute("aria-sort", "descending")
        with page.expect_download() as download:
            page.get_by_role("button", name="Sessions as CSV").click()
        text = download.value.path().read_text()
        assert "Models" not in text.splitlines()[0]
        assert len(text.splitlines()) == rows.count() + 1
        panel_link = rows.first.locator("a[data-row]")
        panel_link.click(modifiers=["Control"])
        expect(panel).to_be_hidden()
        tab.check()


def test_sessions_and_insights_are_compared_where_the_switch_stands(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        for path, figures in (
            ("/sessions?range=7d", ".sums .delta"),
            ("/insights?range=7d", ".jump .delta, .big .delta"),
        ):
            page = tab.open(path)
            assert page.locator(figures).count() > 0
            page.get_by_role("banner").get_by_role("switch", name="Compare").click()
            page.wait_for_url(re.compile("compare=0"))
            tab.settled()
            expect(page.locator(figures)).to_have_count(0)
            tab.check()

        def shown_and_counted() -> tuple[tuple[int, int], tuple[int, int]]:
            start = int((berlin_today() - timedelta(days=6)).timestamp())
            page = tab.open("/sessions?range=7d")
            sessions = int(str(page.locator(".sums .num").first.get_attribute("title")).replace(",", ""))
            spent = exact(page.locator(".sums span", has_text="spent").locator(".num").first)
            whole = world.api(f"/api/sessions?from={start}&compare=previous&limit=1")["summary"]
            return (sessions, spent), (whole["sessions"], whole["cost_nusd"])

        same(shown_and_counted)


def test_short_opus_answers_are_told_apart_by_their_tool_calls(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        # Of four weeks: of the last ones tool calls are known, of those before not, on any day of a month.
        page = tab.open(f"/insights?from={berlin_today() - timedelta(days=28):%Y-%m-%d}")
        card = page.locator("#opus_like_sonnet")
        sorted_out = [
            int(str(number.get_attribute("title")).replace(",", "")) for number in card.locator(".steps dd .num").all()
        ]
        opus, short, few, more, unknown = sorted_out[:5]
        assert opus >= short == few + more + unknown
        assert min(few, more, unknown) > 0
        expect(card.locator(".unknown")).to_contain_text("tool calls unknown, not counted")
        expect(card.locator(".rule")).to_contain_text("at most 1 tool call")
        assert accessibility_faults(page) == []
        tab.check()


def test_expired_caches_and_dearest_sessions_are_compared(world: World) -> None:
    today = berlin_today()
    start, first = (int((today - timedelta(days=days)).timestamp()) for days in (14, 28))
    # Whole days that are over: both periods stay as they are.
    end = int(today.timestamp())

    def numbers(only: str, from_s: int, to_s: int) -> dict[str, Any]:
        (insight,) = world.api(f"/api/insights?only={only}&from={from_s}&to={to_s}")["insights"]
        assert insight["id"] == only
        return dict(insight["numbers"])

    was = {name: numbers(name, first, start) for name in ("expired_caches", "dearest_sessions")}
    compared = world.api(f"/api/insights?from={start}&to={end}&previous_from={first}&previous_to={start}")["insights"]
    before = {each["id"]: each.get("previous_numbers") for each in compared}
    # Of what is read turn by turn, the other period is asked for by itself.
    assert before["expired_caches"] is None
    assert before["dearest_sessions"] == was["dearest_sessions"]
    assert was["dearest_sessions"]["sessions"] > 10
    assert was["expired_caches"]["rewrites"] > 0
    with pytest.raises(urllib.error.HTTPError, match="400"):
        world.api("/api/insights?only=everything")
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/insights?from={start}&to={end}")
        caches, dearest = page.locator("#expired_caches .insight-lead"), page.locator("#dearest_sessions .insight-lead")
        expect(caches.locator("p.quiet")).to_contain_text("the same length before.")
        assert exact(caches.locator("p.quiet .num").first) == was["expired_caches"]["extra_nusd"]
        assert exact(dearest.locator("p.quiet .num").first) == was["dearest_sessions"]["list_cost_nusd"]
        for card in (caches, dearest):
            expect(card.locator(".big .delta")).to_be_visible()
        said = caches.locator(".big .delta").inner_text()
        assert page.locator(".jump a[href='#expired_caches'] .delta").inner_text() == said
        assert accessibility_faults(page) == []
        for width in (1440, 390):
            tab.look(width=width)
            tab.check()
        tab.look()
        page = tab.open(f"/insights?from={start}&to={end}&compare=0")
        expect(page.locator(".big .delta, .jump .delta")).to_have_count(0)
        expect(caches).not_to_contain_text("the same length before")
        tab.check()
