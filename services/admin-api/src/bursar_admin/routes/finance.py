"""``/api/finance/closes``: months that are fixed, and the closing of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from bursar_admin.closing import check_closable, close_month, last_closed, read_month
from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal, bad_field
from bursar_admin.month_books import MonthBooks
from bursar_admin.queries.books import first_month, months_differing, provider_bill
from bursar_admin.quota import usd
from bursar_admin.requests import check_query, json_answer, read
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.entities import PENDING
from bursar_admin.schemas import REQUIRED, Body
from bursar_common.clock import rfc3339
from bursar_common.finance import PeriodClose, close_id, month_bounds_ms, month_of_ms, next_month

PATH = "/api/finance/closes"
BILL_PATH = "/api/finance/provider-bill"
BILL_DAYS = 366
"""Days of one answer: a row a day, model and credential."""
DAYS = (
    Parameter("from", "First UTC day, YYYY-MM-DD.", {"type": "string", "format": "date"}),
    Parameter("to", "Last UTC day, YYYY-MM-DD.", {"type": "string", "format": "date"}),
)


class CloseBody(Body):
    """Which month to close."""

    month: Annotated[str, Field(max_length=20)] | None = Field(None, description="A UTC month that is over, YYYY-MM.")


REQUIRED[CloseBody] = ("month",)


class PositionAnswer(TypedDict):
    topic: str
    partition: int
    next_offset: int


class CloseAnswer(TypedDict):
    month: str
    closed_at: str
    closed_by: str
    checksum: str
    rows: int
    requests: int
    billed_nusd: int
    billed_usd: str | None
    list_nusd: int
    list_usd: str | None
    expired_nusd: int
    expired_usd: str | None
    corrections_nusd: int
    corrections_usd: str | None
    allocated_nusd: int
    allocated_usd: str | None
    price_books: list[str]
    log_positions: list[PositionAnswer]


class CloseOne(TypedDict):
    close: CloseAnswer
    verified: bool


class CloseDone(TypedDict):
    message: str
    event_id: str
    close: CloseAnswer


class BillRow(TypedDict):
    day: str
    provider: str
    provider_credential: str
    model: str
    requests: int
    billed_nusd: int
    list_nusd: int
    estimated_nusd: int
    expired_nusd: int
    unpriced_nusd: int
    edge_nusd: int
    imported_list_nusd: int


class Bill(TypedDict):
    rows: list[BillRow]


class CloseList(TypedDict):
    closes: list[CloseAnswer]
    next_month: Annotated[
        str | None,
        Field(description="The month that may be closed next; null: none is over, or the analytics do not answer."),
    ]
    differing: Annotated[
        list[str] | None,
        Field(description="Closed months whose requests do not come to their checksum; null: analytics do not answer."),
    ]
    notice: Annotated[str, Field(description="What that means for them, as a sentence; empty: nothing differs.")]


def close_answer(close: PeriodClose) -> CloseAnswer:
    return {
        "month": close.name,
        "closed_at": rfc3339(close.created_at_s * 1000),
        "closed_by": close.closed_by,
        "checksum": close.checksum,
        "rows": close.rows,
        "requests": close.requests,
        "billed_nusd": close.billed_nusd,
        "billed_usd": usd(close.billed_nusd),
        "list_nusd": close.list_nusd,
        "list_usd": usd(close.list_nusd),
        "expired_nusd": close.expired_nusd,
        "expired_usd": usd(close.expired_nusd),
        "corrections_nusd": close.corrections_nusd,
        "corrections_usd": usd(close.corrections_nusd),
        "allocated_nusd": close.allocated_nusd,
        "allocated_usd": usd(close.allocated_nusd),
        "price_books": list(close.price_books),
        "log_positions": [
            {"topic": each.topic, "partition": each.partition, "next_offset": each.next_offset} for each in close.bounds
        ],
    }


def differs_sentence(months: Sequence[str]) -> str:
    """What is said of closed months whose requests do not come to the checksum of the close; empty: of none."""
    if not months:
        return ""
    named = ", ".join(months[:-1]) + (" and " if months[1:] else "") + months[-1]
    do, their = ("does", "its") if len(months) == 1 else ("do", "their")
    return (
        f"{named} {do} not come to {their} checksum: ClickHouse lacks requests, or has others than when {their} books "
        f"were closed, and {their} statements and exports may differ from those made before. Looked at again every ten "
        "minutes. What the event log still has, `bursar rebuild analytics` brings back."
    )


class Closes:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.books = MonthBooks(desk)

    def routes(self) -> list[Route]:
        return [
            Route("GET", PATH, self.list, "list_closes", "Months that were closed, earliest first.", CloseList),
            Route(
                "POST", PATH, self.close, "close_month",
                "Close a month that is over: what arrives later is booked in the next. There is no way back.",
                CloseDone, body=CloseBody, creating=True, may_be_pending=True, asks_analytics=True,
            ),
            Route(
                "GET", f"{PATH}/{{month}}", self.get, "get_close",
                "A closed month, and whether its rows still have the checksum they were closed with.", CloseOne,
                asks_analytics=True,
            ),
            Route(
                "GET", BILL_PATH, self.bill, "get_provider_bill",
                "What the provider should bill by UTC day, credential and model, to lay beside its own report.", Bill,
                query=DAYS, asks_analytics=True,
            ),
        ]  # fmt: skip

    async def list(self, request: web.Request) -> web.Response:
        check_query(request)
        closes = sorted(self.desk.projection.closes.values(), key=lambda close: close.name)
        answers = [close_answer(close) for close in closes]
        differing = await self.differing() if closes else []
        return json_answer(
            {
                "closes": answers,
                "next_month": await self.next_month(),
                "differing": differing,
                "notice": differs_sentence(differing or []),
            }
        )

    async def differing(self) -> Sequence[str] | None:
        """Closed months that could not be stored; None: the analytics do not answer."""
        try:
            return [row["of_month"] for row in await self.desk.analytics.rows(*months_differing())]
        except Refusal:
            return None

    async def next_month(self) -> str | None:
        """The one behind the last that is closed; before any is, the first that has requests."""
        running = month_of_ms(self.desk.clock.now_ms())
        last = last_closed(self.desk.projection)
        if last:
            following = next_month(last)
        else:
            try:
                (first,) = await self.desk.analytics.rows(*first_month(month_bounds_ms(running)[0]))
            except Refusal:
                return None
            following = first["month"]
        return following if following and following < running else None

    async def get(self, request: web.Request) -> web.Response:
        check_query(request)
        month = read_month(request.match_info["month"], self.desk.clock.now_ms())
        close = self.desk.projection.closes.get(close_id(month))
        if close is None:
            raise Refusal(404, "not_found_error", f"{month} has not been closed.")
        await self.books.check_known()
        return json_answer({"close": close_answer(close), "verified": await self.books.verified(close)})

    async def bill(self, request: web.Request) -> web.Response:
        query = check_query(request, DAYS)
        first, last = read_day(query.get("from"), "from"), read_day(query.get("to"), "to")
        if last < first:
            raise bad_field("to", "is before from", query.get("to"), f"{first} or later")
        if (last - first).days >= BILL_DAYS:
            raise bad_field("to", "is too far from from", query.get("to"), f"at most {BILL_DAYS} days at once")
        rows = await self.desk.analytics.rows(*provider_bill(_day_ms(first), _day_ms(last + timedelta(days=1))))
        return json_answer({"rows": rows})

    async def close(self, request: web.Request) -> web.Response:
        check_query(request)
        body = await read(request, CloseBody, creating=True)
        projection, now_ms = self.desk.projection, self.desk.clock.now_ms()
        month = read_month(body.month, now_ms)
        check_closable(projection, month, now_ms, "")
        (first,) = await self.desk.analytics.rows(*first_month(month_bounds_ms(month)[0]))
        check_closable(projection, month, now_ms, first["month"])
        figures = await self.books.figures(month)
        outcome = await self.desk.run(lambda projection, moment: close_month(projection, month, figures, moment))
        known = True
        try:
            await self.books.check_known()
        except Refusal:
            known = False
        content: dict[str, Any] = {
            "message": f"{month} is closed." if outcome.in_force and known else PENDING,
            "event_id": outcome.event_id,
            "close": close_answer(projection.closes[outcome.entity_id]),
        }
        return json_answer(content, status=200 if outcome.in_force and known else 202)


def read_day(text: str | None, field: str) -> date:
    """Raises Refusal (400)."""
    try:
        day = date.fromisoformat(text or "")
        if len(text or "") != 10 or not 2000 <= day.year < 2100:
            raise ValueError
    except ValueError:
        raise bad_field(field, "is not a day", text, "YYYY-MM-DD, such as 2026-11-01") from None
    return day


def _day_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def routes(desk: Desk) -> list[Route]:
    return Closes(desk).routes()
