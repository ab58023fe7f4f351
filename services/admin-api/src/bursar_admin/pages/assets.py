"""Static files: served from memory under a URL that holds the hash of all of them, so that browsers may keep them."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent.parent / "static"
PREFIX = "/static"
KEPT = "public, max-age=31536000, immutable"
NOT_KEPT = "no-cache"
HASH_CHARS = 12
WORTH_PACKING_BYTES = 1024
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Anything else in the folder is not served."""


@dataclass(frozen=True)
class _File:
    content: bytes
    packed: bytes | None
    content_type: str


class Assets:
    """The folder as it is when the process starts. Modules import each other by relative paths, which stay below the
    same hash: one hash for all files needs no rewriting and no build."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files: dict[str, _File] = {}
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            content_type = TYPES.get(path.suffix)
            if content_type is None or not path.is_file():
                continue
            content, name = path.read_bytes(), path.relative_to(folder).as_posix()
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
            packed = gzip.compress(content, 9, mtime=0) if len(content) >= WORTH_PACKING_BYTES else None
            self._files[name] = _File(content, packed, content_type)
        self.hash = digest.hexdigest()[:HASH_CHARS]

    def url(self, name: str) -> str:
        """Where a file is. Raises KeyError: a template names a file that does not exist."""
        if name not in self._files:
            raise KeyError(f"no static file {name}")
        return f"{PREFIX}/{self.hash}/{name}"

    async def handler(self, request: web.Request) -> web.Response:
        """One file. A URL of another release is answered with the file of this one, which is not to be kept."""
        found = self._files.get(request.match_info["path"])
        if found is None:
            raise web.HTTPNotFound
        current = request.match_info["hash"] == self.hash
        headers = {
            "Content-Type": found.content_type,
            "Cache-Control": KEPT if current else NOT_KEPT,
            "Vary": "Accept-Encoding",
        }
        body = found.content
        if found.packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = found.packed, "gzip"
        return web.Response(body=body, headers=headers)
