"""``/api/exports/focus``: a month as FOCUS rows, streamed from ClickHouse, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from bursar_admin.closing import read_month
from bursar_admin.desk import Desk
from bursar_admin.month_books import MonthBooks
from bursar_admin.queries.focus import FORMATS, VERSIONS, export
from bursar_admin.quota import usd
from bursar_admin.requests import check_query, json_answer
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import choice
from bursar_common.clock import rfc3339
from bursar_common.finance import month_bounds_ms

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

MONTH = Parameter("month", "The UTC month, YYYY-MM.", {"type": "string", "pattern": r"^20\d\d-\d\d$"})
QUERY = (
    MONTH,
    Parameter("format", "Of the file.", {"type": "string", "enum": list(FORMATS), "default": "csv"}),
    Parameter("version", "Of the specification.", {"type": "string", "enum": list(VERSIONS), "default": VERSIONS[0]}),
)


class Exports:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.books = MonthBooks(desk)

    def routes(self) -> list[Route]:
        return [
            Route("GET", FOCUS_PATH, self.focus, "export_focus",
                  "A month of metered usage as FOCUS rows; BilledCost sums to the ledger.", None,
                  media=tuple(MEDIA.values()), query=QUERY),
            Route("GET", MANIFEST_PATH, self.manifest, "describe_focus_export",
                  "What an export of the month is made from: sums, price books, positions in the event log.",
                  dict[str, Any], query=(MONTH,)),
        ]  # fmt: skip

    async def manifest(self, request: web.Request) -> web.Response:
        query = check_query(request, (MONTH,))
        now_ms = self.desk.clock.now_ms()
        month = read_month(query.get("month"), now_ms)
        made_from, sums = await self.books.summed(month)
        billed, listed, beside = sums.billed_nusd, sums.list_nusd, sums.allocated_nusd
        close = made_from.close
        return json_answer(
            {
                "month": month,
                # Of a closed month the same at every export.
                "made_at": rfc3339(close.created_at_s * 1000 if close is not None else now_ms),
                "complete": now_ms >= month_bounds_ms(month)[1],
                **made_from.as_json(),
                "requests": sums.requests,
                "billed_nusd": billed,
                "billed_usd": usd(billed),
                "list_nusd": listed,
                "list_usd": usd(listed),
                "allocated_nusd": beside,
                "ledger_nusd": billed - beside,
                "ledger_usd": usd(billed - beside),
            }
        )

    async def focus(self, request: web.Request) -> web.StreamResponse:
        query = check_query(request, QUERY)
        month = read_month(query.get("month"), self.desk.clock.now_ms())
        from_ms, to_ms = month_bounds_ms(month)
        output = choice(query, "format", list(FORMATS), "csv")
        version = choice(query, "version", VERSIONS, VERSIONS[0])
        await self.books.check_known()
        tiers, rates, requests = await self.books.rates(month)
        whole = output != "csv" or requests <= AT_ONCE
        # Requests of months before, booked here because they came late, are the first part.
        steps: list[int | None] = [None] if whole else [None, *range(from_ms, to_ms, DAY_MS)]

        async def parts() -> AsyncIterator[bytes]:
            for start_ms in steps:
                until_ms = min(start_ms + DAY_MS, to_ms) if start_ms is not None else to_ms if whole else from_ms
                form = FORMATS[output] if start_ms is None else "CSV"
                last = start_ms == steps[-1]
                sql, parameters = export(month, start_ms, until_ms, version, output, tiers, rates, last=last)
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


def routes(desk: Desk) -> list[Route]:
    return Exports(desk).routes()
