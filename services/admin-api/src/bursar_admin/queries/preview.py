"""What a budget would have done to the requests of the last days. Pure.

A request is refused once what was spent before it in its window has reached the limit; what comes after it in that
window is refused as well, so that the requests behind that point are exactly those refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

DAYS: Final = 7
MAX_WINDOWS: Final = 400
"""Windows looked at: a week of hours, and some."""

Owner = Literal["customer", "team", "virtual_key"]
_COLUMNS: Final = {"customer": "customer_id", "team": "team_id", "virtual_key": "virtual_key_id"}

_PREVIEW: Final = """SELECT
    countIf(recent) AS requests,
    countIf(recent AND before >= {{limit:Int64}}) AS would_refuse,
    toInt64(sumIf(cost, recent)) AS spent_nusd,
    toInt64(minIf(at_ms, recent AND before >= {{limit:Int64}})) AS first_refused_ms
FROM
(
    SELECT at_ms, cost, at_ms >= {{recent_ms:Int64}} AS recent,
        toInt64(sum(cost) OVER (PARTITION BY window_s ORDER BY at_ms, request_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)) - cost AS before
    FROM
    (
        SELECT request_id, toUnixTimestamp64Milli(started_at) AS at_ms, toInt64(cost_nusd) AS cost,
            arrayMax(arrayFilter(start -> start * 1000 <= at_ms, {{starts:Array(Int64)}})) AS window_s
        FROM bursar.usage
        WHERE {column} = {{owner:String}}
            AND started_at >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC')
            AND toDate(started_at) >= toDate(fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC'))
            AND outcome != 'refused' AND billing = 'metered'
    )
)"""


def preview(
    kind: Owner, owner_id: str, limit_nusd: int, starts_s: Sequence[int], recent_ms: int
) -> tuple[str, dict[str, Any]]:
    """One row. ``starts_s``: starts of all windows that a request since ``recent_ms`` can have counted in, rising."""
    return _PREVIEW.format(column=_COLUMNS[kind]), {
        "limit": limit_nusd,
        "recent_ms": recent_ms,
        "from_ms": starts_s[0] * 1000,
        "starts": list(starts_s),
        "owner": owner_id,
    }
