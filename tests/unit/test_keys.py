from __future__ import annotations

import hashlib
import hmac
import re

import pytest

from bursar_common.keys import is_sha256_hex, key_hmac, new_key_value, sha256_hex


def test_a_value_carries_256_random_bits() -> None:
    assert new_key_value(bytes(range(32))) == "sk-bf-" + bytes(range(32)).hex()
    drawn = {new_key_value() for _ in range(100)}
    assert len(drawn) == 100
    assert all(re.fullmatch(r"sk-bf-[0-9a-f]{64}", value) for value in drawn)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_fewer_or_more_bytes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        new_key_value(bytes(size))


def test_hashes_are_those_of_the_standard_library() -> None:
    hashed = sha256_hex("sk-bf-abc")
    assert hashed == hashlib.sha256(b"sk-bf-abc").hexdigest()
    assert key_hmac("secret é", hashed) == hmac.new("secret é".encode(), hashed.encode(), hashlib.sha256).hexdigest()
    assert key_hmac("other", hashed) != key_hmac("secret é", hashed)


def test_header_bytes_that_are_not_utf8_hash_as_they_came() -> None:
    assert sha256_hex(b"\xff\x80".decode("utf-8", "surrogateescape")) == hashlib.sha256(b"\xff\x80").hexdigest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a" * 64, True), ("A" * 64, False), ("a" * 63, False), ("a" * 64 + "\n", False), ("", False)],
)
def test_the_form_of_a_hash(text: str, expected: bool) -> None:
    assert is_sha256_hex(text) is expected
