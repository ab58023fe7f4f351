"""Every log call that is written where a request is known names it: read off the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

EDGE = Path(__file__).parents[2] / "services" / "edge-proxy" / "src" / "bursar_edge"
OF_REQUESTS = (
    "admission",
    "content",
    "deltas",
    "exchange",
    "free_calls",
    "management_relay",
    "recorder",
    "relay",
    "samples",
    "tunnel",
)
"""Modules of the edge whose every line is about one request. The other services bind it to the context."""
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def log_calls(path: Path) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
    ]


@pytest.mark.parametrize("module", OF_REQUESTS)
def test_lines_about_a_request_carry_its_id(module: str) -> None:
    path = EDGE / f"{module}.py"
    for call in log_calls(path):
        names = {keyword.arg for keyword in call.keywords}
        assert "request_id" in names, f"{path.name}:{call.lineno}"


@pytest.mark.parametrize("path", sorted(EDGE.parents[2].glob("*/src/*/*.py")), ids=lambda path: path.name)
def test_no_line_has_a_field_that_would_be_overwritten(path: Path) -> None:
    """``service`` is the line's own; an event field of that name would be lost."""
    for call in log_calls(path):
        assert not {"service", "level", "timestamp"} & {keyword.arg for keyword in call.keywords}, call.lineno


def test_there_are_lines_to_look_at() -> None:
    assert len([call for module in OF_REQUESTS for call in log_calls(EDGE / f"{module}.py")]) >= 8
