"""``/api/finance/corrections``: what is added to one request's cost, after the fact, as an event of the log."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from bursar_admin.chronicle import Entry
from bursar_admin.closing import last_closed, read_month
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.fields import Description, Reference
from bursar_admin.queries import books, month_pages
from bursar_admin.quota import usd
from bursar_admin.requests import check_query, json_answer, read
from bursar_admin.routes import Route
from bursar_admin.routes.exports import MONTH
from bursar_admin.routes.statements import asked_page, in_dollars, paging
from bursar_admin.schemas import REQUIRED, Body
from bursar_common.clock import rfc3339
from bursar_common.events import CORRECTIONS_TOPIC
from bursar_common.finance import Correction, booked_month, month_of_ms, next_month

PATH = "/api/finance/corrections"
MAX_CORRECTION_NUSD = 1_000_000 * 1_000_000_000
"""A million dollars on one request is a misplaced decimal point."""
FIRST = "request_id"
QUERY = (MONTH, *paging(month_pages.CORRECTION_SORTS, books.MAX_LINES, FIRST))
MAX_EXPECTED_NUSD = (1 << 63) - 1
"""Costs are kept as integers of 64 bits."""
Amount = Annotated[int, Field(ge=-MAX_CORRECTION_NUSD, le=MAX_CORRECTION_NUSD)]


class CorrectionBody(Body):
    """What is added; negative lowers it. Budgets are not touched: their windows are over."""

    request_id: Reference | None = None
    cost_nusd: Amount | None = Field(None, description="Added to the billed cost, nano-dollars.")
    list_cost_nusd: Amount | None = Field(None, description="Added to the list cost, nano-dollars; default: the same.")
    expected_cost_nusd: Annotated[int, Field(ge=-MAX_EXPECTED_NUSD, le=MAX_EXPECTED_NUSD)] | None = Field(
        None,
        description="The billed cost as you know it, nano-dollars, corrections so far included. Where it now costs "
        "something else, nothing is added: 409 with that amount (`cost_nusd`). Default: whatever it costs.",
    )
    reason: Description | None = None
    correction_id: Reference | None = Field(
        None, description="Your id of it: sent again with the same id it counts once. Default: a new one."
    )


REQUIRED[CorrectionBody] = ("request_id", "cost_nusd", "reason")


class CorrectionAnswer(TypedDict):
    correction_id: str
    request_id: str
    corrected_at: str
    reason: str
    cost_nusd: int
    cost_usd: str | None
    list_cost_nusd: int
    list_cost_usd: str | None
    belongs_to_month: str
    booked_month: str


class CorrectionDone(TypedDict):
    message: str
    correction: CorrectionAnswer


class MadeAnswer(TypedDict):
    correction_id: str
    corrected_at: str
    actor: str
    reason: str
    cost_nusd: int
    cost_usd: str | None


class CorrectedRequest(TypedDict):
    request_id: str
    of_month: str
    team_id: str
    team: str
    virtual_key_id: str
    virtual_key: str
    cost_nusd: int
    cost_usd: str | None
    list_cost_nusd: int
    list_cost_usd: str | None
    made: Annotated[
        list[MadeAnswer],
        Field(
            description="The corrections it is the sum of: by whom, when and why, oldest first, as far as they are "
            "among the newest 5,000. Empty also where an "
            "expired hold's charge was taken back after its month was closed: nobody corrected that by hand."
        ),
    ]


class CorrectionList(TypedDict):
    month: str
    corrections: list[CorrectedRequest]
    count: int
    total_count: int
    limit: int
    offset: int
    cost_nusd: Annotated[int, Field(description="Of all of them, on whichever page.")]
    cost_usd: str | None
    list_cost_nusd: int
    list_cost_usd: str | None


class Corrections:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        return [
            Route("GET", PATH, self.list, "list_corrections",
                  "Everything booked in a month as a correction, charges taken back included.", CorrectionList,
                  query=QUERY, asks_analytics=True),
            Route("POST", PATH, self.create, "create_correction",
                  "Correct one request's cost. It is booked in the request's month, or in the next open one. With "
                  "`expected_cost_nusd` in the body only if it costs that much as yet (409 otherwise).",
                  CorrectionDone, body=CorrectionBody, creating=True, asks_analytics=True),
        ]  # fmt: skip

    async def list(self, request: web.Request) -> web.Response:
        query = check_query(request, QUERY)
        month = read_month(query.get("month"), self.desk.clock.now_ms())
        sort_by, order, limit, offset = asked_page(query, month_pages.CORRECTION_SORTS, books.MAX_LINES, FIRST)
        rows = await self.desk.analytics.rows(*month_pages.corrections(month, sort_by, order, limit, offset))
        (totals,) = await self.desk.analytics.rows(*month_pages.correction_totals(month))
        made = await self.desk.corrected.of_requests(row["request_id"] for row in rows)
        closes = [
            (close.name, {(bound.topic, bound.partition): bound.next_offset for bound in close.bounds})
            for close in self.desk.projection.closes.values()
        ]

        def here(of_month: str, entry: Entry) -> bool:
            """Whether it is booked in the month asked for: a request may be corrected in several."""
            return booked_month(of_month, CORRECTIONS_TOPIC, 0, entry.offset, closes) == month

        answer = {
            "month": month,
            "corrections": [
                in_dollars(row, "cost", "list_cost")
                | {"made": [_made(each) for each in made.get(row["request_id"], ()) if here(row["of_month"], each)]}
                for row in rows
            ],
            "count": len(rows),
            "limit": limit,
            "offset": offset,
            **in_dollars(totals, "cost", "list_cost"),
        }
        return json_answer(answer)

    async def create(self, request: web.Request) -> web.Response:
        check_query(request)
        body = await read(request, CorrectionBody, creating=True)
        request_id, cost, reason = body.request_id, body.cost_nusd, body.reason
        assert request_id is not None
        assert cost is not None
        listed = body.list_cost_nusd if body.list_cost_nusd is not None else cost
        if not reason:
            raise bad_field("reason", "is needed: whoever reads the books wants to know why", reason, "a few words")
        if not cost and not listed:
            raise bad_field("cost_nusd", "changes nothing", cost, "an amount that is not 0")
        wanted = Correction(
            correction_id=body.correction_id or self.desk.mint(),
            request_id=request_id,
            corrected_at_ms=self.desk.clock.now_ms(),
            reason=reason,
            actor=self.desk.access.actor,
            cost_nusd=cost,
            list_cost_nusd=listed,
        )
        correction, started_at_ms = await self.desk.correcting.correct(wanted, body.expected_cost_nusd)
        belongs = month_of_ms(started_at_ms)
        last = last_closed(self.desk.projection)
        answer: CorrectionAnswer = {
            "correction_id": correction.correction_id,
            "request_id": request_id,
            "corrected_at": rfc3339(correction.corrected_at_ms),
            "reason": correction.reason,
            "cost_nusd": cost,
            "cost_usd": usd(cost),
            "list_cost_nusd": listed,
            "list_cost_usd": usd(listed),
            "belongs_to_month": belongs,
            "booked_month": max(belongs, next_month(last)) if last else belongs,
        }
        return json_answer({"message": "Correction recorded.", "correction": answer})


def _made(entry: Entry) -> MadeAnswer:
    document = entry.document or {}
    return {
        "correction_id": entry.id,
        "corrected_at": entry.time,
        "actor": entry.actor,
        "reason": document["reason"],
        "cost_nusd": document["cost_nusd"],
        "cost_usd": usd(document["cost_nusd"]),
    }


def routes(desk: Desk) -> list[Route]:
    return Corrections(desk).routes()
