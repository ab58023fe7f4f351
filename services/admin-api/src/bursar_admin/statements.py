"""A team's statement of a month: what it is charged, line by line, and what that was made from. Pure."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from typing_extensions import TypedDict

from bursar_admin.month_books import Provenance
from bursar_admin.quota import usd
from bursar_admin.spreadsheet import cell
from bursar_common.clock import rfc3339

KINDS: Final = {
    "usage": "Usage",
    "expired_hold": "Expired holds (guesses)",
    "correction": "Corrections",
    "split": "Shared keys",
    "fee": "Fees",
    "commitment": "Commitments",
}
"""Kinds of charge in the order of a statement."""
COUNTS: Final = (
    "requests", "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "web_searches",
)  # fmt: skip


class Line(TypedDict):
    charge_kind: str
    belongs_to_month: str
    project: str
    cost_center: str
    provider: str
    billing: str
    model: str
    allocation: str
    requests: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    thinking_tokens: int
    web_searches: int
    list_nusd: int
    list_usd: str | None
    billed_nusd: int
    billed_usd: str | None


class Subtotal(TypedDict):
    charge_kind: str
    lines: int
    requests: int
    list_nusd: int
    list_usd: str | None
    billed_nusd: int
    billed_usd: str | None


class Owner(TypedDict):
    id: str
    name: str


class Statement(TypedDict):
    team: Owner
    customer: Owner | None
    month: str
    state: str
    currency: str
    billed_nusd: int
    billed_usd: str | None
    list_nusd: int
    list_usd: str | None
    not_on_our_bill_list_nusd: int
    not_on_our_bill_list_usd: str | None
    by_kind: list[Subtotal]
    lines: list[Line]
    statement_sha256: str
    made_from: dict[str, Any]


def line_of(row: Mapping[str, Any]) -> Line:
    line: Any = {
        "charge_kind": row["charge_kind"],
        "belongs_to_month": row["of_month"],
        **{name: row[name] for name in ("project", "cost_center", "provider", "billing", "model", "allocation")},
        **{name: int(row[name]) for name in COUNTS},
        "list_nusd": int(row["list_nusd"]),
        "list_usd": usd(int(row["list_nusd"])),
        "billed_nusd": int(row["billed_nusd"]),
        "billed_usd": usd(int(row["billed_nusd"])),
    }
    found: Line = line
    return found


def subtotals(lines: Sequence[Line]) -> list[Subtotal]:
    """By kind of charge, in the order of KINDS; only kinds that occur. What is on our bill, and nothing else."""
    found: list[Subtotal] = []
    for kind in KINDS:
        of_kind = [line for line in lines if line["charge_kind"] == kind and line["billing"] == "metered"]
        if not of_kind:
            continue
        listed, billed = sum(line["list_nusd"] for line in of_kind), sum(line["billed_nusd"] for line in of_kind)
        found.append(
            {
                "charge_kind": kind,
                "lines": len(of_kind),
                "requests": sum(line["requests"] for line in of_kind),
                "list_nusd": listed,
                "list_usd": usd(listed),
                "billed_nusd": billed,
                "billed_usd": usd(billed),
            }
        )
    return found


def statement_of(
    team: Owner, customer: Owner | None, made_from: Provenance, rows: Iterable[Mapping[str, Any]]
) -> Statement:
    """The same rows and the same close make the same statement, to the byte. List cost of what is not on our bill
    (subscriptions, imports) is shown apart and charged to nobody."""
    lines = [line_of(row) for row in rows]
    kinds = subtotals(lines)
    billed = sum(each["billed_nusd"] for each in kinds)
    listed = sum(each["list_nusd"] for each in kinds)
    apart = sum(line["list_nusd"] for line in lines if line["billing"] != "metered")
    provenance = made_from.as_json()
    closed_at_s = provenance.pop("closed_at_s")
    provenance["closed_at"] = rfc3339(closed_at_s * 1000) if closed_at_s is not None else None
    return {
        "team": team,
        "customer": customer,
        "month": made_from.month,
        "state": provenance["state"],
        "currency": "USD",
        "billed_nusd": billed,
        "billed_usd": usd(billed),
        "list_nusd": listed,
        "list_usd": usd(listed),
        "not_on_our_bill_list_nusd": apart,
        "not_on_our_bill_list_usd": usd(apart),
        "by_kind": kinds,
        "lines": lines,
        "statement_sha256": hashlib.sha256(msgspec.json.encode([team["id"], made_from.month, lines])).hexdigest(),
        "made_from": provenance,
    }


def as_csv(statement: Statement) -> str:
    """A row a line. What the statement was made from stands on every row, so that no row can be parted from it."""
    made_from = statement["made_from"]
    places = " ".join(f"{at['topic']}/{at['partition']}:{at['next_offset']}" for at in made_from["log_positions"])
    same = {
        "team_id": statement["team"]["id"],
        "team": statement["team"]["name"],
        "booked_month": statement["month"],
        "state": statement["state"],
    }
    end = {
        "month_checksum": made_from["checksum"],
        "statement_sha256": statement["statement_sha256"],
        "price_books": " ".join(made_from["price_books"]),
        "log_positions": places,
    }
    names = [*same, *Line.__annotations__, *end]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\r\n")
    writer.writeheader()
    for line in statement["lines"]:
        writer.writerow({name: cell(value) for name, value in {**same, **line, **end}.items()})
    return out.getvalue()
