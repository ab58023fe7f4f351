"""``bursar claude``: start Claude Code with the environment that points it at Bursar."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import NoReturn

from bursar.claude_settings import wanted_lines

CONFLICTING = (
    "ANTHROPIC_API_KEY",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_OAUTH_TOKEN",
)
"""Variables with which Claude Code would send another credential along, or not use the base URL at all."""


class LaunchRefused(Exception):
    """Claude Code cannot be started; the message is one sentence."""


def claude_environment(environ: Mapping[str, str], *, url: str, key: str, own_login: bool = False) -> dict[str, str]:
    """The child's environment: the three lines set, conflicting variables gone, everything else as it is.

    ``own_login``: the person's own login or API key is what goes to the provider (the key's provider config says
    ``"credential": "client"``), so it is left in place and the virtual key travels in a header of its own."""
    lines = wanted_lines(url, key)
    if not own_login:
        return {name: value for name, value in environ.items() if name not in CONFLICTING} | lines
    del lines["ANTHROPIC_AUTH_TOKEN"]
    headers = [line for line in environ.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines() if line.strip()]
    headers = [line for line in headers if line.partition(":")[0].strip().lower() != "x-bf-vk"]
    lines["ANTHROPIC_CUSTOM_HEADERS"] = "\n".join([*headers, f"x-bf-vk: {key}"])
    kept = {n: v for n, v in environ.items() if not n.startswith("CLAUDE_CODE_USE_")}
    return kept | lines


def launch(
    arguments: Sequence[str], environ: Mapping[str, str], *, url: str, key: str, own_login: bool = False
) -> NoReturn:
    """Become Claude Code. Raises LaunchRefused where it is not installed."""
    program = shutil.which("claude", path=environ.get("PATH"))
    if program is None:
        raise LaunchRefused(
            "Claude Code is not installed (no `claude` on the PATH): npm install -g @anthropic-ai/claude-code"
        )
    os.execve(program, ["claude", *arguments], claude_environment(environ, url=url, key=key, own_login=own_login))  # noqa: S606
