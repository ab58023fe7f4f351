"""Usage in the shape of ``ccusage --json`` and as its tables. Pure.

Source of the shapes: github.com/ryoppippi/ccusage, docs/guide/json-output.md, and what its version 17 prints. Costs are
list prices, as the client itself counts them; what was billed stands beside them as ``billedCost``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from bursar.quota_text import columns, dollars

BLOCK_S = 5 * 3600
"""A block: the window in which the provider's plans count."""
COUNTS = {
    "inputTokens": ("input_tokens",),
    "outputTokens": ("output_tokens",),
    "cacheCreationTokens": ("cache_write_5m_tokens", "cache_write_1h_tokens"),
    "cacheReadTokens": ("cache_read_tokens",),
}
PERIOD_FIELD = {"day": "date", "month": "month", "session": "sessionId"}
NO_PROJECT = "Unknown Project"
LIST_FIELD = {"day": "daily", "month": "monthly", "session": "sessions"}

Row = Mapping[str, Any]


def counts_of(rows: Iterable[Row]) -> dict[str, int]:
    listed = list(rows)
    return {name: sum(row[field] for row in listed for field in fields) for name, fields in COUNTS.items()}


def cost_of(rows: Iterable[Row], field: str = "list_cost_nusd") -> float:
    """Dollars as the nearest double: JSON for tools, never to calculate with."""
    return float(sum(row[field] for row in rows)) / 1e9


def report(by: str, rows: Sequence[Row], zone: tzinfo = UTC) -> dict[str, Any]:
    """``daily``, ``monthly`` or ``sessions`` and their ``totals``; days of sessions are of ``zone``."""
    listed = [_entry(by, period, own, zone) for period, own in _grouped(rows)]
    if by == "session":
        listed.sort(key=lambda entry: entry["lastActivityAt"])
    return {LIST_FIELD[by]: listed, "totals": totals(rows)}


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    counts = counts_of(rows)
    return {
        **counts,
        "totalTokens": sum(counts.values()),
        "totalCost": cost_of(rows),
        "billedCost": cost_of(rows, "cost_nusd"),
    }


def _grouped(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["period"], []).append(row)
    return list(groups.items())


def _entry(by: str, period: str, rows: list[Row], zone: tzinfo) -> dict[str, Any]:
    entry: dict[str, Any] = {PERIOD_FIELD[by]: period, **totals(rows), "modelsUsed": sorted({r["model"] for r in rows})}
    entry["modelBreakdowns"] = [
        {"modelName": row["model"], **counts_of([row]), "cost": cost_of([row])}
        for row in sorted(rows, key=lambda row: -row["list_cost_nusd"])
    ]
    if by == "session":
        latest = max(rows, key=lambda row: row["last_at"])
        entry |= {
            "projectPath": latest["project"] or NO_PROJECT,
            "lastActivity": f"{datetime.fromisoformat(latest['last_at']).astimezone(zone):%Y-%m-%d}",
            "firstActivityAt": min(row["first_at"] for row in rows),
            "lastActivityAt": latest["last_at"],
        }
    return entry


def blocks(rows: Sequence[Row], now_s: float) -> dict[str, Any]:
    """Blocks of five hours from rows by minute: a block begins with the hour of its first request; it ends five hours
    later, or where nothing was asked for five hours."""
    found: list[list[Row]] = []
    start_s = last_s = 0
    for row in sorted(rows, key=lambda row: int(row["period"])):
        at_s = int(row["period"])
        if not found or at_s - start_s > BLOCK_S or at_s - last_s > BLOCK_S:
            found.append([])
            start_s = at_s // 3600 * 3600
        found[-1].append(row)
        last_s = at_s
    listed: list[dict[str, Any]] = []
    for own in found:
        block = _block(own, now_s)
        if listed:
            gap = _gap(listed[-1]["actualEndTime"], block["_first"])
            if gap is not None:
                listed.append(gap)
        listed.append(block)
    for block in listed:
        block.pop("_first", None)
    return {"blocks": listed}


