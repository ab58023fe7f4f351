"""What ``bursar keys list`` shows of a key's budgets."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from bursar.admin_client import AdminClient
from bursar.cli import main


@pytest.mark.parametrize(
    ("spent", "shown"),
    [
        (0.0, "$0.00 of $100.00 per 1M"),
        (12.5, "$12.50 of $100.00 per 1M"),
        (0.000125, "$0.000125 of $100.00 per 1M"),
        (None, "unknown of $100.00 per 1M"),  # the ledger does not answer
    ],
)
def test_spent_and_limit(monkeypatch: pytest.MonkeyPatch, spent: float | None, shown: str) -> None:
    budget = {"current_usage": spent, "max_limit": 100.0, "reset_duration": "1M"}
    listed: list[dict[str, Any]] = [{"id": "1", "name": "alice", "owner": "", "is_active": True, "budgets": [budget]}]
    monkeypatch.setattr(AdminClient, "list_keys", lambda _self: listed)
    said = CliRunner().invoke(main, ["keys", "--url", "http://127.0.0.1:1", "list"])
    assert said.exit_code == 0
    assert said.output == f"1  alice  -  active  {shown}\n"
