"""``/finance/allocations``: shared keys divided, seat fees and commitments, listed, made, changed and deleted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.pages.budgets import whole_number
from bursar_admin.pages.frame import Frame, View
from bursar_admin.pages.governance import CHOICES, checked_query, choices, totals_of
from bursar_admin.pages.money_tabs import ACTIVE, tabs
from bursar_admin.projection import Projection
from bursar_admin.routes import Route
from bursar_common.finance import month_of_ms, next_month

API = "/api/finance/allocations"
PAGE = 50
PARTS_TOLD = 2
"""Who bears it, in one line of the list; the allocation's own page has all."""
KINDS = {
    "split": ("Split", "a shared key's cost, divided"),
    "fee": ("Fee", "so much for each seat"),
    "commitment": ("Commitment", "a fixed sum, divided"),
}
"""Kind to its word and what it is."""
COLUMNS = (
    ("Name", "name", "text"), ("Kind", "kind", "text"), ("Of", "", "text"), ("Borne by", "", "text"),
    ("A month", "amount", "number"), ("Months", "from_month", "time"), ("State", "", "text"),
)  # fmt: skip
PLURALS = {"split": "Splits", "fee": "Fees", "commitment": "Commitments"}
BLANK: dict[str, Any] = {
    "id": "", "name": "", "version": None, "kind": "split", "description": "", "virtual_key_id": None,
    "provider": "anthropic", "amount_nusd": None, "amount_usd": None, "from_month": "", "to_month": None, "parts": [],
}  # fmt: skip
"""What the form of a new allocation begins with."""


@dataclass(frozen=True)
class AsKind:
    """What the frame of one entity's page asks of a kind."""

    slug: str = "allocations"
    entity: str = "allocation"
    api: str = API
    path: str = "/finance/allocations"
    word: str = "allocation"
    plural: str = "Allocations"


KIND = AsKind()


@dataclass
class Row:
    """One allocation of the list."""

    answer: dict[str, Any]
    now: str
    """The running month."""
    key: str = ""
    """Name of the key that is divided; of a deleted one its id."""
    lines: tuple[()] = ()
    """An allocation has no budgets of its own."""
    shown: list[tuple[str, str]] = field(default_factory=list)
    """(who, how much), the first ones."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.answer[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def state(self) -> tuple[str, str]:
        """(mark, word): whether the running month has it."""
        if self.answer["from_month"] > self.now:
            return "", "to come"
        until = self.answer["to_month"]
        return ("", "ended") if until and until < self.now else ("good", "in force")

    @property
    def monthly_nusd(self) -> int | None:
        """What it charges each month; None: depends on the key."""
        if self.answer["kind"] == "split":
            return None
        return sum(int(part["amount_nusd"]) for part in self.answer["parts"])


def row_of(projection: Projection, answer: dict[str, Any], now: str) -> Row:
    key = projection.virtual_keys.get(answer["virtual_key_id"] or "")
    parts = answer["parts"]
    shown = [(part["team"] or part["customer"], share(part)) for part in parts[:PARTS_TOLD]]
    return Row(answer, now, key.name if key is not None else answer["virtual_key_id"] or "", shown=shown)


def share(part: dict[str, Any]) -> str:
    """``70 %``, ``12 seats``."""
    if part["percent"] is not None:
        return f"{part['percent']} %"
    return f"{part['seats']:,} seat{'' if part['seats'] == 1 else 's'}"


def routes(desk: Desk, frame: Frame) -> list[Route]:
    def running() -> str:
        return month_of_ms(desk.clock.now_ms())

    async def last_closed(view: View) -> str:
        closes = (await view.api.get("/api/finance/closes"))["closes"]
        return max((close["month"] for close in closes), default="")

    async def listing(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view, "kind", "offset", "sort_by", "order")
        kind = view.query.get("kind") or None
        if kind is not None and kind not in KINDS:
            raise bad_field("kind", "is not a kind of allocation", kind[:100], list(KINDS))
        offset = whole_number(view.query.get("offset", ""))
        sorting = {name: view.query.get(name) or None for name in ("sort_by", "order")}
        answer = await view.api.get(API, {"kind": kind, "limit": PAGE, "offset": offset, **sorting})
        rows = [row_of(desk.projection, each, running()) for each in answer["allocations"]]
        return frame.shell(
            view, ACTIVE, "allocations.html", "Allocations",
            tabs=tabs(view), rows=rows, total=answer["total_count"], offset=offset, page=PAGE, chosen=kind,
            kinds=KINDS, plurals=PLURALS, kind=KIND, columns=COLUMNS,
        )  # fmt: skip

    async def new(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view, "kind")
        wanted = view.query.get("kind") or "split"
        if wanted not in KINDS:
            raise bad_field("kind", "is not a kind of allocation", wanted[:100], list(KINDS))
        closed = await last_closed(view)
        begins = max(running(), next_month(closed) if closed else "")
        return await form_page(view, BLANK | {"kind": wanted, "from_month": begins}, None, closed)

    async def one(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        checked_query(view)
        path = f"{API}/{quote(request.match_info['id'], safe='')}"
        answer = (await view.api.get(path))["allocation"]
        row = row_of(desk.projection, answer, running())
        return await form_page(view, answer, row, await last_closed(view))

    async def form_page(view: View, entity: dict[str, Any], row: Row | None, closed: str) -> web.StreamResponse:
        analytics = (await view.api.get("/api/installation"))["analytics"]
        in_books = row is not None and bool(closed) and entity["from_month"] <= closed
        return frame.shell(
            view, ACTIVE, "allocation.html", "New allocation" if row is None else entity["name"],
            kind=KIND, entity=entity, row=row, kinds=KINDS, closed=closed, in_books=in_books, below=(), previews=False,
            analytics=analytics,
            undeletable=f"It is part of months that are closed, the last of them {closed}, and what was charged in "
            f"them stays. To end it, set its last month to {closed} or later." if in_books else "",
            keys=choices(view, "virtual_key", entity["virtual_key_id"]),
            teams=bearers(view, "team", entity), customers=bearers(view, "customer", entity),
            totals=totals_of(view), choices_most=CHOICES,
            providers=sorted((each.name, each.name) for each in desk.projection.providers.values()), share=share,
        )  # fmt: skip

    def bearers(view: View, entity: str, allocation: dict[str, Any]) -> list[tuple[str, str]]:
        """Teams or customers to choose from; those that bear a part are always among them."""
        found = dict(choices(view, entity, None))
        for part in allocation["parts"]:
            bearer = part[f"{entity}_id"]
            if bearer and (entity == "team" or not part["team_id"]):
                found.setdefault(bearer, part[entity])
        return list(found.items())

    return [
        Route("GET", KIND.path, listing, "allocations_page", "What is charged beside requests."),
        Route("GET", f"{KIND.path}/new", new, "new_allocation_page", "The form of a new one."),
        Route("GET", f"{KIND.path}/{{id}}", one, "allocation_page", "One of them."),
    ]
