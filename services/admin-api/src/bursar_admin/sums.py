"""Statistics, histograms, rankings and lists of values, put together from sums."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bursar_admin.adding import Asked, amount_of
from bursar_admin.arithmetic import saved_by_cache
from bursar_admin.books import Books
from bursar_admin.queries import sums
from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.dimensions import Dimension
from bursar_admin.queries.ranges import Span, buckets, whole_days
from bursar_admin.quota import usd
from bursar_admin.usage import Row, UsageStore
from bursar_admin.usage_json import money, sums_json
from bursar_common.clock import rfc3339
from bursar_common.usage_sums import COUNTS

SAVINGS_RULE: Final = (
    "Cache reads at the price of input, less what they cost, "
    "less what writing the cache cost above the price of input; "
    "at list prices of each model's standard rates, by the price book each request names."
)
HIT_RATE_RULE: Final = "Tokens read from the cache, of all tokens of prompts (input, cache reads, cache writes)."
LATENCY_RULE: Final = (
    "From admission by the gateway to the end of the answer, or to its first content; over requests where it is known; "
    "quantiles are estimates (t-digest)."
)
CHANGE_RULE: Final = "(this period - the period before) / the period before; null where the period before has none."
SHARE_RULE: Final = "Of all requests under the same filters; null where the whole is 0."


class UsageSums:
    """Answers over ranges. Raises Refusal (503) while ClickHouse does not answer."""

    def __init__(self, store: UsageStore, books: Books) -> None:
        self._store = store
        self._books = books

    async def stats(self, wanted: Criteria, span: Span, *, latency: bool) -> dict[str, Any]:
        rows, times = await asyncio.gather(
            self._totals(wanted, span), self._latencies(wanted, span) if latency else _nothing()
        )
        whole = {name: sum(row[f"sum_{name}"] for row in rows) for name in sums.MEASURES}
        by_billing: dict[str, dict[str, Any]] = {}
        for row in rows:
            entry = by_billing.setdefault(
                row["billing"], {"billing": row["billing"], "requests": 0, "cost_nusd": 0, "list_cost_nusd": 0}
            )
            for name in ("requests", "cost_nusd", "list_cost_nusd"):
                entry[name] += row[f"sum_{name}"]
        saved = await self._saved(rows, span)
        return {
            **sums_json(whole),
            **money("cache_savings", saved),
            **times,
            "by_billing": [
                {**entry, "cost_usd": usd(entry["cost_nusd"]), "list_cost_usd": usd(entry["list_cost_nusd"])}
                for _, entry in sorted(by_billing.items())
            ],
        }

    async def _totals(self, wanted: Criteria, span: Span) -> list[Row]:
        question = await self._store.question(wanted, span, columns=sums.TOTALS_BY)
        found = await self._store.added(question, Asked(sums.TOTALS_BY, sums.MEASURES))
        return found if found is not None else await self._store.ask(question, *sums.totals(question))

    async def _saved(self, rows: Sequence[Mapping[str, Any]], span: Span) -> int | None:
        """Over all books and models; None where caches were used and no price is known of any."""
        amount, known, used = 0, False, False
        for row in rows:
            tokens = {name: row[f"sum_{name}"] for name in COUNTS}
            if not (tokens["cache_read_tokens"] or tokens["cache_write_5m_tokens"] or tokens["cache_write_1h_tokens"]):
                continue
            used = True
            book = await self._books.find(row["price_book_id"])
            saved = saved_by_cache(book, row["model"], span.to_ms - 1, tokens)
            if saved is not None:
                amount, known = amount + saved, True
        return amount if known or not used else None

    async def _latencies(self, wanted: Criteria, span: Span) -> dict[str, Any]:
        question = await self._store.question(wanted, span, latency=True)
        rows = await self._store.ask(question, *sums.latencies(question))
        return _times(rows[0] if rows else {"latency": [], "first_token": []})

    async def histogram(
        self, wanted: Criteria, span: Span, *, interval: str, timezone: str, metric: str, by: Dimension | None, top: int
    ) -> dict[str, Any]:
        """Buckets from the first to the last, those without requests as well."""
        points = buckets(span, interval, timezone)
        if metric == "latency":
            key = sums.bucket_key(interval, timezone)
            hourly = interval == "hour" or not whole_days(timezone)
            question = await self._store.question(wanted, span, timezone=timezone, latency=True, hourly=hourly)
            rows = await self._store.ask(question, *sums.latencies(question, key))
            found = {row["bucket"]: _times(row) for row in rows}
            return {"buckets": _starts(points), "series": _latency_series(points, found)}
        question = await self._store.question(
            wanted,
            span,
            *([by] if by else []),
            timezone=timezone,
            hourly=interval == "hour" or not whole_days(timezone),
        )
        chosen, rows = await self._course(question, interval, timezone, metric, by, top)
        amounts: dict[tuple[str, bool], dict[str, int]] = {}
        for row in rows:
            series = amounts.setdefault((row["series"], bool(row["other"])), {})
            series[row["bucket"]] = series.get(row["bucket"], 0) + row["amount"]
        listed = [
            self._series(by, row["id"], row["label"], amounts.get((row["id"], False), {}), points, metric)
            for row in chosen
        ]
        if by is None:
            listed.append(self._series(None, "", "", amounts.get(("", False), {}), points, metric))
        elif ("", True) in amounts:
            series = self._series(None, "", "", amounts["", True], points, metric)
            listed.append({**series, "id": None, "name": "other", "other": True})
        return {"buckets": _starts(points), "series": listed}

    async def _course(
        self, question: sums.Question, interval: str, timezone: str, metric: str, by: Dimension | None, top: int
    ) -> tuple[list[Row], list[Row]]:
        """(the highest values of the dimension, amounts by bucket and series)."""
        store, measures = self._store, sums.METRICS[metric]
        column, label = (by.column, by.label) if by is not None else ("", "")
        found = await store.added(
            question, Asked((column,) if column else (), measures, label, interval, timezone or "UTC")
        )
        if found is None:
            chosen = []
            if by is not None:
                chosen = await store.ask(
                    question, *sums.ranking(question, by, metric, descending=True, count=top, offset=0)
                )
            ids = [row["id"] for row in chosen]
            key = sums.bucket_key(interval, timezone)
            return chosen, await store.ask(question, *sums.by_bucket(question, key, metric, by, ids))
        amount, values = amount_of(measures), dict[str, Row]()
        for row in found if column else ():
            value = values.setdefault(row[column], {"id": row[column], "label": "", "at": 0, "metric": 0})
            value["metric"] += amount(row)
            if label and row["label_ms"] >= value["at"]:
                value["label"], value["at"] = row["label"], row["label_ms"]
        chosen = sorted(values.values(), key=lambda value: (-value["metric"], value["id"]))[:top]
        shown = {value["id"] for value in chosen}
        amounts = []
        for row in found:
            series = row[column] if column else ""
            other = bool(column) and series not in shown
            amounts.append(
                {"bucket": row["bucket"], "series": "" if other else series, "other": other, "amount": amount(row)}
            )
        return chosen, amounts

    def _series(
        self,
        by: Dimension | None,
        value: str,
        label: str,
        amounts: Mapping[str, int],
        points: Sequence[tuple[str, int]],
        metric: str,
    ) -> dict[str, Any]:
        values = [amounts.get(key, 0) for key, _ in points]
        series: dict[str, Any] = {
            "id": value if by is not None else None,
            "name": self._store.name_of(by.name, value, label) if by is not None else "all",
            "other": False,
            "values": values,
            "total": sum(values),
        }
        if metric in ("cost", "list_cost"):
            series["values_usd"] = [usd(each) for each in values]
            series["total_usd"] = usd(series["total"])
        return series

    async def rankings(
        self,
        wanted: Criteria,
        span: Span,
        before: Span | None,
        by: Dimension,
        *,
        sort_by: str,
        descending: bool,
        limit: int,
        offset: int,
    ) -> tuple[list[dict[str, Any]], int]:
        """(rows, how many values there are in all)."""
        question, *compared = await asyncio.gather(
            *(self._store.question(wanted, each, by) for each in (span, before) if each is not None)
        )
        earlier = compared[0] if compared else None
        rows, former = await asyncio.gather(
            self._ranked(question, by, sort_by, descending=descending, limit=limit, offset=offset),
            self._former(earlier, by, sort_by),
        )
        if former is None and earlier is not None and rows:
            found = await self._store.ask(earlier, *sums.amounts_of(earlier, by, [row["id"] for row in rows], sort_by))
            former = {row["id"]: row["metric"] for row in found}
        former = former or {}
        answers = []
        for rank, row in enumerate(rows, offset + 1):
            previous = former.get(row["id"], 0) if before is not None else None
            answers.append(
                {
                    "rank": rank,
                    "id": row["id"],
                    "name": self._store.name_of(by.name, row["id"], row["label"]),
                    **sums_json({name: row[f"sum_{name}"] for name in sums.MEASURES}),
                    "metric": row["metric"],
                    "share": row["metric"] / row["whole"] if row["whole"] else None,
                    "previous_metric": previous,
                    "change": (row["metric"] - previous) / previous if previous else None,
                }
            )
        return answers, rows[0]["values_found"] if rows else 0

    async def _ranked(
        self, question: sums.Question, by: Dimension, sort_by: str, *, descending: bool, limit: int, offset: int
    ) -> list[Row]:
        found = await self._store.added(question, Asked((by.column,), sums.MEASURES, by.label))
        if found is None:
            return await self._store.ask(
                question, *sums.ranking(question, by, sort_by, descending=descending, count=limit, offset=offset)
            )
        metric = amount_of(sums.METRICS[sort_by])
        amounts = [(metric(row), row) for row in found]
        whole = sum(amount for amount, _ in amounts)
        amounts.sort(key=lambda each: (-each[0] if descending else each[0], each[1][by.column]))
        return [
            {**row, "id": row[by.column], "label": row.get("label", ""), "metric": amount, "whole": whole,
             "values_found": len(found)}
            for amount, row in amounts[offset : offset + limit]
        ]  # fmt: skip

    async def _former(self, question: sums.Question | None, by: Dimension, metric: str) -> dict[str, int] | None:
        """What each value had then; None: it is to be asked for certain values."""
        if question is None:
            return {}
        measures = sums.METRICS[metric]
        found = await self._store.added(question, Asked((by.column,), measures))
        amount = amount_of(measures)
        return None if found is None else {row[by.column]: amount(row) for row in found}

    async def values(
        self, wanted: Criteria, span: Span, by: Dimension, prefix: str, limit: int
    ) -> list[dict[str, Any]]:
        """Distinct values and the requests (refused ones included) that have them."""
        question = await self._store.question(wanted, span, by)
        found = None
        if not prefix:
            found = await self._store.added(question, Asked((by.column,), ("requests", "refused"), by.label))
        if found is not None:
            count = amount_of(("requests", "refused"))
            rows = [{"id": row[by.column], "label": row.get("label", ""), "found": count(row)} for row in found]
            rows = sorted(rows, key=lambda row: (-row["found"], row["id"]))[:limit]
        elif by.name == "user" and prefix:
            # The name of a person is not in the tables of usage.
            rows = await self._store.ask(question, *sums.distinct_values(question, by, "", 10_000))
            wanted_text = prefix.casefold()
            rows = [
                row for row in rows
                if row["id"].casefold().startswith(wanted_text)
                or self._store.name_of("user", row["id"]).casefold().startswith(wanted_text)
            ][:limit]  # fmt: skip
        else:
            rows = await self._store.ask(question, *sums.distinct_values(question, by, prefix, limit))
        return [
            {"id": row["id"], "name": self._store.name_of(by.name, row["id"], row["label"]), "count": row["found"]}
            for row in rows
        ]

    async def tag_names(self, wanted: Criteria, span: Span, prefix: str, limit: int) -> list[dict[str, Any]]:
        rows = await self._store.analytics.rows(*sums.tag_names(wanted, span, prefix, limit))
        return [{"id": row["id"], "name": row["id"], "count": row["found"]} for row in rows]


async def _nothing() -> dict[str, Any]:
    return {}


def _times(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"latency_ms": _quantiles(row["latency"]), "time_to_first_token_ms": _quantiles(row["first_token"])}


def _quantiles(values: Sequence[float | str | None]) -> dict[str, float | None]:
    found = [float(value) if value is not None else math.nan for value in values] or [math.nan, math.nan]
    return {name: None if math.isnan(value) else value for name, value in zip(("p50", "p95"), found, strict=True)}


def _starts(points: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:

    return [{"key": key, "start_s": start, "start": rfc3339(start * 1000)} for key, start in points]


def _latency_series(points: Sequence[tuple[str, int]], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = []
    for what in ("latency_ms", "time_to_first_token_ms"):
        for quantile in ("p50", "p95"):
            values = [found[key][what][quantile] if key in found else None for key, _ in points]
            listed.append({"id": f"{what}_{quantile}", "name": f"{what} {quantile}", "other": False, "values": values})
    return listed
