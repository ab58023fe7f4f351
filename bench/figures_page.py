"""docs/figures.md: the figures of the last full run, and what limits each."""

from __future__ import annotations

from typing import Any

from bench.figure import HEADINGS, Figure
from bench.processes import ROOT

LIMITS = ROOT / "bench" / "limits.md"
"""What limits each figure, with profiles: written by a person, appended to every run's figures."""


def write(document: dict[str, Any], figures: list[Figure]) -> None:
    """Replace the page."""
    lines = [
        "# Figures",
        "",
        f"Measured {document['at'][:10]} on {document['machine']}, with `make bench`.",
        "All parts, the load generator and the references share the machine's cores. CPU figures are CPU time of the",
        "processes named, not wall time; each round measures the reference and ours one after the other; figures and",
        "ratios are medians over the rounds.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(figure.cells()) + " |" for figure in figures),
        "",
        "## Beside the table",
        "",
    ]
    for figure in figures:
        for name, value in figure.detail.items():
            if isinstance(value, dict):
                parts = ", ".join(f"{part} {_number(amount)}" for part, amount in value.items())
                lines.append(f"- {figure.measure}: {name}: {parts}")
            elif isinstance(value, (int, float)):
                lines.append(f"- {figure.measure}: {name}: {_number(value)}")
        if figure.note:
            lines.append(f"- {figure.measure}: {figure.note}")
    if LIMITS.exists():
        lines += ["", LIMITS.read_text(encoding="utf-8").rstrip()]
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "figures.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
