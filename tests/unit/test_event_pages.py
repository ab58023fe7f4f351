"""Pages of governance events and corrections together: every event once, newest first, wherever pages end."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bursar_admin.chronicle import Entry
from bursar_admin.event_pages import SORTS, Place, merged, sorted_page
from bursar_admin.pages.events import happened
from bursar_admin.past import PastPage


def entry(offset: int, second: int, entity: str = "team", **more: Any) -> Entry:
    fields: dict[str, Any] = {
        "offset": offset, "id": f"{entity}-{offset}", "time": f"2026-11-21T10:00:{second:02d}.000Z",
        "type": "", "entity": entity, "entity_id": "", "name": f"n{offset % 3}", "actor": "local", "action": "created",
        "overtaken_by": "", "owners": frozenset(), "changes": (), "document": None, "seen": {},
    }  # fmt: skip
    return Entry(**{**fields, **more})


def test_pages_have_every_event_once_in_the_order_of_time() -> None:
    rng = random.Random(7)
    for _ in range(50):
        log = [entry(at, at * rng.randint(1, 2)) for at in range(rng.randint(0, 9))]
        moments = sorted(rng.sample(range(30), rng.randint(0, 9)))
        corrections = [entry(at, moment, "request") for at, moment in enumerate(moments)]
        limit, place, seen = rng.randint(1, 4), Place(), []
        while True:
            mine = [each for each in reversed(log) if each.offset < place.offset][: limit + 1]
            theirs = [each for each in reversed(corrections) if each.offset < place.correction]
            page = merged(PastPage(mine, None, None), theirs, place, limit)
            seen += page.entries
            if page.following is None:
                break
            assert len(page.entries) == limit
            place = Place(*(int(at) for at in page.following))
        assert sorted(each.id for each in seen) == sorted(each.id for each in [*log, *corrections])
        assert [each for each in seen if each.entity == "team"] == log[::-1]
        assert [each for each in seen if each.entity == "request"] == corrections[::-1]


def test_a_correction_older_than_what_was_looked_at_waits() -> None:
    stopped = PastPage([entry(9, 50)], stopped_at=5, looked_back_to="2026-11-21T10:00:30.000Z")
    newer, older = entry(2, 40, "request"), entry(1, 20, "request")
    page = merged(stopped, [newer, older], Place(), 10)
    assert [each.id for each in page.entries] == ["team-9", "request-2"]
    assert page.following == [5, 2]
    page = merged(PastPage([entry(3, 10)], None, None), [older], Place(5, 2), 10)
    assert [each.id for each in page.entries] == ["request-1", "team-3"]
    assert page.following is None


@pytest.mark.parametrize("sort_by", SORTS)
@pytest.mark.parametrize("descending", [False, True])
def test_sorted_pages_are_the_whole_cut_in_pieces(sort_by: str, descending: bool) -> None:
    events = [entry(at, at, actor="ab"[at % 2]) for at in range(11)]
    whole = sorted_page(events, sort_by, descending, None, 100)
    assert whole.following is None
    seen, place = [], None
    while True:
        page = sorted_page(events, sort_by, descending, place, 3)
        seen += page.entries
        if page.following is None:
            break
        first, second, third = (str(each) for each in page.following)
        place = (first, second, third)
    assert seen == whole.entries
    assert len({each.id for each in seen}) == len(events)


@pytest.mark.parametrize(
    ("action", "entity", "sentence"),
    [
        ("created", "virtual_key", "Created key"),
        ("changed", "config", "Changed settings"),
        ("created", "period_close", "Closed month"),
        ("created", "content_deletion", "Deleted content of"),
    ],
)
def test_what_happened_is_said_as_people_say_it(action: str, entity: str, sentence: str) -> None:
    assert happened(action, entity) == sentence
