"""Statements in a real Chromium: light and dark, wide and narrow, printed; no fault, nothing that axe finds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.sync_api import expect

from bursar_admin.app import open_runner
from bursar_common.service import listen
from tests.harness.browser import WAIT_MS, WIDTHS, accessibility_faults, open_tab, running_browser
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, asked_patiently, running_finance
from tests.harness.processes import free_port
from tests.harness.usage_events import usage

expect.set_options(timeout=WAIT_MS)
LONG = "A team whose name has more than a hundred characters, as long as people make them when nobody says stop to it"


async def fill(finance: Finance) -> str:
    team: str = (await finance.admin.create("teams", name=LONG))["team"]["id"]
    other = (await finance.admin.create("teams", name="Research"))["team"]["id"]
    key = (await finance.admin.create("virtual-keys", name="ci", team_id=team))["virtual_key"]["id"]
    mine = {"team_id": team, "team": LONG, "virtual_key_id": key, "cost_center": "4711"}
    status, answer, _ = await finance.admin.call(
        "POST",
        "/api/finance/allocations",
        {
            "name": "CI runners", "kind": "split", "virtual_key_id": key, "from_month": "2026-11",
            "parts": [{"team_id": other, "percent": "33.3333"}],
        },
    )  # fmt: skip
    assert status == 200, answer
    status, answer, _ = await finance.admin.call(
        "POST",
        "/api/finance/allocations",
        {"name": "Seats", "kind": "fee", "amount": 25, "from_month": "2026-11", "to_month": "2026-11",
         "parts": [{"team_id": team, "seats": 12}, {"team_id": other, "seats": 3}]},
    )  # fmt: skip
    assert status == 200, answer
    models = ("claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5")
    await finance.append(
        *(
            usage(at, **mine, model=models[at % 3], project=f"project-{at % 4}", cost_nusd=1_310_000_003 * (at + 1))
            for at in range(24)
        ),
        usage(30, **mine, outcome="expired", estimated=True, input_tokens=None, output_tokens=None),
        usage(31, **mine, billing="subscription", cost_nusd=0, list_cost_nusd=7_000_000_000),
    )
    status, closed = await finance.close("2026-11")
    assert status == 200, closed
    await finance.append(usage(30, **mine, cost_nusd=3_100_000), usage(40, **mine, cost_nusd=99_000_000_000))
    return team


def look(url: str, team: str) -> None:
    with running_browser() as browser, open_tab(browser, url) as tab:
        for path, words in (
            ("/finance?month=2026-11", "Closed"),
            ("/finance?month=2026-12", "The month is not over"),
            ("/finance?month=2026-09", "Fixed together with a later month"),
            (f"/finance/statements/{team}/2026-11", "Shared keys"),
            (f"/finance/statements/{team}/2026-12", "Corrections"),
        ):
            page = tab.open(path)
            expect(page.locator("main"), path).to_contain_text(words, use_inner_text=True)
            for theme in ("light", "dark"):
                for width in WIDTHS:
                    tab.look(theme=theme, width=width)
                    tab.check()
                assert accessibility_faults(tab.page) == []
        tab.look()
        tab.open("/finance?month=2026-11").click("text=" + LONG[:40])
        page.wait_for_url("**/finance/statements/**")
        tab.settled()
        tab.screenshot("statement")
        page.emulate_media(media="print")
        expect(page.locator("nav.rail")).to_be_hidden()
        expect(page.locator(".provenance")).to_be_visible()
        assert page.inner_text(".total strong") == page.inner_text(".charges tfoot td:last-child")
        assert page.pdf(format="A4")[:5] == b"%PDF-"
        tab.check()


@pytest.mark.timeout(600)  # every page at three widths in two themes, one after the other
async def test_statements_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        asked_patiently(front, monkeypatch)
        async with running_finance(tmp_path, front) as finance:
            team = await fill(finance)
            runner = await open_runner(finance.admin.desk)
            port = free_port()
            await listen(runner, f"127.0.0.1:{port}")
            try:
                await asyncio.to_thread(look, f"http://127.0.0.1:{port}", team)
            finally:
                await runner.cleanup()
