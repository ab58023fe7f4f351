"""Bounds that people need and tests do not: on a machine that pauses, what is only late is not to be taken for away."""

from __future__ import annotations

import pytest

from bursar_admin import analytics, enforcer, journal, month_books

STATEMENT_S = 120
"""Of one statement, as far as the engine allows it."""


def patient_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """admin-api waits for ClickHouse for as long as a test may take."""
    monkeypatch.setitem(analytics._SETTINGS, "max_execution_time", str(STATEMENT_S))
    monkeypatch.setattr(analytics, "CALL_TIMEOUT_S", STATEMENT_S + 20.0)


def patient_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is never slow, however long the machine pauses between admin-api's question and its answer."""
    monkeypatch.setattr(enforcer, "CALL_TIMEOUT_S", 60.0)
    monkeypatch.setattr(journal, "APPLIED_TIMEOUT_S", 60.0)


def patient_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    """admin-api waits for ClickHouse, and for it to be told of closes, for as long as a test may take."""
    patient_statements(monkeypatch)
    monkeypatch.setattr(month_books, "CATCH_UP_S", 60.0)
    monkeypatch.setattr(month_books, "KNOWN_WITHIN_S", 60.0)
