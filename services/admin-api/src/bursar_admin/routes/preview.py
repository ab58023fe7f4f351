"""``/api/governance/budget-preview``: what a budget would have refused in the last days."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Final

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.fields import WINDOW_ALLOWED
from bursar_admin.limits import ALIGNED_ALLOWED
from bursar_admin.log_answers import PreviewAnswer
from bursar_admin.owners import find
from bursar_admin.queries.preview import DAYS, MAX_WINDOWS, preview
from bursar_admin.requests import check_query, flag, json_answer
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import choice
from bursar_admin.writes import zone_of
from bursar_common.clock import rfc3339
from bursar_common.money import MAX_DOLLARS, parse_nusd
from bursar_common.windows import Window, bounds, parse_window

PATH: Final = "/api/governance/budget-preview"
KINDS: Final = ("customer", "team", "virtual_key")
QUERY: Final = (
    Parameter("kind", "Kind of owner.", {"type": "string", "enum": list(KINDS)}),
    Parameter("id", "The owner."),
    Parameter("max_limit", "Dollars.", {"type": "number", "minimum": 0, "maximum": MAX_DOLLARS}),
    Parameter("reset_duration", f"The budget's window: {WINDOW_ALLOWED}."),
    Parameter("calendar_aligned", "Whether windows begin with the calendar's.", {"type": "boolean", "default": False}),
)
DAY_S: Final = 86_400


def routes(desk: Desk) -> list[Route]:
    async def get(request: web.Request) -> web.Response:
        query = check_query(request, QUERY)
        kind = choice(query, "kind", KINDS, "")
        document = find(desk.projection, kind, query.get("id", ""))
        aligned = bool(flag(query, "calendar_aligned"))
        limit_nusd = _dollars(query.get("max_limit"))
        starts = _starts(
            query.get("reset_duration", ""),
            aligned,
            document.created_at_s,
            zone_of(desk.projection, document),
            desk.now_s(),
        )
        recent_ms = (desk.now_s() - DAYS * DAY_S) * 1000
        (row,) = await desk.analytics.rows(*preview(kind, document.id, limit_nusd, starts, recent_ms))  # type: ignore[arg-type]
        answer: PreviewAnswer = {
            "days": DAYS,
            "requests": row["requests"],
            "would_refuse": row["would_refuse"],
            "spent_nusd": row["spent_nusd"],
            "first_refused_at": rfc3339(row["first_refused_ms"]) if row["would_refuse"] else None,
        }
        return json_answer(answer)

    return [
        Route(
            "GET", PATH, get, "preview_budget",
            "How many of the last week's requests a budget of this owner would have refused.", PreviewAnswer,
            query=QUERY, asks_analytics=True,
        )
    ]  # fmt: skip


def _dollars(text: str | None) -> int:
    allowed = f"a number of dollars from 0 to {MAX_DOLLARS} with at most 9 decimals"
    try:
        return parse_nusd(Decimal(text or ""))
    except (ValueError, InvalidOperation):
        raise bad_field("max_limit", "must be an amount of money", text, allowed) from None


def _starts(text: str, aligned: bool, anchored_at_s: int, timezone: str, now_s: int) -> list[int]:
    """Starts of the windows of the last days, rising. Raises Refusal (400)."""
    try:
        window = parse_window(text)
    except ValueError:
        raise bad_field("reset_duration", "is not a window of time", text, WINDOW_ALLOWED) from None
    try:
        parse_window(text, aligned)
    except ValueError:
        raise bad_field("reset_duration", "cannot be aligned to the calendar", text, ALIGNED_ALLOWED) from None
    if not aligned:
        anchored_at_s = _earlier(anchored_at_s, window, now_s)
    start_s, _ = bounds(window, aligned, anchored_at_s, timezone, now_s)
    found = [start_s]
    while found[-1] > now_s - DAYS * DAY_S:
        if len(found) >= MAX_WINDOWS:
            raise bad_field("reset_duration", "is too short for a preview", text, "an hour or longer")
        found.append(bounds(window, aligned, anchored_at_s, timezone, found[-1] - 1)[0])
    return found[::-1]


def _earlier(anchored_at_s: int, window: Window, now_s: int) -> int:
    """The start of a window of the same rhythm before the days looked at: the owner may be younger than those."""
    number, unit = window
    wanted_s = now_s - (DAYS + 1) * DAY_S
    if unit in ("M", "Q", "Y"):
        months = number * {"M": 1, "Q": 3, "Y": 12}[unit]
        anchor = datetime.fromtimestamp(anchored_at_s, UTC)
        while anchor.timestamp() > wanted_s:
            year, month0 = divmod(anchor.year * 12 + anchor.month - 1 - months, 12)
            anchor = anchor.replace(year=year, month=month0 + 1, day=min(anchor.day, 28))
        return int(anchor.timestamp())
    length_s = number * {"s": 1, "m": 60, "h": 3600, "d": DAY_S, "w": 7 * DAY_S}[unit]
    return anchored_at_s - max(0, -(-(anchored_at_s - wanted_s) // length_s)) * length_s
