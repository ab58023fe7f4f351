"""A request's cost corrected by its form, in a real Chromium: the arithmetic, the second look, the server's errors, who
did it, and that what is sent is what was shown."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.harness.browser import WAIT_MS, Held, Tab, open_tab
from tests.harness.page_world import World, looked_at, running_world, until

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.timeout(600)
NUSD = 1_000_000_000
RECORDED_WITHIN_S = 180.0
"""Until analytics have a correction, on a busy machine."""
REASON = "Credit note 4711: billed twice by the provider"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("correct")) as found:
        yield found


TAKEN: set[str] = set()
"""Requests that a test corrects: analytics may not say so yet when the next test looks for one."""


def exact(figure: Locator) -> int:
    """Nano-dollars, from the title."""
    found = re.search(r"\(([-\d,]+) nano-dollars\)", figure.get_attribute("title") or "")
    assert found is not None
    return int(found[1].replace(",", ""))


def dollars(nusd: int) -> str:
    """Exactly, as a person types it."""
    return f"{nusd // NUSD}.{nusd % NUSD:09d}"


def dear(world: World, place: int) -> dict[str, Any]:
    """A request that cost something, each test another one."""
    asked = "outcome=completed&provider=anthropic&min_cost_usd=0.05&sort_by=cost&limit=10"
    record: dict[str, Any] = world.api(f"/api/logs?{asked}")["logs"][place]
    TAKEN.add(record["id"])
    return record


def opened(page: Page) -> Locator:
    """The form in the request's panel."""
    page.get_by_role("button", name="Correct the cost").click()
    form = page.get_by_role("form", name="Correct the cost")
    expect(form.get_by_label("What it should have cost")).to_be_focused()
    return form


def correct(form: Locator) -> None:
    form.get_by_role("button", name="Correct the cost").click()


def comes_again(tab: Tab, reason: str) -> None:
    """The panel, by itself, with the correction: for ten seconds it asks analytics for it. Where they are further
    behind, the page says so, and has it when it is loaded later."""
    shown = corrected(tab.page).get_by_text(reason)
    behind = tab.page.get_by_text("Analytics are behind")
    expect(shown.or_(behind).first).to_be_visible()
    deadline = time.monotonic() + RECORDED_WITHIN_S
    while behind.is_visible() or not shown.is_visible():
        assert time.monotonic() < deadline, f"{tab.page.url} does not show {reason!r}"
        tab.page.wait_for_timeout(1000)
        tab.page.reload()
        tab.settled()


def corrected(page: Page) -> Locator:
    """What the panel says about corrections."""
    panel = page.get_by_role("complementary", name="Request")
    return panel.locator("section", has=page.get_by_role("heading", name="Corrected"))


