from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_common.clock import rfc3339
from bursar_common.ids import is_uuid, uuid7, uuid7_from

TIMES = st.integers(0, 2**48 - 1)
BYTES = st.binary(min_size=10, max_size=10)


@given(TIMES, BYTES)
def test_an_id_is_a_uuid_of_version_7_and_carries_its_time(now_ms: int, random_bytes: bytes) -> None:
    text = uuid7_from(now_ms, random_bytes)
    parsed = uuid.UUID(text)
    assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)
    assert parsed.int >> 80 == now_ms
    assert is_uuid(text)


@given(TIMES, TIMES, BYTES, BYTES)
def test_ids_sort_by_time(first_ms: int, second_ms: int, first: bytes, second: bytes) -> None:
    if first_ms < second_ms:
        assert uuid7_from(first_ms, first) < uuid7_from(second_ms, second)


@given(TIMES, BYTES, BYTES)
def test_74_of_the_80_random_bits_are_kept(now_ms: int, first: bytes, second: bytes) -> None:
    kept = [int.from_bytes(each, "big") & ~(0xF << 76) & ~(0x3 << 62) for each in (first, second)]
    assert (uuid7_from(now_ms, first) == uuid7_from(now_ms, second)) == (kept[0] == kept[1])


def test_the_example_of_the_standard() -> None:
    """RFC 9562, appendix A.6."""
    assert uuid7_from(0x017F22E279B0, bytes.fromhex("0cc318c4dc0c0c07398f")) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_minted_ids_differ() -> None:
    assert len({uuid7() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
        "017f22e279b07cc398c4dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f\n",
    ],
)
def test_other_texts_are_no_ids(text: str) -> None:
    assert not is_uuid(text)


def test_times_are_written_in_utc_with_milliseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_795_253_475_123) == "2026-11-21T09:31:15.123Z"
