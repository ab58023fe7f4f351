"""What the sums of usage are taken by: the contract between the aggregator, which makes them, and whoever reads them.

Requests are summed by hour with all DIMENSIONS (``bursar.usage_hours``), and closed UTC days once more by fewer of them
(``bursar.usage_days``): each cut is what one kind of question needs, and a hundredth of the rows. Pure.
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
TOPS: Final[Mapping[str, str]] = {
    "top_cost_nusd": "cost_nusd",
    "top_list_cost_nusd": "list_cost_nusd",
    "top_tokens": f"toInt64(ifNull({' + '.join(COUNTS[:5])}, -1))",
    "top_latency_ms": "toInt64(ifNull(latency_ms, -1))",
}
"""Columns of the highest value that one request has, as recorded (without corrections), and that value: what leads to
the dearest requests. -1: none is known."""
FORM: Final = 1
"""What an hour's sums hold: 0 had no SHORT and no TOPS columns. Days are made of hours of this form."""

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

_TIMED: Final = ("provider", "model", "outcome", "billing")
LATENCY_DIMENSIONS: Final = (*_OWNER, *_TIMED)
LATENCY_CUTS: Final[Mapping[str, tuple[str, ...]]] = {
    HOURLY: _TIMED,
    "day": (),
    "model": _TIMED,
    "team": LATENCY_DIMENSIONS,
}
"""Cuts of ``bursar.usage_latency_days``, likewise."""


def cut_for(needed: Collection[str], *, hourly: bool = False, cuts: Mapping[str, tuple[str, ...]] = CUTS) -> str | None:
    """The smallest cut that has the dimensions; ``hourly``: that keeps hours apart. None: only hours have them."""
    wanted = set(needed)
    found = [name for name, has in cuts.items() if (name == HOURLY) == hourly and wanted <= set(has)]
    return found[0] if found else None
