"""Finance's pages in a real Chromium: months, and what is charged beside requests, made, changed, ended and deleted."""

from __future__ import annotations

import asyncio
import csv
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from bursar_admin.app import open_runner
from bursar_common.events import CORRECTIONS_TOPIC
from bursar_common.service import listen
from tests.harness.browser import WAIT_MS, WIDTHS, Tab, accessibility_faults, open_tab, running_browser
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import DAY_MS, Finance, asked_patiently, running_finance
from tests.harness.processes import free_port
from tests.harness.usage_events import request_id, usage

expect.set_options(timeout=WAIT_MS)
HTML_NAME = '<script>document.title="x"</script> & <img src=x>'
LONG_NAME = "a-team-whose-name-has-one-hundred-and-twenty-characters-" + "x" * 64
TEAMS = ("Platform", "Research", "Data science", HTML_NAME, LONG_NAME)
CREDITED = "Credited by the provider, see <b>ticket 4711</b>"
ALLOCATIONS = "/finance/allocations"


async def fill(finance: Finance) -> dict[str, str]:
    """Teams and a shared key whose November is closed; a split that is part of it, and a fee that is not."""
    admin = finance.admin
    ids = {name: str((await admin.create("teams", name=name))["team"]["id"]) for name in TEAMS}
    ids["customer"] = (await admin.create("customers", name="Northwind"))["customer"]["id"]
    for name in ("build-server", "evaluations"):
        answer = await admin.create("virtual-keys", name=name, team_id=ids["Platform"])
        ids[name] = answer["virtual_key"]["id"]
    mine = {
        "team_id": ids["Platform"],
        "team": "Platform",
        "virtual_key_id": ids["build-server"],
        "virtual_key": "build-server",
    }
    others = {
        "team_id": ids["Research"],
        "team": "Research",
        "virtual_key_id": ids["evaluations"],
        "virtual_key": "evaluations",
    }
    await finance.append(
        *(usage(at, **mine, cost_nusd=13_100_000_003 * (at + 1)) for at in range(12)),
        *(usage(20 + at, **others, cost_nusd=5_210_000_000) for at in range(6)),
    )
    for body in (
        {
            "name": "CI runners", "kind": "split", "virtual_key_id": ids["build-server"], "from_month": "2026-11",
            "parts": [{"team_id": ids["Research"], "percent": 30}, {"team_id": ids[LONG_NAME], "percent": "12.5"}],
        },
        {
            "name": "Seats", "kind": "fee", "amount": 25, "from_month": "2026-12", "to_month": "2027-11",
            "parts": [{"team_id": ids[name], "seats": 3 * (at + 1)} for at, name in enumerate(TEAMS)],
        },
        {
            "name": HTML_NAME, "kind": "commitment", "amount": 9_000_000_000, "from_month": "2027-02",
            "parts": [{"customer_id": ids["customer"], "percent": 100}],
        },
    ):  # fmt: skip
        status, answer, _ = await admin.call("POST", "/api/finance/allocations", body)
        assert status == 200, answer
    status, closed = await finance.close("2026-11")
    assert status == 200, closed
    finance.clock.at_ms += 60_000
    for number, cost, reason in ((1, -1_100_000_003, CREDITED), (21, 250_000_000, "Priced with the wrong book")):
        body = {"request_id": request_id(number), "cost_nusd": cost, "reason": reason}
        status, answer, _ = await admin.call("POST", "/api/finance/corrections", body)
        assert status == 200, answer
    await finance.written(CORRECTIONS_TOPIC, "bursar-usage-aggregator-books")
    return ids


def looked_at(tab: Tab, name: str = "", *, dark: bool = True) -> None:
    """The page as it is, at every width in both themes; screenshots where a name is given."""
    for theme in ("light", "dark") if dark else ("light",):
        for width in WIDTHS:
            tab.look(theme=theme, width=width)
            tab.check()
            tab.page.evaluate("scrollTo(0, 0)")
            if name and (theme, width) in (("light", WIDTHS[0]), ("dark", WIDTHS[0]), ("light", WIDTHS[-1])):
                tab.screenshot(f"{name}-{theme}" + ("" if width == WIDTHS[0] else f"-{width}"))
        # What a theme changes is colour.
        assert accessibility_faults(tab.page, *(("color-contrast",) if theme == "dark" else ())) == []
    tab.look()


