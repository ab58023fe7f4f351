"""A log of events longer than what is kept of it, in a real Chromium: pages say in sight what they did not look at."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from bursar_admin.app import open_runner
from bursar_admin.corrected import Corrected
from bursar_common.events import CORRECTIONS_TOPIC
from bursar_common.service import listen
from tests.harness.browser import WAIT_MS, WIDTHS, Tab, accessibility_faults, open_tab, running_browser
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.processes import free_port
from tests.harness.usage_events import request_id, usage

expect.set_options(timeout=WAIT_MS)
KEPT = 60
"""Events kept in memory here, instead of 20,000: more than one page of them."""
CORRECTIONS_KEPT = 4
"""Instead of 5,000."""
TEAMS = 100
CORRECTED = 6
SHORT = 10
"""Teams while nothing was forgotten yet."""


async def correct(finance: Finance, number: int) -> None:
    body = {"request_id": request_id(number), "cost_nusd": 1_000_000, "reason": f"reason {number}"}
    status, answer, _ = await finance.admin.call("POST", "/api/finance/corrections", body)
    assert status == 200, answer


async def teams(finance: Finance, first: int, last: int) -> None:
    for number in range(first, last):
        await finance.admin.create("teams", name=f"team {number:03}")
        finance.clock.at_ms += 60_000


def in_sight(note: Locator) -> None:
    """Without scrolling: above the rows."""
    expect(note).to_be_visible()
    box = note.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 500


def nothing_is_missing(url: str) -> None:
    with running_browser() as browser, open_tab(browser, url) as tab:
        for query in ("", "?sort_by=name&order=asc", "?sort_by=time&order=asc", "?entity=request&sort_by=actor"):
            page = tab.open(f"/events{query}")
            expect(page.locator("#events tbody tr").first).to_be_visible()
            expect(page.locator("#sorted-since, #corrections-since")).to_have_count(0)
            tab.check()


def much_is(url: str) -> None:
    with running_browser() as browser, open_tab(browser, url) as tab:
        sorted_note, corrections_note = tab.page.locator("#sorted-since"), tab.page.locator("#corrections-since")
        # Sorted otherwise: said on every page of the list, not only at its end.
        page = tab.open("/events?sort_by=name&order=asc")
        expect(page.locator("#events tbody tr")).to_have_count(50)
        in_sight(sorted_note)
        in_sight(corrections_note)
        for width in WIDTHS:
            tab.look(width=width)
            tab.check()
        assert accessibility_faults(page) == []
        tab.look()
        page.get_by_role("link", name="More events").click()
        page.wait_for_url("**cursor=**")
        in_sight(sorted_note)
        page = tab.open("/events?sort_by=time&order=asc&entity=team")
        in_sight(sorted_note)
        # Of teams no correction is missing.
        expect(corrections_note).to_have_count(0)
        # Newest first goes back to the first of all; corrections do not, and are said to where the list gets there.
        sorted_note.get_by_role("link", name="Newest first").click()
        page.wait_for_url(lambda address: "sort_by" not in address)
        expect(sorted_note).to_have_count(0)
        page = tab.open("/events?entity=request")
        expect(page.locator("#events tbody tr")).to_have_count(CORRECTIONS_KEPT)
        in_sight(corrections_note)
        page = tab.open("/events")
        expect(corrections_note).to_have_count(0)
        walk_to_the_end(tab)
        in_sight(corrections_note)
        corrections_note.get_by_role("link", name="Corrections by month").click()
        page.wait_for_url("**/finance/corrections")
        page = tab.open("/finance/corrections?month=2026-11")
        expect(page.locator("#corrections tbody tr")).to_have_count(CORRECTED)
        tab.check()


def walk_to_the_end(tab: Tab) -> None:
    following = tab.page.get_by_role("navigation", name="Pages of the log").get_by_role("link", name="Older events")
    for _ in range(10):
        if not following.count():
            return
        tab.open(str(following.get_attribute("href")))
    raise AssertionError("the log has no end")


@pytest.mark.timeout(600)
async def test_what_was_not_looked_at_is_said_in_sight(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path / "home", front) as finance:
            desk = finance.admin.desk
            desk.journal.chronicle._most = KEPT
            desk.corrected = Corrected(finance.log, desk.analytics, CORRECTIONS_KEPT)
            await finance.append(*(usage(at) for at in range(CORRECTED)))
            await correct(finance, 0)
            await teams(finance, 0, SHORT)
            runner = await open_runner(desk)
            port = free_port()
            await listen(runner, f"127.0.0.1:{port}")
            try:
                await asyncio.to_thread(nothing_is_missing, f"http://127.0.0.1:{port}")
                for number in range(1, CORRECTED):
                    await correct(finance, number)
                await teams(finance, SHORT, TEAMS)
                await finance.written(CORRECTIONS_TOPIC, "bursar-usage-aggregator-books")
                await asyncio.to_thread(much_is, f"http://127.0.0.1:{port}")
            finally:
                await runner.cleanup()
