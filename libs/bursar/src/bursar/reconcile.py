"""Our bill laid beside the provider's: per day, model and credential what differs, and the likely reason. Pure.

A difference is theirs less ours. Every reason is a rule over figures that stand in the same row, tried in the order of
:data:`RULES`; the first that explains the whole difference is named. What no rule explains says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

NUSD_PER_CENT: Final = 10_000_000
ALL: Final = "all"
"""The credential where the provider's report does not say which."""
_DATED = re.compile(r"-20\d{6}$")
DISCOUNT_SLACK: Final = 0.005
"""Part of the list cost by which a discount may be off: reports are rounded by line."""
LEAST_SHARE: Final = 0.5
"""Of the list cost: a bill below half of it is no discount that nobody here was told of."""

Key = tuple[str, str, str]
"""Day (UTC), model, credential."""


@dataclass(frozen=True)
class Ours:
    """What Bursar has on record. Money in nano-dollars."""

    requests: int = 0
    billed_nusd: int = 0
    list_nusd: int = 0
    estimated_nusd: int = 0
    """Part of billed: estimates that are not expired holds."""
    expired_nusd: int = 0
    """Part of billed: expired holds."""
    unpriced_nusd: int = 0
    """Part of billed: charged the bound, because the model that served has no price."""
    edge_nusd: int = 0
    """Part of billed: requests that began on this day and ended on the next."""
    imported_list_nusd: int = 0
    """Not part of billed: list cost of requests brought in from local logs, which did not pass the gateway."""

    def __add__(self, other: Ours) -> Ours:
        return Ours(*(getattr(self, name) + getattr(other, name) for name in Ours.__dataclass_fields__))


@dataclass(frozen=True)
class Row:
    day: str
    model: str
    credential: str
    ours: Ours
    theirs_nusd: int
    edge_before_nusd: int = 0
    """What ended on this day and began on the one before."""
    shares: tuple[float, ...] = ()
    """Parts of the list cost that are paid somewhere in this report, see :func:`shares_seen`."""

    @property
    def difference_nusd(self) -> int:
        return self.theirs_nusd - self.ours.billed_nusd


@dataclass(frozen=True)
class Finding:
    row: Row
    within: bool
    """The difference is not larger than the tolerance."""
    reason: str
    """A name of RULES, ``agrees`` or ``unexplained``."""
    says: str


@dataclass(frozen=True)
class Reconciliation:
    findings: tuple[Finding, ...]
    tolerance_nusd: int
    totals: Mapping[str, int] = field(default_factory=dict)
    shares: tuple[float, ...] = ()

    @property
    def agrees(self) -> bool:
        return all(finding.within for finding in self.findings)


def model_name(model: str) -> str:
    """Reports name models with or without their date."""
    return _DATED.sub("", model)


def _between(difference: int, lowest: int, highest: int, slack: int) -> bool:
    return lowest - slack <= difference <= highest + slack


def _outside(row: Row, _slack: int) -> bool:
    return row.ours.requests == 0 and row.theirs_nusd > 0


def _imported(row: Row, slack: int) -> bool:
    return row.ours.imported_list_nusd > 0 and _between(row.difference_nusd, 0, row.ours.imported_list_nusd, slack)


def _not_reported(row: Row, _slack: int) -> bool:
    return row.theirs_nusd == 0 and row.ours.billed_nusd > 0


def _edge(row: Row, slack: int) -> bool:
    return (row.ours.edge_nusd > 0 or row.edge_before_nusd > 0) and _between(
        row.difference_nusd, -row.ours.edge_nusd, row.edge_before_nusd, slack
    )


def _estimated(row: Row, slack: int) -> bool:
    guessed = row.ours.estimated_nusd + row.ours.expired_nusd
    return guessed > 0 and _between(row.difference_nusd, -guessed, guessed, slack)


def _unpriced(row: Row, slack: int) -> bool:
    unpriced = row.ours.unpriced_nusd
    return unpriced > 0 and _between(row.difference_nusd, -unpriced, unpriced, slack)


def _discount(row: Row, slack: int) -> bool:
    list_nusd = row.ours.list_nusd
    if list_nusd <= 0:
        return False
    at_list = abs(row.theirs_nusd - list_nusd) <= slack + int(list_nusd * DISCOUNT_SLACK)
    if at_list:
        return row.ours.billed_nusd < list_nusd
    return any(_is_share(row.theirs_nusd, list_nusd, share, slack) for share in row.shares)


def _is_share(nusd: int, list_nusd: int, share: float, slack: int) -> bool:
    return abs(nusd - list_nusd * share) <= slack + list_nusd * DISCOUNT_SLACK


def shares_seen(rows: Iterable[Row], tolerance_nusd: int) -> tuple[float, ...]:
    """Discounts that there is evidence of, as parts of the list cost that are paid: those that our own rows have, and
    those that two rows of theirs have in common. One smaller figure alone is no discount."""
    own, theirs = set(), []
    for row in rows:
        ours, listed = row.ours, row.ours.list_nusd
        if listed <= 0:
            continue
        if 0 < ours.billed_nusd < listed and not (ours.estimated_nusd or ours.expired_nusd or ours.unpriced_nusd):
            own.add(round(ours.billed_nusd / listed, 3))
        if abs(row.difference_nusd) > tolerance_nusd and LEAST_SHARE <= row.theirs_nusd / listed < 1 - DISCOUNT_SLACK:
            theirs.append(row.theirs_nusd / listed)
    theirs.sort()
    for share, above in pairwise(theirs):
        if above - share <= DISCOUNT_SLACK:
            own |= {round(share, 3), round(above, 3)}
    return tuple(sorted(own))


