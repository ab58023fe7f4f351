"""Usage in ccusage's shape: fields, sums, blocks of five hours with their gaps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bursar.ccusage import blocks, report, table

START_S = int(datetime(2026, 11, 21, 9, 20, tzinfo=UTC).timestamp())


def moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def row(period: str, model: str = "claude-opus-4-8-20260301", at_s: float = START_S, **changes: Any) -> dict[str, Any]:
    return {
        "period": period, "model": model, "requests": 2, "estimated": 0, "input_tokens": 10, "cache_read_tokens": 1000,
        "cache_write_5m_tokens": 100, "cache_write_1h_tokens": 20, "output_tokens": 30, "cost_nusd": 500_000_000,
        "list_cost_nusd": 1_000_000_000, "project": "p", "first_at": moment(at_s), "last_at": moment(at_s + 20),
        **changes,
    }  # fmt: skip


def test_days_with_their_models_and_totals() -> None:
    rows = [row("2026-11-20"), row("2026-11-21"), row("2026-11-21", "claude-haiku-4-5", list_cost_nusd=2_000_000_000)]
    found = report("day", rows)
    assert [entry["date"] for entry in found["daily"]] == ["2026-11-20", "2026-11-21"]
    second = found["daily"][1]
    assert second["modelsUsed"] == ["claude-haiku-4-5", "claude-opus-4-8-20260301"]
    assert [each["modelName"] for each in second["modelBreakdowns"]] == ["claude-haiku-4-5", "claude-opus-4-8-20260301"]
    assert second["modelBreakdowns"][0] == {
        "modelName": "claude-haiku-4-5", "inputTokens": 10, "outputTokens": 30, "cacheCreationTokens": 120,
        "cacheReadTokens": 1000, "cost": 2.0,
    }  # fmt: skip
    assert found["totals"] == {
        "inputTokens": 30, "outputTokens": 90, "cacheCreationTokens": 360, "cacheReadTokens": 3000, "totalTokens": 3480,
        "totalCost": 4.0, "billedCost": 1.5,
    }  # fmt: skip
    assert report("month", [])["monthly"] == []


def test_sessions_in_the_order_of_their_last_request() -> None:
    found = report("session", [row("b", at_s=START_S + 100), row("a", at_s=START_S, project="q")])
    assert [(entry["sessionId"], entry["projectPath"]) for entry in found["sessions"]] == [("a", "q"), ("b", "p")]
    assert found["sessions"][0]["lastActivityAt"] == "2026-11-21T09:20:20.000Z"
    late = [row("c", at_s=int(datetime(2026, 11, 21, 23, 30, tzinfo=UTC).timestamp()), project="")]
    assert [report("session", late)["sessions"][0][name] for name in ("lastActivity", "projectPath")] == [
        "2026-11-21", "Unknown Project",
    ]  # fmt: skip
    assert report("session", late, ZoneInfo("Europe/Berlin"))["sessions"][0]["lastActivity"] == "2026-11-22"


ENTRY = {
    "inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens", "totalTokens", "totalCost", "modelsUsed",
    "modelBreakdowns",
}  # fmt: skip
BREAKDOWN = {"modelName", "inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens", "cost"}
BLOCK = {
    "id", "startTime", "endTime", "actualEndTime", "isActive", "isGap", "entries", "tokenCounts", "totalTokens",
    "costUSD", "models", "burnRate", "projection",
}  # fmt: skip
TOTALS = ENTRY - {"modelsUsed", "modelBreakdowns"}


@pytest.mark.parametrize(
    ("by", "field", "own", "ours"),
    [
        ("day", "daily", {"date"}, set()),
        ("month", "monthly", {"month"}, set()),
        ("session", "sessions", {"sessionId", "lastActivity", "projectPath"}, {"firstActivityAt", "lastActivityAt"}),
    ],
)
def test_the_keys_are_those_that_ccusage_17_prints(by: str, field: str, own: set[str], ours: set[str]) -> None:
    found = report(by, [row("2026-11-20")])
    assert set(found) == {field, "totals"}
    assert set(found["totals"]) == TOTALS | {"billedCost"}
    (entry,) = found[field]
    assert set(entry) == ENTRY | own | ours | {"billedCost"}
    assert set(entry["modelBreakdowns"][0]) == BREAKDOWN


def test_the_keys_of_blocks_are_those_that_ccusage_17_prints() -> None:
    rows = [row(str(START_S), at_s=START_S), row(str(START_S + 30_000), at_s=START_S + 30_000)]
    first, gap, active = blocks(rows, START_S + 30_060)["blocks"]
    assert set(first) == set(gap) == set(active) == BLOCK
    assert set(active["tokenCounts"]) == set(gap["tokenCounts"]) == {
        "inputTokens", "outputTokens", "cacheCreationInputTokens", "cacheReadInputTokens",
    }  # fmt: skip
    assert set(active["burnRate"]) == {"tokensPerMinute", "tokensPerMinuteForIndicator", "costPerHour"}
    assert set(active["projection"]) == {"totalTokens", "totalCost", "remainingMinutes"}


def test_blocks_begin_with_the_hour_and_end_after_five_or_with_a_pause() -> None:
    minutes = [0, 60, 290, 700]  # 9:20, 10:20, 14:10 (beyond 14:00), and 6 h 50 min later
    rows = [row(str(START_S + 60 * at), at_s=START_S + 60 * at) for at in minutes]
    found = blocks(rows, START_S + 60 * 730)["blocks"]
    assert [(block["startTime"], block["isGap"]) for block in found] == [
        ("2026-11-21T09:00:00.000Z", False),
        ("2026-11-21T14:00:00.000Z", False),
        ("2026-11-21T19:10:20.000Z", True),
        ("2026-11-21T21:00:00.000Z", False),
    ]
    first, last = found[0], found[-1]
    assert (first["entries"], first["totalTokens"], first["costUSD"], first["isActive"]) == (4, 2320, 2.0, False)
    assert first["actualEndTime"] == "2026-11-21T10:20:20.000Z"
    assert first["burnRate"] is None
    assert last["isActive"] is True
    assert last["projection"]["remainingMinutes"] == 270
    assert blocks([], 0.0) == {"blocks": []}


def test_tables() -> None:
    text = table("day", [row("2026-11-20"), row("2026-11-21", cost_nusd=0)])
    assert text.splitlines()[0].split() == [
        "DATE", "MODELS", "INPUT", "OUTPUT", "CACHE", "WRITE", "CACHE", "READ", "TOTAL", "TOKENS", "LIST", "COST",
        "BILLED",
    ]  # fmt: skip
    assert text.splitlines()[-1].split() == ["Total", "20", "60", "240", "2,000", "2,320", "$2.00", "$0.50"]
    assert "opus-4-8 " in text
    assert table("day", []) == "Nothing was used in this time."
