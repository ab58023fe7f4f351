from __future__ import annotations

import heapq
import math
import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_common.catalogue import build_book
from bursar_common.governance import Provider
from bursar_common.money import NUSD_PER_DOLLAR
from bursar_common.pricing import cost
from bursar_common.wire import Features, UsageCounts
from bursar_enforcer import expectation
from bursar_enforcer.bound import expected_nusd, figures, follow
from bursar_enforcer.expectation import Expectation, Learner, Outputs

MODEL = "claude-opus-4-8"
STARTED_MS = 1_795_253_475_000


def expect(learner: Learner, **changes: object) -> Expectation:
    asked: dict[str, object] = {
        "key": "k", "model": MODEL, "session": "s", "agent": "", "text_bytes": 400_000,
        "max_tokens": 64_000, "now_s": 0,
    }  # fmt: skip
    return learner.expect(**{**asked, **changes})  # type: ignore[arg-type]


def observe(learner: Learner, counts: UsageCounts, **changes: object) -> None:
    seen: dict[str, object] = {
        "key": "k", "model": MODEL, "session": "s", "agent": "", "text_bytes": 400_000, "now_s": 0,
    }  # fmt: skip
    learner.observe(counts=counts, **{**seen, **changes})  # type: ignore[arg-type]


ANSWER = UsageCounts(input_tokens=10, cache_read_tokens=95_000, cache_write_5m_tokens=4_990, output_tokens=900)


def test_a_first_request_writes_a_quarter_of_its_bytes_to_the_cache() -> None:
    assert expect(Learner(), text_bytes=400_001) == Expectation(0, 0, 100_001, 4_000, False)
    assert expect(Learner(), ttl_1h=True).ttl_1h
    assert expect(Learner(), images=2, documents=1).cache_write_tokens == 100_000 + 3_200 + 25_000


def test_output_is_never_expected_above_max_tokens() -> None:
    learner = Learner()
    assert expect(learner, max_tokens=100).output_tokens == 100
    observe(learner, UsageCounts(output_tokens=5_000))
    assert [expect(learner, max_tokens=most).output_tokens for most in (100, 64_000, 0, -1)] == [100, 5_000, 0, 0]


def test_a_live_cache_is_read_and_its_growth_written() -> None:
    learner = Learner()
    observe(learner, ANSWER, now_s=100)
    assert expect(learner, text_bytes=404_000, now_s=399) == Expectation(10, 99_990, 1_000, 900, False)


@pytest.mark.parametrize(
    ("ttl", "age_s", "alive"),
    [
        (UsageCounts(cache_write_5m_tokens=1_000, output_tokens=1), 299, True),
        (UsageCounts(cache_write_5m_tokens=1_000, output_tokens=1), 300, False),
        (UsageCounts(cache_write_1h_tokens=1_000, output_tokens=1), 3599, True),
        (UsageCounts(cache_write_1h_tokens=1_000, output_tokens=1), 3600, False),
    ],
)
def test_a_cache_lives_for_its_time_to_live(ttl: UsageCounts, age_s: int, alive: bool) -> None:
    learner = Learner()
    observe(learner, ttl)
    assert (expect(learner, now_s=age_s).cache_read_tokens > 0) is alive


def test_an_answer_that_only_read_keeps_the_time_to_live_of_what_was_written() -> None:
    learner = Learner()
    observe(learner, UsageCounts(cache_write_1h_tokens=1_000))
    observe(learner, UsageCounts(cache_read_tokens=1_000), now_s=1_000)
    assert expect(learner, now_s=4_000).cache_read_tokens == 1_000
    observe(learner, UsageCounts(cache_read_tokens=1_000, cache_write_5m_tokens=5), now_s=4_000)
    assert expect(learner, now_s=4_301).cache_read_tokens == 0


@pytest.mark.parametrize("other", [{"key": "x"}, {"model": "m"}, {"session": "x"}, {"agent": "x"}, {"session": ""}])
def test_a_cache_belongs_to_one_agent_of_a_session_on_a_model_of_a_key(other: dict[str, object]) -> None:
    learner = Learner()
    observe(learner, ANSWER)
    assert expect(learner).cache_read_tokens == 99_990
    assert expect(learner, **other).cache_read_tokens == 0


def test_without_a_session_nothing_is_remembered_of_a_prompt() -> None:
    learner = Learner()
    observe(learner, ANSWER, session="")
    assert expect(learner, session="").cache_write_tokens == 100_000
    assert expect(learner).output_tokens == 900


def test_a_prompt_that_was_rewritten_is_a_first_one_again() -> None:
    learner = Learner()
    observe(learner, ANSWER)
    assert expect(learner, text_bytes=360_000).cache_read_tokens == 99_990
    assert expect(learner, text_bytes=359_999) == Expectation(0, 0, 90_000, 900, False)


def test_an_answer_told_late_does_not_hide_a_newer_one() -> None:
    learner = Learner()
    observe(learner, ANSWER, now_s=200)
    observe(learner, UsageCounts(cache_write_5m_tokens=7, output_tokens=900), now_s=100)
    assert expect(learner, now_s=201).cache_read_tokens == 99_990
    observe(learner, UsageCounts(cache_write_5m_tokens=7, output_tokens=900), now_s=201)
    assert expect(learner, now_s=201).cache_read_tokens == 7


