"""Sessions whose requests have left ClickHouse: listed by their sums, and nothing is claimed that nobody can know."""

from __future__ import annotations

import html
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bursar_aggregator.stored_books import StoredBooks
from bursar_common.eventlog.sqlite import SqliteEventLog
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.leaving import Installation, at
from tests.harness.patience import patient_admin
from tests.harness.usage_events import usage

pytestmark = pytest.mark.timeout(900)
"""Seconds: views of many parts take the engine long to analyse where the machine has other work."""
RANGE = "from=2026-10-01&to=2026-12-01"
PART = {"HX-Request": "true", "HX-Current-URL": "http://localhost/"}
SUMS = ("requests", "refused", "input_tokens", "output_tokens", "tokens", "cost_nusd", "list_cost_nusd", "team")
KEPT = ("first_at", "last_at", "duration_s", "agent_count", "models")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


def turn(number: int, session: str, month: int, day: int) -> Any:
    return usage(
        number, started_at_ms=at(month, day), session_id=session, cost_nusd=1_000 * number, cache_write_5m_tokens=100,
    )  # fmt: skip


def without(session: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in session.items() if name not in KEPT}


async def test_sessions_of_months_that_left_stay_listed_and_insights_say_what_they_saw(tmp_path: Path) -> None:
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        analytics, log = front.inner(), SqliteEventLog(tmp_path / "log.db")
        await log.start()
        world = Installation(analytics, log, tmp_path)
        await world.write(
            turn(1, "october", 10, 2), turn(2, "october", 10, 3), turn(3, "both", 10, 20),
            turn(4, "both", 11, 2), turn(5, "november", 11, 3),
        )  # fmt: skip
        await world.close("2026-10", 0)
        await world.close("2026-11", 0)
        assert await StoredBooks(analytics, lambda: world.closes).look() == ["2026-10", "2026-11"]
        await world.sum_up()
        (tmp_path / "home").mkdir()

        pages: dict[str, str] = {}

        async def shown() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
            async with running_finance(tmp_path / "home", front) as finance:
                _, answer, _ = await finance.admin.call("GET", f"/api/sessions?{RANGE}&sort_by=cost")
                _, insights, _ = await finance.admin.call("GET", f"/api/insights?{RANGE}")
                assert (answer["count"], answer["total_count"]) == (3, 3)
                for path in ("sessions/rows", "insights"):
                    status, page, _ = await finance.admin.call("GET", f"/fragments/{path}?{RANGE}", headers=PART)
                    assert status == 200, page
                    pages[path] = html.unescape(page)
                by_id = {each["id"]: each for each in insights["insights"]}
                return (
                    {each["id"]: each for each in answer["sessions"]},
                    by_id["expired_caches"]["numbers"],
                    {each["id"]: each for each in by_id["dearest_sessions"]["rows"]},
                )

        before, caches, dearest = await shown()
        assert [before[each]["models"] for each in before] == [["claude-sonnet-4-6"]] * 3
        assert [each["agent_count"] for each in before.values()] == [1, 1, 1]
        assert (caches["sessions_looked_at"], caches["share_of_writes_looked_at"], caches["complete"]) == (3, 1, True)
        assert all(each["why"] for each in dearest.values())
        assert not [path for path, page in pages.items() if "kept any more" in page or "not all kept" in page]

        await analytics.command("ALTER TABLE bursar.usage_events DROP PARTITION 202610")
        await analytics.insert_columns(
            "usage_left", ("month", "step"), ("Date", "LowCardinality(String)"), ([date(2026, 10, 1)], ["left"])
        )
        after, caches, dearest = await shown()
        assert list(after) == list(before)
        assert {each: without(after[each]) for each in after} == {each: without(before[each]) for each in before}
        for gone in ("october", "both"):
            assert [after[gone][name] for name in KEPT] == [None] * 5
            assert [dearest[gone][name] for name in KEPT] == [None] * 5
            assert dearest[gone]["why"] == []
        assert after["november"] == before["november"]
        assert dearest["november"]["why"]
        assert (caches["sessions_looked_at"], caches["share_of_writes_looked_at"], caches["complete"]) == (
            1,
            0.2,
            False,
        )
        assert (
            pages["sessions/rows"].count('<span title="Only its requests tell, and not all of them are kept') == 2 * 4
        )
        assert pages["insights"].count('<span title="Not all requests of this session are kept any more">') == 2 * 2
        assert "None is known" in pages["insights"]
        async with running_finance(tmp_path / "home", front) as finance:
            await _one_by_one(finance, after)
        await log.close()
        await analytics.close()


async def _one_by_one(finance: Finance, listed: Mapping[str, Any]) -> None:
    """Each session by itself says what the list says of it, and what is not known any more."""

    async def of(session: str) -> tuple[dict[str, Any], str | None, list[str]]:
        _, answer, _ = await finance.admin.call("GET", f"/api/sessions/{session}")
        pages = []
        for path in (session, f"{session}/panel"):
            status, page, _ = await finance.admin.call("GET", f"/fragments/sessions/{path}", headers=PART)
            assert status == 200, page
            pages.append(html.unescape(page))
        found = answer["session"]
        assert {name: found[name] for name in SUMS} == {name: listed[session][name] for name in SUMS}
        return found, answer["notice"], pages

    said = "Requests before 2026-11-01 (UTC) are no longer kept; they were not archived."
    october, notice, pages = await of("october")
    assert notice is not None
    assert notice.startswith(said)
    assert "All requests of this session are among them" in notice
    assert [october[name] for name in KEPT] == [None] * 5
    assert (october["turns"], october["turns_count"], october["requests_left"]) == ([], 0, 2)
    assert all(notice in page for page in pages)
    both, notice, pages = await of("both")
    assert notice is not None
    assert "1 request of this session is among them: its sums are of all" in notice
    assert (both["requests"], both["turns_count"], both["requests_left"]) == (2, 1, 1)
    assert all(notice in page for page in pages)
    november, notice, pages = await of("november")
    assert (notice, november["requests_left"]) == (None, 0)
    assert not [page for page in pages if said in page]
    status, answer, _ = await finance.admin.call("GET", "/api/sessions/nobodys")
    assert (status, said in answer["error"]["message"]) == (404, True)
