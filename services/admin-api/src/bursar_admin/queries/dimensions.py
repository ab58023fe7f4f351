"""What sums can be taken by: a dimension's columns. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from bursar_admin.errors import bad_field
from bursar_admin.queries.criteria import MATCHED, SUMMED_BY_HOUR

_TAG: Final = re.compile(r"tag:([!-~]{1,128})")
NAMES: Final = (*MATCHED, "client_version")
"""Dimensions with columns of their own; ``tag:<name>`` is any other tag's value."""
LATENCY_COLUMNS: Final = frozenset(
    {"customer", "customer_id", "team", "team_id", "provider", "model", "outcome", "billing"}
)
"""Columns that ``bursar.usage_latencies`` has."""


@dataclass(frozen=True)
class Dimension:
    name: str
    column: str
    """An expression over ``bursar.usage_events``; where ``summed`` also a column of ``bursar.usage_hours``."""
    label: str = ""
    """Column of the name as of then, where ids are not names."""
    summed: bool = True
    """Whether ``bursar.usage_hours`` has it."""
    tag: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        return {"by_tag": self.tag} if self.tag else {}


def dimension(text: str, field: str = "by") -> Dimension:
    """Raises Refusal (400)."""
    tag = _TAG.fullmatch(text)
    if tag is not None:
        return Dimension(text, "tags[{by_tag:String}]", summed=False, tag=tag[1].lower())
    if text == "client_version":
        return Dimension(text, "client_version", summed=False)
    columns = MATCHED.get(text)
    if columns is None:
        raise bad_field(field, "is not something to sum by", text, [*NAMES, "tag:<name>"])
    return Dimension(text, columns[0], columns[1] if len(columns) > 1 else "", text in SUMMED_BY_HOUR)
