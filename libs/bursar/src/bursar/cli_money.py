"""Commands about what was spent: ``usage``, ``import``, ``export``."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from bursar.cli_client import home_option, url_option
from bursar.here import NotKnown, find_admin_token, find_key, find_url
from bursar.home import Home

IMPORT_AT_ONCE = 500
"""Requests of one call: mostly some 200 kB."""
IMPORT_BYTES = 512 << 10
"""JSON of one call's requests, of the 1 MiB a body may have: long names of branches in other scripts are escaped."""
DEFAULT_DAYS = {"daily": 31, "monthly": 365, "session": 31, "blocks": 7}
BY = {"daily": "day", "monthly": "month", "session": "session", "blocks": "minute"}


def token_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--token", help="Admin token; default: BURSAR_ADMIN_TOKEN, else the one kept in --home.")(
        command
    )


@click.command()
@click.argument("report", type=click.Choice(list(BY)), default="daily")
@home_option
@url_option
@token_option
@click.option("--key", help="Ask with this virtual key, about itself only.")
@click.option("--mine", is_flag=True, help="Ask with the key that Claude Code uses here, about itself only.")
@click.option("--since", help="First day, YYYYMMDD or YYYY-MM-DD.")
@click.option("--until", help="Last day, likewise.")
@click.option("--timezone", help="IANA zone that days are of; default: this machine's.")
@click.option("--user", multiple=True, help="Only this user (id or name); may be repeated, as the next ones.")
@click.option("--team", multiple=True, help="Only this team.")
@click.option("--virtual-key", multiple=True, help="Only this virtual key.")
@click.option("--project", multiple=True, help="Only this project.")
@click.option("--model", multiple=True, help="Only this model.")
@click.option("--json", "as_json", is_flag=True, help="JSON in ccusage's shape.")
def usage(
    report: str,
    home: str,
    url: str | None,
    token: str | None,
    key: str | None,
    mine: bool,
    since: str | None,
    until: str | None,
    timezone: str | None,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """What was used, as ccusage shows it: by day, month, session or block of five hours.

    \b
    bursar usage                       the fleet's last month by day
    bursar usage session --mine        this key's sessions
    bursar usage monthly --team platform --json
    """
    from bursar import ccusage
    from bursar.statusline import which

    where = Home.at(home)
    first, last = _days(since, until, DEFAULT_DAYS[report])
    zone = timezone or local_zone()
    asked: list[tuple[str, str]] = [("by", BY[report]), ("from", first), ("timezone", zone)]
    asked += [("to", last)] if last else []
    for name, values in filters.items():
        asked += [("key" if name == "virtual_key" else name, value) for value in values]
    try:
        address = find_url(where, url)
        if key or mine:
            used = key or which(os.environ, where)[1] or find_key(where, None)
            rows = _get(address, f"/api/usage/mine?{urlencode(asked)}", used)["rows"]
        else:
            admin = find_admin_token(where, token, os.environ)
            rows = _get(address, f"/api/usage?{urlencode(asked)}", admin)["rows"]
    except NotKnown as refusal:
        raise click.ClickException(str(refusal)) from None
    by = BY[report]
    if report == "blocks":
        now_s = time.time()
        click.echo(json.dumps(ccusage.blocks(rows, now_s), indent=2) if as_json else ccusage.blocks_table(rows, now_s))
    elif as_json:
        click.echo(json.dumps(ccusage.report(by, rows, _known_zone(zone)), indent=2))
    else:
        click.echo(ccusage.table(by, rows))


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("~/.claude/projects"))
@home_option
@url_option
@token_option
@click.option("--key", help="Virtual key that asks, and that the requests are booked on.")
@click.option("--virtual-key", help="With the admin token: id or name of the key to book them on.")
@click.option("--no-projects", is_flag=True, help="Do not name requests after their working folder.")
@click.option("--dry-run", is_flag=True, help="Say what would be recorded.")
def import_logs(
    folder: Path,
    home: str,
    url: str | None,
    token: str | None,
    key: str | None,
    virtual_key: str | None,
    no_projects: bool,
    dry_run: bool,
) -> None:
    """Bring Claude Code's local logs in, each request once: at list price, billed at nothing.

    What came through Bursar already is left out, so importing again, or while connected, is safe. Only figures leave
    this machine: no prompts, no answers.
    """
    from bursar.local_logs import Reading, read_logs

    where, reading = Home.at(home), Reading()
    try:
        entries = list(read_logs(folder.expanduser(), reading, projects=not no_projects).values())
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be read: {error.strerror}.") from None
    try:
        address = find_url(where, url)
        credential = find_admin_token(where, token, os.environ) if virtual_key else find_key(where, key)
    except NotKnown as refusal:
        raise click.ClickException(str(refusal)) from None
    entries.sort(key=lambda entry: entry["started_at_ms"])
    sums = {"recorded": 0, "known": 0, "out_of_time": 0, "list_cost_nusd": 0}
    unpriced: set[str] = set()
    for batch in _batches(entries):
        body: dict[str, Any] = {"entries": batch, "dry_run": dry_run}
        if virtual_key:
            body["virtual_key"] = virtual_key
        answer = ask(address, "POST", "/api/usage/import", credential, body)
        for name in sums:
            sums[name] += answer[name]
        unpriced |= set(answer["unpriced"])
    for note in reading.notes:
        click.echo(note, err=True)
    faults = reading.unreadable + reading.too_long
    if faults > len(reading.notes):
        click.echo(f"... and {faults - len(reading.notes)} more lines that were passed over.", err=True)
    if unpriced:
        click.echo(f"Without a price, left out: {', '.join(sorted(unpriced))}.", err=True)
    from bursar.quota_text import dollars

    click.echo(
        f"{'Would record' if dry_run else 'Recorded'} {sums['recorded']} requests "
        f"({dollars(sums['list_cost_nusd'])} at list price) of {reading.files} files; "
        f"{sums['known']} were known already"
        + (f", {sums['out_of_time']} have an impossible time" if sums["out_of_time"] else "")
        + (f", {faults} lines could not be read" if faults else "")
        + "."
    )


