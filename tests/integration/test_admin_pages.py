"""Pages of an installation that nobody has used yet: they say what to do first, and nothing is an error."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.admin import running_admin
from tests.harness.clickhouse_front import ClickHouseFront

PART = {"HX-Request": "true", "HX-Current-URL": "http://localhost/"}


@pytest.fixture(scope="module")
def empty_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path_factory.mktemp("empty")) as front:
        asyncio.run(front.prepare())
        yield front


async def test_empty_pages_say_what_to_do_first(empty_front: ClickHouseFront, tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url=empty_front.url) as admin:
        for path, *said in (
            ("overview/top", "Nothing has been asked yet", "bursar claude", "bursar connect --url http://localhost"),
            ("overview/health", "$0.00"),
            ("overview/by/project", "x-bursar-project"),
            ("overview/movers", "Nothing changed"),
            ("overview/refused", "Nothing was refused"),
            ("overview/unpaid", "paid by the token"),
            ("logs/rows", "No requests this month", "bursar claude"),
            ("logs/rows?model=x", "No request matches", "widen the time range"),
            ("logs/summary", "refused"),
            ("sessions/rows", "No sessions this month", "bursar claude"),
            ("insights", "Nothing this month"),
            ("budgets/tree", "Nobody has a budget yet", '/api/governance/teams', '"max_limit":500'),
            ("budgets/tree?show=attention", "Nothing needs attention"),
        ):  # fmt: skip
            status, text, _ = await admin.call("GET", f"/fragments/{path}", headers=PART)
            assert status == 200, (path, text)
            for words in said:
                assert words in html.unescape(text), (path, words)


async def test_pages_about_everyone_show_no_scope(tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url="http://127.0.0.1:9/bursar") as admin:
        for path, has_scope in (("/budgets", True), ("/finance", False), ("/finance/allocations", False)):
            status, text, _ = await admin.call("GET", f"{path}?team=some-team", headers={"Accept": "text/html"})
            assert status == 200, text
            assert ('aria-label="Scope"' in text) is has_scope, path


async def test_a_store_that_does_not_answer_is_explained_in_place(tmp_path: Path) -> None:
    async with running_admin(tmp_path, clickhouse_url="http://127.0.0.1:9/bursar") as admin:
        status, text, _ = await admin.call("GET", "/fragments/logs/rows", headers={**PART, "HX-Target": "log-rows"})
        assert status == 503
        assert text.startswith("<tr>")
        assert "Reload the page in a moment" in text
        status, text, _ = await admin.call("GET", "/logs", headers={"Accept": "text/html"})
        assert status == 200
        status, text, _ = await admin.call("GET", "/fragments/budgets/tree", headers=PART)
        assert status == 200
