"""``/api/usage/import``: requests of local logs, into the event log."""

from __future__ import annotations

from aiohttp import web
from typing_extensions import TypedDict

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.imports import ImportBody, import_id, in_time, is_known, record_of, usage_of
from bursar_admin.key_access import check_usable, presented_key
from bursar_admin.queries.usage_report import known_messages
from bursar_admin.quota import usd
from bursar_admin.requests import check_query, json_answer, read
from bursar_admin.routes import Route
from bursar_admin.token_prices import TokenPrices
from bursar_common.governance import VirtualKey

PATH = "/api/usage/import"
PROVIDER = "anthropic"


class ImportAnswer(TypedDict):
    message: str
    virtual_key: str
    recorded: int
    known: int
    out_of_time: int
    unpriced: list[str]
    list_cost_nusd: int
    list_cost_usd: str | None


class Imports:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.prices = TokenPrices(desk)

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST", PATH, self.post, "import_usage",
                "Record requests of Claude Code's local logs: billing `imported`, billed cost 0, list cost computed. "
                "What is recorded already is left out. The admin token imports for any key, a virtual key for itself.",
                ImportAnswer, body=ImportBody, key_page=True,
            )
        ]  # fmt: skip

    async def post(self, request: web.Request) -> web.Response:
        desk = self.desk
        check_query(request)
        own = presented_key(desk, request)
        if own is None:
            desk.access.check(request.headers)
        body = await read(request, ImportBody)
        key = check_usable(own, desk.now_s()) if own is not None else self._named(body.virtual_key)
        if own is not None and body.virtual_key not in (None, own.id, own.name):
            raise bad_field("virtual_key", "is not the key that asks", body.virtual_key, own.name)
        team = desk.projection.teams.get(key.team_id)
        customer = desk.projection.customers.get(team.customer_id if team is not None else key.customer_id)
        book = self.prices.book(PROVIDER)
        now_ms = desk.clock.now_ms()
        fresh = [entry for entry in body.entries if in_time(entry, now_ms)]
        known: dict[str, set[str]] = {}
        if fresh:
            ids = sorted({entry.message_id for entry in fresh})
            for row in await desk.analytics.rows(*known_messages(ids)):
                known.setdefault(row["message_id"], set()).add(row["upstream_request_id"])
        unpriced: set[str] = set()
        records, seen, list_nusd = [], set(), 0
        for entry in fresh:
            if is_known(entry, known) or import_id(entry) in seen:
                continue
            usage = usage_of(entry, key, team, customer, book)
            if usage is None:
                unpriced.add(entry.model)
                continue
            seen.add(usage.request_id)
            records.append(record_of(usage))
            list_nusd += usage.list_cost_nusd
        if records and not body.dry_run:
            await desk.journal.append_usage(records)
        left_out = sum(1 for entry in fresh if entry.model in unpriced)
        answer: ImportAnswer = {
            "message": "Nothing was recorded: a dry run." if body.dry_run else f"{len(records)} requests recorded.",
            "virtual_key": key.name,
            "recorded": len(records),
            "known": len(fresh) - len(records) - left_out,
            "out_of_time": len(body.entries) - len(fresh),
            "unpriced": sorted(unpriced),
            "list_cost_nusd": list_nusd,
            "list_cost_usd": usd(list_nusd),
        }
        return json_answer(answer)

    def _named(self, name: str | None) -> VirtualKey:
        """Raises Refusal (400)."""
        keys = self.desk.projection.virtual_keys
        if name is None:
            raise bad_field("virtual_key", "is needed", None, "id or name of the key to book the requests on")
        found = [key for key in keys.values() if name in (key.id, key.name)]
        if len(found) != 1:
            what = "is not a virtual key" if not found else "names more than one virtual key"
            raise bad_field("virtual_key", what, name, "id or name of a virtual key")
        return found[0]


def routes(desk: Desk) -> list[Route]:
    return Imports(desk).routes()