def _block(rows: list[Row], now_s: float) -> dict[str, Any]:
    first_s = int(rows[0]["period"])
    start_s = first_s // 3600 * 3600
    counts = counts_of(rows)
    tokens, cost = sum(counts.values()), cost_of(rows)
    last = max(row["last_at"] for row in rows)
    end_s = start_s + BLOCK_S
    active = now_s < end_s and now_s - datetime.fromisoformat(last).timestamp() < BLOCK_S
    minutes = (datetime.fromisoformat(last).timestamp() - first_s) / 60
    rate = projection = None
    if active and minutes > 0:
        left_minutes = max(0.0, (end_s - now_s) / 60)
        rate = {
            "tokensPerMinute": tokens / minutes,
            "tokensPerMinuteForIndicator": (counts["inputTokens"] + counts["outputTokens"]) / minutes,
            "costPerHour": cost / minutes * 60,
        }
        projection = {
            "totalTokens": round(tokens + tokens / minutes * left_minutes),
            "totalCost": round(cost + cost / minutes * left_minutes, 2),
            "remainingMinutes": round(left_minutes),
        }
    return {
        "id": _moment(start_s),
        "startTime": _moment(start_s),
        "endTime": _moment(end_s),
        "actualEndTime": last,
        "isActive": active,
        "isGap": False,
        "entries": sum(row["requests"] for row in rows),
        "tokenCounts": {
            "inputTokens": counts["inputTokens"],
            "outputTokens": counts["outputTokens"],
            "cacheCreationInputTokens": counts["cacheCreationTokens"],
            "cacheReadInputTokens": counts["cacheReadTokens"],
        },
        "totalTokens": tokens,
        "costUSD": cost,
        "models": sorted({row["model"] for row in rows}),
        "burnRate": rate,
        "projection": projection,
        "_first": first_s,
    }


def _gap(last: str, next_s: int) -> dict[str, Any] | None:
    last_s = datetime.fromisoformat(last).timestamp()
    if next_s - last_s <= BLOCK_S:
        return None
    start = _moment(last_s + BLOCK_S)
    nothing = dict.fromkeys(("inputTokens", "outputTokens", "cacheCreationInputTokens", "cacheReadInputTokens"), 0)
    return {
        "id": f"gap-{start}", "startTime": start, "endTime": _moment(next_s), "actualEndTime": None, "isActive": False,
        "isGap": True, "entries": 0, "tokenCounts": nothing, "totalTokens": 0, "costUSD": 0.0, "models": [],
        "burnRate": None, "projection": None,
    }  # fmt: skip


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


HEAD = ("INPUT", "OUTPUT", "CACHE WRITE", "CACHE READ", "TOTAL TOKENS", "LIST COST", "BILLED")


def table(by: str, rows: Sequence[Row]) -> str:
    """A line a period, its models, and the sum."""
    names = {"day": "DATE", "month": "MONTH", "session": "SESSION"}
    lines: list[tuple[str, ...]] = [(names[by], "MODELS", *HEAD)]
    groups = _grouped(rows)
    if by == "session":
        groups.sort(key=lambda group: max(row["last_at"] for row in group[1]))
    for period, own in groups:
        lines.append((period, ", ".join(sorted({short(row["model"]) for row in own})), *_cells(own)))
    lines.append(("Total", "", *_cells(rows)))
    return "\n".join(columns(lines, right=range(2, 9))) if groups else "Nothing was used in this time."


def blocks_table(rows: Sequence[Row], now_s: float) -> str:
    listed = [block for block in blocks(rows, now_s)["blocks"] if not block["isGap"]]
    if not listed:
        return "Nothing was used in this time."
    lines = [("BLOCK START", "", "MODELS", "TOTAL TOKENS", "LIST COST")]
    for block in listed:
        at = datetime.fromisoformat(block["startTime"]).astimezone()
        state = "active" if block["isActive"] else ""
        models = ", ".join(short(model) for model in block["models"])
        lines.append((f"{at:%Y-%m-%d %H:%M}", state, models, f"{block['totalTokens']:,}", f"${block['costUSD']:,.2f}"))
    return "\n".join(columns(lines, right=(3, 4)))


def _cells(rows: Sequence[Row]) -> tuple[str, ...]:
    counts = counts_of(rows)
    order = ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens")
    return (
        *(f"{counts[name]:,}" for name in order),
        f"{sum(counts.values()):,}",
        dollars(sum(row["list_cost_nusd"] for row in rows)),
        dollars(sum(row["cost_nusd"] for row in rows)),
    )


def short(model: str) -> str:
    """``claude-opus-4-8-20260301`` as people say it."""
    name = model.removeprefix("claude-")
    head, _, date = name.rpartition("-")
    return head if head and len(date) == 8 and date.isdigit() else name
