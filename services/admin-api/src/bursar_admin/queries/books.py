"""Questions about the books: what is booked in a month, and what it was made from. Pure builders of SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bursar_admin.queries.token_costs import Source
from bursar_common.events import CORRECTIONS_TOPIC, USAGE_TOPIC

_TOKENS: Final = (
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "web_searches",
)  # fmt: skip
_UNKNOWN: Final = ", ".join(f"if(charge_kind = 'correction', NULL, {name}) AS {name}" for name in _TOKENS)
CHARGES: Final = Source(
    f"(SELECT * REPLACE ({_UNKNOWN}, if(charge_kind = 'correction', 0, prompt_tokens) AS prompt_tokens),"
    " requests AS counted_requests FROM bursar.booked_charges)",
    prompt="prompt_tokens",
    first_at="first_at",
    charges="sum(charges)",
    requests="toInt64(sum(counted_requests))",
    estimated="sumIf(charges, estimated)",
)
"""Charges in the form in which requests are split by kind of token: what is taken back, or put right, is not a number
of tokens. A row may be many charges that are alike."""

Question = tuple[str, dict[str, Any]]


def metered(month: str, from_ms: int | None = None, to_ms: int | None = None) -> Question:
    """A condition: metered charges booked in a month, of requests made on the UTC days of ``[from_ms, to_ms)``."""
    parts, bound = ["billing = 'metered'", "booked_month = toDate({month:String})"], {"month": f"{month}-01"}
    if from_ms is not None:
        parts.append("day >= toDate(fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC'))")
    if to_ms is not None:
        parts.append("day < toDate(fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC'))")
    moments = {name: value for name, value in (("from_ms", from_ms), ("to_ms", to_ms)) if value is not None}
    return " AND ".join(parts), {**bound, **moments}


def totals(month: str) -> Question:
    """Sums of a month's metered rows by kind of charge."""
    sql = """SELECT charge_kind, sum(requests) AS requests, sum(billed_nusd) AS billed_nusd, sum(list_nusd) AS list_nusd
FROM bursar.booked_monthly
WHERE booked_month = toDate({month:String}) AND billing = 'metered'
GROUP BY charge_kind"""
    return sql, {"month": f"{month}-01"}


def checksum(month: str) -> Question:
    return (
        "SELECT rows, checksum FROM bursar.month_checksums WHERE booked_month = toDate({month:String})",
        {"month": f"{month}-01"},
    )


def price_books(month: str) -> Question:
    sql = """SELECT arraySort(groupUniqArray(price_book_id)) AS price_books FROM bursar.booked_charges
WHERE booked_month = toDate({month:String}) AND price_book_id != ''"""
    return sql, {"month": f"{month}-01"}


def behind(to_ms: int, bounds: Sequence[tuple[int, int]], corrections: int) -> Question:
    """How many rows of months before then stand behind these places (partition, next offset): they have just come."""
    sql = f"""SELECT
    (SELECT count() FROM bursar.usage_events
        WHERE started_at < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC') AND outcome != 'refused'
            AND log_offset >= transform(toUInt64(log_partition), {{partitions:Array(UInt64)}},
                {{offsets:Array(UInt64)}}, toUInt64(0)) AND log_topic = '{USAGE_TOPIC}')
    + (SELECT count() FROM bursar.corrections WHERE log_offset >= {{corrections:UInt64}}) AS behind"""
    return sql, {
        "to_ms": to_ms,
        "partitions": [partition for partition, _ in bounds],
        "offsets": [offset for _, offset in bounds],
        "corrections": corrections,
    }


def closed_months() -> Question:
    return "SELECT toString(month) AS month, version FROM bursar.closed_months FINAL", {}


def months_differing() -> Question:
    """Closed months whose requests did not come to the checksum of the close, and which are therefore not stored."""
    return (
        "SELECT formatDateTime(month, '%Y-%m') AS of_month FROM bursar.stored_closes WHERE differs ORDER BY month",
        {},
    )


def allocations_known() -> Question:
    return "SELECT allocation_id, version, deleted FROM bursar.allocations FINAL", {}


def first_month(before_ms: int) -> Question:
    """The first month before then with requests; empty where there are none."""
    sql = """SELECT if(count() = 0, '', formatDateTime(min(started_at), '%Y-%m', 'UTC')) AS month
FROM bursar.usage_events
WHERE started_at < fromUnixTimestamp64Milli({before_ms:Int64}, 'UTC') AND outcome != 'refused'
    AND provider != 'simulator'"""
    return sql, {"before_ms": before_ms}


_LINE: Final = ", ".join(
    f"toString({name})"
    for name in (
        "belongs_to_month", "customer_id", "team_id", "project", "cost_center", "provider", "billing", "model",
        "charge_kind", "allocation_id", "requests", *_TOKENS, "list_nusd", "billed_nusd",
    )
)  # fmt: skip


