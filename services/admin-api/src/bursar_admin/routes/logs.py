"""``/api/logs`` and ``/api/logs/{id}``: requests one by one."""

from __future__ import annotations

import builtins
import csv
import io
from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import web

from bursar_admin.arithmetic import arithmetic
from bursar_admin.counters import charges_of
from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal, bad_field, not_found
from bursar_admin.log_pages import Place
from bursar_admin.queries.content import content_json
from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.cursors import make_cursor, question_id, read_cursor
from bursar_admin.queries.filters import MAX_RANGE_DAYS
from bursar_admin.queries.logs import SORTS
from bursar_admin.queries.ranges import Span, span_of
from bursar_admin.quota import usd
from bursar_admin.requests import check_query, json_answer, whole
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import FILTERS, TIMEZONE, asked, choice, shown
from bursar_admin.spreadsheet import cell
from bursar_admin.usage import UsageStore
from bursar_admin.usage_answers import CorrectionMadeAnswer, LogAnswer, LogPageAnswer
from bursar_admin.usage_json import log_entry, money
from bursar_common.clock import rfc3339

PATH: Final = "/api/logs"
MAX_LIMIT: Final = 1000
"""Requests of one page: about a megabyte."""
DEFAULT_LIMIT: Final = 50
MAX_OFFSET: Final = 10_000
"""Requests to skip; a cursor goes on from any place at no cost."""
MAX_CSV_ROWS: Final = 100_000
"""Rows of one CSV file; longer ones are fetched in pieces, by ``cursor`` or by time."""
CSV_PAGE: Final = 1000
MAX_ID_CHARS: Final = 100

