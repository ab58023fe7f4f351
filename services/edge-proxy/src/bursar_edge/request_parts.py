"""The parts of a request's body that bear on its cost, as types for one decoding pass, and what they add up to.

Pure. Text stays undecoded; only shapes, sizes and names are looked at. The parts are trees and live shortly:
``gc=False`` spares the cycle collector their hundreds.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec

from bursar_common.wire import Features, ServerTool

EMPTY = msgspec.Raw(b"")
MAX_SERVER_TOOLS = 64
"""Server tools listed in the features; a request with more counts as unbounded."""
MAX_NAME_CHARS = 128
"""Characters of a tool's or feature's name that are passed on."""
MAX_DEPTH = 8
"""Levels of content inside content (tool results, documents made of blocks); deeper is taken as text."""

CLIENT_TOOL_PREFIXES = ("bash_", "text_editor_", "computer_", "memory_")
"""Tools that are defined by the provider and run by the client: no further inference at the provider."""


class Decider:
    """A field that decides; wrapped so that the decoder reports each occurrence of it."""

    __slots__ = ("value",)
    field: ClassVar[str] = ""

    def __init__(self, value: Any) -> None:
        self.value = value


class Model(Decider):
    __slots__ = ()
    field = "model"


class Max(Decider):
    __slots__ = ()
    field = "max_tokens"


class Stream(Decider):
    __slots__ = ()
    field = "stream"


class Speed(Decider):
    __slots__ = ()
    field = "speed"


class CacheControl(msgspec.Struct, gc=False):
    ttl: str | None = None


class Source(msgspec.Struct, gc=False):
    type: str = ""
    data: msgspec.Raw = EMPTY
    content: list[Block] | str | None = None


class Block(msgspec.Struct, gc=False):
    type: str = ""
    source: Source | str | None = None
    cache_control: CacheControl | None = None
    content: list[Block] | Block | str | None = None


class Message(msgspec.Struct, gc=False):
    content: list[Block] | str | None = None


class Tool(msgspec.Struct, gc=False):
    name: str = ""
    type: str | None = None
    max_uses: int | None = None
    cache_control: CacheControl | None = None


class Edit(msgspec.Struct, gc=False):
    type: str = ""


class ContextManagement(msgspec.Struct, gc=False):
    edits: list[Edit] | None = None


class Head(msgspec.Struct):
    """The whole body, in the shapes the provider documents. The deciding fields are not optional types: the decoder
    would take ``null`` without calling the hook."""

    model: Model | msgspec.UnsetType = msgspec.UNSET
    max_tokens: Max | msgspec.UnsetType = msgspec.UNSET
    stream: Stream | msgspec.UnsetType = msgspec.UNSET
    speed: Speed | msgspec.UnsetType = msgspec.UNSET
    inference_geo: str | None = None
    messages: list[Message] | None = None
    system: list[Block] | str | None = None
    tools: list[Tool] | None = None
    mcp_servers: list[msgspec.Raw] | None = None
    context_management: ContextManagement | None = None
    cache_control: CacheControl | None = None
    metadata: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


_DECIDERS: dict[str, type[Decider]] = {"model": Model, "max_tokens": Max, "stream": Stream, "speed": Speed}
LENIENT = msgspec.defstruct(
    "LenientHead",
    [
        *((name, kind | msgspec.UnsetType, msgspec.UNSET) for name, kind in _DECIDERS.items()),
        *((name, Any, None) for name in Head.__struct_fields__ if name not in _DECIDERS),
    ],
)
"""The same names with any shape: for bodies the provider will probably refuse."""


_MEDIA = ("image", "document", "container_upload")


class _Tally:
    __slots__ = ("base64_bytes", "cache_1h", "documents", "images", "urls")

    def __init__(self) -> None:
        self.base64_bytes = self.images = self.documents = self.urls = 0
        self.cache_1h = False

    def blocks(self, blocks: Any, depth: int = 0) -> None:
        if not isinstance(blocks, list) or depth > MAX_DEPTH:
            return
        for block in blocks:
            if block.source is not None or block.content is not None or block.type != "text":
                self.block(block, depth)
            elif block.cache_control is not None and block.cache_control.ttl == "1h":
                self.cache_1h = True

    def block(self, block: Block, depth: int) -> None:
        control = block.cache_control
        if control is not None and control.ttl == "1h":
            self.cache_1h = True
        source, kind = block.source, block.type
        if source is not None and not isinstance(source, str):
            # Counted below as what it is; in a block of any other kind it counts as the text it may be taken for.
            if source.type == "base64" and kind in _MEDIA:
                self.base64_bytes += max(len(memoryview(source.data)) - 2, 0)
            elif source.type in ("url", "file"):
                self.urls += 1
            elif source.content is not None:
                self.blocks(source.content, depth + 1)
        if kind == "image":
            self.images += 1
        elif kind in ("document", "container_upload"):
            self.documents += 1
            if kind == "container_upload":
                self.urls += 1
        content = block.content
        if content is not None and not isinstance(content, str):
            self.blocks(content if isinstance(content, list) else [content], depth + 1)


def features_of(head: Any, body: bytes | memoryview, speed: str, betas: tuple[str, ...]) -> Features:
    """What the body says about its possible cost. ``head`` is a Head, or its lenient twin: then the parts are converted
    one by one, and what has no known shape counts as text."""
    if not isinstance(head, Head):
        head = _convert(head)
    tally = _Tally()
    for message in head.messages or ():
        content = message.content
        if content.__class__ is list:
            tally.blocks(content)
    tally.blocks(head.system)
    if head.cache_control is not None and head.cache_control.ttl == "1h":
        tally.cache_1h = True
    server_tools: list[ServerTool] = []
    unbounded = ""
    tools = head.tools or ()
    for tool in tools:
        if tool.cache_control is not None and tool.cache_control.ttl == "1h":
            tally.cache_1h = True
        kind = tool.type
        if kind is None or kind == "custom" or kind.startswith(CLIENT_TOOL_PREFIXES):
            continue
        name = kind[:MAX_NAME_CHARS]
        server_tools.append(ServerTool(name, tool.max_uses))
        if not unbounded and (tool.max_uses is None or kind.startswith("advisor")):
            unbounded = name
    if head.mcp_servers:
        unbounded = "mcp_servers"
    if head.context_management is not None:
        for edit in head.context_management.edits or ():
            if edit.type.startswith("compact"):
                unbounded = edit.type[:MAX_NAME_CHARS]
    if len(server_tools) > MAX_SERVER_TOOLS:
        unbounded = unbounded or f"more than {MAX_SERVER_TOOLS} server tools"
        del server_tools[MAX_SERVER_TOOLS:]
    geo = head.inference_geo
    return Features(
        text_bytes=len(body) - tally.base64_bytes,
        images=tally.images,
        documents=tally.documents,
        url_sources=tally.urls,
        cache_ttl_1h=tally.cache_1h,
        server_tools=tuple(server_tools),
        tools=len(tools),
        geo=geo[:32] if isinstance(geo, str) else "",
        speed=speed,
        betas=betas,
        unbounded=unbounded,
    )


def _convert(lenient: Any) -> Head:
    """Read what can be read, item by item: one odd block does not hide the others."""
    head = Head()
    head.messages = [
        Message(_items(message.get("content"), Block))
        for message in _list(lenient.messages)
        if isinstance(message, dict)
    ]
    head.system = _items(lenient.system, Block)
    head.tools = _items(lenient.tools, Tool)
    head.mcp_servers = [EMPTY] if lenient.mcp_servers else None
    head.context_management = _one(lenient.context_management, ContextManagement)
    head.cache_control = _one(lenient.cache_control, CacheControl)
    head.inference_geo = lenient.inference_geo if isinstance(lenient.inference_geo, str) else None
    return head


_FIELD = re.compile(r"at `\$\.(\w+)")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _items(value: Any, kind: type[Any]) -> list[Any]:
    return [item for item in (_one(raw, kind) for raw in _list(value)) if item is not None]


def _one(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, dict):
        return None
    if kind is Block:
        return _block(value, 0)
    kept = dict(value)
    while True:
        try:
            return msgspec.convert(kept, kind)
        except msgspec.ValidationError as error:  # leave out the field it names, and look again
            odd = _FIELD.search(str(error))
            if odd is None or kept.pop(odd[1], None) is None:
                return None


def _block(value: dict[str, Any], depth: int) -> Block:
    block = Block(type=_text(value.get("type")))
    source = value.get("source")
    if isinstance(source, dict):
        data = source.get("data")
        block.source = Source(
            type=_text(source.get("type")),
            data=msgspec.Raw(f'"{data}"'.encode() if isinstance(data, str) else b""),
            content=_blocks(source.get("content"), depth),
        )
    control = value.get("cache_control")
    if isinstance(control, dict):
        block.cache_control = CacheControl(_text(control.get("ttl")))
    block.content = _blocks(value.get("content"), depth)
    return block


def _blocks(value: Any, depth: int) -> list[Block]:
    if depth > MAX_DEPTH:
        return []
    return [_block(item, depth + 1) for item in _list(value) if isinstance(item, dict)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
