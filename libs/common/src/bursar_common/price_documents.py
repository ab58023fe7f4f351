"""What a price book consists of, as it is stored and hashed: models, the names they match, their rates by date."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

import msgspec

NAME_SETS_CACHED = 1024
"""Models whose spelled-out names are remembered: some books of some 50 models."""
DEFAULT_CONTEXT_WINDOW = 1_000_000
"""Tokens; for a model whose window nobody states: the largest there is, because bounds are made of it."""

_DATED = re.compile(r"(?:[-@]20\d{6}|-20\d\d-\d\d-\d\d|-latest)$")


class Rates(msgspec.Struct, frozen=True):
    """Dollars per million tokens (``web_search``: per thousand searches) as decimal strings."""

    input: str
    cache_read: str
    cache_write_5m: str
    cache_write_1h: str
    output: str
    web_search: str


class Tier(msgspec.Struct, frozen=True, array_like=True):
    """Rates of a whole request whose prompt has more than ``over`` tokens (cached ones included)."""

    over: int
    rates: Rates


class Period(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rates in force from ``from_s`` (Unix s) on; the first tier has ``over`` -1."""

    from_s: int
    standard: tuple[Tier, ...]
    fast: tuple[Tier, ...] = ()
    """Empty: twice the standard token rates."""
    batch: tuple[Tier, ...] = ()
    """Empty: half the standard token rates."""


class Clause(msgspec.Struct, frozen=True, omit_defaults=True):
    """One test of a lower-cased model name: ``any`` or ``all`` of ``parts``, or a comparison with ``text``."""

    op: Literal["equals", "starts_with", "ends_with", "contains", "regex", "any", "all"]
    text: str = ""
    parts: tuple[Clause, ...] = ()

    def matches(self, name: str) -> bool:
        if self.op == "equals":
            return name == self.text
        if self.op == "starts_with":
            return name.startswith(self.text)
        if self.op == "ends_with":
            return name.endswith(self.text)
        if self.op == "contains":
            return self.text in name
        if self.op == "regex":
            return re.search(self.text, name) is not None
        if self.op == "any":
            return any(part.matches(name) for part in self.parts)
        return all(part.matches(name) for part in self.parts)

    def literals(self) -> set[str]:
        """The names, and beginnings of names, that the clause spells out."""
        if self.op in ("equals", "starts_with"):
            return {self.text}
        return set().union(*(part.literals() for part in self.parts))


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as the book stores it. ``periods`` rise by ``from_s``; the first also holds before its start."""

    id: str
    match: Clause
    periods: tuple[Period, ...]
    display_name: str = ""
    context_window: int = DEFAULT_CONTEXT_WINDOW


class BookDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a price book consists of; its hash is its id. Models are tried in order."""

    catalogue_version: str
    kind: str
    models: tuple[Model, ...]
    discount_percent: str = "0"
    unpriced_models: Literal["refuse", "dearest_of_family"] = "refuse"


def undated(lowered: str) -> str:
    """A model name without its date (``-20250929``, ``@20250929``, ``-2025-09-29``) or ``-latest``."""
    return _DATED.sub("", lowered)


@lru_cache(maxsize=NAME_SETS_CACHED)
def spelled_names(model: Model) -> frozenset[str]:
    """Every name the book spells out for a model, with and without dates, lower-cased."""
    names = {model.id.lower(), *model.match.literals()}
    return frozenset(names | {undated(name) for name in names})