def _more_outside(row: Row, _slack: int) -> bool:
    return row.difference_nusd > 0


Rule = Callable[[Row, int], bool]
RULES: Final[tuple[tuple[str, Rule, str], ...]] = (
    ("imported", _imported, "requests from local logs (imported) did not pass the gateway and are billed by them"),
    ("outside", _outside, "nothing of this passed the gateway: traffic outside it, or another account"),
    ("unpriced", _unpriced, "the model had no price here and was charged the bound: add a price override"),
    ("estimated", _estimated, "estimates and expired holds of that day: the true figure never arrived"),
    ("edge", _edge, "requests over midnight UTC: here the day they began counts, there the day they ended"),
    ("not_reported", _not_reported, "they report nothing: the report may lag, or be of another account"),
    ("discount", _discount, "their discount is not ours, or one is at list price: check discount_percent"),
    ("more_outside", _more_outside, "they bill more than passed the gateway: part of the traffic goes around it"),
)
"""Name, rule, sentence."""


def judge(row: Row, tolerance_nusd: int) -> Finding:
    if abs(row.difference_nusd) <= tolerance_nusd:
        return Finding(row, True, "agrees", "")
    for name, rule, says in RULES:
        if rule(row, tolerance_nusd):
            return Finding(row, False, name, says)
    return Finding(row, False, "unexplained", "no rule explains it: compare requests by upstream_request_id")


def reconcile(ours: Mapping[Key, Ours], theirs: Mapping[Key, int], tolerance_nusd: int) -> Reconciliation:
    """A row for every day, model and credential either side has, in order."""
    before = {key: record.edge_nusd for key, record in ours.items()}
    rows = []
    for key in sorted({*ours, *theirs}):
        record, billed = ours.get(key, Ours()), theirs.get(key, 0)
        if record == Ours() and billed == 0:
            continue
        rows.append(Row(*key, record, billed, before.get((_day_before(key[0]), *key[1:]), 0)))
    shares = shares_seen(rows, tolerance_nusd)
    findings = [judge(replace(row, shares=shares), tolerance_nusd) for row in rows]
    ours_nusd, theirs_nusd = sum(row.ours.billed_nusd for row in rows), sum(row.theirs_nusd for row in rows)
    return Reconciliation(
        tuple(findings),
        tolerance_nusd,
        {"ours_nusd": ours_nusd, "theirs_nusd": theirs_nusd, "difference_nusd": theirs_nusd - ours_nusd},
        shares,
    )


def _day_before(day: str) -> str:
    from datetime import date, timedelta

    return (date.fromisoformat(day) - timedelta(days=1)).isoformat()


def our_rows(answer: Iterable[Mapping[str, object]], *, by_credential: bool) -> dict[Key, Ours]:
    """From the rows of ``/api/finance/provider-bill``."""
    found: dict[Key, Ours] = {}
    for row in answer:
        credential = str(row["provider_credential"]) if by_credential else ALL
        key = (str(row["day"]), model_name(str(row["model"])), credential)
        record = Ours(**{name: int(str(row[name])) for name in Ours.__dataclass_fields__})
        found[key] = found.get(key, Ours()) + record
    return found


def dollars(nusd: int) -> str:
    """``-$1,234.5678``: four decimals, exact ones are in the JSON."""
    sign = "-" if nusd < 0 else ""
    return f"{sign}${abs(nusd) / 1_000_000_000:,.4f}"


def table(result: Reconciliation) -> str:
    """For a terminal: all that differs, and the sums."""
    heads = ("Day", "Model", "Credential", "Ours", "Theirs", "Difference", "Likely reason")
    lines = [
        (
            finding.row.day, finding.row.model or "(no model)", finding.row.credential,
            dollars(finding.row.ours.billed_nusd), dollars(finding.row.theirs_nusd),
            dollars(finding.row.difference_nusd), f"{finding.reason}: {finding.says}",
        )
        for finding in result.findings
        if not finding.within
    ]  # fmt: skip
    totals = result.totals
    total = (
        "Total", "", "", dollars(totals["ours_nusd"]), dollars(totals["theirs_nusd"]),
        dollars(totals["difference_nusd"]), f"{len(result.findings)} rows, {len(lines)} differ",
    )  # fmt: skip
    widths = [max(len(line[at]) for line in (heads, *lines, total)) for at in range(len(heads) - 1)]

    def shown(line: tuple[str, ...]) -> str:
        cells = [
            cell.rjust(width) if at in (3, 4, 5) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line[:-1], widths, strict=True))
        ]
        return "  ".join([*cells, line[-1]]).rstrip()

    return "\n".join(shown(line) for line in (heads, *lines, total))


def as_json(result: Reconciliation) -> dict[str, object]:
    return {
        "agrees": result.agrees,
        "tolerance_nusd": result.tolerance_nusd,
        **result.totals,
        "discount_percents_seen": [round(100 - 100 * share, 1) for share in result.shares],
        "rules": {name: says for name, _, says in RULES},
        "rows": [
            {
                "day": finding.row.day,
                "model": finding.row.model,
                "credential": finding.row.credential,
                "ours_nusd": finding.row.ours.billed_nusd,
                "theirs_nusd": finding.row.theirs_nusd,
                "difference_nusd": finding.row.difference_nusd,
                "within_tolerance": finding.within,
                "reason": finding.reason,
                "says": finding.says,
                "figures": {
                    **{name: getattr(finding.row.ours, name) for name in Ours.__dataclass_fields__},
                    "edge_before_nusd": finding.row.edge_before_nusd,
                },
            }
            for finding in result.findings
        ],
    }
