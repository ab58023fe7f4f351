"""A quota as people read it: a table, a status line, the end of a session. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, time, tzinfo
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

Quota = Mapping[str, Any]

NEAR_END = 0.1
"""Share of a budget below which what is left is worth a hint."""
LONG_PROMPTS_TOKENS = 100_000
"""Cache writes below this many tokens are not worth a hint: some cents."""
SHORT_ANSWER_TOKENS = 300
"""Output tokens a request, on average, below which the dearest family is worth a question."""
FEW_REQUESTS = 5
"""Fewer say nothing about a habit."""


def dollars(nusd: int | None) -> str:
    """``$1,234.56``; below a cent two leading digits; unknown stays unknown, never zero."""
    if nusd is None:
        return "unknown"
    sign, size = ("-", -nusd) if nusd < 0 else ("", nusd)
    amount = Decimal(size).scaleb(-9)
    if size == 0 or size >= 10_000_000:
        return f"{sign}${amount.quantize(Decimal('0.01'), ROUND_HALF_EVEN):,f}"
    return f"{sign}${Context(prec=2, rounding=ROUND_HALF_EVEN).plus(amount).normalize():f}"


def moment(text: str | None, now: datetime, zone: tzinfo | None = None) -> str:
    """A time of the API in the reader's zone, as short as it is clear: ``18:00``, ``Tue 18:00``, ``Dec 1``. Midnight
    tonight is ``00:00``: it is today that ends."""
    if not text:
        return "-"
    at = datetime.fromisoformat(text).astimezone(zone)
    here = now.astimezone(zone)
    days = (at.date() - here.date()).days
    if days == 0 or (days == 1 and at.time() == time()):
        return f"{at:%H:%M}"
    if 0 < days < 7:
        return f"{at:%a %H:%M}"
    return f"{at:%b} {at.day}" if at.year == here.year else f"{at:%Y-%m-%d}"


def tightest(quota: Quota) -> Mapping[str, Any] | None:
    """The budget that ends first: the least left of those that refuse. None: no such budget, or nothing is known."""
    binding = [b for b in quota["budgets"] if b["enforcement"] != "observe" and b["left_nusd"] is not None]
    return min(binding, key=lambda budget: budget["left_nusd"], default=None)


def owner_text(limit: Mapping[str, Any]) -> str:
    kinds = {"virtual_key": "key", "provider_config": "provider"}
    return f"{kinds.get(limit['owner']['kind'], limit['owner']['kind'])} {limit['owner']['name']}"


def table(quota: Quota, now: datetime, zone: tzinfo | None = None) -> str:
    """The whole quota, a line a limit."""
    key = quota["virtual_key"]
    above = ", ".join(f"{kind} {key[kind]}" for kind in ("team", "customer") if key[kind])
    lines = [f"{key['name']}{f' ({above})' if above else ''}"]
    usage = quota.get("usage")
    if usage is not None:
        lines.append(f"since {moment(usage['since'], now, zone)}: {spent_text(usage)}")
    rows = [("LIMIT", "WINDOW", "SPENT", "HELD", "LEFT", "OF", "RESETS")]
    for budget in quota["budgets"]:
        name = owner_text(budget) + (" (observed)" if budget["enforcement"] == "observe" else "")
        figures = [dollars(budget[f"{what}_nusd"]) for what in ("spent", "held", "left", "limit")]
        rows.append((name, budget["window"], *figures, moment(budget["resets_at"], now, zone)))
    for limit in quota["rate_limits"]:
        figures = [_count(limit[what]) for what in ("spent", "held", "left", "limit")]
        name = f"{owner_text(limit)}, {limit['unit']}"
        rows.append((name, limit["window"], *figures, moment(limit["resets_at"], now, zone)))
    if len(rows) == 1:
        lines.append("No budget and no rate limit applies to this key.")
    else:
        lines += columns(rows, right=(2, 3, 4, 5))
    if quota["balances"] != "live":
        lines.append("The ledger did not answer: figures are unknown, not zero.")
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Lines of a table, columns as wide as their widest cell."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def spent_text(usage: Mapping[str, Any]) -> str:
    """``$1.23 in 12 requests``; where the caller's own plan paid, what it would have cost says so."""
    requests = f"{usage['requests']} request{'' if usage['requests'] == 1 else 's'}"
    if usage["cost_nusd"] == 0 and usage["list_cost_nusd"]:
        return f"{dollars(usage['list_cost_nusd'])} at list price, not charged, in {requests}"
    return f"{dollars(usage['cost_nusd'])} in {requests}"


