"""What pages about money share: budgets, statements, corrections, allocations, closed months."""

from __future__ import annotations

from bursar_admin.pages.frame import View

ACTIVE = "budgets"
"""The entry of the rail that money belongs to."""
TABS = (("budgets", "/budgets", "Budgets"), ("statements", "/finance", "Statements"),
        ("corrections", "/finance/corrections", "Corrections"), ("allocations", "/finance/allocations", "Allocations"),
        ("closes", "/finance/closes", "Closed months"))  # fmt: skip


def tabs(view: View) -> list[tuple[str, str, str, int | None]]:
    return [(slug, word, view.href(path), None) for slug, path, word in TABS]
