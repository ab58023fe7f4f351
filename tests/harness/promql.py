"""Which metrics and labels a query names. Not a parser (promtool is): enough to compare with what the code exposes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<range>\[[^\]]*\])|(?P<number>\d[\w.]*)"""
    r"""|(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)|(?P<other>\S)"""
)
_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS = frozenset({"and", "or", "unless", "offset", "bool", "inf", "nan", "start", "end"})


@dataclass
class Named:
    metrics: dict[str, set[str]] = field(default_factory=dict)
    """Metric -> labels its selectors name."""
    grouped: set[str] = field(default_factory=set)
    """Labels in ``by (...)`` and its like."""


def named_in(query: str) -> Named:
    """Raises ValueError for a selector without a metric's name."""
    tokens = [(match.lastgroup, match[0]) for match in _TOKEN.finditer(query)]
    found = Named()
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        at += 1
        if text == "{":
            raise ValueError(f"a selector without a name in {query}")
        if kind != "name" or text.lower() in _WORDS:
            continue
        if text in _LISTS and following == "(":
            end = next(i for i in range(at, len(tokens)) if tokens[i][1] == ")")
            found.grouped |= {word for group, word in tokens[at:end] if group == "name"}
            at = end + 1
        elif following in ("(", "by", "without"):
            continue  # a function, an aggregation
        else:
            labels = found.metrics.setdefault(text, set())
            if following == "{":
                end = next(i for i in range(at, len(tokens)) if tokens[i][1] == "}")
                labels |= {word for group, word in tokens[at:end] if group == "name"}
                at = end + 1
    return found
