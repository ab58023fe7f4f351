"""The form that corrects what one request cost: ``/fragments/logs/{id}/correct``, in the request's panel."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.pages.frame import Frame, address
from bursar_admin.pages.records import Record
from bursar_admin.routes import Route
from bursar_common.finance import month_of_ms, next_month


def booked_in(started_at_ms: int, last_closed: str) -> tuple[str, str]:
    """(month a request belongs to, month its correction would be booked in now). ``last_closed``: empty for none."""
    belongs = month_of_ms(started_at_ms)
    return belongs, max(belongs, next_month(last_closed)) if last_closed else belongs


def routes(desk: Desk, frame: Frame) -> list[Route]:
    async def form(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        request_id = request.match_info["id"]
        answer, closed = await asyncio.gather(
            view.api.get(f"/api/logs/{quote(request_id, safe='')}"), view.api.get("/api/finance/closes")
        )
        record = Record.of_answer(answer)
        last = max((close["month"] for close in closed["closes"]), default="")
        belongs, booked = booked_in(record.started_at_ms, last)
        # Its own row of the list, found by its id.
        start_s = record.started_at_ms // 1000
        row = address("/fragments/logs/rows", {}, {"text": record.id, "from": start_s, "to": start_s + 1})
        # An id of its own: sent twice, because an answer was lost, it counts once.
        return frame.fragment(
            view, "parts/correct_form.html", record=record, belongs=belongs, booked=booked, row=row,
            correction_id=desk.mint(),
        )  # fmt: skip

    return [Route("GET", "/fragments/logs/{id}/correct", form, "correct_form", "The form that corrects a cost.")]
