"""A range without an end is told to end now, and yet has what an edge whose clock is ahead has just served."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.harness.clickhouse_front import ClickHouseFront
from tests.harness.finance import DAY_MS, running_finance
from tests.harness.patience import patient_admin
from tests.harness.usage_events import usage

AHEAD_MS = 1_800_000


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_admin(monkeypatch)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


async def test_without_an_end_it_is_now_everywhere(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        await front.prepare()
        async with running_finance(tmp_path / "home", front) as finance:
            key = (await finance.admin.create("virtual-keys", name="one"))["virtual_key"]
            now_ms = finance.clock.now_ms()
            await finance.append(usage(1, started_at_ms=now_ms + AHEAD_MS, virtual_key_id=key["id"]))
            found: Any = await finance.get("/api/logs")
            assert (found["count"], ms(found["to"])) == (1, now_ms)
            found = await finance.get("/api/logs/stats?compare=previous")
            assert (found["stats"]["requests"], ms(found["to"])) == (1, now_ms)
            assert ms(found["from"]) == ms(found["previous_to"]) == now_ms - 7 * DAY_MS
            assert ms(found["previous_from"]) == now_ms - 14 * DAY_MS
            bearer = {"Authorization": f"Bearer {key['value']}"}
            status, found, _ = await finance.admin.call("GET", "/api/usage/mine", headers=bearer)
            assert (status, ms(found["until"])) == (200, now_ms), found
