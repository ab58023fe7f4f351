"""While admin-api is down the edge answers a browser with a page that asks again, and everybody else with JSON."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from playwright.sync_api import Route

from bursar_edge.restarting_page import AGAIN_S
from tests.harness.browser import Tab, accessibility_faults, open_tab, running_browser
from tests.harness.edge_stand_ins import patient_world as world
from tests.harness.processes import free_port


def settings(port: int) -> dict[str, object]:
    return {"single_machine": True, "admin_url": f"http://127.0.0.1:{port}"}


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/event-stream", ""])
async def test_a_program_is_answered_in_json(tmp_path: Path, accept: str) -> None:
    async with world(tmp_path, settings=settings(free_port())) as w, ClientSession() as session:
        async with session.get(f"{w.url}/api/governance/teams", headers={"accept": accept}) as answer:
            assert (answer.status, answer.content_type) == (503, "application/json")
            assert "/healthz" in json.loads(await answer.read())["error"]["message"]


async def test_a_browser_is_answered_with_a_page(tmp_path: Path) -> None:
    async with world(tmp_path, settings=settings(free_port())) as w, ClientSession() as session:
        accept = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        async with session.get(f"{w.url}/logs?team=x", headers=accept) as answer:
            text = await answer.text()
            assert (answer.status, answer.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Retry-After"] == str(AGAIN_S)
            assert "unsafe" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["request-id"] in text
            assert len(text) < 4096
        async with session.head(f"{w.url}/logs", headers=accept) as answer:
            assert (answer.status, await answer.read()) == (503, b"")
        # A part of a page that is open: a sentence in its place, not a page within the page.
        async with session.get(f"{w.url}/fragments/budgets/tree", headers={"hx-request": "true"}) as answer:
            text = await answer.text()
            assert (answer.status, answer.content_type) == (503, "text/html")
            assert re.fullmatch(r'<p class="failure">[^<]+</p>', text)


_SOON = f'http-equiv="refresh" content="{AGAIN_S}"'
_LATER = f'http-equiv="refresh" content="{AGAIN_S * 1000}"'


def asked_again(url: str, back: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    with running_browser() as browser, open_tab(browser, url) as tab:
        tab.expected.append("status of 503")
        _restarts(tab)
        tab.page.goto(f"{url}/budgets?team=x")
        loop.call_soon_threadsafe(back.set)
        tab.page.wait_for_selector("text=The pages are back")
        assert tab.page.url == f"{url}/budgets?team=x"
        tab.check()


def _restarts(tab: Tab) -> None:
    """The page is looked at as one that asks again in an hour: as it is, it would be gone in the middle of a look."""
    page = tab.page

    def later(route: Route) -> None:
        answer = route.fetch()
        text = answer.text()
        assert text.count(_SOON) == 1
        route.fulfill(response=answer, body=text.replace(_SOON, _LATER))

    page.route("**/budgets?team=x", later)
    page.goto(f"{tab.url}/budgets?team=x")
    assert page.inner_text("h1") == "Bursar's pages restart"
    for theme in ("light", "dark"):
        for width in (1440, 390):
            tab.look(theme=theme, width=width)
            tab.check()
    # The page asks again by itself, which is what the rule `meta-refresh` is against; it holds nothing one could lose.
    assert accessibility_faults(page, without=("meta-refresh",)) == []
    page.unroute("**/budgets?team=x")


async def test_the_page_asks_again_until_the_pages_are_back(tmp_path: Path) -> None:
    port = free_port()
    back = asyncio.Event()

    async def home(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>Bursar</title>The pages are back", content_type="text/html")

    async with world(tmp_path, settings=settings(port)) as w:
        looking = asyncio.create_task(asyncio.to_thread(asked_again, w.url, back, asyncio.get_running_loop()))
        waiting = asyncio.create_task(back.wait())
        await asyncio.wait((looking, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        app = web.Application()
        app.router.add_get("/budgets", home)
        app.router.add_get("/favicon.ico", home)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            await looking
        finally:
            await runner.cleanup()
