"""Answers read without the parser: the same as the parser reads, or left to it."""

from __future__ import annotations

import pytest

from bursar_edge.whole_answer import read_whole

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Two: a\r\nx-two:\t b \r\ncontent-length: 2\r\n\r\n"


def test_an_ordinary_answer():
    answer = read_whole(HEAD + b"{}")
    assert answer is not None
    assert (answer.code, answer.reason, answer.body.content) == (200, "OK", b"{}")
    assert answer.raw_headers == (
        (b"Content-Type", b"application/json"),
        (b"X-Two", b"a"),
        (b"x-two", b"b"),
        (b"content-length", b"2"),
    )
    assert answer.headers.get("content-type") == "application/json"
    assert answer.headers.get("x-two") == "a"
    assert answer.headers.get("request-id", "none") == "none"
    assert "content-length" in answer.headers
    assert "connection" not in answer.headers


def test_an_empty_body_and_an_empty_reason():
    answer = read_whole(b"HTTP/1.1 500 \r\ncontent-length: 0\r\n\r\n")
    assert answer is not None
    assert (answer.code, answer.reason, answer.body.content) == (500, "", b"")


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        HEAD + b"{",
        HEAD + b"{}x",
        HEAD[:-2],
        b"",
        HEAD.replace(b"1.1", b"1.0") + b"{}",
        HEAD.replace(b"200", b"100") + b"{}",
        HEAD.replace(b"200", b"204") + b"{}",
        HEAD.replace(b"200", b"304") + b"{}",
        HEAD.replace(b"200", b"20") + b"{}",
        HEAD.replace(b"content-length: 2", b"content-length: +2") + b"{}",
        HEAD.replace(b"content-length: 2", b"content-length: 2\r\ncontent-length: 2") + b"{}",
        HEAD.replace(b"content-length: 2", b"content-length: 2, 2") + b"{}",
        HEAD.replace(b"content-length: 2", b"content-length : 2") + b"{}",
        HEAD.replace(b"content-length: 2", b"content-lengt: 2") + b"{}",
        HEAD.replace(b"X-Two: a", b"transfer-encoding: chunked") + b"{}",
        HEAD.replace(b"X-Two: a", b"Connection: close") + b"{}",
        HEAD.replace(b"X-Two: a", b"Upgrade: websocket") + b"{}",
        HEAD.replace(b"X-Two: a", b" folded: a") + b"{}",
        HEAD.replace(b"X-Two: a", b"x y: a") + b"{}",
        HEAD.replace(b"X-Two: a", b": a") + b"{}",
        HEAD.replace(b"X-Two: a", b"no colon") + b"{}",
        HEAD.replace(b"X-Two: a", b"") + b"{}",
        HEAD.replace(b"X-Two: a", b"x: a\nb: c") + b"{}",
        HEAD.replace(b"X-Two: a", b"x: a\rb") + b"{}",
        HEAD.replace(b"X-Two: a", b"x: a\0b") + b"{}",
        HEAD.replace(b"X-Two: a", b"x: " + b"a" * 40_000) + b"{}",
    ],
)
def test_all_else_is_left_to_the_parser(data):
    assert read_whole(data) is None
