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


def claude_environment(environ: Mapping[str, str], *, url: str, key: str) -> dict[str, str]:
    """The child's environment: the three lines set, conflicting variables gone, everything else as it is."""
    return {name: value for name, value in environ.items() if name not in CONFLICTING} | wanted_lines(url, key)


def launch(arguments: Sequence[str], environ: Mapping[str, str], *, url: str, key: str) -> NoReturn:
    """Become Claude Code. Raises LaunchRefused where it is not installed."""
    program = shutil.which("claude", path=environ.get("PATH"))
    if program is None:
        raise LaunchRefused(
            "Claude Code is not installed (no `claude` on the PATH): npm install -g @anthropic-ai/claude-code"
        )
    os.execve(program, ["claude", *arguments], claude_environment(environ, url=url, key=key))  # noqa: S606