def test_a_client_that_does_not_cache_pays_plain_input_again() -> None:
    learner = Learner()
    observe(learner, UsageCounts(input_tokens=100_000, output_tokens=900))
    assert expect(learner, text_bytes=404_000) == Expectation(101_000, 0, 0, 900, False)


@given(st.lists(st.integers(0, 128_000), min_size=1, max_size=450))
def test_the_percentile_is_that_of_the_last_200(tokens: list[int]) -> None:
    outputs = Outputs()
    for index, each in enumerate(tokens):
        outputs.add(each)
        last = sorted(tokens[max(0, index - 199) : index + 1])
        expected = last[math.ceil(len(last) * 0.95 - 1e-9) - 1]
        assert outputs.percentile() == expected


def test_memory_is_bounded_and_forgets_the_least_recently_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expectation, "MAX_HISTORIES", 3)
    monkeypatch.setattr(expectation, "MAX_CONVERSATIONS", 3)
    learner = Learner()
    for key in ("a", "b", "c", "a", "d"):
        observe(learner, ANSWER, key=key)
    assert [expect(learner, key=key).output_tokens for key in "abcd"] == [900, 4_000, 900, 900]
    assert [expect(learner, key=key).cache_read_tokens > 0 for key in "abcd"] == [True, False, True, True]


# The promise that expectations exist for: budgets are used up, not refused half-way.


class StandardBudget:
    """The architecture's rule for a standard counter, and nothing else."""

    def __init__(self, limit_nusd: int) -> None:
        self.limit, self.spent, self.held = limit_nusd, 0, 0

    def admit(self, expected: int) -> bool:
        if self.spent + self.held + expected > self.limit:
            return False
        self.held += expected
        return True


@pytest.mark.parametrize("seed", range(5))
def test_twenty_large_sessions_meet_no_refusal_before_nine_tenths_are_spent(seed: int) -> None:
    """20 sessions of 400 kB prompts, 95 % read from the cache, 64,000 tokens asked for, 1,000 produced, $100.

    Each session sends its next request a while after its last answer; answers take 10 to 40 s and holds follow the
    stream as the edge renews them every 10 s."""
    chance = random.Random(seed)
    book = build_book(Provider(id="p", name="anthropic", kind="anthropic", created_at_s=0))
    model = book.find(MODEL)
    assert model is not None
    learner, budget = Learner(), StandardBudget(100 * NUSD_PER_DOLLAR)
    features = Features(text_bytes=400_000)
    prompt = UsageCounts(cache_read_tokens=95_000, cache_write_5m_tokens=5_000)
    # (at, session, step, expectation, held): step 0 asks, further steps renew, the last one settles.
    events: list[tuple[float, str, int, Expectation | None, int]] = [
        (chance.uniform(0, 60), f"s{number}", 0, None, 0) for number in range(20)
    ]
    heapq.heapify(events)
    in_flight, most_in_flight, trail = 0, 0, deque[int](maxlen=3)
    while True:
        now_s, session, step, expectation, held = heapq.heappop(events)
        place: dict[str, Any] = {"key": "k", "model": MODEL, "session": session, "agent": ""}
        if expectation is None:
            expectation = learner.expect(**place, text_bytes=400_000, max_tokens=64_000, now_s=now_s)
            held = figures(
                book, model, features, 64_000, expectation, strict=False, started_at_ms=STARTED_MS
            ).expected_nusd
            if not budget.admit(held):
                break
            in_flight += 1
            most_in_flight = max(most_in_flight, in_flight)
            heapq.heappush(events, (now_s + chance.uniform(3, 10), session, 1, expectation, held))
        elif step < 4:
            seen = UsageCounts(0, 95_000, 5_000, 0, 250 * step)
            followed = follow(
                book, model, features, 64_000, expectation, seen, prompt_known=True, strict=False,
                started_at_ms=STARTED_MS,
            ).expected_nusd  # fmt: skip
            budget.held += followed - held
            heapq.heappush(events, (now_s + chance.uniform(3, 10), session, step + 1, expectation, followed))
        else:
            counts = UsageCounts(0, prompt.cache_read_tokens, prompt.cache_write_5m_tokens, 0, 1_000)
            paid = cost(book, MODEL, counts, started_at_ms=STARTED_MS)
            assert paid is not None
            budget.held -= held
            budget.spent += paid.billed_nusd
            in_flight -= 1
            trail.append(budget.spent)
            learner.observe(**place, text_bytes=400_000, counts=counts, now_s=now_s)
            heapq.heappush(events, (now_s + chance.uniform(0, 120), session, 0, None, 0))
    assert budget.spent >= 90 * NUSD_PER_DOLLAR, budget.spent / NUSD_PER_DOLLAR
    assert most_in_flight >= 8, "the sessions hardly ran at the same time"
    assert len(trail) == 3


def test_holding_bounds_would_have_refused_the_same_sessions_early() -> None:
    """The reason for expectations: twenty bounds alone are nearly half of the budget."""
    book = build_book(Provider(id="p", name="anthropic", kind="anthropic", created_at_s=0))
    model = book.find(MODEL)
    assert model is not None
    learner, features = Learner(), Features(text_bytes=400_000)
    first = figures(book, model, features, 64_000, expect(learner), strict=False, started_at_ms=STARTED_MS)
    observe(learner, ANSWER)
    later = expected_nusd(book, model, features, expect(learner), started_at_ms=STARTED_MS)
    assert first.bound_nusd * 20 > 50 * NUSD_PER_DOLLAR
    assert later * 20 < 2 * NUSD_PER_DOLLAR
