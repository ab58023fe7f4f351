"""``/api/exports/focus``: a month as FOCUS rows, streamed from ClickHouse, and what it was made from."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.queries.focus import FORMATS, VERSIONS, export, manifest, month_condition, positions
from bursar_admin.quota import usd
from bursar_admin.requests import check_query, json_answer
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import choice
from bursar_admin.token_prices import TokenPrices
from bursar_common.clock import rfc3339

FOCUS_PATH = "/api/exports/focus"
MANIFEST_PATH = "/api/exports/focus/manifest"
DAY_MS = 86_400_000
AT_ONCE = 5_000
"""Requests up to which a table of text is one answer: at most six rows each, of 700 bytes. The embedded engine's
answers end at 32 MiB; of more, each day is an answer of its own."""
MEDIA = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
SETTINGS = {
    "date_time_output_format": "iso",
    "format_csv_null_representation": "",
    "output_format_parquet_string_as_string": "1",
    "do_not_merge_across_partitions_select_final": "1",
}

_MONTH = re.compile(r"(20\d\d)-(\d\d)")
MONTH = Parameter("month", "The UTC month, YYYY-MM.", {"type": "string", "pattern": r"^20\d\d-\d\d$"})
QUERY = (
    MONTH,
    Parameter("format", "Of the file.", {"type": "string", "enum": list(FORMATS), "default": "csv"}),
    Parameter("version", "Of the specification.", {"type": "string", "enum": list(VERSIONS), "default": VERSIONS[0]}),
)


class Exports:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.prices = TokenPrices(desk)

    def routes(self) -> list[Route]:
        return [
            Route("GET", FOCUS_PATH, self.focus, "export_focus",
                  "A month of metered usage as FOCUS rows; BilledCost sums to the ledger.", None, query=QUERY),
            Route("GET", MANIFEST_PATH, self.manifest, "describe_focus_export",
                  "What an export of the month is made from: sums, price books, positions in the event log.",
                  dict[str, Any], query=(MONTH,)),
        ]  # fmt: skip

    async def manifest(self, request: web.Request) -> web.Response:
        query = check_query(request, (MONTH,))
        now_ms = self.desk.clock.now_ms()
        month, from_ms, to_ms = read_month(query.get("month"), now_ms)
        (sums,) = await self.desk.analytics.rows(*manifest(from_ms, to_ms))
        places = await self.desk.analytics.rows(*positions(from_ms, to_ms))
        billed, listed = int(sums["billed_nusd"]), int(sums["list_nusd"])
        return json_answer(
            {
                "month": month,
                "made_at": rfc3339(now_ms),
                "complete": now_ms >= to_ms,
                "requests": sums["requests"],
                "billed_nusd": billed,
                "billed_usd": usd(billed),
                "list_nusd": listed,
                "list_usd": usd(listed),
                "price_books": [book for book in sums["price_books"] if book],
                "log_positions": [
                    {"topic": row["log_topic"], "partition": row["log_partition"], "last_offset": row["last_offset"]}
                    for row in places
                ],
            }
        )

    async def focus(self, request: web.Request) -> web.StreamResponse:
        query = check_query(request, QUERY)
        month, from_ms, to_ms = read_month(query.get("month"), self.desk.clock.now_ms())
        output = choice(query, "format", list(FORMATS), "csv")
        version = choice(query, "version", VERSIONS, VERSIONS[0])
        condition, bound = month_condition(from_ms, to_ms)
        tiers, rates, requests = await self.prices.rates(condition, bound)
        whole = output != "csv" or requests <= AT_ONCE
        step_ms = to_ms - from_ms if whole else DAY_MS

        async def parts() -> AsyncIterator[bytes]:
            for at_ms in range(from_ms, to_ms, step_ms):
                form = FORMATS[output] if at_ms == from_ms else "CSV"
                sql, parameters = export(at_ms, min(at_ms + step_ms, to_ms), version, output, tiers, rates)
                async for part in self.desk.analytics.stream(sql, parameters, form, SETTINGS):
                    yield part

        stream = parts()
        first = await anext(stream, b"")  # a refusal is an answer, not half a file
        response = web.StreamResponse(
            headers={
                "Content-Type": MEDIA[output],
                "Content-Disposition": f'attachment; filename="bursar-focus-{version}-{month}.{output}"',
                "X-Bursar-Focus": json.dumps({"version": version, "month": month}),
            }
        )
        await response.prepare(request)
        try:
            await response.write(first)
            async for part in stream:
                await response.write(part)
        except Exception:
            # The length was never said: only a connection that breaks tells the reader that this is not all.
            if request.transport is not None:
                request.transport.abort()
            raise
        await response.write_eof()
        return response


def read_month(text: str | None, now_ms: int) -> tuple[str, int, int]:
    """The month and its bounds in Unix ms. Raises Refusal (400) for one that does not exist or has not begun."""
    match = _MONTH.fullmatch(text or "")
    if match is None or not 1 <= int(match[2]) <= 12:
        raise bad_field("month", "is not a month", text, "YYYY-MM, such as 2026-11")
    year, month = int(match[1]), int(match[2])
    start = datetime(year, month, 1, tzinfo=UTC)
    end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    from_ms, to_ms = int(start.timestamp()) * 1000, int(end.timestamp()) * 1000
    if from_ms > now_ms:
        raise bad_field("month", "has not begun", text, f"at most {datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m}")
    return f"{year}-{month:02d}", from_ms, to_ms


def routes(desk: Desk) -> list[Route]:
    return Exports(desk).routes()
