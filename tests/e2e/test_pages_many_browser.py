"""Ten thousand teams, keys, requests and sessions: pages stay small, and lead to all of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from bursar_admin.pages.budgets import OWNERS_SHOWN
from bursar_admin.pages.logs import MOST_ROWS, ROWS
from tests.harness.big_company import CUSTOMERS, Company, found
from tests.harness.browser import WAIT_MS, WIDTHS, Tab, accessibility_faults, open_tab, running_browser
from tests.harness.one_machine import OneMachine

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.timeout(600)  # every page at every width, beside whatever else the machine does
TEAMS = 10_000
FRAGMENT_BYTES = 160_000
"""Of one part of a page: what a browser takes in at once."""


LOADED = """() => Object.fromEntries(
  [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .map((each) => [each.name, each.decodedBodySize]))"""
"""Address to size, of the page and all that it loaded."""


@dataclass
class Big:
    url: str
    company: Company
    browser: Browser


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Big]:
    with OneMachine(tmp_path_factory.mktemp("big")) as machine:

        async def founded() -> Company:
            async with machine.gateway() as gateway:
                return await found(gateway, TEAMS)

        company = asyncio.run(founded())
        with running_browser() as browser:
            yield Big(machine.url, company, browser)


@pytest.mark.parametrize(
    "path",
    ["/?range=7d", "/logs?range=7d", "/sessions?range=7d", "/insights?range=7d", "/budgets", "/budgets?show=attention"],
)
def test_every_part_of_a_page_is_bounded(big: Big, path: str) -> None:
    with open_tab(big.browser, big.url) as tab:
        page = tab.open(path)
        loaded: dict[str, int] = page.evaluate(LOADED)
        sizes = {url: size for url, size in loaded.items() if "/static/" not in url and "/stream" not in url}
        assert len(sizes) > 1
        assert min(sizes.values()) > 0
        assert {url: size for url, size in sizes.items() if size > FRAGMENT_BYTES} == {}
        for width in WIDTHS:
            tab.look(width=width)
            tab.check()
        tab.look()
        assert accessibility_faults(tab.page) == []


def owners_of(tab: Tab) -> int:
    return tab.page.locator("#budget-tree .owner").count()


def test_the_tree_of_budgets_opens_piece_by_piece(big: Big) -> None:
    with open_tab(big.browser, big.url) as tab:
        page = tab.open("/budgets")
        expect(page.locator("#budget-tree .owner")).to_have_count(CUSTOMERS)
        expect(page.locator(".tree-head")).to_contain_text(f"{TEAMS + CUSTOMERS // 2:,} budgets")
        each = TEAMS // CUSTOMERS
        first = page.locator(".branch").first
        first.locator("summary", has_text=f"{each} teams").click()
        expect(first.locator(".owner")).to_have_count(1 + OWNERS_SHOWN)
        first.get_by_role("button", name=f"{OWNERS_SHOWN} of {each} teams").click()
        expect(first.locator(".owner")).to_have_count(1 + 2 * OWNERS_SHOWN)
        names = first.locator(".owner .clip").all_inner_texts()[1:]
        assert names == sorted(names)
        assert len(set(names)) == 2 * OWNERS_SHOWN
        first.locator("summary", has_text="1 key").first.click()
        expect(first.get_by_text("key 00000", exact=True)).to_be_visible()
        tab.check()
        page = tab.open("/budgets?show=attention")
        assert 0 < owners_of(tab) <= OWNERS_SHOWN + CUSTOMERS
        expect(page.locator(".owner .pill.bad, .owner .pill.warn").first).to_be_visible()
        page = tab.open(f"/budgets?customer={big.company.customers[1]}")
        expect(page.locator(".owner")).to_have_count(1 + OWNERS_SHOWN)
        tab.check()


def test_lists_of_ten_thousand_rows_come_in_pages(big: Big) -> None:
    with open_tab(big.browser, big.url) as tab:
        for path, onward in (("/logs?range=7d", "requests here"), ("/sessions?range=7d", "sessions here")):
            page = tab.open(path)
            rows = page.locator("tr[data-open]")
            expect(rows).to_have_count(ROWS)
            for shown in range(2 * ROWS, MOST_ROWS + 1, ROWS):
                page.locator("tr.more").scroll_into_view_if_needed()
                expect(rows).to_have_count(shown)
            expect(page.locator("tr.more")).to_contain_text(f"{MOST_ROWS} {onward}")
            ids = {str(row) for row in rows.evaluate_all("(all) => all.map((each) => each.dataset.open)")}
            assert len(ids) == MOST_ROWS
            page.get_by_role("link", name="The next ones").click()
            page.wait_for_url(re.compile("cursor="))
            tab.settled()
            following = {str(row) for row in rows.evaluate_all("(all) => all.map((each) => each.dataset.open)")}
            assert following
            assert not following & ids
            tab.check()
