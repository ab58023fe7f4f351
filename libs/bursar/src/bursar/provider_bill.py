"""The provider's own bill: its cost report over the Admin API, or a file of it. Nano-dollars by day, model, credential.

Shape: https://platform.claude.com/docs/en/api/admin/cost_report (buckets of a day; ``amount`` is a decimal string in
cents; at most 31 buckets a page).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from bursar.local_http import call
from bursar.reconcile import ALL, NUSD_PER_CENT, Key, model_name

DEFAULT_URL: Final = "https://api.anthropic.com"
PATH: Final = "/v1/organizations/cost_report"
VERSION: Final = "2023-06-01"
BUCKETS: Final = 31
"""Days of one page: the most that is answered."""
MAX_PAGES: Final = 100
"""Pages of one report: far more than a year has; a page token that never ends is not followed for ever."""
MAX_CSV_BYTES: Final = 256 << 20
NUSD_PER_DOLLAR: Final = 1_000_000_000

_DAY = ("date", "day", "usage_date_utc", "usage_date")
_MODEL = ("model", "model_version")
_COST = ("cost_usd", "cost", "amount_usd")
_WORKSPACE = ("workspace_id", "workspace", "credential")


class BillUnreadable(Exception):
    """There is no bill to compare with; the message is one sentence."""


def fetch(url: str, key: str, first: date, last: date, credentials: Mapping[str, str]) -> dict[Key, int]:
    """Ask for ``[first, last]``, both included. ``credentials``: workspace id to credential; empty: all as one.

    Raises BillUnreadable; the key stands in no message."""
    query = [
        ("starting_at", f"{first.isoformat()}T00:00:00Z"),
        ("ending_at", f"{(last + timedelta(days=1)).isoformat()}T00:00:00Z"),
        ("bucket_width", "1d"),
        ("group_by[]", "description"),
        ("group_by[]", "workspace_id"),
        ("limit", str(BUCKETS)),
    ]
    found: dict[Key, int] = {}
    page = ""
    for _ in range(MAX_PAGES):
        answer = _ask(url, key, [*query, ("page", page)] if page else query)
        _take(answer, found, credentials)
        page = answer.get("next_page") or ""
        if not answer.get("has_more"):
            return found
        if not page:
            break
    raise BillUnreadable(f"The cost report at {url} has no end: it says there is more, and not where.")


def _ask(url: str, key: str, query: list[tuple[str, str]]) -> dict[str, Any]:
    headers = {"x-api-key": key, "anthropic-version": VERSION}
    try:
        answer = call(url, "GET", f"{PATH}?{urlencode(query)}", headers=headers, timeout_s=60.0)
    except OSError as error:
        raise BillUnreadable(f"{url} does not answer ({error}).") from None
    if answer.status in (401, 403):
        raise BillUnreadable(f"{url} refuses the admin key (status {answer.status}): it begins with sk-ant-admin.")
    if answer.status != 200:
        raise BillUnreadable(f"{url} answers the cost report with status {answer.status}.")
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("data"), list):
        raise BillUnreadable(f"{url} answers, but not with a cost report.")
    return found


def _take(answer: Mapping[str, Any], found: dict[Key, int], credentials: Mapping[str, str]) -> None:
    try:
        for bucket in answer["data"]:
            day = datetime.fromisoformat(bucket["starting_at"].replace("Z", "+00:00")).date().isoformat()
            for item in bucket["results"]:
                if item.get("currency", "USD") != "USD":
                    raise BillUnreadable(f"The cost report is in {item['currency']}, not in US dollars.")
                model = model_name(item.get("model") or "") or f"({item.get('cost_type') or 'other'})"
                key = (day, model, _credential(item.get("workspace_id") or "", credentials))
                found[key] = found.get(key, 0) + _nusd(item["amount"], NUSD_PER_CENT)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation):
        raise BillUnreadable("The cost report does not have the published shape.") from None


def read_csv(path: Path, first: date, last: date, credentials: Mapping[str, str]) -> dict[Key, int]:
    """A file with a header: a day, a model, a cost in dollars, maybe a workspace. Rows outside the days are left out.

    Raises BillUnreadable naming the line."""
    found: dict[Key, int] = {}
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise BillUnreadable(f"{path} is larger than {MAX_CSV_BYTES >> 20} MiB.")
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
            day_name, model_name_, cost_name = (_column(path, names, wanted) for wanted in (_DAY, _MODEL, _COST))
            workspace = next((names[name] for name in _WORKSPACE if name in names), None)
            for row in rows:
                try:
                    day = date.fromisoformat((row[day_name] or "")[:10])
                    amount = _nusd((row[cost_name] or "").lstrip("$"), NUSD_PER_DOLLAR)
                except (ValueError, InvalidOperation):
                    raise BillUnreadable(f"{path}, line {rows.line_num}: not a day and an amount.") from None
                if not first <= day <= last:
                    continue
                of = _credential((row[workspace] or "") if workspace is not None else "", credentials)
                key = (day.isoformat(), model_name(row[model_name_] or "") or "(other)", of)
                found[key] = found.get(key, 0) + amount
    except OSError as error:
        raise BillUnreadable(f"{path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error):
        raise BillUnreadable(f"{path} is not a CSV file in UTF-8.") from None
    return found


def _column(path: Path, names: Mapping[str, str], wanted: tuple[str, ...]) -> str:
    for name in wanted:
        if name in names:
            return names[name]
    raise BillUnreadable(f"{path} has no column {wanted[0]} (nor {', '.join(wanted[1:])}).")


def _credential(workspace: str, credentials: Mapping[str, str]) -> str:
    if not credentials:
        return ALL
    return credentials.get(workspace, f"workspace:{workspace or 'default'}")


def _nusd(amount: Any, unit: int) -> int:
    """Whole nano-dollars; half to even. Raises InvalidOperation, ValueError."""
    if isinstance(amount, bool | float) or amount is None:
        amount = str(amount)
    number = Decimal(amount)
    if not number.is_finite():
        raise ValueError
    return int((number * unit).to_integral_value())
