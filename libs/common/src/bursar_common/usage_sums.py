"""What the sums of usage are taken by: the contract between the aggregator, which makes them, and whoever reads them.

Requests are summed by hour with all DIMENSIONS (``bursar.usage_hours``), and closed UTC days once more by fewer of them
(``bursar.usage_days``): each cut is what one kind of question needs, and a hundredth of the rows. The hours themselves
stand there as well in such cuts. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

DIMENSIONS: Final = (
    "customer", "customer_id", "team", "team_id", "user_id", "virtual_key", "virtual_key_id", "session_id", "project",
    "repository", "environment", "cost_center", "provider", "model", "outcome", "refused_by", "billing",
    "price_book_id",
)  # fmt: skip
COUNTS: Final = (
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "web_searches",
)  # fmt: skip
COSTS: Final = ("cost_nusd", "list_cost_nusd")
MEASURES: Final = ("requests", "refused", "errors", "estimated", "without_counts", *COUNTS, *COSTS)
"""Columns of sums."""

SHORT_ANSWER_TOKENS: Final = 500
"""Output tokens below which a completed answer without web searches counts as short, thinking included. The sums hold
short answers apart: another number takes a new FORM."""
SHORT: Final[Mapping[str, str]] = {
    "short_requests": "requests",
    **{f"short_{name}": name for name in COUNTS[:5]},
    "short_list_cost_nusd": "list_cost_nusd",
}
"""Columns of sums over short answers alone, and of what they are the part."""
FEW_TOOL_USES: Final = 1
"""Tool calls of an answer up to which it has few. Another number takes a new FORM."""
FEW_TOOLS: Final[Mapping[str, str]] = {f"few_tools_{whole}": whole for whole in SHORT.values()}
"""Likewise over short answers that are known to have few tool calls."""
UNKNOWN_TOOLS: Final[Mapping[str, str]] = {
    "unknown_tools_requests": "requests",
    "unknown_tools_list_cost_nusd": "list_cost_nusd",
}
"""Likewise over short answers whose tool calls are not known: those of requests from before they were counted."""
PARTS: Final[Mapping[str, str]] = {**SHORT, **FEW_TOOLS, **UNKNOWN_TOOLS}
"""All columns over a part of the requests, and what of them they are."""
TOPS: Final[Mapping[str, str]] = {
    "top_cost_nusd": "cost_nusd",
    "top_list_cost_nusd": "list_cost_nusd",
    "top_tokens": f"toInt64(ifNull({' + '.join(COUNTS[:5])}, -1))",
    "top_latency_ms": "toInt64(ifNull(latency_ms, -1))",
}
"""Columns of the highest value that one request has, as recorded (without corrections), and that value: what leads to
the dearest requests. -1: none is known."""
FORM: Final = 2
"""What an hour's sums hold: 0 had no SHORT and no TOPS columns, 1 no FEW_TOOLS and UNKNOWN_TOOLS columns and no cuts of
hours. Days are made of hours of this form."""

RECENT_MS: Final = 2 * 86_400_000
"""Length of time before now, by ClickHouse's clock, whose requests are in ``bursar.usage_recent`` as well. It is fed
with those of the last three days: the third is for clocks that are put right, and for what leaves while it is read."""
RECENT_COLUMNS: Final = (
    "request_id", "started_at", *DIMENSIONS, "estimated", *COUNTS, "tool_uses", *COSTS, "latency_ms",
    "time_to_first_token_ms", "rank",
)  # fmt: skip
"""Columns of ``bursar.usage_recent``, named and typed as those of ``bursar.usage_events``: what sums and quantiles are
made of."""

_OUTCOME: Final = ("provider", "model", "outcome", "refused_by", "billing", "price_book_id")
_OWNER: Final = ("customer", "customer_id", "team", "team_id")
_KEY: Final = ("user_id", "virtual_key", "virtual_key_id")
_PLACE: Final = ("project", "repository", "environment", "cost_center")
HOURLY: Final = "hour"
"""The cut that keeps hours apart: for days of other time zones than UTC."""
CUTS: Final[Mapping[str, tuple[str, ...]]] = {
    HOURLY: (*_OWNER, "cost_center", *_OUTCOME),
    "team": (*_OWNER, "cost_center", *_OUTCOME),
    "project": ("project", "repository", "environment", *_OUTCOME),
    "key": (*_OWNER, *_KEY, *_OUTCOME),
    "session": (*_OWNER, *_KEY, *_PLACE, "session_id", "provider", "billing"),
}
"""Cuts of ``bursar.usage_days`` and their dimensions; behind the first one, which has hours, in the order of size."""

HOUR_CUTS: Final[Mapping[str, str]] = {f"hours_{name}": name for name in CUTS if name != HOURLY}
"""Cuts of complete hours, which stand beside those of days, each with the dimensions of a day's."""
HOURS_OF: Final[Mapping[str, str]] = {HOURLY: "hours_team", **{day: hour for hour, day in HOUR_CUTS.items()}}
"""A cut of days and that of hours which has the same dimensions."""

_TIMED: Final = ("provider", "model", "outcome", "billing")
LATENCY_DIMENSIONS: Final = (*_OWNER, *_TIMED)
LATENCY_CUTS: Final[Mapping[str, tuple[str, ...]]] = {
    HOURLY: _TIMED,
    "day": (),
    "model": _TIMED,
    "team": LATENCY_DIMENSIONS,
}
"""Cuts of ``bursar.usage_latency_days``, likewise."""
LATENCY_HOUR_CUTS: Final[Mapping[str, str]] = {f"hours_{name}": name for name in LATENCY_CUTS if name != HOURLY}
LATENCY_HOURS_OF: Final[Mapping[str, str]] = {
    HOURLY: "hours_model",
    **{day: hour for hour, day in LATENCY_HOUR_CUTS.items()},
}


def cut_for(needed: Collection[str], *, hourly: bool = False, cuts: Mapping[str, tuple[str, ...]] = CUTS) -> str | None:
    """The smallest cut that has the dimensions; ``hourly``: that keeps hours apart. None: only hours have them."""
    wanted = set(needed)
    found = [name for name, has in cuts.items() if (name == HOURLY) == hourly and wanted <= set(has)]
    return found[0] if found else None
