"""Texts in CSV files: what a spreadsheet would run as a formula gets an apostrophe before it, and is text. Pure.

One rule for every file: of Python, of ClickHouse (both over the patterns below), and of pages (``static/js/csv.js``).
Names of projects, teams and tags come from whoever sends requests. Numbers stay numbers, negative ones too.
"""

from __future__ import annotations

import re
from typing import Any, Final

FORMULA: Final = r"^[-=+@\t\r\n]"
NUMBER: Final = r"^-[0-9]+([.][0-9]+)?$"
"""Of what FORMULA fits, no formula."""

_formula, _number = re.compile(FORMULA), re.compile(NUMBER)


def cell(value: Any) -> Any:
    """The value of a cell; what is no text is as it was."""
    if isinstance(value, str) and _formula.match(value) and not _number.fullmatch(value):
        return f"'{value}"
    return value


def cell_sql(expression: str) -> str:
    """The same of a String (or Nullable(String)) in ClickHouse."""
    formula, number = (pattern.replace("\\", "\\\\") for pattern in (FORMULA, NUMBER))
    return (
        f"if(match({expression}, '{formula}') AND NOT match({expression}, '{number}'),"
        f" concat(char(39), {expression}), {expression})"
    )
