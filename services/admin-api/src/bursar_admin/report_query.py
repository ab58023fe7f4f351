"""Parameters of the organization reports: strict, and pages that only continue their own question. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from multidict import MultiMapping

from bursar_admin.errors import Problem, bad_field, invalid
from bursar_admin.queries.organizations import WIDTHS_S, Buckets

LIMITS: Final = {"1m": (60, 1440), "1h": (24, 168), "1d": (7, 31)}
"""Buckets of one page: default and most, as the provider's."""
MAX_VALUES: Final = 100
MAX_VALUE_CHARS: Final = 200
EARLIEST_S: Final = 1_577_836_800
"""2020-01-01: before there was anything to report."""
LATEST_S: Final = 4_102_444_800
"""2100-01-01."""


@dataclass(frozen=True)
class ReportQuery:
    buckets: Buckets
    more_from_s: int | None
    """Start of the first bucket of the next page; None: this is the last."""
    group_by: tuple[str, ...]
    filters: Mapping[str, tuple[str, ...]]
    digest: str
    """Of everything but the page: a page token carries it."""

    @property
    def next_page(self) -> str | None:
        return None if self.more_from_s is None else page_token(self.more_from_s, self.digest)


def page_token(at: int, digest: str) -> str:
    text = json.dumps([at, digest], separators=(",", ":"))
    return "page_" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_page(text: str, digest: str) -> int:
    """What :func:`page_token` was given. Raises Refusal (400) for anything but a token of the same question."""
    try:
        padded = text.removeprefix("page_") + "=" * (-len(text.removeprefix("page_")) % 4)
        at, said = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        at, said = None, None
    if (
        not text.startswith("page_")
        or len(text) > 200
        or type(at) is not int
        or said != digest
        or not 0 <= at < LATEST_S
    ):
        raise bad_field("page", "does not continue this question", text, "next_page of the answer before")
    return at


def read_report(
    query: MultiMapping[str],
    *,
    now_s: int,
    widths: tuple[str, ...],
    groups: tuple[str, ...],
    filters: Mapping[str, str],
) -> ReportQuery:
    """``filters``: parameter name -> dimension. Lists may be spelled with or without ``[]``. Raises Refusal (400)."""
    lists = {"group_by", *filters}
    single = {"starting_at", "ending_at", "bucket_width", "limit", "page"}
    values: dict[str, list[str]] = {}
    for name, value in query.items():
        plain = name.removesuffix("[]")
        if plain not in lists | single or (plain in single and name != plain):
            raise invalid(Problem("is not a query parameter here", name[:100], None, sorted(single | lists)))
        values.setdefault(plain, []).append(value)
    for name, given in values.items():
        if name in single and len(given) > 1:
            raise bad_field(name, "is given more than once", None, "each once")
        if len(given) > MAX_VALUES or any(len(value) > MAX_VALUE_CHARS for value in given):
            raise bad_field(name, "is too long", None, f"{MAX_VALUES} values of {MAX_VALUE_CHARS} characters")
    one = {name: given[0] for name, given in values.items() if name in single}

    width = one.get("bucket_width", "1d")
    if width not in widths:
        raise bad_field("bucket_width", "is not a width of this report", width, list(widths))
    grouped = tuple(dict.fromkeys(values.get("group_by", [])))
    for name in grouped:
        if name not in groups:
            raise bad_field("group_by", "cannot be grouped by here", name, list(groups))
    default, most = LIMITS[width]
    limit_text = one.get("limit", str(default))
    if not (limit_text.isascii() and limit_text.isdigit() and len(limit_text) <= 5 and 1 <= int(limit_text) <= most):
        raise bad_field("limit", "must be a number of buckets", limit_text, f"1 to {most}")
    if "starting_at" not in one:
        raise bad_field("starting_at", "is needed", None, "a moment (RFC 3339), such as 2026-11-01T00:00:00Z")
    step = WIDTHS_S[width]
    start_s = moment_s("starting_at", one["starting_at"]) // step * step
    end_s = moment_s("ending_at", one["ending_at"]) if "ending_at" in one else (now_s // step + 1) * step
    if "ending_at" in one and end_s <= start_s:
        raise bad_field("ending_at", "is not after starting_at", one["ending_at"], "a later moment than starting_at")
    end_s = max(start_s, min(-(-end_s // step) * step, (now_s // step + 1) * step))

    chosen = {name: tuple(values.get(name, ())) for name in filters}
    digest = hashlib.sha256(
        json.dumps([width, start_s, grouped, sorted(chosen.items())], default=list).encode()
    ).hexdigest()[:16]
    first_s = read_page(one["page"], digest) if "page" in one else start_s
    if first_s < start_s or first_s % step or first_s > end_s:
        raise bad_field("page", "does not continue this question", one["page"], "next_page of the answer before")
    count = min(int(limit_text), (end_s - first_s) // step)
    buckets = Buckets(width, first_s, count)
    return ReportQuery(
        buckets=buckets,
        more_from_s=buckets.end_s if buckets.end_s < end_s else None,
        group_by=grouped,
        filters={filters[name]: given for name, given in chosen.items() if given},
        digest=digest,
    )


def moment_s(name: str, text: str) -> int:
    """Unix seconds of an RFC 3339 moment or a day (UTC). Raises Refusal (400)."""
    try:
        moment = datetime.fromisoformat(text) if len(text) <= 40 else None
    except ValueError:
        moment = None
    if moment is not None:
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        found_s = int(moment.timestamp())
        if EARLIEST_S <= found_s <= LATEST_S:
            return found_s
    raise bad_field(name, "is not a moment", text, "RFC 3339, such as 2026-11-01T00:00:00Z")
