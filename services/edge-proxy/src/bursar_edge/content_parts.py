"""From the bytes of a request and of its answer to the parts that are stored. Pure, and in small steps: nothing here
takes more than some milliseconds at once, so that whoever drives it can let others have their turn.

A prompt's parts come newest first, because the newest are stored where not all fit. An answer is read whole, so that
what was streamed in pieces is put together before anybody looks for secrets in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

MAX_DEPTH = 40
"""Levels of JSON within one part; deeper ones are left out."""
EVENTS_AT_ONCE = 200
"""Events of a stream read in one step: some 0.3 ms."""


class RawPart(NamedTuple):
    """A part with its secrets still in it: it goes to the redactor and nowhere else."""

    role: str
    kind: str
    name: str
    value: Any
    """A text, or JSON."""


class _Tool(msgspec.Struct):
    name: str = ""


class _Body(msgspec.Struct):
    messages: list[msgspec.Raw] = []
    system: msgspec.Raw = msgspec.Raw(b"null")
    tools: list[_Tool] = []


_decode_body = msgspec.json.Decoder(_Body, strict=False).decode


def prompt_parts(body: bytes) -> Iterator[RawPart]:
    """The parts of a request, newest first, what cannot be read as one text."""
    try:
        read = _decode_body(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        yield RawPart("user", "text", "", body.decode("utf-8", "replace"))
        return
    for raw in reversed(read.messages):
        message = _decoded(raw)
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else message
        yield from reversed(list(_blocks(role if isinstance(role, str) else "user", content)))
    if read.tools:
        names = [tool.name for tool in read.tools if tool.name]
        yield RawPart("tools", "tools", "", ", ".join(names))
    system = _decoded(read.system)
    if system:
        yield from reversed(list(_blocks("system", system)))


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return bytes(raw).decode("utf-8", "replace")


def _blocks(role: str, content: Any) -> Iterator[RawPart]:
    if isinstance(content, str):
        yield RawPart(role, "text", "", content)
    elif isinstance(content, list):
        for block in content:
            yield _part(role, block)
    elif content is not None:
        yield RawPart(role, "text", "", content)


def _part(role: str, block: Any) -> RawPart:
    if not isinstance(block, dict):
        return RawPart(role, "text", "", block)
    kind = block.get("type")
    kind = kind[:40] if isinstance(kind, str) else "text"
    if kind in ("text", "thinking") and isinstance(block.get(kind), str):
        return RawPart(role, kind, "", block[kind])
    if kind == "redacted_thinking":
        return RawPart(role, kind, "", "")
    if kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
        return RawPart(role, kind, _name(block.get("name")), block.get("input"))
    if kind.endswith("tool_result"):
        return RawPart(role, kind, _name(block.get("tool_use_id")), _inner(block.get("content")))
    if kind in ("image", "document"):
        return RawPart(role, kind, *_source(block))
    return RawPart(role, kind, "", _small({name: value for name, value in block.items() if name != "type"}))


def _name(value: Any) -> str:
    return value[:200] if isinstance(value, str) else ""


def _source(block: dict[str, Any]) -> tuple[str, Any]:
    """(media type, what is said of it): data itself is not stored, only how much it was."""
    source = block.get("source")
    if not isinstance(source, dict):
        return "", ""
    data = source.get("data")
    if source.get("type") == "text":
        return _name(source.get("media_type")), data
    if isinstance(data, str):
        return _name(source.get("media_type")), f"[{len(data)} characters of base64]"
    return _name(source.get("media_type")), source.get("url") or _small(source.get("content"))


def _inner(content: Any) -> Any:
    """The result of a tool: its texts, one after the other."""
    if not isinstance(content, list):
        return content
    texts = []
    for block in content:
        part = _part("", block)
        if isinstance(part.value, str):
            texts.append(part.value if part.kind == "text" else f"[{part.kind} {part.name}] {part.value}")
        else:
            texts.append(as_text(part.value))
    return "\n".join(texts)


def _small(value: Any, depth: int = 0) -> Any:
    """JSON without base64 data in it."""
    if depth > MAX_DEPTH:
        return "[deeper levels are left out]"
    if isinstance(value, dict):
        if value.get("type") == "base64" and isinstance(value.get("data"), str):
            return {**value, "data": f"[{len(value['data'])} characters of base64]"}
        return {name: _small(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_small(each, depth + 1) for each in value]
    return value


def as_text(value: Any) -> str:
    """JSON as the text that is stored; a text as it is."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return msgspec.json.encode(value).decode("utf-8", "replace")
    except RecursionError:
        return "[too many levels]"