PAGE: Final = (
    Parameter("limit", f"Requests of one page, at most {MAX_LIMIT}; of a CSV file, at most {MAX_CSV_ROWS}.",
              {"type": "integer", "minimum": 1, "maximum": MAX_CSV_ROWS, "default": DEFAULT_LIMIT}),
    Parameter("offset", "Requests to skip; not together with cursor.",
              {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET, "default": 0}),
    Parameter("cursor", "next_cursor of the page before: of the same filters, sort_by and order."),
    Parameter("sort_by", "What to sort by.", {"type": "string", "enum": list(SORTS), "default": "started_at"}),
    Parameter("order", "Direction.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    Parameter("format", "json, or csv for a file.", {"type": "string", "enum": ["json", "csv"], "default": "json"}),
    TIMEZONE,
)  # fmt: skip


class Logs:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.store: UsageStore = desk.usage

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET", PATH, self.listed, "list_logs",
                "Requests, newest first unless told otherwise; a CSV file with format=csv.", LogPageAnswer,
                query=(*FILTERS, *PAGE), asks_analytics=True,
            ),
            Route(
                "GET", PATH + "/{id}", self.get, "get_log",
                "Everything known about one request: tokens, the arithmetic of its cost, each budget it was charged "
                "to, timing, tags, its place in the event log; prompt and answer where they are stored.", LogAnswer,
                asks_analytics=True,
            ),
        ]  # fmt: skip

    async def listed(self, request: web.Request) -> web.StreamResponse:
        filters, query = asked(request, PAGE)
        sort_by = choice(query, "sort_by", tuple(SORTS), "started_at")
        descending = choice(query, "order", ("asc", "desc"), "desc") == "desc"
        as_csv = choice(query, "format", ("json", "csv"), "json") == "csv"
        limit = whole(
            query, "limit", MAX_CSV_ROWS if as_csv else DEFAULT_LIMIT, 1, MAX_CSV_ROWS if as_csv else MAX_LIMIT
        )
        offset = whole(query, "offset", 0, 0, MAX_OFFSET)
        question = question_id(PATH, {**shown(filters), "sort_by": sort_by, "descending": descending})
        after: Place | None = None
        if "cursor" in query:
            if "offset" in query:
                raise bad_field("offset", "cannot be combined with cursor", query["offset"], "one of them")
            value, request_id = read_cursor(query["cursor"], question, (int, str))
            after = (value, request_id)
        span = span_of(filters, self.desk.clock.now_ms(), MAX_RANGE_DAYS)
        wanted = self.store.criteria(filters)
        if as_csv:
            return await self._csv(request, wanted, span, sort_by, descending, after, limit, offset)
        page = await self.store.log_pages.page(
            wanted, span, sort_by, descending=descending, after=after, count=offset + limit + 1, in_time=not offset
        )
        rows = page.rows[offset : offset + limit]
        following: Place | None = None
        if page.looked_to_ms is not None:
            # Behind all that was looked at: ids begin with hexadecimal digits.
            following = (page.looked_to_ms, "") if descending else (page.looked_to_ms - 1, "~")
        elif rows and len(page.rows) > offset + limit:
            following = (rows[-1]["sort_value"], rows[-1]["request_id"])
        return json_answer(
            {
                "logs": [self._entry(row) for row in rows],
                "count": len(rows),
                "limit": limit,
                "offset": offset,
                "next_cursor": make_cursor(question, list(following)) if following else None,
                "looked_back_to": rfc3339(page.looked_to_ms) if page.looked_to_ms is not None else None,
                "from": rfc3339(span.from_ms),
                "to": rfc3339(span.until_ms),
                "notice": await self.store.rows_kept.before(span.from_ms) or None,
            }
        )

    def _entry(self, row: dict[str, Any]) -> dict[str, Any]:
        return log_entry(row, self.store.name_of("user", row["user_id"]) if row["user_id"] else "")

    async def _made(self, row: dict[str, Any]) -> builtins.list[CorrectionMadeAnswer]:
        """Who corrected a request, when and why; nothing while the event log is away."""
        if not row["corrections"]:
            return []
        try:
            found = await self.desk.corrected.of_requests([row["request_id"]])
        except Refusal:
            return []
        return [
            {
                "correction_id": entry.id,
                "corrected_at": entry.time,
                "actor": entry.actor,
                "reason": (entry.document or {})["reason"],
                "cost_nusd": (entry.document or {})["cost_nusd"],
                "cost_usd": usd((entry.document or {})["cost_nusd"]) or "",
            }
            for entry in found.get(row["request_id"], ())
        ]

    async def get(self, request: web.Request) -> web.Response:
        check_query(request)
        request_id = request.match_info["id"]
        row = await self.store.one(request_id) if len(request_id) <= MAX_ID_CHARS else None
        if row is None:
            unknown = not_found("request", request_id[:MAX_ID_CHARS])
            gone = await self.store.rows_kept.before(0)
            raise Refusal(404, "not_found_error", f"{unknown} {gone}") if gone else unknown
        book = await self.desk.books.find(row["price_book_id"])
        content = await self.store.content(request_id)
        further = (
            "upstream_request_id", "message_id", "provider_credential", "max_tokens", "service_tier", "inference_geo",
            "attempts", "client_version", "device_id", "text_bytes",
        )  # fmt: skip
        return json_answer(
            {
                "log": {
                    **self._entry(row),
                    **{name: row[name] for name in further},
                    **money("held", row["held_nusd"]),
                    **money("bound", row["bound_nusd"]),
                    "ended_at": rfc3339(row["ended_at_ms"]) if row["ended_at_ms"] is not None else None,
                    "corrections_made": await self._made(row),
                    "arithmetic": arithmetic(row, book),
                    "charged_to": charges_of(self.desk.projection, row),
                    "log_position": {
                        "topic": row["log_topic"],
                        "partition": row["log_partition"],
                        "offset": row["log_offset"],
                        "event_id": row["event_id"],
                    },
                    "final": row["rank"] != 1,
                    "content": content_json(content) if content is not None else None,
                }
            }
        )

    # -- CSV -----------------------------------------------------------------------------------------------------

    async def _csv(
        self,
        request: web.Request,
        wanted: Criteria,
        span: Span,
        sort_by: str,
        descending: bool,
        after: Place | None,
        limit: int,
        offset: int,
    ) -> web.StreamResponse:
        pages = self._pages(wanted, span, sort_by, descending, after, limit, offset)
        first: builtins.list[dict[str, Any]] = await anext(
            pages, []
        )  # before the head: what goes wrong at once is answered as ever
        response = web.StreamResponse(
            headers={"Content-Disposition": 'attachment; filename="bursar-logs.csv"', "Cache-Control": "no-store"}
        )
        response.content_type, response.charset = "text/csv", "utf-8"
        if request.method == "HEAD":
            return response
        await response.prepare(request)
        await response.write(csv_text([self._entry(row) for row in first], head=True))
        try:
            async for page in pages:
                await response.write(csv_text([self._entry(row) for row in page], head=False))
        except Refusal:
            # The head is out: a file that ends without an end is noticed, one that looks whole is not.
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def _pages(
        self, wanted: Criteria, span: Span, sort_by: str, descending: bool, after: Place | None, limit: int, offset: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        left, skip = limit, offset
        while left > 0:
            count = skip + min(left, CSV_PAGE)
            rows = await self.store.page(wanted, span, sort_by, descending=descending, after=after, count=count)
            if rows:
                after = (rows[-1]["sort_value"], rows[-1]["request_id"])
            page, skip = rows[skip:], 0
            left -= len(page)
            if page:
                yield page
            if len(rows) < count:
                return


CSV_COLUMNS: Final = (
    "started_at", "id", "customer", "team", "user", "virtual_key", "project", "session_id", "agent_id", "provider",
    "model", "outcome", "status", "refused_by", "error_type", "billing", "input_tokens", "cache_read_tokens",
    "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens", "thinking_tokens", "web_searches", "cost_usd",
    "list_cost_usd", "latency_ms", "time_to_first_token_ms", "repository", "branch", "environment", "cost_center",
    "tags", "customer_id", "team_id", "user_id", "virtual_key_id", "price_book_id", "estimated",
    "tools_offered", "tool_uses",
)  # fmt: skip


def csv_text(entries: list[dict[str, Any]], *, head: bool) -> bytes:
    """Lines of a CSV file. A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out)
    if head:
        writer.writerow(CSV_COLUMNS)
    for entry in entries:
        writer.writerow([csv_cell(entry[name]) for name in CSV_COLUMNS])
    return out.getvalue().encode("utf-8", "surrogateescape")


def csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict):
        value = "; ".join(f"{name}={text}" for name, text in sorted(value.items()))
    return cell(value)


def routes(desk: Desk) -> list[Route]:
    return Logs(desk).routes()