def summed(month: str) -> Question:
    """What an export of the month has to come to, and the month's checksum (as ``bursar.month_checksums``): most of
    what a question over these views costs is their planning, so both are one."""
    lines = f"arraySort(groupArray(arrayStringConcat([{_LINE}], '\\t')))"
    sql = f"""SELECT if(count() = 0, '', lower(hex(SHA256(
        arrayStringConcat(arrayMap(each -> concat(each, '\\n'), {lines})))))) AS checksum,
    toString(sumIf(toInt128(b.billed_nusd), b.billing = 'metered')) AS billed,
    toString(sumIf(toInt128(b.list_nusd), b.billing = 'metered')) AS listed,
    toString(sumIf(toInt128(b.billed_nusd), b.billing = 'metered' AND b.charge_kind IN ('fee', 'commitment')))
        AS allocated,
    sumIf(b.requests, b.billing = 'metered') AS all_requests
FROM bursar.booked_monthly AS b
WHERE b.booked_month = toDate({{month:String}})"""
    return sql, {"month": f"{month}-01"}


def positions(month: str) -> Question:
    """Of an open month: the first offset behind its charges, for each partition of the log, and their price books."""
    sql = """SELECT log_topic AS topic, log_partition AS partition, max(log_offset) + 1 AS next_offset,
    groupUniqArrayIf(price_book_id, price_book_id != '') AS price_books
FROM bursar.open_charges WHERE booked_month = toDate({month:String})
GROUP BY topic, partition ORDER BY topic, partition"""
    return sql, {"month": f"{month}-01"}


MAX_LINES: Final = 5_000
"""Lines of one team's statement: projects x models x kinds of charge."""


def statement(team_id: str, month: str) -> Question:
    """Everything booked on a team in a month, in an order that is the same each time; one line more than are shown."""
    sums = ", ".join(f"sum(b.{name}) AS {name}" for name in ("requests", *_TOKENS, "list_nusd", "billed_nusd"))
    names = ("project", "cost_center", "provider", "billing", "model", "charge_kind", "allocation")
    group = ", ".join(f"b.{name}" for name in names)
    sql = f"""SELECT formatDateTime(b.belongs_to_month, '%Y-%m') AS of_month,
    {", ".join(f"b.{name} AS {name}" for name in names)}, {sums},
    argMax(b.customer_id, (b.team != '', b.customer_id)) AS customer_id,
    argMax(b.team, (b.team != '', b.customer_id)) AS team, argMax(b.customer, (b.team != '', b.customer_id)) AS customer
FROM bursar.booked_monthly AS b
WHERE b.booked_month = toDate({{month:String}}) AND b.team_id = {{team:String}}
GROUP BY b.belongs_to_month, {group}
ORDER BY b.charge_kind = 'usage' DESC, b.charge_kind, b.belongs_to_month, {group}
LIMIT {MAX_LINES + 1}"""
    return sql, {"month": f"{month}-01", "team": team_id}


def provider_bill(from_ms: int, to_ms: int) -> Question:
    """What went to the provider on our account, by UTC day, credential and model, with the figures that a difference
    may come from. Requests of local logs stand beside: they did not pass the gateway."""
    over = "toDate(addMilliseconds(started_at, ifNull(latency_ms, 0))) > toDate(started_at)"
    guess = "outcome != 'expired' AND NOT (outcome = 'completed' AND output_tokens IS NOT NULL)"
    sums = {
        "billed_nusd": "billing = 'metered'",
        "estimated_nusd": f"billing = 'metered' AND estimated AND {guess}",
        "expired_nusd": "billing = 'metered' AND outcome = 'expired'",
        "unpriced_nusd": "billing = 'metered' AND estimated AND outcome = 'completed' AND output_tokens IS NOT NULL",
        "edge_nusd": f"billing = 'metered' AND {over}",
    }
    listed = ", ".join(f"sumIf(cost_nusd, {condition}) AS {name}" for name, condition in sums.items())
    sql = f"""SELECT toString(toDate(started_at)) AS day, provider, provider_credential, model,
    countIf(billing = 'metered') AS requests, {listed}, sumIf(list_cost_nusd, billing = 'metered') AS list_nusd,
    sumIf(list_cost_nusd, billing = 'imported') AS imported_list_nusd
FROM bursar.usage
WHERE started_at >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC')
    AND started_at < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC')
    AND provider != 'simulator' AND outcome NOT IN ('refused', 'not_sent') AND billing IN ('metered', 'imported')
GROUP BY day, provider, provider_credential, model
ORDER BY day, provider, provider_credential, model"""
    return sql, {"from_ms": from_ms, "to_ms": to_ms}


assert CORRECTIONS_TOPIC == "bursar.corrections.v1"  # as the schema names it