def status_line(quota: Quota, now: datetime, zone: tzinfo | None = None) -> str:
    """One short line: spent today, left, reset."""
    parts = []
    usage, budget = quota.get("usage"), tightest(quota)
    if usage is not None:
        shadow = usage["cost_nusd"] == 0 and usage["list_cost_nusd"]
        amount = dollars(usage["list_cost_nusd"]) + " (list)" if shadow else dollars(usage["cost_nusd"])
        parts.append(f"{amount} today")
    if budget is not None:
        owner = "" if budget["owner"]["kind"] == "virtual_key" else f" ({owner_text(budget)})"
        parts.append(f"{dollars(budget['left_nusd'])} left{owner}")
        parts.append(f"resets {moment(budget['resets_at'], now, zone)}")
    return " · ".join(parts) or f"key {quota['virtual_key']['name']}"


def session_end(quota: Quota, now: datetime, zone: tzinfo | None = None, *, whole_key: bool = False) -> str:
    """What a run of Claude Code cost; empty where it asked nothing. ``whole_key``: other runs of the key are in it."""
    usage = quota.get("usage")
    if usage is None or not (usage["requests"] or usage["refused"]):
        return ""
    prompt = sum(usage[f"{kind}_tokens"] for kind in ("input", "cache_read", "cache_write_5m", "cache_write_1h"))
    what = "your key spent meanwhile" if whole_key else "this session cost"
    text = f"Bursar: {what} {spent_text(usage)}"
    if prompt:
        text += f", {100 * usage['cache_read_tokens'] // prompt} % of the prompts from the cache"
    if usage["refused"]:
        text += f", {usage['refused']} refused"
    budget = tightest(quota)
    if budget is not None:
        left = f"{dollars(budget['left_nusd'])} left of {owner_text(budget)}'s {dollars(budget['limit_nusd'])}"
        text += f"; {left} until {moment(budget['resets_at'], now, zone)}"
    said = hint(quota, now, zone)
    return f"{text}.\n{said}" if said else f"{text}."


def hint(quota: Quota, now: datetime, zone: tzinfo | None = None) -> str:
    """At most one: what the figures say could be done, with the figures."""
    budget, usage = tightest(quota), quota["usage"]
    if budget is not None and budget["left_nusd"] < NEAR_END * budget["limit_nusd"]:
        return (
            f"Hint: the budget of {owner_text(budget)} is nearly used up; until "
            f"{moment(budget['resets_at'], now, zone)} a cheaper model (/model) makes it last."
        )
    written = usage["cache_write_5m_tokens"] + usage["cache_write_1h_tokens"]
    if usage["requests"] >= FEW_REQUESTS and written > max(LONG_PROMPTS_TOKENS, usage["cache_read_tokens"]):
        return (
            f"Hint: {written:,} tokens were written to the prompt cache and only {usage['cache_read_tokens']:,} read "
            "from it; after a break of more than 5 minutes /clear or /compact is cheaper than going on."
        )
    for model in usage["by_model"]:
        requests = model["requests"]
        if "opus" in model["model"] and requests >= FEW_REQUESTS:
            average = model["output_tokens"] // requests
            if average < SHORT_ANSWER_TOKENS:
                return (
                    f"Hint: {requests} answers of {model['model']} had {average} tokens on average, for "
                    f"{dollars(model['list_cost_nusd'])}; for such work /model sonnet costs less."
                )
    return ""


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
