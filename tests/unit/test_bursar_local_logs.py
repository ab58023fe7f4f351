"""Claude Code's own logs: each request once, whatever else stands in the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bursar.local_logs
from bursar.cli_money import IMPORT_AT_ONCE, IMPORT_BYTES, _batches
from bursar.local_logs import Reading, read_logs
from bursar_admin.imports import ImportBody

AT = "2026-11-21T09:10:11.123Z"


def line(message_id: str = "msg_1", request_id: str | None = "req_1", at: str = AT, **changes: Any) -> dict[str, Any]:
    usage = {
        "input_tokens": 3, "cache_creation_input_tokens": 120, "cache_read_input_tokens": 1000, "output_tokens": 8,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 20},
        "service_tier": "standard", "server_tool_use": {"web_search_requests": 1}, **changes.pop("usage", {}),
    }  # fmt: skip
    record = {
        "type": "assistant", "sessionId": "s", "cwd": "/home/alice/secret/acme-web", "gitBranch": "main",
        "version": "2.1.197", "timestamp": at,
        "message": {"id": message_id, "model": "claude-opus-4-8", "usage": usage, "content": "SECRET"},
    }  # fmt: skip
    if request_id is not None:
        record["requestId"] = request_id
    return record | changes


def write(path: Path, *records: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records))


def test_lines_of_one_request_are_one_and_the_last_usage_counts(tmp_path: Path) -> None:
    later = "2026-11-21T09:10:12.000Z"
    write(tmp_path / "p" / "s.jsonl", line(), line(at=later, usage={"output_tokens": 99}), {"type": "user"})
    # A resumed session repeats what was before it; a sub-agent has a file of its own.
    write(tmp_path / "p" / "t.jsonl", line(at=later, usage={"output_tokens": 99}), line("msg_2", "req_2"))
    write(tmp_path / "p" / "s" / "subagents" / "agent-1.jsonl", line("msg_3", "req_3", agentId="a1"))
    reading = Reading()
    found = read_logs(tmp_path, reading)
    assert sorted(entry["message_id"] for entry in found.values()) == ["msg_1", "msg_2", "msg_3"]
    assert (reading.files, reading.unreadable, reading.notes) == (3, 0, [])
    assert found["msg_1\nreq_1"] == {
        "message_id": "msg_1", "upstream_request_id": "req_1", "session_id": "s", "agent_id": "",
        "started_at_ms": 1_795_252_211_123, "model": "claude-opus-4-8", "project": "acme-web", "branch": "main",
        "client_version": "2.1.197", "service_tier": "standard", "speed": "", "inference_geo": "", "input_tokens": 3,
        "cache_read_tokens": 1000, "cache_write_5m_tokens": 100, "cache_write_1h_tokens": 20, "output_tokens": 99,
        "web_searches": 1, "tool_uses": None,
    }  # fmt: skip
    assert found["msg_3\nreq_3"]["agent_id"] == "a1"
    assert "SECRET" not in str(found)
    assert "/home" not in str(found)
    assert read_logs(tmp_path, Reading(), projects=False)["msg_1\nreq_1"]["project"] == ""


def test_calls_of_tools_are_counted_once_each(tmp_path: Path) -> None:
    def said(*blocks: Any, **more: Any) -> dict[str, Any]:
        record = line(**more)
        record["message"]["content"] = list(blocks)
        return record

    call, other = {"type": "tool_use", "id": "toolu_1"}, {"type": "server_tool_use", "id": "srvtoolu_2"}
    write(tmp_path / "s.jsonl", said({"type": "text", "text": "x"}), said(call), said(other), said(message_id="msg_2"))
    write(tmp_path / "t.jsonl", said(call), said(other))  # resumed
    write(tmp_path / "u.jsonl", said(call, message_id="msg_3"), said({"type": "tool_use"}, message_id="msg_3"))
    found = read_logs(tmp_path, Reading())
    assert {entry["message_id"]: entry["tool_uses"] for entry in found.values()} == {
        "msg_1": 2, "msg_2": 0, "msg_3": None,
    }  # fmt: skip


BROKEN = [
    b'{"type": "assistant", "usage"',
    b'{"type": "assistant", "message": {"id": "m", "model": "x", "usage": 7}, "timestamp": "' + AT.encode() + b'"}',
    json.dumps(line(usage={"input_tokens": -1})).encode(),
    json.dumps(line(usage={"input_tokens": 1.5})).encode(),
    json.dumps(line(usage={"output_tokens": 10**12})).encode(),
    json.dumps(line(at="yesterday")).encode(),
    json.dumps(line(at="2026-11-21T09:10:11")).encode(),
    json.dumps(line(message_id="")).encode(),
    json.dumps(line(message_id="msg 1")).encode(),
    json.dumps(line(message_id="msg_\u00e9")).encode(),
    json.dumps(line()).replace("claude-opus-4-8", "claude opus").encode(),
    json.dumps(line()).replace("claude-opus-4-8", "claude\\u0007").encode(),
    json.dumps(line()).replace('"claude-opus-4-8"', "7").encode(),
    b'{"usage": \xff\xfe}',
    b"[" * 100_000 + b'"usage"',
    b"not json at all",
    b'{"type": "user", "message": ',
    b"[1, 2]",
    b'"text"',
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_line_is_said_and_passed_over(tmp_path: Path, broken: bytes) -> None:
    write(tmp_path / "s.jsonl", broken, line())
    reading = Reading()
    assert list(read_logs(tmp_path, reading)) == ["msg_1\nreq_1"]
    assert reading.unreadable == 1
    assert reading.notes == ["s.jsonl:1: cannot be read, passed over"]


def test_what_is_read_is_what_the_import_takes(tmp_path: Path) -> None:
    write(
        tmp_path / "s.jsonl",
        line(cwd="/x/\ud800", gitBranch="feature/\udfff\x07ü", requestId="req\ud800", version="v" * 300),
        line("msg_2", "x" * 300, cwd=["?"], gitBranch=7),
    )
    found = list(read_logs(tmp_path, Reading()).values())
    body = ImportBody.model_validate_json(json.dumps({"entries": found}))
    assert [(entry.project, entry.branch) for entry in body.entries] == [("", "feature/ü"), ("['?']", "7")]


def test_calls_of_an_import_are_bounded_by_number_and_by_bytes() -> None:
    small = [{"message_id": f"msg_{number}"} for number in range(IMPORT_AT_ONCE + 1)]
    assert [len(batch) for batch in _batches(small)] == [IMPORT_AT_ONCE, 1]
    large = [{"branch": "\U00010000" * 200, "project": "\u6f22" * 200} for _ in range(IMPORT_AT_ONCE)]
    batches = list(_batches(large))
    assert max(len(json.dumps(batch)) for batch in batches) <= IMPORT_BYTES + 2
    assert [entry for batch in batches for entry in batch] == large
    assert list(_batches([])) == []


def test_a_huge_line_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursar.local_logs, "MAX_LINE_BYTES", 2_000)
    write(tmp_path / "s.jsonl", line(content="x" * 9_000), line("msg_2", "req_2"))
    reading = Reading()
    assert list(read_logs(tmp_path, reading)) == ["msg_2\nreq_2"]
    assert (reading.too_long, reading.lines) == (1, 2)


def test_what_is_no_request_is_not_counted(tmp_path: Path) -> None:
    made_up = line()
    made_up["message"]["model"] = "<synthetic>"
    write(tmp_path / "s.jsonl", made_up, {"type": "user", "usage": 1}, b"", b"  \r", line(request_id=None))
    reading = Reading()
    assert list(read_logs(tmp_path, reading)) == ["msg_1\n"]
    assert (reading.unreadable, reading.notes) == (0, [])
    with pytest.raises(OSError, match="nowhere"):
        read_logs(tmp_path / "nowhere", Reading())
