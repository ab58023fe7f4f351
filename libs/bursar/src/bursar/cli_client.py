"""Commands of people who use a running Bursar: ``claude``, ``connect``, ``disconnect``, ``doctor``, ``keys``,
``quota``, ``statusline``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bursar.here import NotKnown, find_admin_token, find_key, find_url, program
from bursar.home import DEFAULT_HOME, Home


def home_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--home", default=DEFAULT_HOME, envvar="BURSAR_HOME", help="Home of the local Bursar.")(command)


def url_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--url", help="Bursar's URL; default: the one running in --home.")(command)


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": ["--help"]}
)
@home_option
@url_option
@click.option("--key", help="Virtual key; default: the first key in --home.")
@click.option("--own-login", is_flag=True, help="Keep your own login; the key goes in a header beside it.")
@click.option("--no-cost", is_flag=True, help="Do not say at the end what the session cost.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def claude(
    home: str, url: str | None, key: str | None, own_login: bool, no_cost: bool, arguments: tuple[str, ...]
) -> None:
    """Start Claude Code through Bursar; everything after is passed on. At the end, what the session cost.

    \b
    bursar claude
    bursar claude -p "explain this repository"
    bursar claude --url https://bursar.example.com --key sk-bf-... -- --continue
    """
    from bursar.claude import LaunchRefused, launch

    where = Home.at(home)
    try:
        code = launch(
            arguments,
            os.environ,
            url=find_url(where, url),
            key=find_key(where, key),
            own_login=own_login,
            say=None if no_cost else lambda text: click.echo(text, err=True),
        )
    except (LaunchRefused, NotKnown) as refusal:
        raise click.ClickException(str(refusal)) from None
    sys.exit(code)


@click.command()
@home_option
@url_option
@click.option("--key", help="Virtual key; default: the first key in --home.")
@click.option("--settings", type=click.Path(path_type=Path), help="settings.json; default: Claude Code's own.")
@click.option("--no-statusline", is_flag=True, help="Leave Claude Code's status line alone.")
def connect(home: str, url: str | None, key: str | None, settings: Path | None, no_statusline: bool) -> None:
    """Write Bursar's three lines and a statusLine into Claude Code's settings.json.

    ANTHROPIC_BASE_URL, ANTHROPIC_AUTH_TOKEN and ENABLE_TOOL_SEARCH in its `env`, and `bursar statusline` as its
    `statusLine` unless you have one (--no-statusline: never); nothing else changes, and `bursar disconnect` undoes
    exactly these.
    """
    import shlex

    from bursar.claude_settings import SettingsRefused, default_settings_path, wanted_lines, wanted_status_line
    from bursar.claude_settings import connect as write_lines

    where = Home.at(home)
    path = settings or default_settings_path(os.environ)
    try:
        lines = wanted_lines(find_url(where, url), find_key(where, key))
        command = shlex.join([*program(), "statusline"])
        placed = write_lines(path, lines, None if no_statusline else wanted_status_line(command))
    except (NotKnown, SettingsRefused) as refusal:
        raise click.ClickException(str(refusal)) from None
    click.echo(f"{path}: {', '.join(lines)} set; a plain `claude` now goes to {lines['ANTHROPIC_BASE_URL']}.")
    if not placed:
        click.echo(f"Your own statusLine stays; Bursar's is the command: {command}")
    elif not no_statusline:
        click.echo("Status line: spent today, what is left, when it resets.")


@click.command()
@click.option("--settings", type=click.Path(path_type=Path), help="settings.json; default: Claude Code's own.")
def disconnect(settings: Path | None) -> None:
    """Undo what `bursar connect` wrote, and only that."""
    from bursar.claude_settings import SettingsRefused, default_settings_path
    from bursar.claude_settings import disconnect as undo

    path = settings or default_settings_path(os.environ)
    try:
        undone = undo(path)
    except SettingsRefused as refusal:
        raise click.ClickException(str(refusal)) from None
    said = [
        f"{what} {', '.join(names)}"
        for what, names in (
            ("removed", undone.removed),
            ("restored", undone.restored),
            ("left as somebody changed it since:", undone.left),
        )
        if names
    ]
    click.echo(f"{path}: {'; '.join(said) or 'nothing was left to undo'}.")


@click.command()
@home_option
@url_option
@click.option("--settings", type=click.Path(path_type=Path), help="settings.json; default: Claude Code's own.")
def doctor(home: str, url: str | None, settings: Path | None) -> None:
    """Look for what keeps Claude Code from using Bursar as intended; exit 1 if there is anything."""
    from bursar.claude_settings import default_settings_path
    from bursar.doctor import examine
    from bursar.first_key import stored_first_key

    where, not_known = Home.at(home), ""
    try:
        address = find_url(where, url)
    except NotKnown as refusal:
        address, not_known = "", str(refusal)
    findings = examine(
        os.environ,
        settings or default_settings_path(os.environ),
        url=address,
        not_known=not_known,
        first_key=stored_first_key(where),
        given=url is not None,
    )
    for finding in findings:
        click.echo(f"{'problem' if finding.problem else 'ok     '}  {finding.text}")
    sys.exit(1 if any(finding.problem for finding in findings) else 0)


@click.command()
@home_option
@url_option
@click.option("--key", help="Virtual key; default: the one Claude Code uses, else the first key in --home.")
@click.option("--json", "as_json", is_flag=True, help="The API's own answer.")
def quota(home: str, url: str | None, key: str | None, as_json: bool) -> None:
    """What your key may still spend: its budgets and limits, and those of its team and customer."""
    import json
    from datetime import datetime

    from bursar.quota_client import QuotaUnknown, ask_quota
    from bursar.quota_text import table
    from bursar.statusline import which

    where = Home.at(home)
    used_url, used_key = which(os.environ, where)
    try:
        answer = ask_quota(find_url(where, url or used_url or None), find_key(where, key or used_key))
    except (NotKnown, QuotaUnknown) as refusal:
        raise click.ClickException(str(refusal)) from None
    click.echo(json.dumps(answer, indent=2) if as_json else table(answer, datetime.now().astimezone()))


@click.command()
@home_option
def statusline(home: str) -> None:
    """One line for Claude Code's status line: spent today, left, reset. Reads Claude Code's JSON on stdin."""
    from bursar.statusline import line, read_stdin

    try:
        said = b"" if sys.stdin.isatty() else read_stdin(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or none at all
        said = b""
    click.echo(line(os.environ, Home.at(home), said))


@click.group()
@home_option
@url_option
@click.option("--token", help="Admin token; default: BURSAR_ADMIN_TOKEN, else the one kept in --home.")
@click.pass_context
def keys(context: click.Context, home: str, url: str | None, token: str | None) -> None:
    """Create, list and rotate virtual keys."""
    from bursar.admin_client import AdminClient

    where = Home.at(home)
    # Called by the commands below: their --help needs nothing that runs.
    context.obj = lambda: AdminClient(find_url(where, url), find_admin_token(where, token, os.environ))


def _asked(ask: Callable[[], Any]) -> Any:
    from bursar.admin_client import AdminRefused

    try:
        return ask()
    except AdminRefused as refusal:
        raise click.ClickException(str(refusal)) from None


@keys.command("create")
@click.argument("name")
@click.option("--team", help="Name or id of the team it belongs to.")
@click.option("--budget", "budgets", multiple=True, help="Dollars per window, e.g. 100/1M or 5/1d; may be repeated.")
@click.pass_obj
def create_key(client: Callable[[], Any], name: str, team: str | None, budgets: tuple[str, ...]) -> None:
    """Make a virtual key and print its value, which is shown this once."""
    from bursar.admin_client import read_budget

    key = _asked(lambda: client().create_key(name, team=team, budgets=[read_budget(text) for text in budgets]))
    click.echo(f"{key['name']}  {key['id']}", err=True)
    click.echo(key["value"])


@keys.command("list")
@click.pass_obj
def list_keys(client: Callable[[], Any]) -> None:
    """One line a key: id, name, team or customer, whether it is active, what its budgets have spent."""
    for key in _asked(client().list_keys):
        budgets = ", ".join(_budget_line(budget) for budget in key.get("budgets") or ())
        state = "active" if key.get("is_active", True) else "inactive"
        click.echo("  ".join([key["id"], key["name"], key["owner"] or "-", state, budgets]).rstrip())


def _budget_line(budget: dict[str, Any]) -> str:
    spent, limit = budget["current_usage"], budget["max_limit"]
    return f"{_dollars(spent)} of {_dollars(limit)} per {budget['reset_duration']}"


def _dollars(amount: float | None) -> str:
    """Cents; below one cent as many digits as there are, so that little spending does not read as none."""
    if amount is None:  # the ledger did not answer: not zero
        return "unknown"
    return f"${amount:.9f}".rstrip("0") if 0 < amount < 0.01 else f"${amount:,.2f}"


@keys.command("rotate")
@click.argument("key_id")
@click.pass_obj
def rotate_key(client: Callable[[], Any], key_id: str) -> None:
    """Give a key a new value and print it; the old value stops working at once."""
    key = _asked(lambda: client().rotate_key(key_id))
    click.echo(f"{key['name']}  {key['id']}", err=True)
    click.echo(key["value"])
