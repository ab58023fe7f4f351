"""Requests and answers taken apart into what is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar_edge.content_parts import RawPart, StreamParts, answer_parts, as_text, fitting, prompt_parts
from bursar_edge.decoding import decoded
from bursar_edge.keeping import MAX_ANSWER_BYTES, STEP_BYTES, Keeping


def prompt(**body: Any) -> list[tuple[str, ...]]:
    """Oldest first."""
    found = prompt_parts(json.dumps({"model": "m", "max_tokens": 5, **body}).encode())
    return [(part.role, part.kind, part.name, as_text(part.value)) for part in reversed(list(found))]


def stream_of(*events: Any, separator: str = "\n") -> list[RawPart]:
    data = "".join(f"event: x{separator}data: {json.dumps(event)}{separator}{separator}" for event in events)
    stream = StreamParts(data.encode())
    for _ in stream.steps():
        pass
    return stream.parts()


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **what: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "x", **what}}


def test_a_prompt_of_every_kind_of_block() -> None:
    assert prompt(
        system=[{"type": "text", "text": "be good", "cache_control": {"type": "ephemeral"}}],
        tools=[{"name": "Bash", "input_schema": {}}, {"type": "web_search_1", "name": "web_search"}],
        messages=[
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "abc"},
                    {"type": "redacted_thinking", "data": "abc"},
                    {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls\n"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [
                            {"type": "text", "text": "a b"},
                            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 9}},
                        ],
                    },
                    {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
                    {"type": "new_kind", "source": {"type": "base64", "data": "A" * 99}, "more": 1},
                ],
            },
        ],
    ) == [
        ("system", "text", "", "be good"),
        ("tools", "tools", "", "Bash, web_search"),
        ("user", "text", "", "hi"),
        ("assistant", "thinking", "", "hm"),
        ("assistant", "redacted_thinking", "", ""),
        ("assistant", "tool_use", "Bash", '{"command":"ls\\n"}'),
        ("user", "tool_result", "t1", "a b\n[image image/png] [9 characters of base64]"),
        ("user", "document", "", "https://x/y.pdf"),
        ("user", "new_kind", "", '{"source":{"type":"base64","data":"[99 characters of base64]"},"more":1}'),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "hi"},
        {"messages": {"role": "user"}},
        {"messages": [], "tools": "x"},
    ],
)
def test_a_body_of_another_shape_is_one_text(body: dict[str, Any]) -> None:
    ((role, kind, _, text),) = prompt(**body)
    assert (role, kind) == ("user", "text")
    assert json.loads(text)["model"] == "m"


@pytest.mark.parametrize("messages", [[], [1], [None], ["x"], [{"role": 3, "content": [1, None, {"type": 5}]}], [[]]])
def test_strange_messages_are_read_somehow(messages: list[Any]) -> None:
    for part in prompt(messages=messages):
        assert all(isinstance(each, str) for each in part)


def test_json_of_many_levels_is_bounded() -> None:
    deep = "[" * 300 + "1" + "]" * 300
    body = b'{"messages":[{"role":"user","content":[{"type":"odd","x":' + deep.encode() + b"}]}]}"
    (part,) = prompt_parts(body)
    assert "deeper levels" in as_text(part.value)
    deeper = b'{"messages":[{"role":"user","content":' + b"[" * 20_000 + b"]" * 20_000 + b"}]}"
    assert len(list(prompt_parts(deeper))) == 1


@pytest.mark.parametrize("separator", ["\n", "\r\n"])
def test_a_streams_blocks_are_put_together(separator: str) -> None:
    parts = stream_of(
        {"type": "message_start", "message": {"id": "m", "content": []}},
        begin(0, type="thinking", thinking=""),
        delta(0, thinking="let me "),
        delta(0, thinking="see"),
        delta(0, signature="abc"),
        begin(1, type="text", text=""),
        delta(1, text="data: x"),
        delta(1, text="\ndata: y"),
        begin(2, type="tool_use", id="t", name="Bash", input={}),
        delta(2, partial_json='{"comm'),
        delta(2, partial_json='and":"ls"}'),
        begin(3, type="tool_use", id="t", name="Read", input={}),
        delta(3, partial_json='{"file'),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        separator=separator,
    )
    assert parts == [
        RawPart("assistant", "thinking", "", "let me see"),
        RawPart("assistant", "text", "", "data: x\ndata: y"),
        RawPart("assistant", "tool_use", "Bash", {"command": "ls"}),
        RawPart("assistant", "tool_use", "Read", '{"file'),
        RawPart("assistant", "error", "overloaded_error", "Overloaded"),
    ]


def test_a_stream_that_is_none() -> None:
    for data in (b"", b"data:", b"data: {", b"data: [1]\n\ndata: null\n\n", b"\xff\xfe\n", b'data: {"index":"x"}'):
        stream = StreamParts(data)
        assert list(stream.steps()) == []
        assert stream.parts() == []


def test_chunks_with_their_framing_are_read_all_the_same() -> None:
    event = b"event: content_block_delta\ndata: " + json.dumps(delta(0, text="hi")).encode() + b"\n\n"
    stream = StreamParts(b"%x\r\n%b\r\n" % (len(event), event) * 3)
    list(stream.steps())
    assert [part.value for part in stream.parts()] == ["hihihi"]


def test_answers_that_are_no_stream() -> None:
    message = {"content": [{"type": "text", "text": "hi"}, {"type": "tool_use", "name": "B", "input": {"a": 1}}]}
    assert answer_parts(json.dumps(message).encode(), good=True) == [
        RawPart("assistant", "text", "", "hi"),
        RawPart("assistant", "tool_use", "B", {"a": 1}),
    ]
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    assert answer_parts(json.dumps(error).encode(), good=False) == [
        RawPart("assistant", "error", "invalid_request_error", "no")
    ]
    assert answer_parts(b"<html>", good=False) == [RawPart("assistant", "error", "", "<html>")]
    assert answer_parts(b"", good=True) == []


@pytest.mark.parametrize(
    ("text", "room", "keep_end", "kept"),
    [
        ("abc", 3, True, "abc"),
        ("abc", 2, True, "bc"),
        ("abc", 2, False, "ab"),
        ("abc", 0, True, ""),
        ("a\u00e4b", 2, False, "a"),
        ("a\u00e4b", 2, True, "b"),
        ("", 0, False, ""),
    ],
)
def test_cut_between_characters(text: str, room: int, keep_end: bool, kept: str) -> None:
    assert fitting(text, room, keep_end=keep_end) == kept


# ---- what is kept while an answer passes


class Purse:
    """Memory of so many bytes."""

    def __init__(self, free: int) -> None:
        self.free = free

    def take(self, size: int) -> bool:
        if size > self.free:
            return False
        self.free -= size
        return True

    def give_back(self, size: int) -> None:
        self.free += size


class Reads:
    stopped = False

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.ended = 0

    def feed(self, chunk: bytes) -> None:
        self.seen.append(chunk)

    def end(self) -> None:
        self.ended += 1


def test_every_chunk_reaches_the_reader_and_is_kept() -> None:
    reader, purse = Reads(), Purse(20 * STEP_BYTES)
    keeping = Keeping(reader, purse)
    chunks = [b"%d," % number * 100 for number in range(5000)]
    for chunk in chunks:
        keeping.feed(chunk)
    keeping.end()
    assert (reader.seen, reader.ended, keeping.stopped) == (chunks, 1, False)
    assert keeping.kept() == b"".join(chunks)
    assert not keeping.cut
    assert 20 * STEP_BYTES - purse.free >= keeping.size
    keeping.drop()
    keeping.drop()
    assert purse.free == 20 * STEP_BYTES


def test_what_has_no_room_still_reaches_the_reader() -> None:
    reader, purse = Reads(), Purse(2 * STEP_BYTES)
    keeping = Keeping(reader, purse)
    for _ in range(40):
        keeping.feed(b"x" * (STEP_BYTES // 10))
    assert len(reader.seen) == 40
    assert keeping.cut
    assert STEP_BYTES <= len(keeping.kept()) <= 2 * STEP_BYTES
    keeping.drop()
    assert purse.free == 2 * STEP_BYTES


def test_an_endless_answer_is_kept_up_to_a_bound() -> None:
    keeping = Keeping(Reads(), Purse(1 << 40))
    for _ in range(100):
        keeping.feed(b"x" * STEP_BYTES)
    assert keeping.cut
    assert len(keeping.kept()) <= MAX_ANSWER_BYTES + STEP_BYTES


def test_quick_chunks_are_kept_where_they_were_taken() -> None:
    keeping = Keeping(Reads(), Purse(1 << 30))
    quick = keeping.over(lambda frame: frame.startswith(b"5"))
    assert [quick(frame) for frame in (b"5 a", b"6 b", b"5 c")] == [True, False, True]
    assert keeping.kept() == b"5 a5 c"


def test_decoded_answers_are_bounded() -> None:
    import gzip
    import zlib

    text = b"abc" * 1000
    assert decoded(gzip.compress(text), "gzip", 1 << 20) == text
    assert decoded(gzip.compress(text)[:-9], "gzip", 1 << 20) is not None
    assert decoded(zlib.compress(text), "deflate", 1 << 20) == text
    assert decoded(gzip.compress(b"\0" * (1 << 24)), "gzip", 1000) == b"\0" * 1000
    assert decoded(b"nonsense", "gzip", 1000) is None
    assert decoded(text, "of tomorrow", 1000) is None
    assert decoded(b"", "gzip", 1000) == b""
