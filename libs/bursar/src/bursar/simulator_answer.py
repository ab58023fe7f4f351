"""The bytes of the simulator's answers: messages as JSON and as server-sent events. Pure: no I/O, clock or randomness.

Shapes follow the provider's published SDK (2.11) and recorded streams: ``message_start`` carries the prompt's counts
and one output token, ``message_delta`` is cumulative.
"""

from __future__ import annotations

import itertools
import json
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from bursar.simulator_plan import CHARACTERS_PER_TOKEN, DEFAULT_OUTPUT_TOKENS, GREETING, Plan

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_encode = msgspec.json.Encoder().encode
_FILLER = " The ledger counts every token of this sentence."
_UTF8_TAIL = " Zażółć gęślą jaźń, 你好, \N{SLIGHTLY SMILING FACE}."


class Counts(msgspec.Struct, frozen=True):
    """Tokens by kind that the provider reports and bills. ``output_tokens`` includes thinking."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    web_searches: int = 0


class Event(NamedTuple):
    """One server-sent event, and the output tokens that the provider has produced once it is sent."""

    data: bytes
    output_tokens: int
    final: bool = False
    """The last ``message_delta`` or later: late counts are known."""


def counts_of(plan: Plan, body_bytes: int) -> Counts:
    """The counts that the answer starts from (``message_start``; a JSON answer reports :func:`late_counts`)."""
    entries = [entry for entry in iterations_of(plan) if entry.get("type") != "compaction"]

    def summed(name: str) -> int:
        return sum(int(entry.get(name) or 0) for entry in entries)

    given = plan.input_tokens
    if given is None:
        given = summed("input_tokens") if entries else max(1, body_bytes // CHARACTERS_PER_TOKEN)
    output = plan.output_tokens
    if output is None:
        if entries:
            output = summed("output_tokens")
        elif plan.text:
            output = max(1, len(plan.text) // CHARACTERS_PER_TOKEN) + plan.thinking_tokens
        else:
            output = DEFAULT_OUTPUT_TOKENS + plan.thinking_tokens
    return Counts(
        input_tokens=given,
        cache_read_tokens=plan.cache_read_tokens or summed("cache_read_input_tokens"),
        cache_write_5m_tokens=plan.cache_write_5m_tokens,
        cache_write_1h_tokens=plan.cache_write_1h_tokens,
        output_tokens=output,
        thinking_tokens=min(plan.thinking_tokens, output),
        web_searches=plan.web_searches,
    )


def late_counts(plan: Plan, counts: Counts) -> Counts:
    """The counts at the end of the answer."""

    def late(name: str) -> int:
        value: int | None = getattr(plan, f"late_{name}")
        return getattr(counts, name) if value is None else value

    names = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
    return msgspec.structs.replace(counts, **{name: late(name) for name in names})


def iterations_of(plan: Plan) -> list[dict[str, Any]]:
    return msgspec.json.decode(plan.iterations) if plan.iterations else []


def answer_text(plan: Plan, counts: Counts) -> str:
    """The text, about four characters for each output token that is not thinking."""
    text = plan.text
    if not text:
        length = (counts.output_tokens - counts.thinking_tokens) * CHARACTERS_PER_TOKEN
        text = GREETING if plan.output_tokens is None and not plan.iterations else GREETING[:length]
        if length > len(text):
            missing = length - len(text)
            text += (_FILLER * (missing // len(_FILLER) + 1))[:missing]
    return text + _UTF8_TAIL if "utf8" in plan.odd_forms else text


def usage_of(plan: Plan, counts: Counts, *, output_tokens: int, whole: bool) -> dict[str, Any]:
    """``usage`` of a message: at its start, or (``whole``) of a finished JSON answer."""
    if plan.usage == "garbage":
        return {"input_tokens": "many", "output_tokens": -1, "cache_creation": []}
    usage: dict[str, Any] = {
        "input_tokens": counts.input_tokens,
        "cache_creation_input_tokens": counts.cache_write_5m_tokens + counts.cache_write_1h_tokens,
        "cache_read_input_tokens": counts.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": counts.cache_write_1h_tokens,
        },
        "output_tokens": output_tokens,
        "service_tier": plan.service_tier,
        "inference_geo": plan.inference_geo,
    }
    if plan.speed:
        usage["speed"] = plan.speed
    if whole:
        usage |= _output_details(plan, counts)
    return usage


def _output_details(plan: Plan, counts: Counts) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if counts.thinking_tokens:
        details["output_tokens_details"] = {"thinking_tokens": counts.thinking_tokens}
    if counts.web_searches:
        details["server_tool_use"] = {"web_search_requests": counts.web_searches, "web_fetch_requests": 0}
    if plan.iterations:
        details["iterations"] = iterations_of(plan)
    return details


def _delta_usage(plan: Plan, counts: Counts, output_tokens: int, *, last: bool) -> dict[str, Any]:
    if plan.usage == "garbage":
        return {"output_tokens": "lots"}
    usage: dict[str, Any] = {}
    if plan.delta_counts:
        usage["input_tokens"] = counts.input_tokens
        usage["cache_creation_input_tokens"] = counts.cache_write_5m_tokens + counts.cache_write_1h_tokens
        usage["cache_read_input_tokens"] = counts.cache_read_tokens
    if plan.delta_split:
        usage["cache_creation"] = {
            "ephemeral_5m_input_tokens": counts.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": counts.cache_write_1h_tokens,
        }
    usage["output_tokens"] = output_tokens
    return usage | _output_details(plan, counts) if last else usage


def content_blocks(plan: Plan, counts: Counts) -> list[dict[str, Any]]:
    """The content of the whole answer."""
    blocks: list[dict[str, Any]] = []
    if counts.thinking_tokens:
        thought = (_FILLER * (counts.thinking_tokens * CHARACTERS_PER_TOKEN // len(_FILLER) + 1)).strip()
        blocks.append({"type": "thinking", "thinking": thought, "signature": "c2ltdWxhdGVk"})
    for number in range(counts.web_searches):
        tool_id = f"srvtoolu_sim{number:04d}"
        blocks.append(
            {"type": "server_tool_use", "id": tool_id, "name": "web_search", "input": {"query": f"query {number}"}}
        )
        blocks.append({"type": "web_search_tool_result", "tool_use_id": tool_id, "content": []})
    blocks.append({"type": "text", "text": answer_text(plan, counts)})
    if plan.tool_name:
        arguments = msgspec.json.decode(plan.tool_input)
        blocks.append({"type": "tool_use", "id": "toolu_sim0000", "name": plan.tool_name, "input": arguments})
    return blocks


def json_answer(plan: Plan, counts: Counts, *, model: str, message_id: str) -> bytes:
    """The whole message as one JSON body."""
    final = late_counts(plan, counts)
    message: dict[str, Any] = {
        "model": plan.model or model,
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "content": content_blocks(plan, counts),
        "stop_reason": "tool_use" if plan.tool_name else plan.stop_reason,
        "stop_sequence": None,
        "usage": usage_of(plan, final, output_tokens=counts.output_tokens, whole=True),
    }
    if plan.usage == "none":
        del message["usage"]
    return _shaped(message, plan)


def error_answer(plan: Plan, *, request_id: str) -> bytes:
    """Body of a non-200 answer: the plan's own, else the provider's envelope."""
    return plan.body.encode() if plan.body else envelope(plan.status, plan.error_type, plan.error_message, request_id)


def envelope(status: int, error_type: str, message: str, request_id: str) -> bytes:
    kind = error_type or ERROR_TYPES.get(status, "api_error")
    text = message or f"The simulator was asked to answer {status}."
    return _encode({"type": "error", "error": {"type": kind, "message": text}, "request_id": request_id})


def stream_answer(plan: Plan, counts: Counts, *, model: str, message_id: str) -> list[Event]:
    """The events of a streamed message, in order."""
    message: dict[str, Any] = {
        "model": plan.model or model,
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(plan, counts, output_tokens=min(1, counts.output_tokens), whole=False),
    }
    if plan.usage == "none":
        del message["usage"]
    start = Event(_event("message_start", {"message": message}, plan), min(1, counts.output_tokens))
    return [start, *_events_after_start(plan, counts)]


@lru_cache(maxsize=32)
def _events_after_start(plan: Plan, counts: Counts) -> tuple[Event, ...]:
    """All but the first event: they do not depend on the request's ids, and are the same for equal plans."""
    blocks = content_blocks(plan, counts)
    total, output = max(1, plan.events), counts.output_tokens
    thinking_events = 0
    if counts.thinking_tokens:
        thinking_events = min(total, max(1, total * counts.thinking_tokens // max(1, output)))
    text_events = max(1, total - thinking_events)
    total = thinking_events + text_events
    sent, reported = 0, 1
    events: list[Event] = []

    def produced() -> int:
        return max(min(1, output), output * sent // total)

    def emit(name: str, fields: dict[str, Any], *, final: bool = False) -> None:
        events.append(Event(_event(name, fields, plan), output if final else produced(), final))

    for index, block in enumerate(blocks):
        emit("content_block_start", {"index": index, "content_block": _empty(block)})
        if index == 0 and plan.ping:
            emit("ping", {})
        many = {"thinking": thinking_events, "text": text_events}.get(block["type"], 0)
        for delta in _block_deltas(block, max(1, many)):
            sent += 1 if many and delta["type"] != "signature_delta" else 0
            emit("content_block_delta", {"index": index, "delta": delta})
            while reported < plan.deltas and sent * plan.deltas >= reported * total:
                usage = _delta_usage(plan, counts, produced(), last=False)
                emit("message_delta", {"delta": {"stop_reason": None, "stop_sequence": None}, "usage": usage})
                reported += 1
        emit("content_block_stop", {"index": index})
    reason = "tool_use" if plan.tool_name else plan.stop_reason
    last: dict[str, Any] = {"delta": {"stop_reason": reason, "stop_sequence": None}}
    last["usage"] = _delta_usage(plan, late_counts(plan, counts), output, last=True)
    if plan.usage == "none":
        del last["usage"]
    emit("message_delta", last, final=True)
    emit("message_stop", {}, final=True)
    return tuple(events)


def _empty(block: dict[str, Any]) -> dict[str, Any]:
    """The block as ``content_block_start`` shows it, before its deltas."""
    blank: dict[str, Any] = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}.get(block["type"], {})
    if block["type"] in ("tool_use", "server_tool_use"):
        blank = {"input": {}}
    return block | blank


def _block_deltas(block: dict[str, Any], many: int) -> list[dict[str, Any]]:
    kind = block["type"]
    if kind == "text":
        return [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"], many)]
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"], many)]
        return [*deltas, {"type": "signature_delta", "signature": block["signature"]}]
    if kind in ("tool_use", "server_tool_use"):
        return [{"type": "input_json_delta", "partial_json": _encode(block["input"]).decode()}]
    return []


def _pieces(text: str, many: int) -> list[str]:
    """``text`` in ``many`` pieces of nearly equal length (some empty where there is too little text)."""
    bounds = [len(text) * number // many for number in range(many + 1)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


def error_event(plan: Plan) -> bytes:
    """The ``error`` event that ends a stream when the provider is overloaded in its middle."""
    kind = plan.error_type or "overloaded_error"
    return _event("error", {"error": {"type": kind, "message": plan.error_message or "Overloaded"}}, plan)


def _shaped(value: dict[str, Any], plan: Plan) -> bytes:
    if "unknown" in plan.odd_forms:
        value = value | {"x_future_field": {"nested": [1, 2.50, None]}}
    if "spacing" in plan.odd_forms:
        return json.dumps(value, separators=(" ,  ", " :\t"), ensure_ascii=True).encode()
    return _encode(value)


def _event(name: str, fields: dict[str, Any], plan: Plan) -> bytes:
    data = _shaped({"type": name, **fields}, plan)
    if not plan.odd:
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
    odd, end = plan.odd_forms, b"\r\n" if "crlf" in plan.odd_forms else b"\n"
    lines = [] if "noevent" in odd else [(b"event:" if "nospace" in odd else b"event: ") + name.encode()]
    lines.append((b"data:" if "nospace" in odd else b"data: ") + data)
    if "comments" in odd:
        lines.insert(0, b": a comment line")
    event = end.join(lines) + end + end
    if "unknown" in odd and name == "message_start":
        event += end.join([b"event: x_future_event", b'data: {"type":"x_future_event"}', b"id: 7", b"", b""])
    return event
