"""Where spending is going, from its pace so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass

EARLY = 0.03
"""Part of a window that must have passed: before, one request would decide the forecast."""


@dataclass(frozen=True)
class Forecast:
    """``end_nusd``: what the window will come to at this pace; None while it is too early to say."""

    end_nusd: int | None
    spent_by_s: int | None
    """When the limit will be reached, Unix s; None: not in this window."""


def forecast(spent_nusd: int | None, limit_nusd: int | None, start_s: int, end_s: int, now_s: int) -> Forecast:
    """Linear: the pace since the window began goes on."""
    elapsed_s, length_s = now_s - start_s, end_s - start_s
    if spent_nusd is None or length_s <= 0 or elapsed_s < length_s * EARLY:
        return Forecast(None, None)
    if elapsed_s >= length_s:
        return Forecast(spent_nusd, None)
    end_nusd = spent_nusd * length_s // elapsed_s
    if limit_nusd is None or spent_nusd <= 0 or spent_nusd >= limit_nusd or end_nusd <= limit_nusd:
        return Forecast(end_nusd, None)
    return Forecast(end_nusd, start_s + limit_nusd * elapsed_s // spent_nusd)
