"""The pages in a real Chromium, with traffic behind them: they load, work, look right and can be used by anybody."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Request, expect

from bursar_common.money import NUSD_PER_DOLLAR
from tests.harness.browser import WAIT_MS, WIDTHS, Held, accessibility_faults, open_tab
from tests.harness.page_traffic import HTML_NAME, LONG_NAME, seed_oddities
from tests.harness.page_world import World, looked_at, running_world

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.timeout(600)  # every page at every width, beside whatever else the machine does
TABLE = json.loads((Path(__file__).parents[1] / "unit" / "page_numbers.json").read_text())
FIRST_PAGE_BYTES = 300_000


NAMES = (
    "overview", "overview-one-team", "logs", "request", "logs-filtered", "logs-empty", "sessions", "session",
    "insights", "budgets",
)  # fmt: skip
SHOWN = {"overview", "logs", "request", "sessions", "session", "insights", "budgets"}
"""Pages whose screenshots are kept: light and dark, and on a telephone."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One gateway and one browser for the file."""
    with running_world(tmp_path_factory.mktemp("pages")) as found:
        yield found


@pytest.fixture(scope="module")
def odd_world(world: World) -> World:
    """The same with names and amounts that pages break on."""
    world.seed(seed_oddities)
    return world


@pytest.mark.parametrize("name", NAMES)
def test_every_page_loads_clean_at_every_width_in_both_themes(world: World, name: str) -> None:
    with open_tab(world.browser, world.url) as tab:
        tab.open(world.path(name))
        looked_at(tab, name if name in SHOWN else "")


def test_opened_things_are_as_usable(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/budgets")
        page.get_by_role("button", name="Change the budget of platform").click()
        expect(page.get_by_label("Limit")).to_be_focused()
        looked_at(tab, "budget-form")
        tab.look()
        page = tab.open("/")
        page.get_by_text("Choose", exact=True).click()
        expect(page.get_by_role("link", name="Northwind")).to_be_visible()
        assert accessibility_faults(page) == []
        page.keyboard.press("Escape")
        expect(page.get_by_role("link", name="Northwind")).to_be_hidden()
        page.keyboard.press("t")
        expect(page.get_by_role("region", name="Spend as a table")).to_be_visible()
        assert accessibility_faults(page) == []
        tab.check()
        page = tab.open("/logs")
        page.locator("summary", has_text="Filter").click()
        expect(page.locator("select[name=outcome]")).to_be_visible()
        looked_at(tab)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/?range=nonsense", 400, "is not a time range"),
        ("/logs?teem=platform", 400, "is not a filter"),
        ("/logs?from=2026-02-01&to=2026-01-01", 400, "is not after from"),
        ("/nothing-here", 404, "There is nothing at this address"),
    ],
)
def test_a_wrong_address_is_explained(world: World, path: str, status: int, says: str) -> None:
    with open_tab(world.browser, world.url) as tab:
        tab.expected.append(f"status of {status}")
        answer = tab.page.goto(world.url + path)
        assert answer is not None
        assert answer.status == status
        assert says in tab.page.inner_text("main")
        tab.check()
        assert accessibility_faults(tab.page) == []


def test_the_first_page_is_small_and_files_are_kept(world: World) -> None:
    loaded: dict[str, int] = {}
    kept: dict[str, str] = {}
    with open_tab(world.browser, world.url) as tab:
        asked: list[Request] = []
        tab.page.on("request", lambda request: asked.append(request) if "/stream" not in request.url else None)
        tab.open("/")
        for request in asked:
            answer = request.response()
            assert answer is not None
            url = answer.url.removeprefix(world.url)
            loaded[url] = len(answer.body())
            kept[url] = answer.headers.get("cache-control", "")
    assert sum(size for url, size in loaded.items() if "echarts" not in url) < FIRST_PAGE_BYTES
    assert any("echarts" in url for url in loaded)
    static = [url for url in loaded if url.startswith("/static/")]
    assert len(static) >= 5
    for url in static:
        assert re.fullmatch(r"/static/[0-9a-f]{12}/.+", url)
        assert kept[url] == "public, max-age=31536000, immutable"
    assert all("no-store" in kept[url] for url in loaded if not url.startswith("/static/"))
    with open_tab(world.browser, world.url) as tab:
        seen: list[str] = []
        tab.page.on("request", lambda request: seen.append(request.url))
        tab.open("/budgets")
        assert not any("echarts" in url for url in seen)


