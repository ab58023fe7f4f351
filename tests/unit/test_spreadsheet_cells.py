"""Cells of CSV files: a text that a spreadsheet would run is text, a number stays one."""

from __future__ import annotations

from typing import Any

import pytest

from bursar_admin.spreadsheet import cell


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-x", "-1+2", "@SUM(1)", "\t=1", "\r=1", "\n=1", "-", "--1", "-1.", "-1\n"]
)
def test_formulas_are_text(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["", "-1", "-0.000000001", "a=b", "1", " =1", "'=1", -5, 0.5, None, True])
def test_all_else_is_as_it_was(value: Any) -> None:
    assert cell(value) is value
