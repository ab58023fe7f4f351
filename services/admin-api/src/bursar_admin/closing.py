"""Closing a month. Pure: what may be closed, and the event that does it.

There is no way back: a closed month was handed to others. What turns out wrong later is corrected in the month after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from bursar_admin.errors import bad_field, conflict
from bursar_admin.limits import Moment
from bursar_admin.projection import Projection
from bursar_admin.writes import Decision, Write, write
from bursar_common.clock import rfc3339
from bursar_common.finance import (
    ALLOCATION,
    PERIOD_CLOSE,
    Allocation,
    LogBound,
    PeriodClose,
    close_id,
    is_month,
    month_bounds_ms,
    month_of_ms,
    next_month,
)

MONTH_ALLOWED = "YYYY-MM, such as 2026-11"
ALLOCATIONS_VERSION = f"root:{ALLOCATION}"
CLOSES_VERSION = f"root:{PERIOD_CLOSE}"
"""Versions by which closes and allocations collide: a close counts what is allocated, an allocation must not change a
closed month."""


@dataclass(frozen=True)
class Figures:
    """What a month comes to, as of a place in the log."""

    bounds: tuple[LogBound, ...]
    price_books: tuple[str, ...]
    checksum: str
    rows: int
    requests: int
    billed_nusd: int
    list_nusd: int
    expired_nusd: int
    corrections_nusd: int
    allocated_nusd: int
    tiers: tuple[int, ...]
    rates: dict[str, tuple[int, ...]]
    allocations_version: int
    """Of ALLOCATIONS_VERSION when this was worked out."""


def read_month(text: Any, now_ms: int, field: str = "month") -> str:
    """A month that has begun. Raises Refusal (400) for one that does not exist, or lies ahead."""
    if not isinstance(text, str) or not is_month(text):
        raise bad_field(field, "is not a month", text, MONTH_ALLOWED)
    if month_bounds_ms(text)[0] > now_ms:
        raise bad_field(field, "has not begun", text, f"at most {month_of_ms(now_ms)}")
    return text


def last_closed(projection: Projection) -> str:
    """The latest closed month; empty: none."""
    return max((close.name for close in projection.closes.values()), default="")


def charges(allocation: Allocation, last: str) -> bool:
    """Whether it charges anybody in a month that is open; ``last``: the last closed one."""
    return not allocation.to_month or allocation.to_month > last


def in_the_way(projection: Projection, entity_id: str) -> list[Allocation]:
    """Allocations that name an owner and still charge somebody, oldest first. What ended in closed months is history,
    and keeps names of its own."""
    last = last_closed(projection)
    found = [projection.allocations[each] for each in sorted(projection.children(entity_id, ALLOCATION))]
    return [allocation for allocation in found if charges(allocation, last)]


def covering(projection: Projection, month: str) -> PeriodClose | None:
    """The close by which a month is fixed: its own, or the first one after it."""
    later = [close for close in projection.closes.values() if close.name >= month]
    return min(later, key=lambda close: close.name, default=None)


def check_closable(projection: Projection, month: str, now_ms: int, first_with_usage: str) -> None:
    """Raises Refusal: 400 for a month that is still running, 409 for one that is closed or not the next.

    ``first_with_usage``: the first month that has requests (empty: none)."""
    end_ms = month_bounds_ms(month)[1]
    if now_ms < end_ms:
        raise bad_field("month", f"is still running; it can be closed from {rfc3339(end_ms)} on", month, "a past month")
    covered = covering(projection, month)
    if covered is not None and covered.name == month:
        raise conflict(
            f"{month} was closed on {rfc3339(covered.created_at_s * 1000)} by {covered.closed_by}. A closed month "
            "stays closed: what comes later is booked in the month after.",
            checksum=covered.checksum,
        )
    if covered is not None:
        raise conflict(
            f"{month} was fixed together with {covered.name}, which came after it: nothing is left to close."
        )
    last = last_closed(projection)
    expected = next_month(last) if last else first_with_usage
    if expected and expected < month:
        raise conflict(f"Months are closed in their order: {expected} comes first.", next_month=expected)


def close_month(projection: Projection, month: str, figures: Figures, moment: Moment) -> Decision:
    """The event. Raises Refusal (409) when somebody else has closed it, or changed what is allocated, since the
    figures were worked out."""
    check_closable(projection, month, moment.now_s * 1000, "")
    if projection.version(ALLOCATIONS_VERSION) != figures.allocations_version:
        raise conflict("An allocation changed while the month was summed up. Nothing was closed; try again.")
    after = PeriodClose(
        id=close_id(month),
        name=month,
        created_at_s=moment.now_s,
        closed_by=moment.actor,
        bounds=figures.bounds,
        price_books=figures.price_books,
        checksum=figures.checksum,
        rows=figures.rows,
        requests=figures.requests,
        billed_nusd=figures.billed_nusd,
        list_nusd=figures.list_nusd,
        expired_nusd=figures.expired_nusd,
        corrections_nusd=figures.corrections_nusd,
        allocated_nusd=figures.allocated_nusd,
        tiers=figures.tiers,
        rates=figures.rates,
    )
    return write(projection, PERIOD_CLOSE, None, after, moment.actor, also_seen=(ALLOCATIONS_VERSION,))


def raising(decision: Decision, projection: Projection, version_id: str) -> Decision:
    """The same event, raising one more version."""
    if not isinstance(decision, Write):
        return decision
    data = decision.data
    seen = {**data.seen, version_id: projection.version(version_id)}
    bumps = tuple(sorted({*data.bumps, version_id} - {data.entity_id}))
    return Write(decision.action, msgspec.structs.replace(data, seen=dict(sorted(seen.items())), bumps=bumps))
