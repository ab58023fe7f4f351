"""An admission's constant part: limits in their present windows, and the script's arguments for them. Pure.

A :class:`Plan` is valid until a version or a window changes; a request adds its hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import NamedTuple

import msgspec

from bursar_common.scopes import OwnerKind, Unit, counter_id
from bursar_common.windows import bounds, parse_window
from bursar_enforcer.calls import bulks
from bursar_enforcer.stored import EXACT, doubles, hold_heads

# Places of a request's amounts: what a limit of each mode expects and is bounded by.
N_EXPECTED, N_BOUND, N_STRICT, TOKENS, ALL_TOKENS, ONE = range(6)
PLACES = {
    "s": (N_EXPECTED, N_BOUND),
    "o": (N_EXPECTED, N_BOUND),
    "S": (N_STRICT, N_STRICT),
    "t": (TOKENS, TOKENS),
    "T": (ALL_TOKENS, ALL_TOKENS),
    "r": (ONE, ONE),
}
MARGIN = 65_536
"""What a limit of EXACT or more is taken less, where doubles are compared: they are within 1,024 of it."""


class Limit(msgspec.Struct, frozen=True):
    """One limit on a request's way, in one unit."""

    unit: Unit
    limit_id: str
    owner_kind: OwnerKind
    owner: str
    limit: int
    window: str
    calendar_aligned: bool
    anchored_at_s: int
    timezone: str
    mode: str
    """As the admission script reads it: s standard, S strict, o observe; t, T and r as the unit."""
    ceiling: int | None = None
    """Limit plus ``max_overshoot``; None where no overshoot is bounded."""


class Counter(NamedTuple):
    """A limit in its present window."""

    id: str
    limit: Limit
    window_start_s: int
    window_end_s: int
    expected_at: int
    bound_at: int
    strict: bool


class Plan(NamedTuple):
    counters: tuple[Counter, ...]
    from_s: int
    until_s: int
    """The plan's windows all contain times in ``[from_s, until_s)``."""
    packed: bytes
    """The admission's constant arguments: versions, windows, modes and limits."""
    heads: tuple[bytes, bytes]
    """What stands before the amounts in a hold."""
    places: Callable[[tuple[int, ...]], tuple[int, ...]]
    """From a request's amounts to the hold's: expected and bound of each counter in turn."""
    ids: tuple[str, ...]
    limits: tuple[int, ...]


def make_plan(limits: Iterable[Limit], versions: dict[str, str], now_s: int) -> Plan:
    """The counters of now and the script's command for them. Raises ValueError for a window or zone that is none."""
    counters = []
    from_s, until_s = 0, 1 << 53
    for limit in limits:
        window = parse_window(limit.window, limit.calendar_aligned)
        start_s, end_s = bounds(window, limit.calendar_aligned, limit.anchored_at_s, limit.timezone, now_s)
        name = counter_id(limit.unit, limit.limit_id, start_s, end_s)
        counters.append(Counter(name, limit, start_s, end_s, *PLACES[limit.mode], limit.mode == "S"))
        if start_s <= now_s:  # before its anchor a limit is in its first window already
            from_s = max(from_s, start_s)
        until_s = min(until_s, end_s)
    ids = tuple([c.id for c in counters])
    sure = [edge for c in counters for edge in (_sure(c.limit.limit), _sure(c.limit.ceiling))]
    constant: list[str | bytes | int] = [
        " ".join(versions),
        " ".join(versions.values()),
        from_s,
        until_s,
        "".join(c.limit.mode for c in counters),
        doubles(len(sure)).pack(*sure),
        ";".join(f"{c.limit.limit} {'' if c.limit.ceiling is None else c.limit.ceiling}" for c in counters),
    ]
    return Plan(
        counters=tuple(counters),
        from_s=from_s,
        until_s=until_s,
        packed=bulks(*constant),
        heads=hold_heads(ids, [c.strict for c in counters]),
        places=itemgetter(*(at for c in counters for at in (c.expected_at, c.bound_at))) if counters else _nothing,
        ids=ids,
        limits=tuple([c.limit.limit for c in counters]),
    )


def _sure(limit: int | None) -> float:
    """Below this, as doubles compare, the limit is certainly kept."""
    if limit is None:
        return math.inf
    return float(limit) if limit < EXACT else float(limit) - MARGIN


def _nothing(_: tuple[int, ...]) -> tuple[int, ...]:
    return ()
