"""How often a closed month is read again that does not come to its checksum."""

from __future__ import annotations

from bursar_aggregator.stored_books import LONGEST_TRY_AGAIN_S, TRY_AGAIN_S, Differs


def test_each_try_that_fails_doubles_the_pause_up_to_its_bound() -> None:
    differs, now_s, pauses = Differs(), 1000.0, []
    for _ in range(8):
        differs = differs.failed(now_s)
        pauses.append(differs.again_s - now_s)
        now_s = differs.again_s
    assert pauses == [TRY_AGAIN_S * 2**power for power in range(6)] + [LONGEST_TRY_AGAIN_S] * 2
    assert TRY_AGAIN_S * 2**5 <= LONGEST_TRY_AGAIN_S