def field(page: Page, name: str) -> Locator:
    return page.locator(f'[name="{name}"]')


def beside(page: Page, name: str) -> Locator:
    """The place of a field's error."""
    return page.locator(f'[data-problem="{name}"]')


def part(page: Page, number: int, who: str, how_much: str) -> None:
    row = page.get_by_role("group", name="Part", exact=True).nth(number)
    row.get_by_label("Borne by").select_option(label=who)
    row.get_by_role("textbox").first.fill(how_much)


def months(tab: Tab) -> None:
    page = tab.open("/finance?month=2026-11")
    expect(page.get_by_role("navigation", name="Money").get_by_role("link")).to_have_text(
        ["Budgets", "Statements", "Corrections", "Allocations", "Closed months"]
    )
    # A fee or split is charged in a month without a request; the sum of the rows is what is billed.
    expect(page.locator("tfoot td").last).to_have_text(page.locator(".big .num").first.inner_text())
    expect(page.locator("main")).to_contain_text("since 2026-12-11")
    looked_at(tab, "finance")
    page.get_by_role("link", name="Allocations").click()
    page.wait_for_url(f"**{ALLOCATIONS}")


def as_csv(page: Page, button: str) -> list[list[str]]:
    """What the button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=f"{button} as CSV").click()
    return list(csv.reader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))


def sorted_by(tab: Tab, column: str, *orders: str) -> None:
    """Click a head as often as orders are given; the address and the head say how it is sorted. That is another page:
    its head may be there before its rows, and before what its buttons and keys do."""
    page = tab.page
    for order in orders:
        page.get_by_role("columnheader", name=column).get_by_role("link").click()
        page.wait_for_url(re.compile(f"order={order.removesuffix('ending')}"))
        expect(page.get_by_role("columnheader", name=column)).to_have_attribute("aria-sort", order)
        page.wait_for_load_state()
        tab.settled()


def statements_sorted(tab: Tab) -> None:
    page = tab.open("/finance?month=2026-11")
    expect(page.get_by_role("columnheader", name="Billed")).to_have_attribute("aria-sort", "descending")
    names = page.locator("tbody tr td:first-child")
    dearest = names.all_inner_texts()
    sorted_by(tab, "Billed", "ascending")
    expect(names).to_have_text(dearest[::-1])
    sorted_by(tab, "Team", "ascending", "descending")
    by_name = sorted(dearest, key=str.casefold, reverse=True)
    expect(names).to_have_text(list(by_name))
    rows = as_csv(page, "Teams")
    assert rows[0] == ["Team", "Share", "Requests", "List", "Billed"]
    assert [row[0] for row in rows[1:]] == by_name
    # To the last digit, not as it is rounded on the page.
    assert sum(round(float(row[4]) * 1e9) for row in rows[1:]) == 78 * 13_100_000_003 + 6 * 5_210_000_000
    page = tab.open("/finance?month=2026-11&offset=50")
    expect(page.get_by_role("heading", name="Nothing this far")).to_be_visible()
    tab.check()


def corrections_apart(tab: Tab) -> None:
    # Their month is closed: they are booked in the next, and say where they belong.
    page = tab.open("/finance?month=2026-12")
    page.get_by_role("link", name=re.compile("by 2 corrections")).click()
    page.wait_for_url("**/finance/corrections?month=2026-12")
    expect(page.locator("tbody tr")).to_have_count(2)
    row = page.locator("tbody tr").filter(has_text="ticket 4711")
    expect(row).to_contain_text(CREDITED)
    expect(row).to_contain_text("2026-11 late")
    expect(row).to_contain_text("build-server")
    expect(row).to_contain_text("-$1.10")
    expect(row).to_contain_text("this machine")
    expect(page.locator("tfoot td").last).to_have_text("-$0.85")
    looked_at(tab, "finance-corrections")
    sorted_by(tab, "Billed", "descending", "ascending")
    expect(page.locator("tbody tr").first).to_contain_text("ticket 4711")
    rows = as_csv(page, "Corrections")
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        (request_id(1), "-1.100000003"), (request_id(21), "0.250000000")
    ]  # fmt: skip
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/logs?request={request_id(1)}")
    expect(page.get_by_role("complementary", name="Request")).to_contain_text("build-server")
    page = tab.open("/finance/corrections?month=2026-11")
    expect(page.get_by_role("heading", name="Nothing was corrected in 2026-11")).to_be_visible()
    looked_at(tab, "finance-corrections-empty")


def corrections_are_events(tab: Tab) -> None:
    page = tab.open("/events")
    newest = page.locator("tbody tr").first
    expect(newest).to_contain_text("Corrected cost of request")
    expect(newest).to_contain_text("cost +$0.25")
    expect(newest).to_contain_text("because Priced with the wrong book")
    expect(newest).to_contain_text("this machine")
    # Whoever bears a part is told by name.
    expect(page.locator("tbody tr").filter(has_text="CI runners")).to_contain_text("part team Research")
    looked_at(tab, "events-corrected")
    sorted_by(tab, "Who", "ascending")
    sorted_by(tab, "When", "descending", "ascending")
    expect(page.locator("tbody tr").first).to_contain_text("Created")
    # Of one owner: those of its requests, and no other's.
    page = tab.open("/events?team=Platform&entity=request")
    expect(page.locator("tbody tr")).to_have_count(1)
    rows = as_csv(page, "Events")
    assert rows[1][2] == request_id(1)
    expect(page.locator("tbody tr").get_by_role("link").last).to_have_attribute(
        "href", re.compile(f"request={request_id(1)}")
    )
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/events/log/**")
    expect(page.locator("main")).to_contain_text("changed by -$1.10")
    expect(page.locator("main")).to_contain_text(CREDITED)
    expect(page.locator("main").get_by_role("link", name="Platform", exact=True)).to_be_visible()
    looked_at(tab, "event-correction")
    page.get_by_role("link", name="Open the request").click()
    expect(page.get_by_role("complementary", name="Request")).to_contain_text("build-server")
    tab.check()


def a_month_is_closed(tab: Tab, finance: Finance) -> None:
    page = tab.open("/finance/closes")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("main")).to_contain_text("2026-12 is still running, and 2026-11 is closed")
    finance.clock.at_ms += 31 * DAY_MS
    page = tab.open("/finance/closes")
    expect(page.locator(".preview")).to_contain_text("2026-12 as it stands")
    expect(page.locator(".preview")).to_contain_text("by corrections")
    button = page.get_by_role("button", name="Close 2026-12")
    expect(button).to_be_disabled()
    page.get_by_label("to close it").fill("2026-1")
    expect(button).to_be_disabled()
    page.get_by_label("to close it").fill("2026-12")
    expect(button).to_be_enabled()
    looked_at(tab, "finance-closes")
    with page.expect_navigation():
        button.click()
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator("tbody tr").first).to_contain_text("-$0.85")
    sorted_by(tab, "Month", "ascending")
    assert [row[0] for row in as_csv(page, "Closed months")[1:]] == ["2026-11", "2026-12"]
    page = tab.open("/events?entity=period_close")
    expect(page.locator("tbody tr").first).to_contain_text("Closed month")
    tab.check()


def allocations_sorted(tab: Tab) -> None:
    page = tab.open(ALLOCATIONS)
    names = page.locator("tbody tr td:first-child")
    sorted_by(tab, "A month", "descending")
    expect(names.first).to_have_text(HTML_NAME)
    sorted_by(tab, "Name", "ascending", "descending")
    assert names.all_inner_texts() == sorted(names.all_inner_texts(), key=str.casefold, reverse=True)
    assert as_csv(page, "Allocations")[0] == ["Name", "Kind", "Of", "Borne by", "A month", "Months", "State"]
    tab.check()


def listed(tab: Tab) -> None:
    page = tab.open(ALLOCATIONS)
    expect(page.locator("tbody tr")).to_have_count(3)
    assert page.locator("main img").count() == 0
    looked_at(tab, "allocations")
    page.get_by_role("link", name="Fees").click()
    page.wait_for_url("**?kind=fee")
    expect(page.locator("tbody tr")).to_have_count(1)
    row = page.locator("tbody tr")
    expect(row).to_contain_text("Platform 3 seats")
    expect(row).to_contain_text("3 more")
    expect(row).to_contain_text("$1,125.00")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(ALLOCATIONS + "/[0-9a-f-]{36}"))
    expect(field(page, "amount")).to_have_value("25.00")


def made_changed_and_deleted(tab: Tab) -> None:
    page = tab.open(ALLOCATIONS)
    page.get_by_role("link", name="New allocation").click()
    page.wait_for_url(f"**{ALLOCATIONS}/new*")
    expect(page.get_by_label("Name")).to_be_focused()
    expect(field(page, "from_month")).to_have_value("2026-12")
    tab.expected += ["status of 400", "status of 409"]
    create = page.get_by_role("button", name="Create allocation")
    create.click()
    expect(beside(page, "name")).to_contain_text("required")
    page.get_by_label("Name").fill("Shared by three")
    create.click()
    expect(beside(page, "parts")).not_to_be_empty()
    page.get_by_label("Shared key").select_option(label="evaluations")
    part(page, 0, "Research", "60")
    page.get_by_role("button", name="Add a part").click()
    part(page, 1, "Northwind", "39.99999")
    create.click()
    expect(beside(page, "parts[1].percent")).to_contain_text("four decimals")
    field(page, "parts[1].percent").fill("50")
    page.get_by_label("Shared key").select_option(label="build-server")
    expect(page.locator("[data-sum]")).to_contain_text("110 %; 10 % too much")
    create.click()
    # The key is divided in December already, and the error leads to what divides it.
    expect(beside(page, "virtual_key_id")).to_contain_text("divides that key")
    expect(beside(page, "virtual_key_id").get_by_role("link", name="Open it")).to_be_visible()
    expect(field(page, "virtual_key_id")).to_be_focused()
    looked_at(tab, dark=False)
    page.get_by_label("Shared key").select_option(label="evaluations")
    create.click()
    expect(beside(page, "parts")).to_contain_text("Sum to 110 %")
    field(page, "parts[1].percent").fill("39.9999")
    expect(page.locator("[data-sum]")).to_contain_text("0.0001 % stays with the key's team")
    looked_at(tab, "allocation-new")
    with page.expect_navigation():
        create.click()
    page.wait_for_url(re.compile(ALLOCATIONS + "/[0-9a-f-]{36}$"))
    expect(page.locator("#toast")).to_have_text("Allocation created.")
    expect(field(page, "parts[1].customer_id")).to_have_count(1)
    expect(field(page, "parts[1].percent")).to_have_value("39.9999")
    looked_at(tab, "allocation")
    # Changed: one part less, and it ends.
    page.get_by_role("button", name="Remove this part").first.click()
    expect(field(page, "parts[0].customer_id")).to_have_count(1)
    field(page, "to_month").fill("2026-11")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(beside(page, "to_month")).to_contain_text("before from_month")
    field(page, "to_month").fill("2027-01")
    with page.expect_navigation():
        page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("group", name="Part", exact=True)).to_have_count(1)
    expect(field(page, "to_month")).to_have_value("2027-01")
    # Deleted, by its name only.
    destroy = page.get_by_role("button", name="Delete this allocation")
    expect(destroy).to_be_disabled()
    page.get_by_label(re.compile("to delete it")).fill("Shared by three")
    with page.expect_navigation():
        destroy.click()
    page.wait_for_url(f"**{ALLOCATIONS}")
    expect(page.get_by_text("Shared by three")).to_have_count(0)
    tab.check()


def fees_and_commitments(tab: Tab) -> None:
    page = tab.open(f"{ALLOCATIONS}/new?kind=commitment")
    expect(field(page, "virtual_key_id")).to_be_disabled()
    page.get_by_label("Name").fill("Committed")
    page.get_by_label("Amount a month").fill("1,000")
    part(page, 0, "Research", "70")
    expect(page.locator("[data-sum]")).to_contain_text("30 % is nobody's yet")
    page.get_by_label("Kind").select_option("fee")
    expect(field(page, "parts[0].percent")).to_be_hidden()
    page.get_by_label("Seats").fill("12")
    expect(page.locator("[data-sum]")).to_contain_text("12 seats at $1,000.00: $12,000.00 a month.")
    page.get_by_role("button", name="Add a part").click()
    expect(field(page, "parts[1].seats")).to_be_visible()
    page.get_by_role("button", name="Remove this part").last.click()
    looked_at(tab, dark=False)
    with page.expect_navigation():
        page.get_by_role("button", name="Create allocation").click()
    page.wait_for_url(re.compile(ALLOCATIONS + "/[0-9a-f-]{36}$"))
    expect(page.locator("main")).to_contain_text("$12,000.00")


def what_is_closed_stays(tab: Tab) -> None:
    page = tab.open(ALLOCATIONS)
    page.get_by_role("link", name="CI runners").click()
    page.wait_for_url(re.compile(ALLOCATIONS + "/"))
    expect(page.locator("main")).to_contain_text("Fixed: 2026-11 is closed")
    expect(page.get_by_role("button", name="Delete this allocation")).to_have_count(0)
    expect(field(page, "from_month")).to_have_count(0)
    looked_at(tab, "allocation-closed")
    field(page, "to_month").fill("2026-10")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(beside(page, "to_month")).not_to_be_empty()
    page.get_by_label("Description").fill("Ended with the year.")
    field(page, "to_month").fill("2026-12")
    with page.expect_navigation():
        page.get_by_role("button", name="Save", exact=True).click()
    expect(field(page, "to_month")).to_have_value("2026-12")
    tab.check()


def look(url: str, finance: Finance) -> None:
    steps = (
        months, statements_sorted, corrections_apart, corrections_are_events, listed, allocations_sorted,
        made_changed_and_deleted, fees_and_commitments, what_is_closed_stays,
    )  # fmt: skip
    with running_browser() as browser, open_tab(browser, url) as tab:
        for step in steps:
            tab.look()
            print(step.__name__, flush=True)
            step(tab)
        a_month_is_closed(tab, finance)


def empty(url: str, finance: Finance) -> None:
    with running_browser() as browser, open_tab(browser, url) as tab:
        page = tab.open("/finance/closes")
        expect(page.get_by_role("heading", name="No month is closed yet")).to_be_visible()
        expect(page.locator("main")).to_contain_text("There is nothing to close now")
        looked_at(tab, "finance-closes-empty")
        tab.open("/finance")
        looked_at(tab, "finance-empty")
        page = tab.open(ALLOCATIONS)
        looked_at(tab, "allocations-empty")
        page.get_by_role("link", name="Charge a fee").click()
        page.wait_for_url("**/new?kind=fee")
        expect(page.get_by_label("Seats")).to_be_visible()
        tab.check()
        for wrong in (f"{ALLOCATIONS}?kind=gift", f"{ALLOCATIONS}/new?kind=gift", f"{ALLOCATIONS}/nobody"):
            tab.expected += ["status of 400", "status of 404"]
            page = tab.open(wrong)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            tab.check()


async def shown(tmp_path: Path, front: ClickHouseFront, filled: bool, look_at: Any) -> None:
    tmp_path.mkdir()
    async with running_finance(tmp_path, front) as finance:
        if filled:
            await fill(finance)
        runner = await open_runner(finance.admin.desk)
        port = free_port()
        await listen(runner, f"127.0.0.1:{port}")
        try:
            await asyncio.to_thread(look_at, f"http://127.0.0.1:{port}", finance)
        finally:
            await runner.cleanup()


@pytest.mark.timeout(900)  # every page at three widths in two themes, one after the other
async def test_finance_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        asked_patiently(front, monkeypatch)
        await shown(tmp_path / "filled", front, True, look)


@pytest.mark.timeout(600)
async def test_finance_of_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        asked_patiently(front, monkeypatch)
        await shown(tmp_path / "empty", front, False, empty)
