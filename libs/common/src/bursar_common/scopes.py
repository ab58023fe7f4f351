"""Counters: what a limit counts, in which unit, in which window, and for whom.

A counter id is ``<unit>:<limit id>:<window start s>:<window end s>``. It is the whole identity of a window: windows
are never reset, a new window is a new counter. The same strings stand in holds, in ``charged_to`` of usage events and,
behind a prefix, as Redis keys.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Unit: TypeAlias = Literal["n", "t", "T", "r"]
"""``n`` nano-dollars, ``t`` tokens without cache reads, ``T`` tokens with cache reads, ``r`` requests."""

OwnerKind: TypeAlias = Literal["virtual_key", "provider_config", "team", "customer"]

OWNER_ORDER: tuple[OwnerKind, ...] = ("provider_config", "virtual_key", "team", "customer")
"""Order in which limits are looked at: the narrowest is named first in a refusal."""


class Counter(NamedTuple):
    unit: Unit
    limit_id: str
    window_start_s: int
    window_end_s: int


def counter_id(unit: Unit, limit_id: str, window_start_s: int, window_end_s: int) -> str:
    """The id of the counter of ``limit_id`` in one window."""
    return f"{unit}:{limit_id}:{window_start_s}:{window_end_s}"


def parse_counter_id(text: str) -> Counter:
    """Inverse of :func:`counter_id`. Raises ValueError on anything else."""
    unit, limit_id, start, end = text.split(":")
    if unit not in ("n", "t", "T", "r"):
        raise ValueError(f"unknown counter unit in {text!r}")
    return Counter(unit, limit_id, int(start), int(end))  # type: ignore[arg-type]
