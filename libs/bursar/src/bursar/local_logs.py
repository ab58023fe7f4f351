"""Requests out of Claude Code's own logs (``~/.claude/projects/**/*.jsonl``).

One line a content block, repeating the usage: requests are told apart by message id and request id, the first line's
time is when it happened, the last line's usage is final. A resumed session repeats lines of the one before it in
another file. A line that is no JSON object, or a request that cannot be read, is counted and passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 32 << 20
"""A line with a pasted image is some megabytes; what is longer is passed over without being held in memory."""
MAX_COUNT = 1_000_000_000
NAME = re.compile(r"[!-~]+")
"""Names of models and ids of messages, as the import endpoint takes them."""
SYNTHETIC = "<synthetic>"
"""Model name of messages that the client made up itself."""


@dataclass
class Reading:
    """What a reading found beside requests."""

    files: int = 0
    lines: int = 0
    unreadable: int = 0
    too_long: int = 0
    notes: list[str] = field(default_factory=list)
    """The first faults, one sentence each."""

    def fault(self, where: str, what: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(f"{where}: {what}")


MAX_NOTES = 10


def read_logs(folder: Path, reading: Reading, *, projects: bool = True) -> dict[str, dict[str, Any]]:
    """Requests by identity, as the import endpoint takes them. ``projects``: name each after its working folder.

    ``tool_uses`` is None where a line does not tell. Raises OSError where the folder cannot be read at all."""
    found: dict[str, dict[str, Any]] = {}
    calls: dict[str, set[str] | None] = {}
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*.jsonl"))
    if not folder.exists():
        raise FileNotFoundError(2, "No such file or directory", str(folder))
    for path in paths:
        reading.files += 1
        try:
            for number, line in _lines(path, reading):
                read = _entry(line, f"{path.name}:{number}", reading, projects)
                if read is None:
                    continue
                entry, called = read
                identity = f"{entry['message_id']}\n{entry['upstream_request_id']}"
                known = calls.setdefault(identity, set())
                calls[identity] = known | called if known is not None and called is not None else None
                before = found.get(identity)
                if before is not None:
                    entry["started_at_ms"] = min(before["started_at_ms"], entry["started_at_ms"])
                found[identity] = entry
        except OSError as error:
            reading.fault(path.name, f"cannot be read ({error.strerror})")
    for identity, ids in calls.items():
        found[identity]["tool_uses"] = len(ids) if ids is not None else None
    return found


def _lines(path: Path, reading: Reading) -> Iterator[tuple[int, bytes]]:
    """Lines with their number, none longer than MAX_LINE_BYTES."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            reading.lines += 1
            if len(line) > MAX_LINE_BYTES:
                reading.too_long += 1
                reading.fault(f"{path.name}:{number}", f"longer than {MAX_LINE_BYTES >> 20} MiB, passed over")
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES + 1)
                continue
            yield number, line


def _entry(
    line: bytes, where: str, reading: Reading, projects: bool
) -> tuple[dict[str, Any], frozenset[str] | None] | None:
    """The request that a line is about, and the ids of the calls of tools in this line (None: they cannot be told);
    None where it is about none, or cannot be read."""
    if not line.strip():
        return None
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("no object")
        if record.get("type") != "assistant" or b'"usage"' not in line:
            return None
        message = record["message"]
        usage, model, message_id = message["usage"], message["model"], message["id"]
        if model == SYNTHETIC or usage is None:
            return None
        moment = datetime.fromisoformat(record["timestamp"])
        if not moment.tzinfo or not NAME.fullmatch(model) or not NAME.fullmatch(message_id):
            raise ValueError("names")
        creation = usage.get("cache_creation")
        split = creation if isinstance(creation, dict) else {}
        written = _count(usage.get("cache_creation_input_tokens"))
        hour = _count(split.get("ephemeral_1h_input_tokens"))
        searches = usage.get("server_tool_use")
        entry = {
            "message_id": message_id[:200],
            "upstream_request_id": _text(record.get("requestId")),
            "session_id": _text(record.get("sessionId")),
            "agent_id": _text(record.get("agentId")),
            "started_at_ms": round(moment.timestamp() * 1000),
            "model": model[:200],
            "project": _label(Path(str(record.get("cwd") or "")).name) if projects else "",
            "branch": _label(str(record.get("gitBranch") or "")),
            "client_version": _text(record.get("version")),
            "service_tier": _text(usage.get("service_tier")),
            "speed": _text(usage.get("speed")),
            "inference_geo": _geo(usage.get("inference_geo")),
            "input_tokens": _count(usage.get("input_tokens")),
            "cache_read_tokens": _count(usage.get("cache_read_input_tokens")),
            "cache_write_5m_tokens": max(0, written - hour),
            "cache_write_1h_tokens": hour,
            "output_tokens": _count(usage.get("output_tokens")),
            "web_searches": _count(searches.get("web_search_requests") if isinstance(searches, dict) else None),
        }
        return entry, _calls(message.get("content"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        reading.unreadable += 1
        reading.fault(where, "cannot be read, passed over")
        return None


def _calls(content: Any) -> frozenset[str] | None:
    """A resumed session repeats blocks: their ids say which are the same."""
    if not isinstance(content, list):
        return None
    ids = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            return None
        if kind.endswith("tool_use"):
            call = block.get("id")
            if not isinstance(call, str):
                return None
            ids.append(call[:200])
    return frozenset(ids)


def _count(value: Any) -> int:
    """Tokens; absent is none of that kind. Raises ValueError for what is no count."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError("no count")
    return value


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(each for each in text if " " <= each <= "~")[:200]


def _label(text: str) -> str:
    """A name from the file system, without what is no character (half a surrogate pair) and what cannot be shown."""
    return "".join(each for each in text if each.isprintable())[:200]


def _geo(value: Any) -> str:
    text = _text(value)
    return "" if text == "not_available" else text
