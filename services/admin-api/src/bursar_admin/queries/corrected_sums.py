"""The question by how much requests were corrected. Pure builder of SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def sums(request_ids: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Of those that were corrected: how often, and by how much altogether."""
    text = """SELECT request_id, count() AS corrections, sum(cost_nusd) AS corrected_nusd,
    sum(list_cost_nusd) AS corrected_list_nusd
FROM bursar.corrections FINAL WHERE request_id IN {ids:Array(String)} GROUP BY request_id"""
    return text, {"ids": list(request_ids)}
