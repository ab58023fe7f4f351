"""The answer to an admission: encoded once for a way and its present windows, a request fills in its amounts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from bursar_common.wire import Admitted, HoldEntry, encode
from bursar_enforcer.chain import Way
from bursar_enforcer.plan import Plan

_GAP = b"\x00"
"""Stands where a request's own value goes; no encoded string holds this byte."""


class Answer(NamedTuple):
    """What every request admitted under ``plan`` is answered."""

    plan: Plan
    template: bytes
    """:class:`~bursar_common.wire.Admitted` as JSON, a ``%b`` for each value of a request's own."""
    places: Callable[[Sequence[bytes]], tuple[bytes, ...]]
    """From a request's amounts to those of the hold: expected and bound of each counter in turn."""

    def fill(self, amounts: tuple[int, ...], header: str, bound_nusd: int, would_refuse: str) -> msgspec.Raw:
        """The answer to one request, as it goes out."""
        texts = [b"%d" % amount for amount in amounts]
        own = (encode(header), texts[0], b"%d" % bound_nusd, encode(would_refuse))
        return msgspec.Raw(self.template % (self.places(texts) + own))


def make_answer(way: Way, plan: Plan, ttl_s: int) -> Answer:
    gap: Any = msgspec.Raw(_GAP)
    admitted = Admitted(
        hold=tuple([HoldEntry(counter.id, gap, gap, counter.strict) for counter in plan.counters]),
        header=gap,
        price_book_id=way.book.id,
        route=way.route,
        owners=way.owners,
        ttl_s=ttl_s,
        expected_nusd=gap,
        bound_nusd=gap,
        would_refuse=gap,
        content=way.content,
    )
    template = encode(admitted).replace(b"%", b"%%").replace(_GAP, b"%b")
    places = [place for counter in plan.counters for place in (counter.expected_at, counter.bound_at)]
    return Answer(plan, template, itemgetter(*places) if places else _none)


def _none(_: Sequence[bytes]) -> tuple[bytes, ...]:
    return ()
