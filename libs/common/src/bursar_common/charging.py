"""What a finished request charges to each counter: one amount per unit, never one per counter.

A usage event carries the result (``amounts``) and the counters (``charged_to``), so replaying an event is: add
``amounts[unit of the counter]`` to every counter it names.
"""

from __future__ import annotations

from collections.abc import Iterable

from bursar_common.scopes import Unit
from bursar_common.wire import Amounts, HoldEntry, UsageCounts


def amounts_of(counts: UsageCounts, cost_nusd: int, sent: bool) -> Amounts:
    """Amounts of a request whose usage is known (or estimated from the stream).

    ``cost_nusd`` is the billed cost, 0 for the caller's own subscription or key. ``sent``: the request reached the
    provider, so it counts as one."""
    tokens = counts.input_tokens + counts.cache_write_5m_tokens + counts.cache_write_1h_tokens + counts.output_tokens
    return Amounts(n=cost_nusd, t=tokens, T=tokens + counts.cache_read_tokens, r=1 if sent else 0)


def largest_held(hold: Iterable[HoldEntry], *, unheld_nusd: int = 0) -> Amounts:
    """Amounts of a request that was sent and whose usage nobody knows (``unknown``, ``unreadable``, ``expired``).

    Per unit the largest ``expected`` over the hold's counters of that unit: an event has one cost, charged to every
    counter alike, and a strict counter's share (the bound) must not shrink. ``unheld_nusd`` is the cost where no
    counter counts money: the request's latest expected cost. One request is counted."""
    largest: dict[str, int] = {}
    for entry in hold:
        unit = entry.counter[0]
        if entry.expected > largest.get(unit, -1):
            largest[unit] = entry.expected
    return Amounts(n=largest.get("n", unheld_nusd), t=largest.get("t", 0), T=largest.get("T", 0), r=1)


def amount_for(amounts: Amounts, counter: str) -> int:
    """The share of ``amounts`` that ``counter`` (a counter id) is charged, in the counter's unit."""
    return of_unit(amounts, counter[0])  # type: ignore[arg-type]


def of_unit(amounts: Amounts, unit: Unit) -> int:
    """The amount in one unit. Raises ValueError for a letter that is no unit."""
    if unit == "n":
        return amounts.n
    if unit == "t":
        return amounts.t
    if unit == "T":
        return amounts.T
    if unit == "r":
        return amounts.r
    raise ValueError(f"unknown counter unit {unit!r}, allowed are n, t, T, r")
