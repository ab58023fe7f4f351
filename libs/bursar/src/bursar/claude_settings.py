"""``bursar connect`` and ``disconnect``: three lines in the ``env`` of Claude Code's ``settings.json``, a status line
where there is none, and back.

What was there before is kept in a file beside it (mode 0600: it may hold a token). Nothing else in the settings
changes; if nobody touched the file in between, disconnecting restores it byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bursar import json_edit
from bursar.home import write_private
from bursar.json_edit import NotEditable

MAX_SETTINGS_BYTES = 16 * 1024 * 1024
BEFORE_SUFFIX = ".before-bursar"
STATUS_LINE = "statusLine"
_FORMAT = 1


class SettingsRefused(Exception):
    """The settings cannot be changed and were not touched; the message is one sentence."""


@dataclass(frozen=True)
class Undone:
    """What disconnecting did. ``left``: names whose value somebody changed since, which stay as they are."""

    removed: tuple[str, ...]
    restored: tuple[str, ...]
    left: tuple[str, ...]


def default_settings_path(environ: Mapping[str, str]) -> Path:
    """Where Claude Code reads the person's settings."""
    folder = environ.get("CLAUDE_CONFIG_DIR")
    return (Path(folder) if folder else Path.home() / ".claude") / "settings.json"


def wanted_lines(url: str, key: str) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": f"{url.rstrip('/')}/anthropic",
        "ANTHROPIC_AUTH_TOKEN": key,
        "ENABLE_TOOL_SEARCH": "true",
    }


def read_env(path: Path) -> dict[str, Any]:
    """The ``env`` object of a settings file; empty where there is none. Raises SettingsRefused on a malformed file."""
    text = _read(path)
    if text is None:
        return {}
    try:
        env = json_edit.parse(text)
    except NotEditable as error:
        raise SettingsRefused(f"{path} is not valid JSON: {error}.") from None
    env = env.get("env", {}) if isinstance(env, dict) else None
    if not isinstance(env, dict):
        raise SettingsRefused(f"{path} is not an object whose `env` is an object.")
    return env


def wanted_status_line(command: str) -> dict[str, Any]:
    """Claude Code's ``statusLine`` that runs ``command``."""
    return {"type": "command", "command": command}


def connect(path: Path, lines: Mapping[str, str], status_line: Mapping[str, Any] | None = None) -> bool:
    """Write the lines, remembering what stood there. Connecting again replaces the lines and keeps the first memory.

    ``status_line`` is set where the person has none. False: they have one of their own, which stays as it is.
    Raises SettingsRefused; the file is then untouched. A crash leaves either the old file or the new one, and the
    memory is written before it."""
    path = Path(os.path.realpath(path))
    text, memory = _read(path), _memory(path)
    mode = stat.S_IMODE(path.stat().st_mode) if text is not None else 0o600
    if memory is not None and (_is_as_written(memory, text) or text == memory["original"]):
        # Nobody touched the file since (or we never came to write it): start over from what was there before.
        text, mode, memory = memory["original"], memory["mode"], None
    try:
        written, before, env_existed = _with_lines(text, lines)
        ours = memory.get("status_line") if memory is not None else None
        written, placed = _with_status_line(written, status_line, ours)
    except NotEditable as error:
        raise SettingsRefused(f"{path} was not touched: {error}.") from None
    kept = {
        "format": _FORMAT,
        "lines": dict(lines),
        "before": before,
        "env_existed": env_existed,
        "status_line": placed,
        "file_existed": text is not None,
        "mode": mode,
        "original": text,
        "written_sha256": _sha256(written),
    }
    if memory is not None:
        kept |= {name: memory[name] for name in ("before", "env_existed", "file_existed", "mode")}
        kept |= {"original": None, "written_sha256": ""}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(_memory_path(path), json.dumps(kept))
        write_private(path, written)
    except OSError as error:
        raise SettingsRefused(f"{path} cannot be written: {error.strerror}.") from None
    return status_line is None or placed is not None


def disconnect(path: Path) -> Undone:
    """Undo what :func:`connect` wrote, and only that. Raises SettingsRefused."""
    path = Path(os.path.realpath(path))
    memory, text = _memory(path), _read(path)
    if memory is None:
        raise SettingsRefused(f"{path} was not connected by Bursar: there is nothing to undo.")
    before: dict[str, str | None] = memory["before"]
    removed = tuple(name for name, raw in before.items() if raw is None)
    removed += (STATUS_LINE,) if memory.get("status_line") is not None else ()
    restored = tuple(name for name, raw in before.items() if raw is not None)
    undone = Undone(removed, restored, ())
    result: str | None
    if _is_as_written(memory, text):
        result = memory["original"]
    elif text is None:
        result, undone = None, Undone((), (), ())
    else:
        try:
            result, undone = _without_lines(text, memory)
        except NotEditable as error:
            raise SettingsRefused(f"{path} was not touched: {error}.") from None
    try:
        if result is None:
            path.unlink(missing_ok=True)
        elif result != text:
            write_private(path, result)
            path.chmod(memory["mode"])
        _memory_path(path).unlink()
    except OSError as error:
        raise SettingsRefused(f"{path} cannot be written: {error.strerror}.") from None
    return undone


