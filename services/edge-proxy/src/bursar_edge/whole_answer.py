"""An ordinary answer that came in one piece, read without the parser.

Ordinary is: HTTP/1.1, a plain ``Content-Length`` that is exactly what came, no transfer encoding, no upgrade, nothing
said about the connection, every line a token, a colon and a value. All else is the parser's.
"""

from __future__ import annotations

import re

Header = tuple[bytes, bytes]

MAX_HEAD_BYTES = 32 * 1024
"""As the parser bounds a line; a longer head is the parser's to judge."""
MAX_LENGTH_DIGITS = 9
NAMES_KNOWN = 1024
"""Header names remembered with their spelling; providers use some dozens."""

_STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) ([\x20-\x7e]*)")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BODILESS = frozenset((204, 205, 304))
_NOT_ORDINARY = frozenset(("connection", "transfer-encoding", "upgrade", "trailer"))
_lowered: dict[bytes, str] = {}


class Headers:
    """As much of a mapping as is asked of an answer's headers; the first of equal names counts."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    def get(self, name: str, default: str | None = None) -> str | None:
        """By lower-case name."""
        value = self._values.get(name)
        return default if value is None else value.decode("utf-8", "surrogateescape")

    def __contains__(self, name: str) -> bool:
        return name in self._values


class WholeBody:
    """The body, all of it."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    def is_eof(self) -> bool:
        return True


class WholeAnswer:
    """An answer's head, with the names that aiohttp's message has, and its body."""

    __slots__ = ("body", "code", "headers", "raw_headers", "reason")
    should_close = False
    chunked = False

    def __init__(self, code: int, reason: str, raw_headers: tuple[Header, ...], headers: Headers, body: bytes) -> None:
        self.code = code
        self.reason = reason
        self.raw_headers = raw_headers
        self.headers = headers
        self.body = WholeBody(body)


def read_whole(data: bytes) -> WholeAnswer | None:
    """The answer that ``data`` is, if it is an ordinary one and nothing but one."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        return None
    head = data[:end]
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or 0 in head:
        return None
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        return None
    values: dict[str, bytes] = {}
    pairs: list[Header] = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        lowered = _lowered.get(name) if colon else None
        if lowered is None:
            if not colon or _TOKEN.fullmatch(name) is None:
                return None
            lowered = name.lower().decode("ascii")
            if len(_lowered) < NAMES_KNOWN and len(name) <= 64:
                _lowered[name] = lowered
        value = value.strip(b" \t")
        if lowered not in values:
            values[lowered] = value
        elif lowered == "content-length":
            return None
        pairs.append((name, value))
    length = values.get("content-length", b"")
    if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS or int(length) != len(data) - end - 4:
        return None
    code = int(status[1])
    if code in _BODILESS or not _NOT_ORDINARY.isdisjoint(values):
        return None
    return WholeAnswer(code, status[2].decode("ascii"), tuple(pairs), Headers(values), data[end + 4 :])
