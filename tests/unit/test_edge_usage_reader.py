"""Usage read off answers, cut anywhere."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_common.wire import UsageCounts
from bursar_edge.usage_reader import MAX_EVENT_BYTES, JsonReader, SseReader, counts_of


def sse(*events: dict, end: str = "\n", names: bool = True, space: str = " ") -> bytes:
    out = ""
    for event in events:
        if names:
            out += f"event:{space}{event['type']}{end}"
        out += f"data:{space}{json.dumps(event, separators=(',', ':'))}{end}{end}"
    return out.encode()


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "model": "claude-x",
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "cache_read_input_tokens": 5,
            "output_tokens": 1,
            "service_tier": "standard",
            "inference_geo": "us",
            "speed": "fast",
        },
    },
}
DELTA = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": 'message_delta {} \n\n\\ "data: " é'},
}
END = {
    "type": "message_delta",
    "delta": {},
    "usage": {"output_tokens": 42, "server_tool_use": {"web_search_requests": 2}},
}
STOP = {"type": "message_stop"}
EXPECTED = UsageCounts(12, 5, 10, 20, 42, 0, 2)


def read(*chunks: bytes) -> SseReader:
    reader = SseReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.end()
    return reader


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("space", [" ", ""])
def test_cut_at_every_byte(end, names, space):
    stream = (": comment" + end * 2).encode() + sse(START, DELTA, DELTA, END, STOP, end=end, names=names, space=space)
    for at in range(len(stream) + 1):
        reader = read(stream[:at], stream[at:])
        assert reader.counts() == EXPECTED
        assert (reader.finished, reader.stopped, reader.delta_events) == (True, True, 2)
        assert (reader.model, reader.message_id) == ("claude-x", "msg_1")
        assert (reader.service_tier, reader.speed, reader.inference_geo) == ("standard", "fast", "us")


def test_a_comment_may_stand_in_front_of_any_event():
    stream = b"".join(b": note\n" + sse(event) for event in (START, DELTA, DELTA, END, STOP))
    reader = read(stream)
    assert reader.counts() == EXPECTED
    assert (reader.finished, reader.stopped, reader.delta_events) == (True, True, 2)


@given(st.lists(st.integers(1, 900), max_size=40))
def test_cut_anywhere_many_times(cuts):
    stream = sse(START, DELTA, DELTA, END, STOP)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    whole = read(stream)
    parts = read(*(stream[a:b] for a, b in zip(places, places[1:], strict=False)))
    assert parts.counts() == whole.counts() == EXPECTED
    assert (parts.delta_bytes, parts.delta_events) == (whole.delta_bytes, whole.delta_events)


def start_of(kind: Any, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}


BLOCK_STOP = {"type": "content_block_stop", "index": 0}
INPUT = {
    "type": "content_block_delta",
    "index": 1,
    "delta": {"type": "input_json_delta", "partial_json": '{"type":"content_block_start","content_block":"tool_use"'},
}
TOOLS = (
    START,
    start_of("text", text=""), DELTA, BLOCK_STOP,
    start_of("tool_use", 1, id="toolu_1", name="content_block_delta", input={}), INPUT, BLOCK_STOP,
    start_of("server_tool_use", 2, id="srvtoolu_1", name="web_search", input={}), BLOCK_STOP,
    start_of("web_search_tool_result", 3, content=[{"type": "tool_use", "text": "\n\n"}] * 3), BLOCK_STOP,
    start_of("mcp_tool_use", 4, id="mcptoolu_1", name="x", input={}), BLOCK_STOP,
    END, STOP,
)  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("names", [True, False])
@given(st.lists(st.integers(1, 2000), max_size=30))
def test_calls_of_tools_are_counted_however_the_stream_is_cut(end, names, cuts):
    stream = sse(*TOOLS, end=end, names=names)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    reader = read(*(stream[a:b] for a, b in zip(places, places[1:], strict=False)))
    assert (reader.tool_uses, reader.delta_events, reader.counts()) == (3, 2, EXPECTED)


@pytest.mark.parametrize(("events", "uses"), [(1, 0), (4, 0), (5, 1), (7, 1), (8, 2)])
def test_a_cut_stream_has_the_calls_that_came(events, uses):
    assert read(sse(*TOOLS[:events])).tool_uses == uses


@pytest.mark.parametrize(
    "odd",
    [
        sse(start_of(5)),
        sse({"type": "content_block_start", "index": 0}),
        sse({"type": "content_block_start", "content_block": ["tool_use"]}),
        sse(
            {"index": 0, "pad": "x" * 300, "content_block": {"type": None}, "type": "content_block_start"}, names=False
        ),
        b'event: content_block_start\ndata: {"type":"content_block_start","content_block":{"type":"tex\n\n',
        b"event: content_block_start\ndata: " + b"x" * (MAX_EVENT_BYTES + 1) + b"\n\n",
    ],
)
def test_calls_are_unknown_where_a_block_cannot_be_read(odd):
    reader = read(sse(START) + odd[:-1], odd[-1:] + sse(*TOOLS[1:]))
    assert (reader.tool_uses, reader.counts(), reader.finished) == (None, EXPECTED, True)


def test_a_block_cut_off_in_its_beginning_did_not_come():
    stream = sse(*TOOLS[:5])
    assert [read(stream[:-cut]).tool_uses for cut in (2, 3, 20)] == [1, 0, 0]


def test_a_block_whose_type_comes_last_is_read():
    late = {"content_block": {"input": {"x": "y" * 300}, "type": "tool_use"}, "type": "content_block_start"}
    assert read(sse(START, late, END)).tool_uses == 1


def test_an_endless_delta_calls_no_tool():
    head = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":"'
    stream = sse(*TOOLS[:-2]) + head + b"x" * MAX_EVENT_BYTES
    assert read(stream, b'"}\n\n' + sse(END, STOP)).tool_uses == 3


@pytest.mark.parametrize(
    ("content", "uses"),
    [
        ([], 0),
        ([{"type": "text", "text": "tool_use"}], 0),
        ([{"type": "tool_use", "input": {"type": "tool_use"}}, {"type": "server_tool_use"}, {"type": "text"}], 2),
        ([{"type": 7}], None),
        ([{}], None),
        (["tool_use"], None),
        ("text", None),
        (None, None),
    ],
)
def test_calls_of_a_json_answer(content, uses):
    reader = JsonReader()
    reader.feed(json.dumps({**START["message"], "content": content}).encode())
    reader.end()
    assert (reader.tool_uses, reader.finished, reader.counts().input_tokens) == (uses, True, 12)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_junk_never_raises(chunks):
    reader = read(*chunks)
    reader.counts()
    reader.estimated_output_tokens(64_000)
    json_reader = JsonReader()
    for chunk in chunks:
        json_reader.feed(chunk)
    json_reader.end()


def test_last_value_wins_and_deltas_are_never_added():
    late = {"type": "message_delta", "usage": {"output_tokens": 7, "cache_read_input_tokens": 100, "input_tokens": 13}}
    counts = read(sse(START, late, END)).counts()
    assert counts == UsageCounts(13, 100, 10, 20, 42, 0, 2)


def test_a_null_does_not_erase():
    late = {"type": "message_delta", "usage": {"output_tokens": 7, "input_tokens": None, "cache_creation": None}}
    assert read(sse(START, late)).counts() == UsageCounts(12, 5, 10, 20, 7)


def test_late_cache_writes_without_a_split():
    late = {"type": "message_delta", "usage": {"output_tokens": 7, "cache_creation_input_tokens": 50}}
    counts = read(sse(START, late)).counts()
    assert (counts.cache_write_5m_tokens, counts.cache_write_1h_tokens) == (30, 20)


def test_iterations_are_summed_with_their_models():
    iterations = [
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 50},
        {"type": "message", "input_tokens": 12, "output_tokens": 42, "cache_read_input_tokens": 3},
        {"type": "advisor_message", "model": "claude-y", "input_tokens": 5, "output_tokens": 6},
    ]
    end = {"type": "message_delta", "usage": {**END["usage"], "iterations": iterations}}
    reader = read(sse(START, end))
    assert reader.counts() == UsageCounts(1017, 3, 0, 0, 98, 0, 2)
    assert [(model, counts.input_tokens) for model, counts in reader.iterations()] == [
        ("", 1000),
        ("", 12),
        ("claude-y", 5),
    ]


@pytest.mark.parametrize(
    ("usage", "thinking"),
    [
        ({"output_tokens_details": {"thinking_tokens": 9}}, 9),
        ({"output_tokens_details": {"reasoning_tokens": 8}}, 8),
        ({"thinking_tokens": 7}, 7),
        ({}, 0),
    ],
)
def test_thinking_where_it_is_reported(usage, thinking):
    assert counts_of({"output_tokens": 20, **usage}) == UsageCounts(output_tokens=20, thinking_tokens=thinking)


@pytest.mark.parametrize("bad", [-1, 1.5, "7", True, None, [], 1 << 60])
def test_what_is_no_count_is_not_counted(bad):
    assert counts_of({"input_tokens": bad}) == UsageCounts()
    reader = read(sse({"type": "message_start", "message": {"usage": {"input_tokens": bad}}}))
    assert not reader.started


def test_cut_stream_is_estimated_from_its_text():
    text = "The quick brown fox jumps over the lazy dog. " * 20
    deltas = [{**DELTA, "delta": {"type": "text_delta", "text": text[at : at + 12]}} for at in range(0, len(text), 12)]
    reader = read(sse(START, *deltas))
    assert not reader.finished
    assert abs(reader.estimated_output_tokens(64_000) - len(text) / 4) < len(text) / 20
    assert reader.estimated_output_tokens(7) == 7  # no more than the request allowed


def test_estimate_is_never_below_what_the_provider_said():
    end = {"type": "message_delta", "usage": {"output_tokens": 500}}
    assert read(sse(START, DELTA, end)).estimated_output_tokens(400) == 500  # what the provider says counts


def test_error_event_is_named():
    reader = read(sse(START, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}))
    assert (reader.error_type, reader.finished) == ("overloaded_error", False)


def test_data_over_several_lines():
    text = json.dumps(START, indent=1)
    stream = "event: message_start\n" + "".join(f"data: {line}\n" for line in text.split("\n")) + "\n"
    assert read(stream.encode()).counts().input_tokens == 12


def test_an_endless_event_is_dropped_and_the_rest_read():
    reader = SseReader()
    reader.feed(sse(START))
    reader.feed(b"event: content_block_start\ndata: ")
    for _ in range(MAX_EVENT_BYTES // 100_000 + 3):
        reader.feed(b"x" * 100_000)
        assert len(reader._carry) <= MAX_EVENT_BYTES + 100_000
    reader.feed(b"\n\n" + sse(END))
    assert reader.counts() == EXPECTED


def test_last_event_without_its_empty_line():
    assert read(sse(START, END)[:-1]).finished


def test_json_answer():
    reader = JsonReader()
    body = json.dumps(
        {**START["message"], "type": "message", "content": [{"type": "text", "text": "x" * 5000}]}
    ).encode()
    for at in range(0, len(body), 100):
        reader.feed(body[at : at + 100])
    reader.end()
    assert reader.counts() == UsageCounts(12, 5, 10, 20, 1)
    assert (reader.started, reader.finished, reader.model) == (True, True, "claude-x")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"usage":7}', b'{"usage":{"input_tokens":1}}', gzip.compress(b"{}", mtime=0)]
)
def test_json_without_usage_is_not_finished(body):
    reader = JsonReader()
    reader.feed(body)
    reader.end()
    assert not reader.finished


def test_json_larger_than_kept_is_unreadable(monkeypatch):
    monkeypatch.setattr("bursar_edge.usage_reader.MAX_JSON_BYTES", 100)
    reader = JsonReader()
    reader.feed(b'{"usage":{"input_tokens":1,"output_tokens":2},"x":"')
    reader.feed(b"x" * 100)
    reader.feed(b'"}')
    reader.end()
    assert not reader.finished
