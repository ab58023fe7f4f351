"""How old an answer may be that is made of requests: as old as whoever asks accepts.

Unless told otherwise none is older than its question. A page asks a dozen questions at once, of a gateway that writes
four times a second: each would read the running hour anew, and no two tiles would say the same. So they share what was
read at most a moment before (``Cache-Control: max-age``, as HTTP has it), and agree with each other."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final

from aiohttp import web

MAX_AGE_S: Final = 5.0
"""More than this is taken as this."""
PAGE_AGE_S: Final = 1.0
"""Of the pages in PAGES, which ask by themselves: less than it takes until a request is written and looked at."""
PAGES: Final = ("/fragments/overview/",)

accepted_s: Final[ContextVar[float]] = ContextVar("accepted_s", default=0.0)
"""Seconds, of the request that is being answered."""

_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?=$|[\s,])", re.IGNORECASE)


def accept(request: web.Request) -> None:
    """Note what a request accepts. To be called for every one: a connection's next request has the same context."""
    if request.path.startswith(PAGES):
        accepted_s.set(PAGE_AGE_S)
        return
    accepted_s.set(age_of(request.headers.get("Cache-Control", "")))


def age_of(text: str) -> float:
    """Seconds that a ``Cache-Control`` accepts."""
    found = _MAX_AGE.search(text)
    return min(float(found[1]), MAX_AGE_S) if found is not None and "no-cache" not in text.lower() else 0.0
