"""The end of `bursar claude`: the cost as soon as it is whole, what is known of it, or that it is not known yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import bursar.claude
from bursar.claude import NOT_KNOWN, cost_of_run
from bursar.quota_client import QuotaUnknown


def told(requests: int, cost: int = 0) -> dict[str, Any]:
    kinds = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    usage: dict[str, Any] = {f"{kind}_tokens": 0 for kind in kinds}
    usage |= {"requests": requests, "refused": 0, "cost_nusd": cost, "list_cost_nusd": cost, "by_model": []}
    return {"usage": usage, "budgets": [], "rate_limits": []}


CENT = 10_000_000
FAILED = None


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([told(0), told(1, CENT), told(2, 2 * CENT), told(2, 2 * CENT)], "this session cost $0.02 in 2 requests."),
        ([told(1, CENT), FAILED], "this session cost $0.01 in 1 request."),
        ([told(1, CENT), {"budgets": []}], "this session cost $0.01 in 1 request."),
        ([FAILED], NOT_KNOWN),
        ([told(0), FAILED], NOT_KNOWN),
        ([{"budgets": []}], NOT_KNOWN),
        ([{"usage": {}}], NOT_KNOWN),
    ],
)
def test_what_is_said(monkeypatch: pytest.MonkeyPatch, answers: Sequence[dict[str, Any] | None], said: str) -> None:
    left = list(answers)

    def ask_quota(*_: Any, **__: Any) -> dict[str, Any]:
        answer = left.pop(0)
        if answer is None:
            raise QuotaUnknown("no answer")
        return answer

    monkeypatch.setattr(bursar.claude, "ask_quota", ask_quota)
    monkeypatch.setattr(bursar.claude, "COST_POLL_S", 0)
    assert cost_of_run("http://127.0.0.1:9", "k", "run", 0).endswith(said)
    assert left == []


def test_who_asked_nothing_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursar.claude, "ask_quota", lambda *_, **__: told(0))
    monkeypatch.setattr(bursar.claude, "COST_WITHIN_S", 0)
    assert cost_of_run("http://127.0.0.1:9", "k", "run", 0) == ""
