"""A quota as people read it: figures as they are, unknown never zero, one hint with its numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bursar.quota_text import dollars, hint, moment, session_end, status_line, table

NOW = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)


def budget(kind: str = "virtual_key", name: str = "alice", **changes: Any) -> dict[str, Any]:
    left = changes.pop("left_nusd", 8_770_000_000)
    return {
        "id": "b", "owner": {"kind": kind, "id": "o", "name": name}, "enforcement": "standard", "window": "1d",
        "calendar_aligned": True, "limit_nusd": 10_000_000_000, "spent_nusd": 1_230_000_000, "held_nusd": 0,
        "left_nusd": left, "window_start": "2026-11-21T00:00:00.000Z", "resets_at": "2026-11-22T00:00:00.000Z",
        **changes,
    }  # fmt: skip


def usage(**changes: Any) -> dict[str, Any]:
    return {
        "since": "2026-11-21T00:00:00.000Z", "requests": 12, "refused": 0, "cost_nusd": 1_230_000_000,
        "list_cost_nusd": 1_230_000_000, "input_tokens": 100, "cache_read_tokens": 900, "cache_write_5m_tokens": 0,
        "cache_write_1h_tokens": 0, "output_tokens": 5_000, "by_model": [], **changes,
    }  # fmt: skip


def quota(*budgets: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "virtual_key": {"id": "k", "name": "alice", "team": "platform", "customer": None, "expires_at": None},
        "balances": "live", "as_of": "2026-11-21T14:30:00.000Z", "budgets": list(budgets), "rate_limits": [],
        "usage": usage(), **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nusd", "text"),
    [(0, "$0.00"), (1, "$0.000000001"), (3_149_000, "$0.0031"), (10_000_000, "$0.01"), (1_234_567_890_123, "$1,234.57"),
     (-5_000_000_000, "-$5.00"), (None, "unknown")],
)  # fmt: skip
def test_dollars(nusd: int | None, text: str) -> None:
    assert dollars(nusd) == text


@pytest.mark.parametrize(
    ("at", "text"),
    [("2026-11-21T18:00:00Z", "18:00"), ("2026-11-22T00:00:00Z", "00:00"),
     ("2026-11-22T00:00:01Z", "Sun 00:00"), ("2026-11-23T00:00:00Z", "Mon 00:00"), ("2026-12-01T00:00:00Z", "Dec 1"),
     ("2027-01-01T00:00:00Z", "2027-01-01"), (None, "-")],
)  # fmt: skip
def test_moments_are_as_short_as_they_are_clear(at: str | None, text: str) -> None:
    assert moment(at, NOW, UTC) == text


def test_the_status_line_names_the_budget_that_ends_first() -> None:
    assert status_line(quota(budget()), NOW, UTC) == "$1.23 today · $8.77 left · resets 00:00"
    team = budget("team", "platform", left_nusd=2_000_000_000, resets_at="2026-12-01T00:00:00Z")
    assert status_line(quota(budget(), team), NOW, UTC) == "$1.23 today · $2.00 left (team platform) · resets Dec 1"
    observed = budget("team", "platform", left_nusd=0, enforcement="observe")
    assert status_line(quota(budget(), observed), NOW, UTC).endswith("$8.77 left · resets 00:00")
    assert status_line(quota(), NOW, UTC) == "$1.23 today"
    assert status_line(quota(usage=None), NOW, UTC) == "key alice"
    unknown = budget(left_nusd=None, spent_nusd=None)
    assert status_line(quota(unknown), NOW, UTC) == "$1.23 today"
    plan = usage(cost_nusd=0, list_cost_nusd=4_100_000_000)
    assert status_line(quota(usage=plan), NOW, UTC) == "$4.10 (list) today"


def test_the_table_says_unknown_where_the_ledger_did_not_answer() -> None:
    limit = {"id": "r", "owner": {"kind": "virtual_key", "id": "k", "name": "alice"}, "unit": "requests",
             "count_cache_reads": False, "window": "1h", "calendar_aligned": False, "limit": 1500, "spent": 20,
             "held": 1, "left": 1479, "window_start": None, "resets_at": "2026-11-21T15:00:00Z"}  # fmt: skip
    text = table(quota(budget(), rate_limits=[limit]), NOW, UTC)
    assert text.splitlines()[:2] == ["alice (team platform)", "since 00:00: $1.23 in 12 requests"]
    assert "key alice            1d      $1.23  $0.00  $8.77  $10.00  00:00" in text
    assert "key alice, requests  1h         20      1  1,479   1,500  15:00" in text
    dark = table(quota(budget(left_nusd=None, spent_nusd=None, held_nusd=None), balances="unavailable"), NOW, UTC)
    assert dark.count("unknown") == 4
    assert "not zero" in dark
    assert "No budget" in table(quota(), NOW, UTC)


def test_the_end_of_a_session() -> None:
    assert session_end(quota(budget()), NOW, UTC) == (
        "Bursar: this session cost $1.23 in 12 requests, 90 % of the prompts from the cache; $8.77 left of key alice's "
        "$10.00 until 00:00."
    )
    assert session_end(quota(usage=usage(requests=0)), NOW, UTC) == ""
    assert session_end(quota(usage=None), NOW, UTC) == ""
    refused = session_end(quota(usage=usage(requests=0, refused=2)), NOW, UTC)
    assert "2 refused" in refused
    assert "your key spent meanwhile" in session_end(quota(), NOW, UTC, whole_key=True)


def test_at_most_one_hint_with_its_numbers() -> None:
    assert hint(quota(budget()), NOW, UTC) == ""
    assert "nearly used up" in hint(quota(budget(left_nusd=900_000_000)), NOW, UTC)
    rewritten = usage(cache_write_5m_tokens=300_000, cache_read_tokens=200_000)
    assert "300,000 tokens were written" in hint(quota(usage=rewritten), NOW, UTC)
    assert hint(quota(usage=rewritten | {"requests": 4}), NOW, UTC) == ""
    opus = {"model": "claude-opus-4-8", "requests": 10, "list_cost_nusd": 2_000_000_000, "output_tokens": 1_000}
    assert "10 answers of claude-opus-4-8 had 100 tokens on average, for $2.00" in hint(
        quota(usage=usage(by_model=[opus])), NOW, UTC
    )
    assert hint(quota(usage=usage(by_model=[opus | {"output_tokens": 3_000}])), NOW, UTC) == ""
