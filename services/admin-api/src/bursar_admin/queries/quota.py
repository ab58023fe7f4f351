"""What one key's requests came to since a moment. Pure."""

from __future__ import annotations

from typing import Any

RUN_TAG = "bursar-run"
"""Tag that ``bursar claude`` gives the requests of one run, so that the run's cost can be told."""

_USAGE = """SELECT
    model,
    countIf(outcome != 'refused') AS requests,
    countIf(outcome = 'refused') AS refused,
    toInt64(sum(cost_nusd)) AS cost_nusd,
    toInt64(sum(list_cost_nusd)) AS list_cost_nusd,
    toUInt64(ifNull(sum(input_tokens), 0)) AS input_tokens,
    toUInt64(ifNull(sum(cache_read_tokens), 0)) AS cache_read_tokens,
    toUInt64(ifNull(sum(cache_write_5m_tokens), 0)) AS cache_write_5m_tokens,
    toUInt64(ifNull(sum(cache_write_1h_tokens), 0)) AS cache_write_1h_tokens,
    toUInt64(ifNull(sum(output_tokens), 0)) AS output_tokens
FROM bursar.usage
WHERE virtual_key_id = {key_id:String}
  AND started_at >= fromUnixTimestamp64Milli({since_ms:Int64})
  AND billing != 'imported'
  AND ({run:String} = '' OR tags['bursar-run'] = {run:String})
GROUP BY model
ORDER BY list_cost_nusd DESC, model"""


def usage_since(key_id: str, since_ms: int, run: str) -> tuple[str, dict[str, Any]]:
    """Rows by model, dearest first. ``run``: only requests tagged so; empty: all."""
    return _USAGE, {"key_id": key_id, "since_ms": since_ms, "run": run}
