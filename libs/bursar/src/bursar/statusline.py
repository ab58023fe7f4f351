"""``bursar statusline``: one line below Claude Code's prompt. Fast, and silent about every failure.

Claude Code runs it after each answer with a JSON on stdin. The last answer of Bursar is kept on disk and shown; a
process of its own asks for the next (:mod:`bursar.kept_quota`). While Bursar does not answer, what is known stays shown
for a while.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from bursar.claude_settings import SettingsRefused, default_settings_path, read_env
from bursar.here import NotKnown, find_url
from bursar.home import Home
from bursar.kept_quota import NO_ANSWER, Kept
from bursar.quota_client import ask_quota
from bursar.quota_text import status_line

FRESH_S = 5.0
"""An answer that old is shown without asking again."""
STALE_S = 600.0
"""An answer that old is still better than none; beyond, it would mislead."""
WAIT_S = 0.05
"""How long newer figures are waited for while older ones are there to be shown: a Bursar close by answers within."""
FIRST_WAIT_S = 0.2
"""The same while there is nothing to show. A status line has to be there within 300 ms, start of the interpreter
included."""
MAX_STDIN_BYTES = 1 << 20
STDIN_WITHIN_S = 0.05


def read_stdin(file: int, within_s: float = STDIN_WITHIN_S) -> bytes:
    """What has been written there, up to its end or for that long: a pipe nobody closes must not hold the line up."""
    read, deadline_s = b"", time.monotonic() + within_s
    while len(read) < MAX_STDIN_BYTES and select.select([file], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        chunk = os.read(file, MAX_STDIN_BYTES - len(read))
        if not chunk:
            break
        read += chunk
    return read


def line(environ: Mapping[str, str], home: Home, said: bytes) -> str:
    """The line to print. ``said`` is what Claude Code wrote on stdin. Never raises: the worst is a short notice."""
    try:
        return _line(environ, home, said)
    except Exception:
        return "bursar: no figures"


def _line(environ: Mapping[str, str], home: Home, said: bytes) -> str:
    base, key = which(environ, home)
    if not key:
        return "bursar: no key (run `bursar connect`)"
    try:
        url = find_url(home, base or None)
    except NotKnown:
        return "bursar: not running"
    now = datetime.now().astimezone()
    midnight_s = int(now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp())
    file = Kept(cache_path(environ, f"{url}\n{key}\n{midnight_s}"))
    age_s, kept = file.read()
    if kept is None or age_s > FRESH_S:
        nothing = kept is None or kept == NO_ANSWER or age_s > STALE_S
        file.fetch(
            lambda within_s: ask_quota(url, key, since_s=midnight_s, timeout_s=within_s),
            fresh_s=FRESH_S,
            keep_s=STALE_S,
            wait_s=FIRST_WAIT_S if nothing else WAIT_S,
        )
        age_s, kept = file.read()
    if kept is None or age_s > STALE_S:
        return "bursar: asking"
    if kept == NO_ANSWER:
        return "bursar: no answer"
    return status_line(kept, now) + _session(said)


def which(environ: Mapping[str, str], home: Home) -> tuple[str, str]:
    """URL and key that Claude Code itself uses: its environment, else its settings. Without a key there, the local
    home's; without a URL, empty."""
    env: dict[str, Any] = dict(environ)
    if not _key_in(env):
        try:
            env |= read_env(default_settings_path(environ))
        except SettingsRefused:
            pass
    key = _key_in(env)
    if not key:
        try:
            key = home.first_key.read_text().strip()
        except OSError:
            return "", ""
    base = str(env.get("ANTHROPIC_BASE_URL") or "")
    return (find_url(home, base) if base else ""), key


def _key_in(env: Mapping[str, Any]) -> str:
    for header in str(env.get("ANTHROPIC_CUSTOM_HEADERS") or "").splitlines():
        name, _, value = header.partition(":")
        if name.strip().lower() == "x-bf-vk":
            return value.strip()
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"):
        found = env.get(name)
        if isinstance(found, str) and found and not found.startswith("sk-ant-"):
            return found
    return ""


def _session(said: bytes) -> str:
    """What Claude Code itself counts for the session, where it says so."""
    try:
        cost = json.loads(said)["cost"]["total_cost_usd"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    usable = isinstance(cost, int | float) and not isinstance(cost, bool) and 0 < cost < 1e9
    return f" · session ${cost:,.2f}" if usable else ""


def cache_path(environ: Mapping[str, str], what: str) -> Path:
    """A file of this person's own; its name tells neither key nor address."""
    folder = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".cache")
    return Path(folder) / "bursar" / f"quota-{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"
