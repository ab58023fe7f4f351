"""What the gateway reads of a request's body: the few fields that decide, and how much the rest can cost.

Pure. The body itself is never re-encoded: the only change ever made is to cut a ``provider/`` prefix of the model
name out of the bytes. One typed pass over the JSON reads everything; content stays undecoded.

Parsers disagree on which of two equal keys wins, so an allow-list could be slipped past with two models. The fields
that decide are therefore types of our own: the decoder calls a hook for each occurrence, however the key was spelled.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import msgspec

from bursar_common.wire import Features
from bursar_edge.request_parts import LENIENT, Decider, Head, Max, Model, features_of

MAX_MODEL_CHARS = 200
"""Characters of a model name: above any real one, small enough for messages, logs and keys."""
MAX_MAX_TOKENS = 1_000_000_000
"""Above any model's output by three orders; bounds the ledger's arithmetic."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadHead(Exception):
    """The request cannot be judged: answered with 400. ``problem`` is a sentence without any of the body's content."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class RequestHead(msgspec.Struct):
    """The deciding fields, and the body to forward."""

    body: bytes | memoryview
    """As it came, or without the model's ``provider/`` prefix; empty once it was sent."""
    model: str
    """Without the prefix."""
    provider: str
    """The prefix, empty without one."""
    max_tokens: int
    """0 where absent (count_tokens)."""
    stream: bool
    features: Features
    effort: str = ""
    user_id: str = ""
    """``metadata.user_id`` as sent."""
    tools_offered: int | None = None
    """None: it cannot be told, as with ``mcp_servers``, whose tools are their servers' to name."""


class _Seen:
    """Counts the deciding fields while one body is decoded (decoding is synchronous, so one is enough)."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def hook(self, kind: type, value: Any) -> Any:
        if issubclass(kind, Decider):
            self.names.append(kind.field)
            return kind(value)
        raise NotImplementedError


_seen = _Seen()
_decode = msgspec.json.Decoder(Head, dec_hook=_seen.hook).decode
_decode_lenient = msgspec.json.Decoder(LENIENT, dec_hook=_seen.hook).decode


def read_head(body: bytes | memoryview, *, betas: tuple[str, ...] = (), needs_max_tokens: bool = True) -> RequestHead:
    """Read a request's body. Raises BadHead on anything the contract answers with 400."""
    if body[:3] == BYTE_ORDER_MARK:
        raise BadHead("the body starts with a byte order mark; send plain UTF-8 JSON")
    seen = _seen.names
    seen.clear()
    head: Any
    try:
        head = _decode(body)
    except msgspec.ValidationError:
        head = _read_lenient(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadHead("the body is not valid JSON") from None
    except RecursionError:
        raise BadHead("the body is nested too deeply") from None
    if len(seen) > 1 and len(set(seen)) != len(seen):
        twice = next(name for name in seen if seen.count(name) > 1)
        raise BadHead(f"the body has {twice} more than once")
    name = _model(head.model)
    max_tokens = _max_tokens(head.max_tokens, needs_max_tokens)
    stream = head.stream is not msgspec.UNSET and head.stream.value is True
    speed = head.speed.value if head.speed is not msgspec.UNSET and isinstance(head.speed.value, str) else ""
    features = features_of(head, body, speed[:32], betas)
    provider = ""
    slash = name.find("/")
    if slash > 0:
        provider, name = name[:slash], name[slash + 1 :]
        body = cut_prefix(bytes(body))
    effort, user_id = _effort(head), _user_id(head)
    return RequestHead(body, name, provider, max_tokens, stream, features, effort, user_id, _tools_offered(head))


def _read_lenient(body: bytes | memoryview) -> Any:
    """The same for a body whose other parts have shapes we do not expect: they are the provider's to judge."""
    _seen.names.clear()
    try:
        return _decode_lenient(body)
    except msgspec.ValidationError:
        raise BadHead("the body is not a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadHead("the body is not valid JSON") from None
    except RecursionError:
        raise BadHead("the body is nested too deeply") from None


def _model(field: Model | msgspec.UnsetType) -> str:
    if field is msgspec.UNSET:
        raise BadHead("model: field required")
    name = field.value
    if not isinstance(name, str):
        raise BadHead("model: must be a string")
    if not name or len(name) > MAX_MODEL_CHARS or not name.isprintable():
        raise BadHead(f"model: must be 1 to {MAX_MODEL_CHARS} printable characters")
    return name


def _max_tokens(field: Max | msgspec.UnsetType, needed: bool) -> int:
    if field is msgspec.UNSET:
        if needed:
            raise BadHead("max_tokens: field required")
        return 0
    value = field.value
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadHead("max_tokens: must be an integer")
    if value < 0 or value > MAX_MAX_TOKENS:
        raise BadHead(f"max_tokens: must be from 0 to {MAX_MAX_TOKENS}")
    return value


def _effort(head: Any) -> str:
    config = head.output_config
    effort = config.get("effort") if isinstance(config, dict) else None
    return effort[:32] if isinstance(effort, str) else ""


def _user_id(head: Any) -> str:
    metadata = head.metadata
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    return user_id[:1024] if isinstance(user_id, str) else ""


def _tools_offered(head: Any) -> int | None:
    if head.mcp_servers:
        return None
    tools = head.tools
    if tools is None:
        return 0
    return len(tools) if isinstance(tools, list) else None


_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CHARACTER = re.compile(rb"\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
_SLASHES = frozenset((b"/", b"\\/", b"\\u002f", b"\\u002F"))


def cut_prefix(body: bytes) -> bytes:
    """The body without the model's ``provider/``. ``body`` is valid JSON, an object with one ``model``, a string with a
    slash. Walks the top level only; what is nested is skipped by the decoder."""
    at = _after_space(body, 0) + 1
    while True:
        at = _after_space(body, at)
        key = _STRING.match(body, at)
        if key is None:
            _lost()
        at = _after_space(body, _after_space(body, key.end()) + 1)
        if msgspec.json.decode(key[0], type=str) == "model":
            return _cut_at(body, at)
        at = _after_value(body, at) + 1  # the comma


def _cut_at(body: bytes, at: int) -> bytes:
    position = at + 1
    while True:
        character = _CHARACTER.match(body, position)
        if character is None:
            _lost()
        position = character.end()
        if character[0] in _SLASHES:
            return body[: at + 1] + body[position:]


_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")


def _after_value(body: bytes, at: int) -> int:
    """Where the comma (or brace) after the JSON value at ``at`` is: the decoder's complaint names the byte after it."""
    try:
        msgspec.json.decode(memoryview(body)[at:], type=msgspec.Raw)
    except msgspec.DecodeError as error:
        found = _TRAILING.search(str(error))
        if found is not None:
            return at + int(found[1]) - 1
    _lost()


def _after_space(body: bytes, at: int) -> int:
    match = _SPACE.match(body, at)
    return match.end() if match is not None else at


def _lost() -> NoReturn:
    raise BadHead("the model's provider prefix could not be read")