# ---- answers


class _Block:
    """A block of an answer as far as it has come."""

    __slots__ = ("kind", "name", "pieces", "value")

    def __init__(self, kind: str, name: str, value: Any) -> None:
        self.kind = kind
        self.name = name
        self.value = value
        self.pieces: list[str] = []

    def part(self) -> RawPart:
        text = "".join(self.pieces)
        value = self.value
        if self.kind in ("tool_use", "server_tool_use", "mcp_tool_use") and text:
            try:
                value = msgspec.json.decode(text)
            except (msgspec.MsgspecError, RecursionError):
                value = text  # it ended in the middle
        elif isinstance(value, str) or value is None:
            value = (value or "") + text
        return RawPart("assistant", self.kind, self.name, value)


class _Delta(msgspec.Struct):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_decode_event = msgspec.json.Decoder(_Event, strict=False).decode


class StreamParts:
    """Puts an event stream's blocks together: exhaust ``steps``, then ask for ``parts``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._blocks: dict[int, _Block] = {}
        self._errors: list[RawPart] = []

    def steps(self) -> Iterator[None]:
        """Read to the end, a step at a time."""
        data, at = self._data, 0
        count = 0
        while (start := data.find(b"data:", at)) >= 0:
            end = data.find(b"\n", start)
            at = len(data) if end < 0 else end
            if start == 0 or data[start - 1] in b"\r\n":
                self._take(data[start + 5 : at])
            count += 1
            if count % EVENTS_AT_ONCE == 0:
                yield

    def _take(self, data: bytes) -> None:
        try:
            event = _decode_event(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # not of a message, or cut off
        if event.content_block is not None:
            part = _part("assistant", event.content_block)
            self._blocks[event.index] = _Block(part.kind, part.name, part.value)
        elif event.delta is not None:
            piece = event.delta.text or event.delta.thinking or event.delta.partial_json
            if piece:
                block = self._blocks.get(event.index)
                if block is None:
                    block = self._blocks[event.index] = _Block("text", "", None)
                block.pieces.append(piece)
        elif event.error is not None:
            self._errors.append(_error(event.error))

    def parts(self) -> list[RawPart]:
        """What was read."""
        return [block.part() for _, block in sorted(self._blocks.items())] + self._errors


class _Answer(msgspec.Struct):
    content: list[msgspec.Raw] | None = None
    error: dict[str, Any] | None = None


_decode_answer = msgspec.json.Decoder(_Answer, strict=False).decode


def answer_parts(data: bytes, *, good: bool) -> list[RawPart]:
    """The parts of an answer that is not a stream; ``good``: of success."""
    try:
        read = _decode_answer(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        read = _Answer()
    if read.error is not None:
        return [_error(read.error)]
    if read.content is not None:
        return [_part("assistant", _decoded(raw)) for raw in read.content]
    text = data.decode("utf-8", "replace")
    return [RawPart("assistant", "text" if good else "error", "", text)] if text else []


def _error(error: dict[str, Any]) -> RawPart:
    message = error.get("message")
    return RawPart(
        "assistant", "error", _name(error.get("type")), message if isinstance(message, str) else _small(error)
    )


def fitting(text: str, room: int, *, keep_end: bool) -> str:
    """As much of a text as has ``room`` bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    if len(data) <= room:
        return text
    kept = (data[-room:] if keep_end else data[:room]) if room > 0 else b""
    return kept.decode("utf-8", "ignore")
