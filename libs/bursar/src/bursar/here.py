"""Which Bursar the short commands talk to: its URL, the key and the admin token, from flags, environment and home."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bursar.first_key import stored_first_key
from bursar.home import DEFAULT_HOME, Home

DEFAULT_URL = "http://localhost:8080"


class NotKnown(Exception):
    """Something needed is neither given nor found; the message is one sentence with the fix."""


def find_url(home: Home, given: str | None) -> str:
    """``--url``, else the address that ``bursar up`` wrote down, else, of the default home alone, the default: what
    answers there need not be the Bursar of a home that was chosen. Raises NotKnown."""
    if given:
        return given.rstrip("/").removesuffix("/anthropic")
    with suppress(OSError):
        if written := home.address.read_text().strip():
            return written
    if home != Home.at(DEFAULT_HOME):
        raise NotKnown(
            f"No Bursar is running in {home.path}: start it with `bursar up --home {shlex.quote(str(home.path))}`, or "
            "say with --url which one is meant."
        )
    return DEFAULT_URL


def find_key(home: Home, given: str | None) -> str:
    """``--key``, else the first key of the home. Raises NotKnown."""
    key = given or stored_first_key(home)
    if not key:
        raise NotKnown(
            f"No virtual key: give one with --key, or run `bursar up` once (it keeps one in {home.first_key})."
        )
    return key


def find_admin_token(home: Home, given: str | None, environ: Mapping[str, str]) -> str:
    """``--token``, else BURSAR_ADMIN_TOKEN, else the home's own; empty where none is needed."""
    token = given or environ.get("BURSAR_ADMIN_TOKEN", "")
    if not token:
        with suppress(OSError):
            token = (home.path / "admin-token").read_text().strip()
    return token


def program() -> list[str]:
    """Words that call this command from the person's shell: its name where the shell finds it, else its path (after
    ``make run`` it is in the checkout's environment, which no shell looks into)."""
    if shutil.which("bursar"):
        return ["bursar"]
    beside = Path(sys.executable).with_name("bursar")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "bursar"]
