"""Requests of a page: all of them, in the order asked for, whichever way they are paged."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import Finance, running_finance
from tests.harness.patience import patient_admin
from tests.harness.usage_events import usage

NUMBER = 40


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


async def paged(finance: Finance, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        asked = {"from": "2026-11-01", "to": "2026-12-01", **query, **cursor}
        status, answer, _ = await finance.admin.call("GET", f"/api/logs?{urlencode(asked)}")
        assert status == 200, answer
        found += answer["logs"]
        if answer["next_cursor"] is None:
            return found
        cursor = {"cursor": answer["next_cursor"]}


async def test_every_request_stands_on_one_page_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path / "home", front) as finance:
            keys = [f"key-{number}" for number in range(3)]
            await finance.append(
                *(
                    # Every fourth costs the same: pages end within equal values.
                    usage(at, virtual_key_id=keys[at % 3], cost_nusd=5_000 if at % 4 == 0 else 1_000 + at % 7)
                    for at in range(NUMBER)
                )
            )
            for sort_by, value in (("started_at", "started_at"), ("cost", "cost_nusd")):
                for order in ("desc", "asc"):
                    for limit in (7, 17, 100):
                        found = await paged(finance, sort_by=sort_by, order=order, limit=limit)
                        assert len({each["id"] for each in found}) == len(found) == NUMBER, (sort_by, order, limit)
                        values = [each[value] for each in found]
                        assert values == sorted(values, reverse=order == "desc"), (sort_by, order, limit)