def made(world: World, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The request's corrections, once analytics have one."""
    return list(until(lambda: world.api(f"/api/logs/{record['id']}")["log"]["corrections_made"], RECORDED_WITHIN_S))


def test_a_cost_is_corrected_and_the_panel_says_by_whom(world: World) -> None:
    record = dear(world, 0)
    now, after = record["cost_nusd"], record["cost_nusd"] // 2
    charged = world.api(f"/api/logs/{record['id']}")["log"]["charged_to"]
    with open_tab(world.browser, world.url, zone="UTC") as tab:
        day = record["started_at"][:10]
        page = tab.open(f"/logs?from={day}&to={day}&sort_by=cost&provider=anthropic&request={record['id']}")
        form = opened(page)
        expect(form).to_contain_text("Budgets keep what they were charged")
        form.get_by_label("What it should have cost").fill(dollars(after))
        sums = [cell.inner_text() for cell in form.locator(".arithmetic td.right").all()]
        shown = [round(float(each.replace("$", "").replace(",", "")) * NUSD) for each in sums]
        assert shown == [now, after - now, after]
        form.get_by_label("Reason").fill(REASON)
        looked_at(tab, "request-correct")
        tab.look()
        correct(form)
        # The panel comes again by itself once the correction shows, and so does the row.
        comes_again(tab, REASON)
        section = corrected(page)
        expect(section).to_contain_text(REASON)
        expect(section).to_contain_text("local")
        assert [exact(cell) for cell in section.locator("td.right[title]").all()] == [now, after - now, after]
        row = page.locator(f"tr[data-open='{record['id']}']").locator("[data-col=cost]")
        expect(row.locator(".was")).to_be_visible()
        assert (exact(row.locator(".num").first), exact(row.locator(".was"))) == (after, now)
        known = world.api(f"/api/logs/{record['id']}")["log"]
        assert (known["cost_nusd"], known["list_cost_nusd"]) == (after, record["list_cost_nusd"] + after - now)
        assert [(each["actor"], each["reason"]) for each in known["corrections_made"]] == [("local", REASON)]
        # Cost, not budgets.
        assert known["charged_to"] == charged
        # A second one, from a credit that leaves the list price: the arithmetic begins with what the first one left.
        form = opened(page)
        expect(form.locator(".arithmetic")).to_contain_text("corrected before")
        form.get_by_label("What it should have cost").fill("0")
        form.get_by_label("List cost").select_option("0")
        form.get_by_label("Reason").fill("Credited whole")
        correct(form)
        comes_again(tab, "Credited whole")
        last = world.api(f"/api/logs/{record['id']}")["log"]
        assert (last["cost_nusd"], last["list_cost_nusd"]) == (0, known["list_cost_nusd"])
        tab.check()


def test_the_servers_errors_stand_beside_their_fields(world: World) -> None:
    record = dear(world, 1)
    with open_tab(world.browser, world.url, zone="UTC") as tab:
        page = tab.open(f"/logs?request={record['id']}")
        form = opened(page)
        tab.expected.append("status of 4")
        correct(form)
        cost, reason = (form.locator(f".problem[data-problem={name}]") for name in ("cost_nusd", "reason"))
        expect(cost).not_to_be_empty()
        expect(reason).not_to_be_empty()
        expect(form.get_by_label("What it should have cost")).to_have_attribute("aria-invalid", "true")
        form.get_by_label("Reason").fill("a reason")
        expect(reason).to_be_empty()
        for typed, said in (
            ("a lot", "not an amount of dollars"),
            (dollars(record["cost_nusd"]), "Changes nothing"),
            ("-1", "less than nothing"),
        ):
            form.get_by_label("What it should have cost").fill(typed)
            correct(form)
            expect(cost).to_contain_text(said)
        looked_at(tab)
        tab.look()
        # Cancelled: as it was, and nothing happened.
        form.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("form", name="Correct the cost")).to_have_count(0)
        assert world.api(f"/api/logs/{record['id']}")["log"]["corrections"] == 0
        tab.check()


def test_ten_times_as_much_is_asked_again(world: World) -> None:
    record = dear(world, 2)
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/logs?request={record['id']}")
        form = opened(page)
        form.get_by_label("Reason").fill("The region's price")
        amount, button = form.get_by_label("What it should have cost"), form.get_by_role("button", name="Correct the")
        sure = form.get_by_role("checkbox")
        amount.fill(dollars(10 * record["cost_nusd"]))
        expect(sure).to_be_hidden()
        expect(button).to_be_enabled()
        amount.fill(dollars(25 * record["cost_nusd"]))
        expect(form.get_by_text("25 times")).to_be_visible()
        expect(button).to_be_disabled()
        sure.check()
        expect(button).to_be_enabled()
        # Another amount is another question.
        amount.fill(dollars(30 * record["cost_nusd"]))
        expect(sure).not_to_be_checked()
        expect(button).to_be_disabled()
        sure.check()
        looked_at(tab, "request-correct-sure")
        tab.look()
        correct(form)
        comes_again(tab, "The region's price")
        assert world.api(f"/api/logs/{record['id']}")["log"]["cost_nusd"] == 30 * record["cost_nusd"]
        tab.check()


