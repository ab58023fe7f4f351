"""Reads what a request used off the passing answer: never delays it, never fails it, never throws.

Last value wins: ``message_delta.usage`` is cumulative, may come several times and may add late cache counts.
``iterations`` are listed each with its own model, and are what the bill is made of where they are present.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from bursar_common.wire import UsageCounts

MAX_EVENT_BYTES = 1 << 20
"""Bytes of one event that are kept while it is incomplete; the events that carry usage are a few kB."""
MAX_JSON_BYTES = 32 << 20
"""Bytes of a JSON answer that are kept for reading; a larger one is ``unreadable``."""
DELTA_FRAME_BYTES = 115
"""Bytes of a ``content_block_delta`` event around its text, as the provider writes it (``event: content_block_delta``,
``data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}`` and line ends)."""
BYTES_PER_TOKEN = 4
"""For estimates of cut streams: English text and code have 3 to 5 bytes a token."""

_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_DELTA = b"event: content_block_delta"
_QUIET = (_DELTA, b"event: content_block_stop", b"event: ping")  # a comment may precede any event, so it is no sign
_START = re.compile(
    rb'event: content_block_start\ndata: ?{"type":"content_block_start","index":\d{1,9},'
    rb'"content_block":{"type":"(\w{1,64})"'
)
"""As the provider writes it: what begins is known without reading the rest."""
_BLOCK = re.compile(rb'"type" ?: ?"content_block_(delta|start)"')
_NAME_BYTES = 200
"""Bytes of an event's data in which its type is looked for."""
_USES, _USES_BYTES = "tool_use", b"tool_use"
"""What the type of a block ends with that calls a tool: ``tool_use``, ``server_tool_use``, ``mcp_tool_use``."""
_decode = msgspec.json.Decoder().decode


