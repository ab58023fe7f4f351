"""What ``bursar up`` says to the person at the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from bursar.environment import Addresses
from bursar.here import program
from bursar.home import DEFAULT_HOME, Home


def ready_text(
    home: Home,
    addresses: Addresses,
    *,
    key_note: str,
    simulator_notice: str,
    new_admin_token: str,
    token_kept: bool = False,
    own_login: bool = False,
) -> str:
    """The closing lines of a start: where it is, what to set, what to try next. ``own_login``: the first key lets the
    caller's own credential go up, so the key travels in a header of its own and leaves the login alone.
    ``token_kept``: the admin token is in the home folder."""
    url = addresses.url
    key_file = _quoted(home.first_key)
    launcher = shlex.join([*program(), "claude", *(["--own-login"] if own_login else [])])
    if home.path != Path(DEFAULT_HOME).expanduser():
        launcher += f" --home {_quoted(home.path)}"
    lines = [
        "",
        f"Bursar is ready: {url}   (state: {_short(home.path)}, logs: {_short(home.logs)})",
        f"First virtual key: {_short(home.first_key)}   ({key_note})",
        "",
        "Point Claude Code at it in this shell:",
        f"  export ANTHROPIC_BASE_URL={url}/anthropic",
        f'  export ANTHROPIC_CUSTOM_HEADERS="x-bf-vk: $(cat {key_file})"   # your own login stays in use'
        if own_login
        else f'  export ANTHROPIC_AUTH_TOKEN="$(cat {key_file})"',
        "  export ENABLE_TOOL_SEARCH=true",
        "  claude",
        f"or without setting anything:  {launcher}",
        "",
        "See what it cost:",
        f"  curl -s http://localhost:{addresses.clickhouse_port}/ --data-binary \\",
        '    "SELECT started_at, virtual_key, model, outcome, cost_usd FROM bursar.usage ORDER BY started_at DESC"',
        f"Health: {url}/healthz   Governance: {url}/api/governance/virtual-keys   Stop: Ctrl-C",
    ]
    if new_admin_token:
        lines += [
            "",
            f"Admin token, shown this once (kept in {_short(home.path / 'admin-token')}): {new_admin_token}",
            "  use it as: Authorization: Bearer <token>, or BURSAR_ADMIN_TOKEN for the bursar command.",
        ]
    elif token_kept:
        lines += ["", f"The admin token is kept in {_short(home.path / 'admin-token')}."]
    if simulator_notice:
        bar = "!" * 100
        lines += ["", bar, f"!! {simulator_notice}", bar]
    return "\n".join(lines) + "\n"


def _short(path: Path) -> str:
    """The path with ``~`` for the person's home folder."""
    try:
        below = path.relative_to(Path.home())
    except (ValueError, RuntimeError):
        return str(path)
    return "~" if below == Path() else f"~/{below}"


def _quoted(path: Path) -> str:
    """For a shell; a leading ``~/`` must stay outside the quotes to be expanded."""
    short = _short(path)
    if short == "~":
        return short
    return f"~/{shlex.quote(short[2:])}" if short.startswith("~/") else shlex.quote(short)