def test_one_that_somebody_else_corrected_meanwhile_is_looked_at_again(world: World) -> None:
    record = dear(world, 3)
    with open_tab(world.browser, world.url) as tab, open_tab(world.browser, world.url) as other:
        page = tab.open(f"/logs?request={record['id']}")
        form = opened(page)
        form.get_by_label("What it should have cost").fill("0.02")
        form.get_by_label("Reason").fill("The later one")
        theirs = opened(other.open(f"/logs?request={record['id']}"))
        theirs.get_by_label("What it should have cost").fill("0.01")
        theirs.get_by_label("Reason").fill("The first one")
        correct(theirs)
        comes_again(other, "The first one")
        correct(form)
        expect(form).to_contain_text("corrected by somebody else meanwhile, and costs $0.01 now")
        assert world.api(f"/api/logs/{record['id']}")["log"]["corrections"] == 1
        tab.check()


def test_what_was_never_charged_has_no_form(world: World) -> None:
    with open_tab(world.browser, world.url) as tab:
        (record,) = world.api("/api/logs?limit=1&outcome=refused")["logs"]
        page = tab.open(f"/logs?request={record['id']}")
        expect(page.get_by_role("complementary", name="Request")).to_contain_text("Request id")
        expect(page.get_by_role("button", name="Correct the cost")).to_have_count(0)
        tab.check()


# -- what is sent is what was shown ------------------------------------------------------------------------------------


def untouched(world: World) -> dict[str, Any]:
    """A request that cost something and that no test corrected yet."""
    asked = "outcome=completed&provider=anthropic&min_cost_usd=0.05&sort_by=cost&limit=50"
    logs = world.api(f"/api/logs?{asked}")["logs"]
    record: dict[str, Any] = next(each for each in logs if not each["corrections"] and each["id"] not in TAKEN)
    TAKEN.add(record["id"])
    return record


def filled(page: Page, cost: str) -> Locator:
    form = opened(page)
    form.get_by_label("What it should have cost").fill(cost)
    form.get_by_label("Reason").fill("a reason")
    return form


def posts(page: Page) -> list[str]:
    """Bodies of the corrections that the page sends from now on."""
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.post_data or "") if asked.method == "POST" else None)
    return sent


def test_pressed_again_while_it_looks_it_is_sent_once(world: World) -> None:
    record = untouched(world)
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/logs?request={record['id']}")
        form = filled(page, "0.02")
        sent, look = posts(page), Held(page, f"**/api/logs/{record['id']}")
        reason = form.get_by_label("Reason")
        reason.press("Enter")
        look.begun()
        reason.press("Enter")
        correct(form)
        page.evaluate("fetch(location.href).then((answer) => answer.status)")  # whatever was sent before is known now
        assert sent == [], "nothing before the look is over"
        look.let_go()
        comes_again(tab, "a reason")
        assert len(sent) == 1
        assert json.loads(sent[0])["expected_cost_nusd"] == record["cost_nusd"]
        assert world.api(f"/api/logs/{record['id']}")["log"]["cost_nusd"] == NUSD // 50
        tab.check()


def test_an_amount_typed_while_it_looks_is_asked_about_as_well(world: World) -> None:
    record = untouched(world)
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/logs?request={record['id']}")
        form = filled(page, "0.02")
        sent, look = posts(page), Held(page, f"**/api/logs/{record['id']}")
        form.get_by_label("Reason").press("Enter")
        look.begun()
        form.get_by_label("What it should have cost").fill(dollars(25 * record["cost_nusd"]))
        with page.expect_response(look.address):
            look.let_go()
        expect(form.get_by_text("25 times")).to_be_visible()
        form.get_by_role("checkbox").check()
        assert sent == []
        correct(form)
        comes_again(tab, "a reason")
        assert world.api(f"/api/logs/{record['id']}")["log"]["cost_nusd"] == 25 * record["cost_nusd"]
        tab.check()


def lose(route: Route) -> None:
    """Sent and answered, but the answer does not arrive."""
    route.fetch(timeout=WAIT_MS)
    route.abort()


