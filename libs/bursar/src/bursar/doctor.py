"""``bursar doctor``: what would keep Claude Code from using Bursar as intended, each finding with its fix."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bursar.claude import CONFLICTING
from bursar.claude_settings import SettingsRefused, read_env
from bursar.local_http import Answer, call

LINES = ("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ENABLE_TOOL_SEARCH")
_PROVIDER_SWITCHES = tuple(name for name in CONFLICTING if name.startswith("CLAUDE_CODE_USE_"))


@dataclass(frozen=True)
class Finding:
    problem: bool
    """False: worth knowing, nothing to mend."""
    text: str


def ok(text: str) -> Finding:
    return Finding(False, text)


def wrong(text: str) -> Finding:
    return Finding(True, text)


def examine(
    environ: Mapping[str, str],
    settings_path: Path,
    *,
    url: str,
    first_key: str,
    given: bool = False,
    not_known: str = "",
) -> list[Finding]:
    """Everything that can be said without changing anything. ``url`` and ``first_key`` are those of this machine's
    Bursar, used where nothing is set for Claude Code (``given``: asked for by name, so looked at in any case;
    ``not_known``: why there is no ``url``)."""
    findings: list[Finding] = []
    try:
        configured = {name: str(value) for name, value in read_env(settings_path).items()}
    except SettingsRefused as error:
        configured = {}
        findings.append(wrong(f"{error} Mend it: Claude Code ignores a malformed file."))
    effective = {**environ, **configured}  # Claude Code lets its settings override the shell
    findings += conflicts(environ, configured, settings_path)
    if shutil.which("claude", path=environ.get("PATH")) is None:
        findings.append(wrong("Claude Code is not on the PATH: npm install -g @anthropic-ai/claude-code"))
    base = effective.get("ANTHROPIC_BASE_URL", "").rstrip("/")
    if not base:
        findings.append(
            ok("ANTHROPIC_BASE_URL is not set here: a plain `claude` bypasses Bursar; `bursar claude` does not.")
        )
    elif effective.get("ENABLE_TOOL_SEARCH") != "true":
        findings.append(
            wrong(
                "ENABLE_TOOL_SEARCH is not true: behind a gateway Claude Code then sends every tool definition with "
                "every request, which costs more; export ENABLE_TOOL_SEARCH=true"
            )
        )
    key = effective.get("ANTHROPIC_AUTH_TOKEN") or effective.get("ANTHROPIC_API_KEY") or first_key
    if not base and not_known:
        return [*findings, wrong(not_known)]
    return findings + reach(f"{url}/anthropic" if given or not base else base, key, effective)


def conflicts(environ: Mapping[str, str], configured: Mapping[str, str], settings_path: Path) -> list[Finding]:
    """Variables that contradict each other. Pure."""
    findings = []
    effective = {**environ, **configured}

    def where(name: str) -> str:
        return str(settings_path) if name in configured else "the shell"

    if effective.get("ANTHROPIC_API_KEY") and effective.get("ANTHROPIC_AUTH_TOKEN"):
        findings.append(
            wrong(
                f"ANTHROPIC_API_KEY ({where('ANTHROPIC_API_KEY')}) and ANTHROPIC_AUTH_TOKEN "
                f"({where('ANTHROPIC_AUTH_TOKEN')}) are both set and both sent: unset ANTHROPIC_API_KEY."
            )
        )
    for name in LINES:
        if environ.get(name) and configured.get(name) and environ[name] != configured[name]:
            findings.append(
                wrong(f"{name} differs between the shell and {settings_path}, which wins: change one of them.")
            )
    for name in _PROVIDER_SWITCHES:
        if effective.get(name) not in (None, "", "0", "false"):
            findings.append(wrong(f"{name} ({where(name)}) makes Claude Code ignore ANTHROPIC_BASE_URL: unset it."))
    return findings


def reach(base: str, key: str, effective: Mapping[str, str]) -> list[Finding]:
    """Whether Bursar answers at ``base``, knows the key, and serves the model that is set."""
    root = base.removesuffix("/anthropic")
    try:
        health = call(root, "GET", "/healthz")
    except (OSError, ValueError) as error:
        return [
            wrong(f"Nothing answers at {base} ({error}): start it with `bursar up`, or correct ANTHROPIC_BASE_URL.")
        ]
    findings = [_health(root, health)]
    if not key:
        return [*findings, wrong("No key is set: export ANTHROPIC_AUTH_TOKEN=<your virtual key>")]
    try:
        answer = call(base, "GET", "/v1/models?limit=1000", headers={"authorization": f"Bearer {key}"})
    except OSError as error:
        return [*findings, wrong(f"{base}/v1/models does not answer ({error}): look at the logs of `bursar up`.")]
    if answer.status != 200:
        fix = "ask for a new key, or `bursar keys create NAME`" if answer.status == 401 else "ask whoever made the key"
        return [*findings, wrong(f"The key is not accepted ({answer.status}: {_message(answer)}): {fix}.")]
    value = answer.json()
    models = [str(entry.get("id")) for entry in value.get("data", [])] if isinstance(value, dict) else []
    if not models:
        return [*findings, wrong("The key is known but may use no model: ask whoever made it for allowed_models.")]
    findings.append(ok(f"The key is known and may use {len(models)} models."))
    wanted = effective.get("ANTHROPIC_MODEL", "").rpartition("/")[2].removesuffix("[1m]")
    if wanted.startswith("claude-") and not any(wanted == model or wanted.startswith(f"{model}-") for model in models):
        findings.append(wrong(f"ANTHROPIC_MODEL is {wanted}, which the key may not use; allowed: {_few(models)}."))
    return findings


def _health(root: str, answer: Answer) -> Finding:
    value: Any = answer.json()
    if answer.status == 404 or not isinstance(value, dict):
        return wrong(f"What answers at {root} is not Bursar ({answer.status}): correct ANTHROPIC_BASE_URL.")
    if answer.status != 200:
        return wrong(f"Bursar at {root} is not healthy: {answer.body[:300].decode(errors='replace')}")
    if "simulator" in answer.body.decode(errors="replace"):
        return ok(f"Bursar at {root} is healthy; its SIMULATOR answers, not a provider.")
    return ok(f"Bursar at {root} is healthy.")


def _message(answer: Answer) -> str:
    value = answer.json()
    error = value.get("error") if isinstance(value, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
