"""``bursar claude``: start Claude Code with the environment that points it at Bursar."""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bursar.claude_settings import wanted_lines
from bursar.quota_client import QuotaUnknown, ask_quota
from bursar.quota_text import session_end

COST_WITHIN_S = 3.0
"""How long the end of a session may wait for its figures: requests reach analytics within a second."""
COST_POLL_S = 0.4
ANSWER_WITHIN_S = 5.0
"""Of one question: the first to analytics in a while is slower than the next."""
NOT_KNOWN = "Bursar: what this session cost is not known yet; `bursar quota` says what your key spent."

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


NOT_SESSIONS = frozenset(
    {"--version", "-v", "--help", "-h", "mcp", "config", "doctor", "update", "upgrade", "install", "plugin"}
    | {"setup-token", "auth", "agents", "migrate-installer"}
)
"""First words with which Claude Code answers by itself and asks no model: it is started in place of this process."""
RUN_HEADER = "x-bursar-tag-bursar-run"
"""Tags every request of one run, so that its cost can be told from others of the same key."""


def with_run(environ: Mapping[str, str], run: str) -> dict[str, str]:
    """The environment whose requests carry the run's tag, beside what custom headers there are."""
    headers = [line for line in environ.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines() if line.strip()]
    return {**environ, "ANTHROPIC_CUSTOM_HEADERS": "\n".join([*headers, f"{RUN_HEADER}: {run}"])}


def launch(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    url: str,
    key: str,
    own_login: bool = False,
    say: Callable[[str], None] | None = None,
) -> int:
    """Run Claude Code to its end, then ``say`` what it cost; its exit code. Raises LaunchRefused where it is not
    installed. Without ``say``, or for what is no session, this process becomes Claude Code and does not return."""
    program = shutil.which("claude", path=environ.get("PATH"))
    if program is None:
        raise LaunchRefused(
            "Claude Code is not installed (no `claude` on the PATH): npm install -g @anthropic-ai/claude-code"
        )
    child = claude_environment(environ, url=url, key=key, own_login=own_login)
    words = ["claude", *arguments]
    if say is None or (arguments and arguments[0] in NOT_SESSIONS):
        os.execve(program, words, child)  # noqa: S606
    run, began_s = uuid.uuid4().hex, int(time.time())
    code = run_in_foreground(program, words, with_run(child, run))
    text = cost_of_run(url, key, run, began_s)
    if text:
        say(text)
    return code


def run_in_foreground(program: str, words: Sequence[str], environ: Mapping[str, str]) -> int:
    """The program's exit code (128 + signal where one ended it). It has the terminal; what the terminal sends reaches
    it directly, what is sent to this process alone is passed on, and stopping it stops this process too."""
    relayed = (signal.SIGTERM, signal.SIGHUP)
    pid = 0

    def relay(number: int, _frame: object) -> None:
        if pid:
            os.kill(pid, number)

    # Handlers, not SIG_IGN: a program inherits what is ignored, never a handler.
    before = {number: signal.signal(number, relay) for number in relayed}
    before |= {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        pid = os.posix_spawn(program, list(words), dict(environ))
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                os.kill(os.getpid(), signal.SIGSTOP)
                os.kill(pid, signal.SIGCONT)
                continue
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cost_of_run(url: str, key: str, run: str, began_s: int) -> str:
    """What to say at the end; empty where nothing was asked. Waits until the last requests have arrived in analytics:
    the same figure twice, within COST_WITHIN_S. What was told before an answer failed is said."""
    deadline_s = time.monotonic() + COST_WITHIN_S
    last: tuple[int, int] | None = None
    quota: dict[str, Any] = {}
    try:
        while True:
            answer = ask_quota(url, key, since_s=began_s - 1, run=run, timeout_s=ANSWER_WITHIN_S)
            usage = answer.get("usage")
            if usage is None:
                break
            quota, now = answer, (usage["requests"] + usage["refused"], usage["list_cost_nusd"])
            if (now == last and now[0]) or time.monotonic() >= deadline_s:
                last = now
                break
            last = now
            time.sleep(COST_POLL_S)
        if last == (0, 0):  # settings of the person's own may have replaced the header
            quota = ask_quota(url, key, since_s=began_s - 1, timeout_s=ANSWER_WITHIN_S)
            return session_end(quota, datetime.now().astimezone(), whole_key=True)
    except (QuotaUnknown, KeyError, TypeError):
        pass
    try:
        known = quota and last != (0, 0)
        return session_end(quota, datetime.now().astimezone()) if known else NOT_KNOWN
    except (KeyError, TypeError):
        return NOT_KNOWN
