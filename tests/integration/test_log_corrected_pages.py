"""Pages sorted and filtered by amounts that corrections changed: what is shown is what counts, as computed plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bursar_admin import log_pages
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import CORRECTIONS_TOPIC, encode_event
from bursar_common.finance import USAGE_CORRECTED, Correction
from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.patience import patient_admin
from tests.harness.usage_events import STARTED_AT_MS, request_id, usage

NUMBER = 40
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


async def ask(finance: Finance, **query: Any) -> dict[str, Any]:
    asked = {"from": "2026-11-01", "to": "2026-12-01", **query}
    status, answer, _ = await finance.admin.call("GET", f"/api/logs?{urlencode(asked)}")
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


async def paged(finance: Finance, **query: Any) -> list[dict[str, Any]]:
    """All pages, one after the other."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = await ask(finance, **query, **cursor)
        found += answer["logs"]
        if answer["next_cursor"] is None:
            return found
        cursor = {"cursor": answer["next_cursor"]}


def correction(number: int, of: int, **amounts: int) -> NewRecord:
    data = Correction(
        correction_id=f"correction-{number}", request_id=request_id(of), corrected_at_ms=STARTED_AT_MS + DAY_MS,
        reason="wrong price", actor="finance", **amounts,
    )  # fmt: skip
    value = encode_event(
        id=data.correction_id, source="bursar/admin", type=USAGE_CORRECTED, time="2026-11-22T09:10:11.000Z",
        subject=data.request_id, data=data,
    )  # fmt: skip
    return NewRecord(CORRECTIONS_TOPIC, data.request_id, value)


async def test_pages_are_sorted_and_filtered_by_what_corrections_made(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path / "home", front) as finance:
            await finance.append(
                *(
                    usage(
                        at, virtual_key_id=f"key-{at % 3}", team_id=f"team-{at % 2}", cost_nusd=1_000 + at,
                        cache_read_tokens=0, cache_write_5m_tokens=0, cache_write_1h_tokens=0,
                        started_at_ms=STARTED_AT_MS + at % 2 * DAY_MS,
                    )
                    for at in range(NUMBER)
                ),
                # An event that the recorded one overtakes: at its recorded or its corrected cost it must not show.
                usage(
                    7, virtual_key_id="key-1", outcome="expired", cost_nusd=9_000, started_at_ms=STARTED_AT_MS + DAY_MS
                ),
            )  # fmt: skip
            plain = {each["id"]: each["cost_nusd"] for each in await paged(finance)}
            assert sorted(plain.values()) == [1_000 + at for at in range(NUMBER)]
            # The dearest become the cheapest, one of the cheapest the dearest, one is corrected twice, one to what
            # another costs, one by its list cost only, and one that is not on record.
            made = [
                correction(0, 39, cost_nusd=-1_039), correction(1, 38, cost_nusd=-900),
                correction(2, 1, cost_nusd=4_000),
                correction(3, 7, cost_nusd=10), correction(4, 7, cost_nusd=10), correction(5, 12, cost_nusd=1),
                correction(6, 20, list_cost_nusd=5_000), correction(7, 99_999, cost_nusd=1),
                *(correction(10 + at, 24 + at, cost_nusd=-500) for at in range(12)),
            ]  # fmt: skip
            for record in made:
                await finance.append_correction(record)
            shown = {each["id"]: each for each in await paged(finance)}
            costs = {name: each["cost_nusd"] for name, each in shown.items()}
            assert [costs[request_id(at)] for at in (39, 1, 7)] == [0, 5_001, 1_027]
            for order in ("desc", "asc"):
                for limit in (9,):
                    for sort_by in ("cost", "list_cost"):
                        field = sort_by.replace("cost", "cost_nusd")
                        places = ((each[field], name) for name, each in shown.items())
                        expected = sorted(places, reverse=order == "desc")
                        found = await paged(finance, sort_by=sort_by, order=order, limit=limit)
                        assert [(each[field], each["id"]) for each in found] == expected, (sort_by, order, limit)
                        assert all(each["cost_nusd"] == costs[each["id"]] for each in found)
            assert {each["id"]: each["corrections"] for each in found}[request_id(7)] == 2
            bounds: list[tuple[dict[str, str], range]] = [
                ({"min_cost_usd": "0.000001030"}, range(1_030, 1 << 40)),
                ({"max_cost_usd": "0.0000006"}, range(601)),
                ({"min_cost_usd": "0.00000052", "max_cost_usd": "0.000001002"}, range(520, 1_003)),
            ]
            for filters, within in bounds:
                expected_ids = {name for name, cost in costs.items() if cost in within}
                assert expected_ids
                furthers: list[dict[str, str]] = [
                    {},
                    {"sort_by": "cost"},
                    {"sort_by": "latency_ms"},
                    {"order": "asc", "limit": "2"},
                ]
                for further in furthers:
                    found = await paged(finance, **filters, **further)
                    assert {each["id"] for each in found} == expected_ids, (filters, further)
                    assert len(found) == len(expected_ids)
                of_team = await paged(finance, **filters, team="team-1", sort_by="cost", limit="9")
                assert {each["id"] for each in of_team} == {
                    name for name in expected_ids if shown[name]["team_id"] == "team-1"
                }


async def test_a_search_whose_time_is_up_says_how_far_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path / "home", front) as finance:
            await finance.append(
                *(usage(at, started_at_ms=STARTED_AT_MS - at * HOUR_MS, branch=f"fix/{at % 2}") for at in range(9))
            )
            expected = [request_id(at) for at in range(1, 9, 2)]
            monkeypatch.setattr(log_pages, "TEXT_S", 600.0)
            whole = await ask(finance, text="FIX/1")
            assert ([each["id"] for each in whole["logs"]], whole["looked_back_to"]) == (expected, None)
            monkeypatch.setattr(log_pages, "TEXT_S", 0.0)
            for order in ("desc", "asc"):
                found: list[str] = []
                looked: list[str] = []
                cursor: dict[str, Any] = {}
                while True:
                    answer = await ask(finance, text="FIX/1", order=order, limit="2", **cursor)
                    assert answer["looked_back_to"] is None or len(answer["logs"]) <= 2
                    found += [each["id"] for each in answer["logs"]]
                    looked += [answer["looked_back_to"]] if answer["looked_back_to"] else []
                    if answer["next_cursor"] is None:
                        break
                    cursor = {"cursor": answer["next_cursor"]}
                assert found == (expected if order == "desc" else expected[::-1])
                assert looked
                assert looked == sorted(looked, reverse=order == "desc")
            # What an index knows is not searched: the whole range is answered at once.
            answer = await ask(finance, text="req_0123456789")
            assert (answer["logs"], answer["looked_back_to"], answer["next_cursor"]) == ([], None, None)
