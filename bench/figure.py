"""One line of the table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Sense = Literal["at most", "at least"]


class Target(NamedTuple):
    """``value`` is compared with the figure's ``compared`` value, which ``of`` names with its unit."""

    sense: Sense
    value: float
    of: str

    def reached(self, value: float) -> bool:
        return value <= self.value if self.sense == "at most" else value >= self.value

    def text(self) -> str:
        return f"{'<=' if self.sense == 'at most' else '>='} {show(self.value, self.of)}"


class Figure(NamedTuple):
    """A measured figure; ``compared`` is None where it could not be measured, and ``note`` says why."""

    measure: str
    reference_name: str
    target: Target
    unit: str
    reference: float | None = None
    ours: float | None = None
    compared: float | None = None
    note: str = ""
    detail: Mapping[str, Any] = MappingProxyType({})

    @property
    def reached(self) -> str:
        if self.compared is None:
            return "not measured"
        return "yes" if self.target.reached(self.compared) else "no"

    def cells(self) -> list[str]:
        """The line of the table: measure, reference, ours, compared, target, reached."""
        reference = (
            f"{self.reference_name}: {show(self.reference, self.unit)}"
            if self.reference is not None
            else (self.reference_name)
        )
        return [
            self.measure,
            reference,
            show(self.ours, self.unit),
            show(self.compared, self.target.of),
            self.target.text(),
            self.reached,
        ]


HEADINGS = ["measure", "reference", "ours", "compared", "target", "reached"]


def show(value: float | None, unit: str) -> str:
    """A figure with three digits or so and its unit; ``-`` where there is none."""
    if value is None:
        return "-"
    if unit == "%":
        return f"{value:.1f} %"
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{number} {unit}"
