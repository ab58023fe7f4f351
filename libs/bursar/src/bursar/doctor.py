"""``bursar doctor``: what would keep Claude Code from using Bursar as intended, each finding with its fix."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bursar.claude import CONFLICTING
from bursar.claude_settings import SettingsRefused, read_env
from bursar.local_http import Answer, call

LINES = ("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ENABLE_TOOL_SEARCH")
MODELS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_FABLE_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)
"""Variables that name a model to Claude Code."""
ALIASES = frozenset({"default", "best", "opus", "sonnet", "haiku", "fable", "opusplan", "inherit"})
"""Claude Code's own words for a model; it makes a name of them before it asks."""
_LONG_CONTEXT = re.compile(r"(\[1m\])+$", re.IGNORECASE)
"""Tells Claude Code to ask for the long context; it is not sent."""
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
    name, key = key_of(effective)
    source = f"{name} ({settings_path if name in configured else 'the shell'})" if key else "this machine's first key"
    if not base and not_known:
        return [*findings, wrong(not_known)]
    return findings + reach(f"{url}/anthropic" if given or not base else base, key or first_key, effective, source)


def key_of(effective: Mapping[str, str]) -> tuple[str, str]:
    """The variable that Claude Code's virtual key is in, and the key; both empty where none is set. Pure."""
    for line in effective.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines():
        header, _, value = line.partition(":")
        if header.strip().lower() == "x-bf-vk" and value.strip():
            return "ANTHROPIC_CUSTOM_HEADERS", value.strip()
    names = ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY")
    return next(((name, effective[name]) for name in names if effective.get(name)), ("", ""))


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


def reach(base: str, key: str, effective: Mapping[str, str], source: str) -> list[Finding]:
    """Whether Bursar answers at ``base``, knows the key (found in ``source``), and serves the models that are set."""
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
        # The gateway cannot know which variable supplied the key, and names the usual one.
        said = _message(answer).rstrip(".").replace("ANTHROPIC_AUTH_TOKEN", source.partition(" (")[0])
        fix = _fix(answer.status, key, source)
        return [*findings, wrong(f"The key in {source} is not accepted ({answer.status}: {said}): {fix}.")]
    value = answer.json()
    models = [str(entry.get("id")) for entry in value.get("data", [])] if isinstance(value, dict) else []
    if not models:
        return [*findings, wrong(f"The key in {source} may use no model: ask whoever made it for allowed_models.")]
    findings.append(ok(f"The key in {source} is known and may use {len(models)} models."))
    return findings + [
        wrong(f"{name} is {effective[name].strip()}, which the key may not use; allowed: {_few(models)}.")
        for name in MODELS
        if not _may_use(effective.get(name, ""), models)
    ]


def _may_use(named: str, models: list[str]) -> bool:
    """Whether a variable's model is among the key's: one of them, a dated form of one, or Claude Code's own word."""
    wanted = _LONG_CONTEXT.sub("", named.strip().lower()).strip().rpartition("/")[2]
    if not wanted or wanted in ALIASES:
        return True
    return any(wanted == model or wanted.startswith(f"{model}-") for model in (each.lower() for each in models))


def _fix(status: int, key: str, source: str) -> str:
    if status != 401:
        return "ask whoever made the key"
    if not key.startswith("sk-ant-"):
        return "ask for a new key, or `bursar keys create NAME`"
    name = source.partition(" ")[0]
    unset = "" if name == "ANTHROPIC_AUTH_TOKEN" else f"unset {name} and "
    return f"it is a provider's key, not a virtual one: {unset}export ANTHROPIC_AUTH_TOKEN=<your virtual key>"


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