def test_after_a_lost_answer_it_is_sent_again_and_counts_once(world: World) -> None:
    record = untouched(world)

    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/logs?request={record['id']}")
        form = filled(page, "0.03")
        page.route("**/api/finance/corrections", lose, times=1)
        tab.expected.append("ERR_FAILED")
        correct(form)
        expect(form).to_contain_text("does not answer")
        # It was recorded, and shows: that is the form's own correction, and nobody else's.
        made(world, record)
        correct(form)
        comes_again(tab, "a reason")
        known = world.api(f"/api/logs/{record['id']}")["log"]
        assert (known["corrections"], known["cost_nusd"]) == (1, 3 * NUSD // 100)
        tab.check()


def test_another_amount_after_a_lost_answer_is_not_taken_for_the_first(world: World) -> None:
    record = untouched(world)

    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/logs?request={record['id']}")
        form = filled(page, "0.03")
        page.route("**/api/finance/corrections", lose, times=1)
        tab.expected += ["ERR_FAILED", "status of 409"]
        correct(form)
        expect(form).to_contain_text("does not answer")
        form.get_by_label("What it should have cost").fill("0.04")
        correct(form)
        expect(form).to_contain_text("What this form sent before was recorded")
        tab.check()


def test_what_the_log_knows_and_analytics_do_not_yet_is_not_overlooked(world: World) -> None:
    record = untouched(world)
    stale = world.api(f"/api/logs/{record['id']}")
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/logs?request={record['id']}")
        form = filled(page, "0.02")
        body = {"request_id": record["id"], "cost_nusd": NUSD // 100 - record["cost_nusd"], "reason": "The faster one"}
        assert page.request.post(f"{world.url}/api/finance/corrections", data=body).ok
        look = f"**/api/logs/{record['id']}"
        page.route(look, lambda route: route.fulfill(json=stale))
        tab.expected.append("status of 409")
        correct(form)
        was = "$" + re.sub(r"(\.\d\d\d*?)0+$", r"\1", dollars(record["cost_nusd"]))
        expect(form).to_contain_text(f"by somebody else meanwhile, and costs $0.01 now, not {was}. Nothing was done")
        page.unroute(look)
        tab.check()
    assert [each["reason"] for each in made(world, record)] == ["The faster one"]


def test_a_comma_separates_thousands_and_nothing_else(world: World) -> None:
    record = untouched(world)
    with open_tab(world.browser, world.url) as tab:
        page = tab.open(f"/logs?request={record['id']}")
        form = filled(page, "1,234.5")
        after, problem = form.locator("[data-after]"), form.locator(".problem[data-problem=cost_nusd]")
        expect(after).to_have_text("$1,234.50")
        for typed in ("0,05", "1,5", "12,50", "0,500", "1,23,456", "1234,567", ",5", "1,234,56"):
            form.get_by_label("What it should have cost").fill(typed)
            expect(after).to_have_text("–")
            correct(form)
            expect(problem).to_contain_text("not an amount of dollars")
        assert world.api(f"/api/logs/{record['id']}")["log"]["corrections"] == 0
        # Everything that is typed as a number is read by the same rule.
        page = tab.open("/governance/teams/new")
        page.get_by_label("Name").fill("commas")
        page.get_by_role("button", name="Add a budget").click()
        limit = page.locator('[name="budgets[0].max_limit"]')
        page.locator('[name="budgets[0].reset_duration"]').fill("1M")
        tab.expected.append("status of 400")
        for typed in ("0,05", "12,50"):
            limit.fill(typed)
            page.get_by_role("button", name="Create team").click()
            expect(page.locator('.problem[data-problem="budgets[0].max_limit"]')).to_contain_text("number")
        limit.fill("1,234,567.25")
        with page.expect_navigation():
            page.get_by_role("button", name="Create team").click()
        (team,) = world.api("/api/governance/teams?name=commas")["teams"]
        assert team["budgets"][0]["max_limit"] == 1234567.25
        tab.check()