def _with_lines(text: str | None, lines: Mapping[str, str]) -> tuple[str, dict[str, str | None], bool]:
    """The text with the lines, the raw values that stood there (None: none), and whether ``env`` was there."""
    if text is None:
        body = json.dumps({"env": dict(lines)}, indent=2, ensure_ascii=False)
        return body + "\n", dict.fromkeys(lines), False
    top = json_edit.top_object(text)
    env = top.find("env")
    if env is None:
        gap = json_edit.member_gap(text, top)
        inner = json_edit.deeper(gap) if "\n" in gap else ""
        listed = f",{inner or ' '}".join(f"{json.dumps(name)}: {_raw(value)}" for name, value in lines.items())
        raw = "{" + inner + listed + (gap if inner else "") + "}"
        outer = "\n" if not top.members else ""
        written = json_edit.add_member(text, top, "env", raw, outer_gap=outer)
        return written, dict.fromkeys(lines), False
    if text[env.value_start] != "{":
        raise NotEditable("`env` in it is not an object")
    before: dict[str, str | None] = {}
    gap = json_edit.member_gap(text, top)
    for name, value in lines.items():
        span = json_edit.object_at(text, env.value_start)
        member = span.find(name)
        before[name] = None if member is None else text[member.value_start : member.end]
        if member is None:
            text = json_edit.add_member(text, span, name, _raw(value), outer_gap=gap)
        else:
            text = json_edit.set_value(text, member, _raw(value))
    return text, before, True


def _with_status_line(text: str, wanted: Mapping[str, Any] | None, ours: Any) -> tuple[str, Mapping[str, Any] | None]:
    """The text with the status line, and what of it is ours now (None: nothing). ``ours``: what was placed before."""
    top = json_edit.top_object(text)
    member = top.find(STATUS_LINE)
    if member is None:
        if wanted is None:
            return text, None
        outer = "\n" if not top.members else ""
        return json_edit.add_member(text, top, STATUS_LINE, _json(wanted), outer_gap=outer), wanted
    if ours is None or json_edit.parse(text[member.value_start : member.end]) != ours:
        return text, None
    return (text, ours) if wanted is None else (json_edit.set_value(text, member, _json(wanted)), wanted)


def _without_lines(text: str, memory: dict[str, Any]) -> tuple[str | None, Undone]:
    removed, restored, left = [], [], []
    for name, raw in memory["before"].items():
        top = json_edit.top_object(text)
        env = top.find("env")
        if env is None:
            break
        if text[env.value_start] != "{":
            raise NotEditable("`env` in it is not an object")
        span = json_edit.object_at(text, env.value_start)
        member = span.find(name)
        if member is None:
            continue
        current = text[member.value_start : member.end]
        if current == raw:
            continue
        if json_edit.parse(current) != memory["lines"][name]:
            left.append(name)
        elif raw is None:
            text = json_edit.remove_member(text, span, member)
            removed.append(name)
        else:
            text = json_edit.set_value(text, member, raw)
            restored.append(name)
    top = json_edit.top_object(text)
    env = top.find("env")
    if env is not None and not memory["env_existed"] and not json_edit.object_at(text, env.value_start).members:
        text = json_edit.remove_member(text, top, env)
    ours = memory.get("status_line")
    top = json_edit.top_object(text)
    member = top.find(STATUS_LINE)
    if ours is not None and member is not None:
        if json_edit.parse(text[member.value_start : member.end]) == ours:
            text = json_edit.remove_member(text, top, member)
            removed.append(STATUS_LINE)
        else:
            left.append(STATUS_LINE)
    undone = Undone(tuple(removed), tuple(restored), tuple(left))
    if not memory["file_existed"] and not json_edit.top_object(text).members:
        return None, undone
    return text, undone


def _raw(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), ensure_ascii=False)


def _read(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsRefused(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > MAX_SETTINGS_BYTES:
        raise SettingsRefused(f"{path} is larger than {MAX_SETTINGS_BYTES >> 20} MiB.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SettingsRefused(f"{path} was not touched: it is not UTF-8 text.") from None


def _memory_path(path: Path) -> Path:
    return path.with_name(path.name + BEFORE_SUFFIX)


def _memory(path: Path) -> dict[str, Any] | None:
    text = _read(_memory_path(path))
    if text is None:
        return None
    try:
        memory: dict[str, Any] = json.loads(text)
        if memory["format"] == _FORMAT:
            return memory
    except (ValueError, KeyError, TypeError):
        pass
    raise SettingsRefused(f"{_memory_path(path)} cannot be understood: undo by hand, then delete it.")


def _is_as_written(memory: dict[str, Any], text: str | None) -> bool:
    return text is not None and memory["written_sha256"] == _sha256(text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