def _batches(entries: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for entry in entries:
        length = len(json.dumps(entry)) + 2
        if batch and (len(batch) == IMPORT_AT_ONCE or size + length > IMPORT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += length
    if batch:
        yield batch


@click.group()
def export() -> None:
    """Write what was spent for other tools."""


@export.command("focus")
@home_option
@url_option
@token_option
@click.option("--month", required=True, help="UTC month, such as 2026-11.")
@click.option("--format", "output", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True)
@click.option(
    "--version", type=click.Choice(["1.2", "1.3"]), default="1.2", show_default=True, help="Of the specification."
)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="File; default: bursar-focus-MONTH.csv.")
def export_focus(
    home: str, url: str | None, token: str | None, month: str, output: str, version: str, path: Path | None
) -> None:
    """A month's bill in the FinOps Open Cost and Usage Specification (FOCUS).

    BilledCost sums to the ledger. Beside the file a manifest says what it was made from: sums, price books, positions
    in the event log, SHA-256.
    """
    from bursar.focus_export import MANIFEST_SUFFIX, ExportRefused
    from bursar.focus_export import export as write_file

    where = Home.at(home)
    file = path or Path(f"bursar-focus-{month}.{output}")
    try:
        made = write_file(
            find_url(where, url),
            find_admin_token(where, token, os.environ),
            month=month,
            output=output,
            version=version,
            path=file,
        )
    except ExportRefused as refusal:
        raise click.ClickException(str(refusal)) from None
    partial = "" if made["complete"] else " (the month has not ended)"
    click.echo(
        f"{file}: {made['requests']} requests, ${made['billed_usd']} billed{partial}; {file.name}{MANIFEST_SUFFIX}"
    )


def _get(url: str, path: str, credential: str) -> Any:
    return ask(url, "GET", path, credential)


def ask(url: str, method: str, path: str, credential: str, body: Any = None) -> Any:
    """Raises ClickException with one sentence."""
    from bursar.admin_client import said_by
    from bursar.local_http import call

    headers = {"authorization": f"Bearer {credential}"} if credential else {}
    try:
        answer = call(url, method, path, body=body, headers=headers, timeout_s=60.0)
    except OSError as error:
        raise click.ClickException(f"Bursar does not answer at {url} ({error}): is `bursar up` running?") from None
    if answer.status >= 300:
        raise click.ClickException(said_by(answer))
    return answer.json()


def _days(since: str | None, until: str | None, days: int) -> tuple[str, str]:
    """First and last day; empty: now. Raises ClickException."""
    first = _day(since, "--since") if since else f"{datetime.now().astimezone() - timedelta(days=days - 1):%Y-%m-%d}"
    last = _day(until, "--until") if until else ""
    if last and last < first:
        raise click.ClickException(f"--until {last} is before --since {first}.")
    return first, last


def _day(text: str, option: str) -> str:
    digits = text.replace("-", "")
    try:
        if not re.fullmatch(r"\d{8}|\d{4}-\d{2}-\d{2}", text):
            raise ValueError
        return f"{datetime.strptime(digits, '%Y%m%d'):%Y-%m-%d}"  # noqa: DTZ007 - a day, not a moment
    except ValueError:
        raise click.ClickException(f"{option} {text} is not a day, such as 20261101 or 2026-11-01.") from None


def _known_zone(name: str) -> tzinfo:
    """Raises ClickException."""
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise click.ClickException(f"This machine knows no time zone {name}; give another with --timezone.") from None


def local_zone() -> str:
    """This machine's zone by name; UTC where it has none."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if not named:
        path = os.path.realpath("/etc/localtime")
        named = path.partition("zoneinfo/")[2]
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(named)
    except (ValueError, OSError, KeyError):
        return "UTC"
    return named or "UTC"
