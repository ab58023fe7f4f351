"""Tables of every page in a real Chromium: sorted by their heads, saved as files, and statements printed as sorted."""

from __future__ import annotations

import csv
import json
import re
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.harness.browser import WAIT_MS, Tab, accessibility_faults, open_tab
from tests.harness.page_world import World, running_world, until

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.timeout(600)
REASON = "Credited by the provider"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("tables")) as found:
        record = found.api("/api/logs?outcome=completed&provider=anthropic&min_cost_usd=0.05&limit=1")["logs"][0]
        post(found, "/api/finance/corrections", request_id=record["id"], cost_nusd=-10_000_000, reason=REASON)
        team = found.seeded.teams["platform"]
        for number in (1, 2):
            post(
                found, "/api/finance/allocations", kind="fee", name=f"Seats {number}", from_month=this_month(),
                amount=number, parts=[{"team_id": team, "seats": 3 - number}],
            )  # fmt: skip
        # Told to ClickHouse a moment after the log; until then a statement says that it does not know yet.
        until(lambda: {"Seats 1", "Seats 2"} <= set(re.findall(r"Seats \d", found.get(statement(found))[2].decode())))
        until(lambda: found.api(f"/api/finance/corrections?month={this_month()}")["total_count"])
        yield found


def post(world: World, path: str, **body: object) -> None:
    request = urllib.request.Request(
        world.url + path, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=30).close()


def this_month() -> str:
    return f"{datetime.now(UTC):%Y-%m}"


def statement(world: World) -> str:
    return f"/finance/statements/{world.seeded.teams['platform']}/{this_month()}"


def insights() -> str:
    """Of four weeks, with rows to sort on any day of a month."""
    return f"/insights?from={datetime.now(UTC) - timedelta(days=28):%Y-%m-%d}"


def numbers(table: Locator, column: int) -> list[int]:
    """Exact amounts of a column, from their titles."""
    found = []
    for cell in table.locator(f"tbody tr td:nth-of-type({column}) .num").all():
        title = cell.get_attribute("title") or ""
        nusd = re.search(r"\(([-\d,]+) nano-dollars\)", title)
        found.append(int((nusd[1] if nusd else title).replace(",", "")))
    return found


def head(table: Locator, word: str) -> Locator:
    return table.get_by_role("columnheader", name=word, exact=True)


def click(table: Locator, word: str, order: str | None) -> None:
    """Sort by a head, which says so then."""
    head(table, word).get_by_role("button").click()
    if order is None:
        expect(head(table, word)).not_to_have_attribute("aria-sort", re.compile("."))
    else:
        expect(head(table, word)).to_have_attribute("aria-sort", order)


def test_a_statement_is_sorted_and_prints_as_it_is_sorted(world: World, tmp_path: Path) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(statement(world))
        usage = page.locator("#lines-usage")
        as_it_came = usage.locator("tbody tr").all_inner_texts()
        assert len(as_it_came) > 2
        click(usage, "Billed", "descending")
        billed = numbers(usage, 7)
        assert billed == sorted(billed, reverse=True)
        click(usage, "Billed", "ascending")
        assert numbers(usage, 7) == billed[::-1]
        click(usage, "Billed", None)
        assert usage.locator("tbody tr").all_inner_texts() == as_it_came
        click(usage, "Project", "ascending")
        projects = usage.locator("tbody tr td:nth-of-type(2)").all_inner_texts()
        known = [each for each in projects if each != "–"]
        assert known == sorted(known, key=str.casefold)
        assert projects == known + ["–"] * (len(projects) - len(known))
        # Each table by itself; sums stay where they are.
        fees = page.locator("#lines-fee")
        charges = page.locator("#charges")
        click(fees, "Billed", "descending")
        assert numbers(fees, 7) == sorted(numbers(fees, 7), reverse=True)
        click(charges, "Billed", "descending")
        assert numbers(charges, 3) == sorted(numbers(charges, 3), reverse=True)
        expect(charges.locator("tfoot")).to_contain_text("Total")
        # The address has it all, and opens as it was.
        assert "sorted=lines-usage.1.asc%2Clines-fee.6.desc%2Ccharges.3.desc" in page.url
        page = tab.open(page.url.removeprefix(world.url))
        assert usage.locator("tbody tr td:nth-of-type(2)").all_inner_texts() == projects
        expect(head(charges, "Billed")).to_have_attribute("aria-sort", "descending")
        assert accessibility_faults(page) == []
        for width in (1440, 390):
            tab.look(width=width)
            tab.check()
        # Printed: the same order, no arrows, no buttons' looks, nothing cut off.
        tab.look()
        page.emulate_media(media="print", color_scheme="light")
        expect(head(usage, "Project").locator(".arrow")).to_be_hidden()
        assert usage.locator("tbody tr td:nth-of-type(2)").all_inner_texts() == projects
        expect(page.locator("[data-csv]")).to_have_count(0)
        assert page.locator(".rail, .top, .tools").filter(visible=True).count() == 0
        printed = page.pdf(format="A4")
        assert printed.startswith(b"%PDF")
        assert head(usage, "Billed").bounding_box() is not None
        # As wide as A4 less its margins, at 96 px an inch.
        page.set_viewport_size({"width": 673, "height": 900})
        tab.check()
        tab.screenshot("statement")