class UsageReader:
    """What is known of one answer so far."""

    __slots__ = (
        "_usage",
        "delta_bytes",
        "delta_events",
        "error_type",
        "finished",
        "message_id",
        "model",
        "started",
        "stopped",
        "tool_uses",
    )

    def __init__(self) -> None:
        self._usage: dict[str, Any] = {}
        self.model = ""
        """The model that served."""
        self.message_id = ""
        self.error_type = ""
        self.started = False
        """The prompt's counts are known (``message_start``, or a JSON answer)."""
        self.finished = False
        """The output's final count is known: a usage came at the end."""
        self.stopped = False
        """``message_stop`` came."""
        self.delta_bytes = 0
        self.delta_events = 0
        self.tool_uses: int | None = 0
        """Blocks so far that call a tool, the provider's own included; None: they could not all be read."""

    # ---- what was read

    @property
    def service_tier(self) -> str:
        return _text(self._usage.get("service_tier"))

    @property
    def speed(self) -> str:
        return _text(self._usage.get("speed"))

    @property
    def inference_geo(self) -> str:
        return _text(self._usage.get("inference_geo"))

    def counts(self) -> UsageCounts:
        """What was used; where the provider lists iterations, their sum (they hold what the top level leaves out)."""
        iterations = self.iterations()
        top = counts_of(self._usage)
        if not iterations:
            return top
        sums = [sum(column) for column in zip(*(msgspec.structs.astuple(each) for _, each in iterations), strict=True)]
        return msgspec.structs.replace(UsageCounts(*sums), web_searches=top.web_searches)

    def iterations(self) -> list[tuple[str, UsageCounts]]:
        """Iterations to price, each with its model (empty: the answer's)."""
        iterations = self._usage.get("iterations")
        if not isinstance(iterations, list):
            return []
        return [(_text(each.get("model")), counts_of(each)) for each in iterations if isinstance(each, dict)]

    def estimated_output_tokens(self, max_tokens: int) -> int:
        """Output of a cut stream, from the text that was relayed: at least what the provider last said, and else at
        most what the request allowed."""
        text_bytes = self.delta_bytes - self.delta_events * DELTA_FRAME_BYTES
        estimate = max(-(-text_bytes // BYTES_PER_TOKEN), self.delta_events)
        return max(min(estimate, max_tokens), _count(self._usage, "output_tokens") or 0)

    # ---- feeding

    def usage(self, usage: Any) -> None:
        """A usage object as the provider sent it."""
        if not isinstance(usage, dict):
            return
        for name, value in usage.items():
            if value is not None:
                self._usage[name] = value

    def event(self, data: bytes) -> None:
        """The data of one event that is not content."""
        try:
            event = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if not isinstance(event, dict):
            return
        kind = event.get("type")
        if kind == "message_start":
            message = event.get("message")
            if isinstance(message, dict):
                self.message(message)
        elif kind == "message_delta":
            usage = event.get("usage")
            if isinstance(usage, dict) and _count(usage, "output_tokens") is not None:
                self.finished = self.started
            self.usage(usage)
        elif kind == "message_stop":
            self.stopped = True
        elif kind == "content_block_start":
            block = event.get("content_block")
            self._uses_of((block.get("type") if isinstance(block, dict) else None,))
        elif kind == "error":
            error = event.get("error")
            if isinstance(error, dict):
                self.error_type = _text(error.get("type")) or "error"

    def message(self, message: dict[str, Any]) -> None:
        """A message object: a JSON answer, or the one in ``message_start``."""
        self.model = _text(message.get("model"))
        self.message_id = _text(message.get("id"))
        usage = message.get("usage")
        if isinstance(usage, dict) and _count(usage, "input_tokens") is not None:
            self.started = True
        self.usage(usage)

    def _uses_of(self, kinds: Iterable[Any]) -> None:
        """Blocks came, of these types."""
        for kind in kinds:
            if not isinstance(kind, str):
                self.tool_uses = None
            elif kind.endswith(_USES) and self.tool_uses is not None:
                self.tool_uses += 1


class SseReader(UsageReader):
    """Feeds on the bytes of an event stream, cut anywhere."""

    __slots__ = ("_carry", "_cr", "_dropping", "_scan")

    def __init__(self) -> None:
        super().__init__()
        self._carry = b""
        self._scan = 0
        self._cr = False
        self._dropping = False

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they pass."""
        if self._cr or 13 in chunk:  # looking for a byte is quick, for bytes not
            chunk = self._without_cr(chunk)
        carry = self._carry
        if not carry and chunk.startswith(_DELTA) and chunk.find(b"\n\n") == len(chunk) - 2 and not self._dropping:
            self.delta_events += 1  # one whole event, as most chunks are
            self.delta_bytes += len(chunk)
            return
        data = carry + chunk if carry else chunk
        position = 0
        end = data.find(b"\n\n", self._scan)
        while end >= 0:
            if self._dropping:
                self._dropping = False
            elif data.startswith(_DELTA, position):
                self.delta_events += 1
                self.delta_bytes += end + 2 - position
            elif end > position and not data.startswith(_QUIET, position):
                known = _START.match(data, position, end)
                if known is None:
                    self._event(data[position:end])
                elif known[1].endswith(_USES_BYTES) and self.tool_uses is not None:
                    self.tool_uses += 1
            position = end + 2
            end = data.find(b"\n\n", position)
        if position == len(data):
            self._carry = b""
            self._scan = 0
            return
        rest = data[position:]
        if len(rest) > MAX_EVENT_BYTES:
            if not self._dropping and not rest.startswith(_DELTA):
                self.tool_uses = None  # it may have been the call of a tool
            self._dropping = True
            rest = rest[-1:]
        self._carry = rest
        self._scan = max(len(rest) - 1, 0)

    @property
    def at_rest(self) -> bool:
        """Every event so far is whole."""
        return not self._carry and not self._cr and not self._dropping

    def end(self) -> None:
        """No more bytes: an event without its empty line counts if it is whole."""
        rest, self._carry = self._carry, b""
        if rest and not self._dropping and not rest.startswith(_QUIET):
            uses = self.tool_uses
            self._event(rest)
            if self.tool_uses is None:
                self.tool_uses = uses  # a block cut off in its beginning did not come

    def _event(self, event: bytes) -> None:
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if not lines:
            return
        data = b"\n".join(lines) if len(lines) > 1 else lines[0]
        block = _BLOCK.search(data, 0, _NAME_BYTES)
        if block is None:
            self.event(data)
        elif block[1] == b"start":
            self._block(data)
        else:  # of a stream that names no events
            self.delta_events += 1
            self.delta_bytes += len(event) + 2

    def _block(self, data: bytes) -> None:
        """A block begins: of results of searches, say, all of it is here, and only its type is read."""
        try:
            self._uses_of((_decode_start(data).content_block.type,))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.tool_uses = None

    def _without_cr(self, chunk: bytes) -> bytes:
        """Line ends as ``\\n``: ``\\r\\n`` may be cut between chunks, and a lone ``\\r`` ends a line too."""
        if self._cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            if not chunk:
                self._cr = False
                return b""
        self._cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class JsonReader(UsageReader):
    """Feeds on the bytes of a JSON answer."""

    __slots__ = ("_chunks", "_size")

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []
        self._size = 0
        self.tool_uses = None

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they pass."""
        self._size += len(chunk)
        if self._size > MAX_JSON_BYTES:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)

    def end(self) -> None:
        """No more bytes: read them."""
        if self._size > MAX_JSON_BYTES:
            return
        body = b"".join(self._chunks)
        self._chunks.clear()
        answer: _Answer
        try:
            try:
                answer = _decode_answer(body)
            except msgspec.ValidationError:
                answer = _decode_odd_answer(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if isinstance(answer.error, dict):
            self.error_type = _text(answer.error.get("type"))
        if isinstance(answer, _WithContent):
            self.tool_uses = 0
            self._uses_of([block.type for block in answer.content])
        self.message({"id": answer.id, "model": answer.model, "usage": answer.usage})
        self.finished = self.started and _count(self._usage, "output_tokens") is not None


class _Answer(msgspec.Struct):
    id: Any = None
    model: Any = None
    usage: Any = None
    error: Any = None


class _Kind(msgspec.Struct, gc=False):
    type: Any


class _WithContent(_Answer, kw_only=True):
    content: list[_Kind]


class _Start(msgspec.Struct):
    content_block: _Kind


_decode_answer = msgspec.json.Decoder(_WithContent).decode
_decode_odd_answer = msgspec.json.Decoder(_Answer).decode
"""An error, or content in a shape we do not know: it does not hide the usage."""
_decode_start = msgspec.json.Decoder(_Start).decode


class _Split(msgspec.Struct):
    ephemeral_5m_input_tokens: _Count | None = None
    ephemeral_1h_input_tokens: _Count | None = None


class _Thinking(msgspec.Struct):
    thinking_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None


class _Searches(msgspec.Struct):
    web_search_requests: _Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: _Split | None = None
    output_tokens: _Count | None = None
    output_tokens_details: _Thinking | None = None
    thinking_tokens: _Count | None = None
    server_tool_use: _Searches | None = None


def counts_of(usage: dict[str, Any]) -> UsageCounts:
    """Counts of a usage object; what is no count is 0. A cache write without its split counts as 5 minutes, the
    provider's default."""
    try:
        known = msgspec.convert(usage, _Usage)
    except msgspec.ValidationError:
        known = _leniently(usage, _Usage)
    split = known.cache_creation
    write_5m = write_1h = 0
    if split is not None:
        write_5m = split.ephemeral_5m_input_tokens or 0
        write_1h = split.ephemeral_1h_input_tokens or 0
    total = known.cache_creation_input_tokens
    if total is not None and total > write_5m + write_1h:
        write_5m = total - write_1h  # counted late, without a new split
    thinking, details = known.thinking_tokens, known.output_tokens_details
    if thinking is None and details is not None:
        thinking = details.reasoning_tokens if details.thinking_tokens is None else details.thinking_tokens
    tools = known.server_tool_use
    return UsageCounts(
        input_tokens=known.input_tokens or 0,
        cache_read_tokens=known.cache_read_input_tokens or 0,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        output_tokens=known.output_tokens or 0,
        thinking_tokens=thinking or 0,
        web_searches=(tools.web_search_requests or 0) if tools is not None else 0,
    )


def _leniently(usage: dict[str, Any], kind: type[Any]) -> Any:
    """Field by field: one odd field does not hide the others."""
    known = kind()
    for field in msgspec.structs.fields(kind):
        value = usage.get(field.name)
        try:
            setattr(known, field.name, msgspec.convert(value, field.type))
        except msgspec.ValidationError:
            inner = _STRUCTS.get(field.name)
            if inner is not None and isinstance(value, dict):
                setattr(known, field.name, _leniently(value, inner))
    return known


_STRUCTS: dict[str, type[Any]] = {
    "cache_creation": _Split,
    "output_tokens_details": _Thinking,
    "server_tool_use": _Searches,
}


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    return None


def _text(value: Any) -> str:
    return value[:128] if isinstance(value, str) else ""
