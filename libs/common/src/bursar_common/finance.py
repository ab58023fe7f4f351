"""The books: months that were closed, and what is charged beside requests. Documents of governance, and pure rules.

A close fixes a UTC month, and with it everything before, at a place in the log. Whatever stands in the log behind that
place and belongs to the month, or to one before it, is booked in the month that follows the close: see
:func:`booked_month`, the rule which the views of the schema (``bursar.charges``) keep as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import msgspec

PERIOD_CLOSE = "period_close"
ALLOCATION = "allocation"
"""Kinds of governance entities, beside those of :mod:`bursar_common.governance`."""

Close: TypeAlias = tuple[str, Mapping[tuple[str, int], int]]
"""A closed month, and for each ``(topic, partition)`` the first offset that came after the close."""
CorrectionVerdict: TypeAlias = Literal["counts", "repeated", "overtaken"]
AllocationKind: TypeAlias = Literal["split", "fee", "commitment"]
WHOLE = 1_000_000
"""A hundred per cent, in the unit of weights: percentages have at most four decimals."""

_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])")


class LogBound(msgspec.Struct, frozen=True):
    """A place in one partition of the log: what stands before ``next_offset`` was there when the month was closed."""

    topic: str
    partition: int
    next_offset: int


class PeriodClose(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Data of ``bursar.period_close.created.v1``. Never changed, never deleted. Money in nano-dollars."""

    id: str
    """``close:2026-11``."""
    name: str
    """The UTC month, ``2026-11``."""
    created_at_s: int
    closed_by: str
    bounds: tuple[LogBound, ...]
    """Every partition of the usage topic, and the corrections topic."""
    price_books: tuple[str, ...]
    """Ids of the books that the month's requests were priced with."""
    checksum: str
    """SHA-256 (hex) over the month's rows of ``bursar.booked_monthly``, see ``bursar.month_checksums``."""
    rows: int
    requests: int
    billed_nusd: int
    """Of requests: what budgets were charged, expired holds and corrections included."""
    list_nusd: int
    expired_nusd: int
    corrections_nusd: int
    allocated_nusd: int
    """Fees and commitments; splits sum to nothing."""
    tiers: tuple[int, ...] = ()
    rates: dict[str, tuple[int, ...]] = {}
    """The rates by which exports split the cost of requests into kinds of tokens, as of the close: an export made later
    is the same although prices have changed."""


class AllocationPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who bears a part. Names are as of the last change."""

    team_id: str = ""
    team: str = ""
    customer_id: str = ""
    customer: str = ""
    cost_center: str = ""
    """Empty: of a split, that of the request."""
    weight: int = 0
    """Of a split or commitment: parts of WHOLE. Of a fee: seats."""
    amount_nusd: int = 0
    """Of a fee or commitment: what is charged each month."""


class Allocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is charged each month of ``[from_month, to_month]`` beside requests: a shared key's cost moved to those who
    use it, seats, money committed. Document of ``bursar.allocation.{created,changed,deleted}.v1``."""

    id: str
    name: str
    kind: AllocationKind
    created_at_s: int
    from_month: str
    to_month: str = ""
    """The last month; empty: goes on."""
    virtual_key_id: str = ""
    """The shared key of a split."""
    provider: str = "anthropic"
    """Whose bill a fee or commitment is on."""
    amount_nusd: int = 0
    """Of a fee: a seat each month. Of a commitment: the whole each month."""
    description: str = ""
    parts: tuple[AllocationPart, ...]


FINANCE_TYPES: dict[str, type[msgspec.Struct]] = {PERIOD_CLOSE: PeriodClose, ALLOCATION: Allocation}


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """Data of ``bursar.usage.corrected.v1`` on the corrections topic: what is added to one request's figures. Money in
    nano-dollars; negative lowers it. Budgets are not touched: their windows are over."""

    correction_id: str
    request_id: str
    corrected_at_ms: int
    reason: str
    actor: str
    cost_nusd: int = 0
    list_cost_nusd: int = 0
    seen_offset: int | None = None
    """Whoever decided on it had read the corrections topic up to here (exclusive): see :class:`CorrectionFold`. None:
    it was not decided on others (releases before there was the field); such a one always counts."""


class CorrectionFold:
    """Which corrections count, decided by the log alone, so that everybody who reads it finds the same. Feed it the
    topic in its order, from its beginning. Some 300 bytes for each correction.

    One of two that were decided on at the same time for one request was decided on figures that the other changed: the
    later one in the log is overtaken and changes nothing. Whoever wrote it finds that out by reading on, and decides
    anew. A correction that was sent again (same ``correction_id``) counts once."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._last: dict[str, int] = {}

    def take(self, offset: int, correction: Correction) -> CorrectionVerdict:
        if correction.correction_id in self._ids:
            return "repeated"
        last = self._last.get(correction.request_id, -1)
        if correction.seen_offset is not None and last >= correction.seen_offset:
            return "overtaken"
        self._ids.add(correction.correction_id)
        self._last[correction.request_id] = offset
        return "counts"


USAGE_CORRECTED = "bursar.usage.corrected.v1"


def close_id(month: str) -> str:
    return f"close:{month}"


def is_month(text: str) -> bool:
    """Whether the text is a month from 2000-01 to 2099-12, ``YYYY-MM``."""
    return _MONTH.fullmatch(text) is not None


def next_month(month: str) -> str:
    """``2026-12`` -> ``2027-01``."""
    year, number = int(month[:4]), int(month[5:])
    return f"{year + number // 12:04d}-{number % 12 + 1:02d}"


def month_bounds_ms(month: str) -> tuple[int, int]:
    """First and following month's first moment, UTC, Unix ms."""
    return _start_ms(month), _start_ms(next_month(month))


def month_of_ms(moment_ms: int) -> str:
    return f"{datetime.fromtimestamp(moment_ms / 1000, UTC):%Y-%m}"


def _start_ms(month: str) -> int:
    return int(datetime(int(month[:4]), int(month[5:]), 1, tzinfo=UTC).timestamp()) * 1000


def booked_month(
    belongs_to: str,
    topic: str,
    partition: int,
    offset: int,
    closes: Iterable[tuple[str, Mapping[tuple[str, int], int]]],
) -> str:
    """The month a record of the log is booked in. ``closes``: month and its bounds, ``(topic, partition) -> next
    offset``; a partition that a close does not know is newer than it."""
    booked = belongs_to
    for month, bounds in closes:
        if offset >= bounds.get((topic, partition), 0):
            booked = max(booked, next_month(month))
    return booked


def divide(amount: int, weights: Sequence[int]) -> list[int]:
    """``amount`` in proportion to ``weights``, in whole units that sum to it exactly: what is left over goes, one unit
    each, to the largest remainders, of equal ones to the first. A negative amount is divided like its opposite.

    Raises ValueError for negative weights, or where all are zero."""
    whole = sum(weights)
    if whole <= 0 or any(weight < 0 for weight in weights):
        raise ValueError("weights must not be negative, and not all zero")
    sign, size = (-1 if amount < 0 else 1), abs(amount)
    parts = [size * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda index: (-(size * weights[index] % whole), index))
    for index in order[: size - sum(parts)]:
        parts[index] += 1
    return [sign * part for part in parts]