def test_headers_keep_other_sites_out(world: World) -> None:
    _, headers, body = world.get("/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    text = body.decode()
    assert "<style" not in text
    assert " style=" not in text
    assert not re.search(r"<script(?![^>]* src=)", text)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


def test_amounts_are_said_alike_in_the_browser(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/budgets")
        module = re.search(r"/static/[0-9a-f]{12}/", page.content())
        assert module is not None
        said = page.evaluate(
            """async ([address, table]) => {
              const numbers = await import(address + "js/numbers.js");
              return Object.entries(table).flatMap(([name, rows]) => rows.map(([given, wanted]) =>
                [name, given, wanted, numbers[name](...(name === "ago" ? given : [given]))]));
            }""",
            [module[0], TABLE],
        )
        assert len(said) > 50
        assert [row for row in said if row[2] != row[3]] == []


def test_the_log_is_walked_by_keyboard(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/logs")
        rows = page.locator("tr[data-open]")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        page.keyboard.press("j")
        expect(rows.nth(1)).to_have_attribute("aria-selected", "true")
        page.keyboard.press("Enter")
        panel = page.get_by_role("complementary", name="Request")
        expect(panel.get_by_role("heading", name="Charged to")).to_be_visible()
        # What a request cost can be read beside its panel.
        table, cost = page.locator(".log-box").bounding_box(), rows.nth(1).locator("[data-col='cost']").bounding_box()
        assert table is not None
        assert cost is not None
        assert cost["x"] + cost["width"] <= table["x"] + table["width"]
        chosen = rows.nth(1).get_attribute("data-open")
        assert f"request={chosen}" in page.url
        page.keyboard.press("j")
        expect(rows.nth(2)).to_have_attribute("aria-selected", "true")
        expect(
            panel.get_by_role("button", name=re.compile(str(rows.nth(2).get_attribute("data-open"))[-8:]))
        ).to_be_visible()
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        assert "request=" not in page.url
        tab.check()
        page.keyboard.press("/")
        expect(page.locator("#search")).to_be_focused()


def test_filters_stand_in_the_address_and_can_be_taken_off(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/logs")
        page.locator("summary", has_text="Filter").click()
        page.locator("select[name=outcome]").select_option("refused")
        page.get_by_role("button", name="Show", exact=True).first.click()
        page.wait_for_url(re.compile("outcome=refused"))
        tab.settled()
        assert set(page.locator('td[data-col="outcome"]').all_inner_texts()) == {"refused"}
        page.get_by_role("link", name="outcome: refused").click()
        page.wait_for_url(lambda url: "outcome" not in url)
        tab.settled()
        # Of 7 days, whose requests are more than a page on any day of a month.
        page = tab.open("/logs?range=7d")
        page.get_by_role("link", name="Cost", exact=True).click()
        page.wait_for_url(re.compile("sort_by=cost"))
        tab.settled()
        exact = page.locator('td[data-col="cost"] .num').evaluate_all("(all) => all.map((each) => each.title)")
        costs = [int(re.sub(r".*\(|\D", "", title)) for title in exact]
        assert len(costs) == 50
        assert costs == sorted(costs, reverse=True)
        tab.check()


def test_filters_are_typed_with_known_values_and_time_is_chosen_by_the_course(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/logs?range=7d")
        page.locator("summary", has_text="Filter").click()
        known = page.locator("datalist#known-team option")
        expect(known).to_have_count(4)
        page.locator("form.filters input[name=team]").fill("payments")
        page.locator("form.filters input[name=min_cost_usd]").fill("0.05")
        page.get_by_role("button", name="Show", exact=True).last.click()
        page.wait_for_url(re.compile("min_cost_usd"))
        tab.settled()
        asked = dict(parse_qsl(urlsplit(page.url).query, keep_blank_values=True))
        assert asked == {"range": "7d", "team": "payments", "min_cost_usd": "0.05"}
        expect(page.locator("summary", has_text="Filter")).to_contain_text("2")
        assert set(page.locator('td[data-col="team"]').all_inner_texts()) == {"payments"}
        expect(page.get_by_role("navigation", name="Scope")).to_contain_text("payments")
        step = page.locator(".strip a").last
        said = str(step.get_attribute("aria-label"))
        step.locator("rect").first.click()
        page.wait_for_url(re.compile("from="))
        tab.settled()
        served = int(re.findall(r"([\d,]+) served", said)[0].replace(",", ""))
        expect(page.locator("tr[data-open]")).to_have_count(min(50, served))
        tab.check()


def test_charts_are_labelled_and_lead_on(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/?range=7d")  # with bars of all teams on any day of a month
        labels = page.locator("[data-legend] a")
        assert set(labels.all_inner_texts()) <= {"platform", "data-science", "payments", "mobile"}
        colour = page.locator("[data-legend] li", has_text="platform").locator("rect").get_attribute("class")
        ranked = page.locator(".ranks li", has_text="platform").first
        assert ranked.locator("rect").first.get_attribute("class") == colour
        canvas = page.locator("[data-canvas]")
        box = canvas.bounding_box()
        assert box is not None
        # The bar of today, or of the last day with any spend: labels stand right of it.
        first = labels.first.bounding_box()
        assert first is not None
        x, y = first["x"] - box["x"] - 26, box["height"] - 40
        canvas.hover(position={"x": x, "y": y})
        shown = canvas.locator("text", has_text=re.compile(r"20\d\d"))
        expect(shown.first).to_be_visible()
        page.get_by_role("button", name="User", exact=True).click()
        page.wait_for_url(re.compile("by=user"))
        expect(page.locator("[data-legend]")).to_contain_text("Alice Moreau")
        tab.check()
        page = tab.open("/?range=7d&by=model")
        expect(page.locator("[data-legend]")).to_contain_text("claude-opus-4-8")
        canvas.click(position={"x": x, "y": y})
        page.wait_for_url(re.compile("from=.*to="))
        tab.settled()
        tab.check()


NO_COOKIES = 'Object.defineProperty(Document.prototype, "cookie", { get: () => "", set: () => {} });'


@pytest.mark.parametrize("keeps_cookies", [True, False])
def test_the_first_visit_is_in_the_viewers_zone_or_all_in_utc(world: World, keeps_cookies: bool) -> None:
    """A browser that keeps no cookies cannot say its zone; then days are those of UTC, and are named so."""
    zone = "America/Los_Angeles"
    with open_tab(world.browser, world.url, zone=zone, been_here=False) as tab:
        if not keeps_cookies:
            tab.page.add_init_script(NO_COOKIES)
        loads: list[str] = []
        tab.page.on("response", lambda got: loads.append(got.url) if got.request.is_navigation_request() else None)
        tab.page.goto(world.url + "/?range=month#content")
        shown = ZoneInfo(zone if keeps_cookies else "UTC")
        chart = tab.page.locator(f"[data-chart*='{quote(shown.key, safe='')}']")
        expect(chart).to_be_visible()
        tab.settled()
        assert len(loads) == (2 if keeps_cookies else 1)
        starts = [
            datetime.fromtimestamp(bucket["start_s"], shown)
            for bucket in world.api(str(chart.get_attribute("data-chart")))["buckets"]
        ]
        assert {(start.hour, start.minute) for start in starts} == {(0, 0)}
        names = chart.locator("[data-chart-table] tbody th").all_text_contents()
        assert [int(name.split()[0]) for name in names] == [start.day for start in starts]
        # The second page knows the zone already.
        tab.open("/budgets")
        assert len(loads) == (3 if keeps_cookies else 2)
        tab.check()


def test_columns_are_chosen_and_remembered(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/logs")
        expect(page.get_by_role("columnheader", name="Provider")).to_be_hidden()
        page.locator("summary", has_text="Columns").click()
        page.get_by_role("checkbox", name="Provider").check()
        page.get_by_role("checkbox", name="Team").uncheck()
        page = tab.open("/logs")
        expect(page.get_by_role("columnheader", name="Provider")).to_be_visible()
        expect(page.get_by_role("columnheader", name="Team")).to_be_hidden()


def test_scope_filters_every_page_and_search_finds_owners(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/?range=7d")
        page.locator("#search").press_sequentially("plat")
        page.locator("#found").get_by_role("link", name="platform").click()
        page.wait_for_url(re.compile(f"team={world.seeded.teams['platform']}"))
        tab.settled()
        expect(page.get_by_role("navigation", name="Scope").get_by_role("link")).to_have_text(
            ["Everyone", "Northwind", "platform"]
        )
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Logs").click()
        page.wait_for_url(re.compile("/logs.*team="))
        tab.settled()
        assert set(page.locator('td[data-col="team"]').all_inner_texts()) == {"platform"}
        tab.check()


def test_a_limit_is_raised_in_place(world: World) -> None:
    team = world.seeded.teams["data-science"]
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/budgets")
        change = page.get_by_role("button", name="Change the budget of data-science").first
        change.click()
        tab.expected.append("status of 400")
        page.get_by_label("Limit").fill("-3")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert").filter(has_text=re.compile("dollars", re.I))).to_be_visible()
        expect(page.get_by_label("Limit")).to_have_attribute("aria-invalid", "true")
        page.get_by_label("Limit").fill("1234.5")
        page.get_by_label("Enforcement").select_option("observe")
        page.get_by_role("button", name="Save").click()
        # The tree without the form, whose preview may say the same amount.
        expect(page.get_by_label("Limit")).to_have_count(0)
        expect(page.get_by_text("$1,234.50")).to_be_visible()
        budgets = world.api(f"/api/governance/teams/{team}")["team"]["budgets"]
        assert [(each["max_limit"], each["enforcement"]) for each in budgets] == [(1234.5, "observe"), (5, "observe")]
        # Somebody else is faster: nothing is overwritten.
        change.click()
        expect(page.get_by_label("Limit")).to_be_visible()
        request = urllib.request.Request(
            f"{world.url}/api/governance/teams/{team}",
            data=json.dumps(
                {"budgets": [{"id": budgets[0]["id"], "max_limit": 77}, {"id": budgets[1]["id"]}]}
            ).encode(),
            headers={"content-type": "application/json"},
            method="PATCH",
        )
        urllib.request.urlopen(request, timeout=30).read()
        page.get_by_label("Limit").fill("5")
        tab.expected.append("status of 409")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Cancel and open the form again")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("$77.00")).to_be_visible()
        tab.check()


def test_budgets_say_what_needs_attention_and_what_a_limit_would_mean(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/budgets")
        expect(page.get_by_title("mobile", exact=True)).to_be_visible()
        page.get_by_role("link", name="Needs attention").click()
        page.wait_for_url(re.compile("show=attention"))
        tab.settled()
        expect(page.get_by_title("payments", exact=True)).to_be_visible()
        expect(page.get_by_title("mobile", exact=True)).to_be_hidden()
        page.get_by_role("button", name="Change the budget of payments").click()
        (budget,) = world.api(f"/api/governance/teams/{world.seeded.teams['payments']}")["team"]["budgets"]
        # Half of what is spent: nothing, early on the first of a month.
        page.get_by_label("Limit").fill(f"{budget['spent_nusd'] / 2 / NUSD_PER_DOLLAR:.9f}")
        expect(page.locator("[data-preview]")).to_contain_text("is spent already")
        page.get_by_label("Limit").fill("100000")
        expect(page.locator("[data-preview]")).to_contain_text("left.")
        page.keyboard.press("Escape")
        expect(page.get_by_label("Limit")).to_be_hidden()
        tab.check()


def test_the_theme_is_chosen_and_kept(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/budgets")
        button = page.get_by_role("button", name=re.compile("^Theme"))
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(background) == "rgb(250, 250, 249)"
        button.click()
        button.click()
        assert page.evaluate(background) == "rgb(12, 10, 9)"
        page = tab.open("/insights")
        assert page.evaluate(background) == "rgb(12, 10, 9)"
        tab.check()


def test_new_requests_come_in_by_themselves(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/logs")
        expect(page.locator("[data-live]")).to_have_attribute("data-live", "on")
        rows = page.locator("tr[data-open]")
        newest = str(rows.first.get_attribute("data-open"))
        world.ask()
        expect(rows.first).not_to_have_attribute("data-open", newest)
        page.keyboard.press("j")
        first = str(rows.first.get_attribute("data-open"))
        # From here on what is asked for is there: the page itself looks a dozen times, and then with the next request.
        world.ask_recorded()
        pill = page.get_by_role("button", name=re.compile(r"^\d+ new$"))
        expect(pill).to_be_visible()
        assert rows.first.get_attribute("data-open") == first
        pill.click()
        expect(rows.first).not_to_have_attribute("data-open", first)
        # The pill is gone, and gives the keyboard back with the next frame.
        expect(pill).to_be_hidden()
        page.wait_for_function("() => document.activeElement === document.body")
        page.keyboard.press(" ")
        expect(page.get_by_role("button", name="Resume")).to_be_visible()
        paused_at = str(rows.first.get_attribute("data-open"))
        world.ask_recorded()
        expect(pill).to_be_visible()
        assert rows.first.get_attribute("data-open") == paused_at
        page.keyboard.press(" ")
        expect(rows.first).not_to_have_attribute("data-open", paused_at)
        tab.check()


def test_what_was_opened_while_an_answer_was_on_its_way_stays(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/budgets")
        expect(page.locator("[data-live]")).to_have_attribute("data-live", "on")
        tree = Held(page, "**/fragments/budgets/tree*")
        world.ask()
        tree.begun()
        page.get_by_role("button", name="Change the budget of data-science").first.click()
        limit = page.get_by_label("Limit")
        limit.fill("31")
        with page.expect_response(tree.address):
            tree.let_go()
        page.wait_for_function("() => document.querySelectorAll('#budget-tree[data-following]').length === 0")
        expect(limit).to_have_value("31")
        page.get_by_role("button", name="Cancel").click()
        expect(limit).to_have_count(0)
        page = tab.open("/logs")
        expect(page.locator("[data-live]")).to_have_attribute("data-live", "on")
        rows, listed = page.locator("tr[data-open]"), Held(page, "**/fragments/logs/rows*")
        first = str(rows.first.get_attribute("data-open"))
        world.ask_recorded()
        listed.begun()
        page.keyboard.press("j")
        with page.expect_response(listed.address):
            listed.let_go()
        expect(page.get_by_role("button", name=re.compile(r"^\d+ new$"))).to_be_visible()
        expect(rows.first).to_have_attribute("data-open", first)
        expect(rows.first).to_have_attribute("aria-selected", "true")
        tab.check()


def test_more_rows_come_by_cursor_and_as_a_file(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/logs?range=7d&team={world.seeded.teams['platform']}&sort_by=cost")
        rows = page.locator("tr[data-open]")
        expect(rows).to_have_count(50)
        page.locator("tr.more").scroll_into_view_if_needed()
        expect(rows).to_have_count(100)
        ids = [row.get_attribute("data-open") for row in rows.all()]
        assert len(set(ids)) == 100
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        text = download.value.path().read_text()
        found = list(csv.DictReader(io.StringIO(text)))
        assert [row["id"] for row in found[:100]] == ids
        assert {row["team"] for row in found} == {"platform"}
        tab.check()


def test_a_table_ends_where_a_browser_would_be_slow_and_goes_on_as_a_page(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/logs?range=7d")
        first = str(page.locator("tr[data-open]").nth(0).get_attribute("data-open"))
        part = page.evaluate(
            """async () => {
              const headers = { "HX-Request": "true", "HX-Current-URL": location.href };
              return (await fetch("/fragments/logs/rows?range=7d&shown=480", { headers })).text();
            }"""
        )
        onward = re.search(r'530 requests here.*?href="(/logs[^"]*)"', part, re.S)
        assert onward is not None
        page = tab.open(html.unescape(onward[1]))
        rows = page.locator("tr[data-open]")
        expect(rows.first).to_be_visible()
        assert first not in [row.get_attribute("data-open") for row in rows.all()]
        # What is new is counted, not slid in above older ones.
        expect(page.locator("[data-live]")).to_have_attribute("data-live", "on")
        world.ask_recorded()
        expect(page.get_by_role("button", name=re.compile(r"^\d+ new$"))).to_be_visible()
        page.get_by_role("link", name="Back to the newest").click()
        page.wait_for_url(lambda url: "cursor" not in url)
        tab.settled()
        tab.check()


def test_the_period_before_is_compared_to_where_the_switch_stands(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        # Of 7 days: the same days of last month may have had no request yet, on the first of a month.
        for path, figures in (("/?range=7d", ".figure .delta, .stat .delta"), ("/logs?range=7d", ".sums .delta")):
            page = tab.open(path)
            switch = page.get_by_role("banner").get_by_role("switch", name="Compare")
            expect(switch).to_have_attribute("aria-checked", "true")
            assert page.locator(figures).count() > 0
            switch.click()
            page.wait_for_url(re.compile("compare=0"))
            tab.settled()
            expect(page.locator(figures)).to_have_count(0)
            tab.check()
        expect(page.get_by_role("banner").get_by_role("group", name="Time range")).to_be_visible()


def test_any_table_is_saved_as_it_is_seen(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/sessions?range=7d")
        with page.expect_download() as download:
            page.get_by_role("button", name="Sessions as CSV").click()
        assert download.value.suggested_filename == "bursar-sessions.csv"
        found = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
        shown = page.locator("tr[data-open]")
        assert len(found) == shown.count()
        newest = world.api("/api/sessions?limit=1")["sessions"][0]
        assert found[0]["Session"] == newest["id"]
        assert found[0]["Cost"] == newest["cost_usd"]
        assert found[0]["Requests"] == str(newest["requests"])
        module = re.search(r"/static/[0-9a-f]{12}/", page.content())
        assert module is not None
        text = page.evaluate(
            """async (address) => {
              const { tableAsCsv } = await import(address + "js/csv.js");
              const table = document.createElement("table");
              const head = table.createTHead().insertRow();
              for (const _ of "ab") head.append(document.createElement("th"));
              [...head.cells].forEach((cell, at) => { cell.textContent = "ab"[at]; });
              const row = table.createTBody().insertRow();
              for (const value of ['=HYPERLINK("x")', "-5"]) row.insertCell().textContent = value;
              document.body.append(table);
              return tableAsCsv(table);
            }""",
            module[0],
        )
        assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ['\'=HYPERLINK("x")', "-5"]]
        tab.check()


def test_names_and_amounts_that_pages_break_on(odd_world: World) -> None:
    world = odd_world
    with open_tab(world.browser, world.url) as tab:
        page = tab.open("/budgets")
        assert page.locator("main img").count() == 0
        expect(page.get_by_title(HTML_NAME)).to_have_text(HTML_NAME)
        long = page.get_by_title(LONG_NAME, exact=True)
        assert long.evaluate("(each) => each.scrollWidth > each.clientWidth")
        expect(page.get_by_text("$9,000,000,000.00")).to_be_visible()
        expect(page.locator("#content")).to_contain_text("$0.00 of $0.00")
        looked_at(tab)
        for path in ("/", "/logs", f"/?team={world.seeded.teams[HTML_NAME]}", "/?range=today&by=team", "/insights"):
            tab.look()
            page = tab.open(path)
            assert page.locator("main img").count() == 0
            assert page.title().endswith("Bursar")
            for width in WIDTHS:
                tab.look(width=width)
                tab.check()
        page.locator("#search").fill("img src")
        expect(page.locator("#found").get_by_role("link", name=HTML_NAME).first).to_be_visible()
        tab.check()
