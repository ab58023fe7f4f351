"""What the load generators send and what the upstream answers: fixed bytes, shaped like Claude Code's traffic."""

from __future__ import annotations

import json

SMALL_BODY_BYTES = 90
LARGE_BODY_BYTES = 100_000
MODEL = "claude-sonnet-4-6"
EVENT_TEXT = "a few words of it, "


def small_body(*, stream: bool = False) -> bytes:
    """The smallest sensible request: 90 bytes (a stream: 104)."""
    head = f'{{"model":"{MODEL}","max_tokens":64,' + ('"stream":true,' if stream else "")
    tail = '"messages":[{"role":"user","content":"%s"}]}'
    room = SMALL_BODY_BYTES + (14 if stream else 0) - len(head) - len(tail) + 2
    return (head + tail % ("hello, you"[:room].ljust(room, "."))).encode()


def large_body(*, stream: bool = False) -> bytes:
    """100,000 bytes made like a working session's request: system text, two dozen tool definitions, a conversation."""
    tools = [
        {
            "name": f"tool_{number}",
            "description": "Reads, searches or edits files of the project.\nUse it when the path is known. " * 8,
            "input_schema": {
                "type": "object",
                "properties": {
                    name: {"type": "string", "description": f"The {name} to work on, absolute, not relative."}
                    for name in ("path", "pattern", "replacement", "limit", "offset")
                },
                "required": ["path"],
            },
        }
        for number in range(24)
    ]
    document = {
        "model": MODEL,
        "max_tokens": 4096,
        "stream": stream,
        "system": [
            {"type": "text", "text": "You are a careful engineer.\n" * 600, "cache_control": {"type": "ephemeral"}}
        ],
        "tools": tools,
        "metadata": {"user_id": json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": "s" * 36})},
        "messages": [
            {
                "role": "user" if turn % 2 == 0 else "assistant",
                "content": [{"type": "text", "text": 'def f(x):\n    return "\\t" + str(x)  # one "line"\n' * 20}],
            }
            for turn in range(28)
        ],
    }
    document["messages"].append({"role": "user", "content": [{"type": "text", "text": ""}]})
    size = len(json.dumps(document, separators=(",", ":")))
    if size > LARGE_BODY_BYTES:
        raise ValueError(f"the large body is {size} bytes before padding")
    document["messages"][-1]["content"][0]["text"] = "x" * (LARGE_BODY_BYTES - size)
    return json.dumps(document, separators=(",", ":")).encode()


def json_answer() -> bytes:
    """The body of a whole (not streamed) answer."""
    return json.dumps(
        {
            "id": "msg_01BenchBenchBenchBench",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [{"type": "text", "text": "Hello! How can I help you today?"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 12,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                "output_tokens": 12,
                "service_tier": "standard",
            },
        },
        separators=(",", ":"),
    ).encode()


def _event(name: str, data: dict[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data}, separators=(',', ':'))}\n\n".encode()


def sse_start() -> bytes:
    """The two events a stream opens with."""
    message = {
        "id": "msg_01BenchBenchBenchBench",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 25_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    }
    return _event("message_start", {"message": message}) + _event(
        "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
    )


def sse_delta() -> bytes:
    """One of the many events in the middle."""
    return _event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": EVENT_TEXT}})


def sse_end(deltas: int) -> bytes:
    """The three events a stream ends with."""
    return (
        _event("content_block_stop", {"index": 0})
        + _event(
            "message_delta",
            {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 5 * deltas}},
        )
        + _event("message_stop", {})
    )
