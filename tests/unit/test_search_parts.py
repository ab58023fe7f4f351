"""Where a text is looked for: stretches that cover a range once, in the page's order, with all their days of keys."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_admin.queries import names
from bursar_admin.queries.logs import MAX_HAUNTS, Haunt
from bursar_admin.queries.ranges import DAY_MS, Span, day_of, day_start_ms

FIRST_DAY = 20_000
DAYS = 9


def days_of(counts: Sequence[int], *, newest_first: bool) -> list[Haunt]:
    """As many keys as ``counts`` says on each of some days, in the page's order."""
    found = [
        (day_of((FIRST_DAY + number) * DAY_MS), f"key-{key}")
        for number, keys in enumerate(counts)
        for key in range(keys)
    ]
    return sorted(found, reverse=newest_first)


COUNTS = st.lists(st.sampled_from((0, 0, 1, 3, 60, 99, 100, 101, 700, 1_999, 2_000, 2_300)), max_size=DAYS)


@settings(deadline=None, max_examples=40)
@given(
    counts=COUNTS,
    newest_first=st.booleans(),
    begin=st.integers(0, DAY_MS - 1),
    end=st.integers(1, DAY_MS),
)
def test_stretches_cover_the_range_once_and_have_all_that_was_found(
    counts: list[int], newest_first: bool, begin: int, end: int
) -> None:
    span = Span(FIRST_DAY * DAY_MS + begin, (FIRST_DAY + DAYS) * DAY_MS + end)
    found = days_of(counts, newest_first=newest_first)[: MAX_HAUNTS + 1]
    cut = list(names.parts(found, span, newest_first=newest_first))
    assert cut, "whoever asks goes on from the end of the last one"
    edge = span.to_ms if newest_first else span.from_ms
    for stretch, among in cut:
        assert edge == (stretch.to_ms if newest_first else stretch.from_ms), "no gap, and in the page's order"
        edge = stretch.from_ms if newest_first else stretch.to_ms
        assert stretch.from_ms <= stretch.to_ms
        there = {haunt for haunt in found if haunt[0] in days_in(stretch)}
        if among is None:
            # The text is a common one on this day.
            assert stretch.to_ms - stretch.from_ms <= DAY_MS
            assert len(there) > MAX_HAUNTS
        else:
            assert set(among) == there
            assert len(among) <= MAX_HAUNTS
    if len(found) <= MAX_HAUNTS:
        assert edge == (span.from_ms if newest_first else span.to_ms)
    else:
        # Of what was not listed to its end nothing is left out: it is asked for again.
        assert edge != (span.to_ms if newest_first else span.from_ms)
        last = found[-1][0]
        done = day_start_ms(last) >= edge if newest_first else day_start_ms(last) + DAY_MS <= edge
        assert not done or {day for day, _ in found} == {last}


def days_in(span: Span) -> set[str]:
    return {day_of(at_ms) for at_ms in range(span.from_ms // DAY_MS * DAY_MS, span.to_ms, DAY_MS)}


def test_the_first_stretch_is_of_few_days_of_keys() -> None:
    span = Span(FIRST_DAY * DAY_MS, (FIRST_DAY + DAYS) * DAY_MS)
    found = days_of([30] * DAYS, newest_first=True)
    sizes = [len(among or ()) for _, among in names.parts(found, span, newest_first=True)]
    assert sizes == [90, 180]


def test_nothing_found_is_one_stretch_in_which_nothing_is_looked_through() -> None:
    span = Span(FIRST_DAY * DAY_MS + 5, (FIRST_DAY + DAYS) * DAY_MS)
    assert list(names.parts([], span, newest_first=True)) == [(span, [])]
