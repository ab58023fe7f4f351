"""Finance's pages in a real Chromium: months, and what is charged beside requests, made, changed, ended and deleted."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from bursar_admin.app import open_runner
from bursar_common.service import listen
from tests.harness.browser import WIDTHS, Tab, accessibility_faults, open_tab, running_browser
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.processes import free_port
from tests.harness.usage_events import usage

HTML_NAME = '<script>document.title="x"</script> & <img src=x>'
LONG_NAME = "a-team-whose-name-has-one-hundred-and-twenty-characters-" + "x" * 64
TEAMS = ("Platform", "Research", "Data science", HTML_NAME, LONG_NAME)
ALLOCATIONS = "/finance/allocations"


async def fill(finance: Finance) -> dict[str, str]:
    """Teams and a shared key whose November is closed; a split that is part of it, and a fee that is not."""
    admin = finance.admin
    ids = {name: str((await admin.create("teams", name=name))["team"]["id"]) for name in TEAMS}
    ids["customer"] = (await admin.create("customers", name="Northwind"))["customer"]["id"]
    for name in ("build-server", "evaluations"):
        answer = await admin.create("virtual-keys", name=name, team_id=ids["Platform"])
        ids[name] = answer["virtual_key"]["id"]
    mine = {"team_id": ids["Platform"], "team": "Platform", "virtual_key_id": ids["build-server"]}
    others = {"team_id": ids["Research"], "team": "Research", "virtual_key_id": ids["evaluations"]}
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


def look(url: str) -> None:
    with running_browser() as browser, open_tab(browser, url) as tab:
        for step in (months, listed, made_changed_and_deleted, fees_and_commitments, what_is_closed_stays):
            tab.look()
            step(tab)


def empty(url: str) -> None:
    with running_browser() as browser, open_tab(browser, url) as tab:
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
            await asyncio.to_thread(look_at, f"http://127.0.0.1:{port}")
        finally:
            await runner.cleanup()


async def test_finance_in_a_browser(tmp_path: Path) -> None:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        await shown(tmp_path / "empty", front, False, empty)
        await shown(tmp_path / "filled", front, True, look)
