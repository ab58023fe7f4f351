"""Commands for finance: ``close``, ``reconcile``."""

from __future__ import annotations

import json
import os
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from bursar.cli_client import home_option, url_option
from bursar.cli_money import ask, token_option
from bursar.here import NotKnown, find_admin_token, find_url
from bursar.home import Home

ADMIN_KEY_NAMES = ("ANTHROPIC_ADMIN_KEY", "ANTHROPIC_ADMIN_API_KEY")
"""Not a BURSAR_ name: the services refuse to start with one that they do not know."""
MAX_DAYS = 366


@click.command()
@click.argument("month", required=False)
@home_option
@url_option
@token_option
@click.option("--check", is_flag=True, help="Of a closed month: whether its rows still have their checksum.")
@click.option("--json", "as_json", is_flag=True, help="The answer as JSON.")
def close(month: str | None, home: str, url: str | None, token: str | None, check: bool, as_json: bool) -> None:
    """Close a UTC month: what arrives later is booked in the next. Without MONTH: the months that are closed.

    There is no way back. A closed month's statements and exports stay the same, to the byte.

    \b
    bursar close 2026-11            close it
    bursar close 2026-11 --check    compare it with its checksum; exit 1 where it differs
    bursar close                    list
    """
    where = Home.at(home)
    address, credential = find_url(where, url), find_admin_token(where, token, os.environ)
    path = "/api/finance/closes"
    if month is None:
        answer = ask(address, "GET", path, credential)
        closes = answer["closes"]
        text = "\n".join(_line(each) for each in closes) or "No month is closed."
        text += f"\n{answer['notice']}" if answer.get("notice") else ""
    elif check:
        answer = ask(address, "GET", f"{path}/{month}", credential)
        text = _line(answer["close"]) + ("\nThe checksum holds." if answer["verified"] else "\nTHE CHECKSUM DIFFERS.")
    else:
        answer = ask(address, "POST", path, credential, {"month": month})
        text = f"{answer['message']}\n{_line(answer['close'])}"
    click.echo(json.dumps(answer, indent=2) if as_json else text)
    if check and month is not None and not answer["verified"]:
        sys.exit(1)


def _line(each: dict[str, Any]) -> str:
    beside = f" + ${each['allocated_usd']} fees and commitments" if each["allocated_nusd"] else ""
    return (
        f"{each['month']}  ${each['billed_usd']} billed, {each['requests']} requests{beside}  "
        f"closed {each['closed_at']} by {each['closed_by']}  sha256 {each['checksum'] or '(nothing booked)'}"
    )


@click.command()
@home_option
@url_option
@token_option
@click.option("--month", help="UTC month, such as 2026-11; or --since and --until.")
@click.option("--since", help="First UTC day, YYYY-MM-DD.")
@click.option("--until", help="Last UTC day, YYYY-MM-DD.")
@click.option("--csv", "path", type=click.Path(path_type=Path), help="The provider's report as a file, not its API.")
@click.option("--provider-url", help="Address of the Admin API; default: the provider's own.")
@click.option(
    "--workspace",
    multiple=True,
    metavar="ID=CREDENTIAL",
    help="Whose traffic a workspace of theirs is, such as wrkspc_01=env:ANTHROPIC_API_KEY; compares by credential.",
)
@click.option("--tolerance", type=float, default=0.01, show_default=True, help="Dollars a row may differ by.")
@click.option("--json", "as_json", is_flag=True, help="Every row with the figures that the reason is judged by.")
def reconcile(
    home: str,
    url: str | None,
    token: str | None,
    month: str | None,
    since: str | None,
    until: str | None,
    path: Path | None,
    provider_url: str | None,
    workspace: tuple[str, ...],
    tolerance: float,
    as_json: bool,
) -> None:
    """Lay our bill beside the provider's own: per day, model and credential, with the likely reason of a difference.

    The provider's cost report is asked with an admin key from ANTHROPIC_ADMIN_KEY, or
    read from a CSV file with a day, a model and a cost in dollars. Exit code 0: no row differs by more than the
    tolerance; 1: some do; 2: there is nothing to compare.
    """
    from bursar import reconcile as rules
    from bursar.provider_bill import DEFAULT_URL, BillUnreadable, fetch, read_csv

    try:
        first, last = _days(month, since, until)
        credentials = dict(_pair(each) for each in workspace)
        if not 0 <= tolerance <= 1_000_000:
            raise BillUnreadable("--tolerance is an amount of dollars from 0 to 1000000.")
        if path is not None:
            theirs = read_csv(path, first, last, credentials)
        else:
            key = next((os.environ[name] for name in ADMIN_KEY_NAMES if os.environ.get(name)), "")
            if not key:
                how = f"set {ADMIN_KEY_NAMES[0]} (the provider's console makes one), or give a file by --csv"
                raise BillUnreadable(f"No admin key: {how}.")
            theirs = fetch((provider_url or DEFAULT_URL).rstrip("/"), key, first, last, credentials)
        where = Home.at(home)
        query = urlencode({"from": first.isoformat(), "to": last.isoformat()})
        answer = ask(
            find_url(where, url),
            "GET",
            f"/api/finance/provider-bill?{query}",
            find_admin_token(where, token, os.environ),
        )
    except (BillUnreadable, NotKnown) as refusal:
        click.echo(f"Error: {refusal}", err=True)
        sys.exit(2)
    except click.ClickException as refusal:
        click.echo(f"Error: {refusal.message}", err=True)
        sys.exit(2)
    ours = rules.our_rows(answer["rows"], by_credential=bool(credentials))
    result = rules.reconcile(ours, theirs, round(tolerance * 1_000_000_000))
    click.echo(json.dumps(rules.as_json(result), indent=2) if as_json else rules.table(result))
    sys.exit(0 if result.agrees else 1)


def _pair(text: str) -> tuple[str, str]:
    from bursar.provider_bill import BillUnreadable

    workspace, equals, credential = text.partition("=")
    if not equals or not workspace or not credential:
        raise BillUnreadable(f"--workspace {text} is not ID=CREDENTIAL, such as wrkspc_01=env:ANTHROPIC_API_KEY.")
    return workspace, credential


def _days(month: str | None, since: str | None, until: str | None) -> tuple[date, date]:
    """First and last day. Raises BillUnreadable."""
    from bursar.provider_bill import BillUnreadable

    try:
        if month:
            if since or until:
                raise BillUnreadable("Give --month, or --since and --until, not both.")
            if len(month) != 7:
                raise ValueError
            first = date.fromisoformat(f"{month}-01")
            last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
        else:
            if not since:
                raise BillUnreadable("Which days? Give --month 2026-11, or --since and --until.")
            first = date.fromisoformat(since)
            last = date.fromisoformat(until) if until else first
    except ValueError:
        raise BillUnreadable("That is not a month such as 2026-11, or a day such as 2026-11-01.") from None
    if last < first:
        raise BillUnreadable(f"--until {last} is before --since {first}.")
    if (last - first).days >= MAX_DAYS:
        raise BillUnreadable(f"At most {MAX_DAYS} days at once.")
    return first, last