def test_what_an_address_says_of_sorting_is_taken_for_what_it_is(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        for odd in ("charges.99.asc", "charges.x.desc", "nobody.1.asc", "%3Cb%3E.0.asc,,..", "charges.3.sideways"):
            page = tab.open(f"{statement(world)}?sorted={odd}")
            expect(head(page.locator("#charges"), "Billed").get_by_role("button")).to_be_visible()
            expect(page.locator("[aria-sort]")).to_have_count(0)
            tab.check()


def test_tables_of_insights_and_of_a_session_are_sorted(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(insights())
        caches = page.locator("#rows-expired_caches")
        click(caches, "Tokens", "descending")
        tokens = numbers(caches, 5)
        assert tokens == sorted(tokens, reverse=True)
        # Better is more than worse, however much it is.
        click(caches, "1 hour cache", "descending")
        words = [cell.inner_text().split()[-1] for cell in caches.locator("tbody tr td:last-child").all()]
        assert words == sorted(words)
        with page.expect_download() as download:
            page.get_by_role("button", name="Caches that ran out and were written again as CSV").click()
        found = list(csv.DictReader(download.value.path().read_text(encoding="utf-8").splitlines()))
        assert [float(row["1 hour cache"]) >= 0 for row in found] == [word == "better" for word in words]
        page = tab.open(f"/sessions/{world.seeded.session}")
        turns = page.locator("#turn-rows")
        click(turns, "Latency", "descending")
        longest = turns.locator("tbody tr").first.locator("td").nth(7)
        said = float(str(longest.get_attribute("data-sort")))
        every = [float(str(cell.get_attribute("data-sort"))) for cell in turns.locator("tbody td:nth-child(8)").all()]
        assert every == sorted(every, reverse=True)
        assert said == every[0]
        page = tab.open(page.url.removeprefix(world.url))
        expect(head(turns, "Latency")).to_have_attribute("aria-sort", "descending")
        assert accessibility_faults(page) == []
        tab.check()


def paths(world: World) -> list[str]:
    """Every page with a table of data."""
    event = world.api("/api/events?entity=team&limit=1&order=asc")["events"][0]
    kinds = ("customers", "teams", "users", "keys", "providers", "prices")
    return [
        "/logs", "/sessions", f"/sessions/{world.seeded.session}", insights(), "/finance", "/finance/corrections",
        "/finance/allocations", "/events", f"/events/log/{event['id']}", statement(world),
        *(f"/governance/{kind}" for kind in kinds),
    ]  # fmt: skip


def unsorted(page: Page) -> list[str]:
    """Tables of more than one row that no head sorts."""
    found: list[str] = page.locator("main table").evaluate_all(
        """(tables) => tables.filter((table) => table.tHead && table.tBodies[0].rows.length > 1
             && !table.tHead.querySelector("th a, th button.sort")).map((table) => table.outerHTML.slice(0, 200))"""
    )
    return found


def test_every_table_sorts_and_is_saved(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        for path in paths(world):
            page = tab.open(path)
            assert page.locator("main table tbody tr").count() > 0, path
            assert unsorted(page) == [], path
            files = page.locator("main").locator("[data-csv], a[download], a[href*='format=csv']")
            assert files.count() > 0, path
            every_head_is_named(tab, path)


def every_head_is_named(tab: Tab, path: str) -> None:
    assert accessibility_faults(tab.page, "empty-table-header", "button-name", "scope-attr-valid") == [], path
    tab.check()


def test_what_it_cost_is_in_sight_without_scrolling(world: World) -> None:
    """On a laptop with all columns, on a telephone with those that fit; whoever wants others chooses them."""
    for path, box in (("/logs?range=7d", "[data-log]"), ("/sessions?range=7d", "#session-box")):
        for width in (1280, 390):
            with open_tab(world.browser, world.url, width=width) as tab:
                page = tab.open(path)
                table = page.locator(box)
                cost = table.locator("tbody tr[data-open] [data-col=cost]").first.bounding_box()
                frame = table.bounding_box()
                assert cost is not None
                assert frame is not None
                assert cost["x"] + cost["width"] <= frame["x"] + frame["width"] + 1, (path, width)
                tab.check()
        with open_tab(world.browser, world.url, width=390) as tab:
            page = tab.open(path)
            tokens = page.locator(f"{box} th[data-col={'input' if 'logs' in path else 'tokens'}]")
            expect(tokens).to_be_hidden()
            page.locator("summary[title=Columns]").click()
            page.get_by_role("checkbox", name="Input" if "logs" in path else "Tokens").check()
            expect(tokens).to_be_visible()
            page = tab.open(path)
            expect(tokens).to_be_visible()
            # A wide window has them all until somebody chooses.
        with open_tab(world.browser, world.url, width=390) as tab:
            page = tab.open(path)
            tab.look()
            expect(page.locator(f"{box} th[data-col={'input' if 'logs' in path else 'tokens'}]")).to_be_visible()
