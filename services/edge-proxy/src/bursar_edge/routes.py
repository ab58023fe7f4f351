"""Which of the edge's few answers a request gets. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal[
    "messages", "count_tokens", "models", "model", "hello", "live", "ready", "health", "metrics", "admin", "none"
]


class Where(NamedTuple):
    kind: Kind
    target: str
    """Path and query below the provider's address, exactly as sent."""
    path: str
    """The path as sent, for what is said about it."""


_OWN = {"/livez": "live", "/readyz": "ready", "/healthz": "health", "/metrics": "metrics"}


def route(method: str, target: str) -> Where:
    """Match on the path as sent: what is spelled otherwise is another path."""
    if target.startswith(("http://", "https://")):  # absolute form
        slash = target.find("/", 8)
        target = target[slash:] if slash > 0 else "/"
    path = target.partition("?")[0]
    below, rest = path, target
    if path.startswith("/anthropic/") or path == "/anthropic":
        below, rest = path[10:] or "/", target[10:] or "/"
    if below == "/v1/messages":
        return Where("messages" if method == "POST" else "none", rest, path)
    if below == "/v1/messages/count_tokens":
        return Where("count_tokens" if method == "POST" else "none", rest, path)
    if below == "/v1/models":
        return Where("models" if method in ("GET", "HEAD") else "none", rest, path)
    if below.startswith("/v1/models/"):
        return Where("model" if method in ("GET", "HEAD") else "none", rest, path)
    if below == "/api/hello" or (below == "/" and (method == "HEAD" or path != "/")):
        return Where("hello" if method in ("GET", "HEAD") else "none", rest, path)
    if path in _OWN and method in ("GET", "HEAD"):
        return Where(_OWN[path], target, path)  # type: ignore[arg-type]
    if path.startswith("/v1/organizations/"):
        return Where("admin", target, path)
    if path != below or path == "/v1" or path.startswith("/v1/"):
        return Where("none", rest, path)
    return Where("admin", target, path)
