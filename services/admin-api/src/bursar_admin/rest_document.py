"""``docs/rest.md``, made from the route table so that the two cannot differ. Pure."""

from __future__ import annotations

from bursar_admin.queries.filters import LISTED, Filters
from bursar_admin.routes import Route

_HEAD = """\
# REST

Everything that pages and the `bursar` command show is read from here, and nothing else is needed to build your own. The
machine-readable form, with the shapes of all bodies and answers, is `GET /api/openapi.json` of a running Bursar.

**Access.** On one machine, loopback needs no token (unless `bursar up --require-token`). Any other address needs the
admin token, as `Authorization: Bearer <token>` or `x-api-key: <token>`. Routes marked *key* take the virtual key itself
instead, and tell no more than that key may know: the one that is known of `x-bf-vk`, `Authorization: Bearer` and
`x-api-key`, as for requests through the gateway. What is not known beside it (a client's own login) is passed over; no
known key, or two different ones, are 401.

**Errors** are `{"error": {"type", "message", "field", "given", "allowed", "request_id"}}`, several faults under
`problems`: each names the wrong field, what was given and what is allowed. A parameter or field that is not known is
refused with 400, never ignored. 409 says what it conflicts with; a command that the ledger has not taken over within
5 s is answered 202. Below `/v1/organizations/` the same stands in the provider's envelope,
`{"type": "error", "error": {…}, "request_id"}`.

**Money** comes twice: `cost_nusd` is an integer of nano-dollars (10^-9), `cost_usd` the same as a decimal text. What is
not known is `null`, never 0.

**Paging.** `limit` and `offset`, or the `cursor` that the page before carried; a cursor belongs to the filters and the
order it was made with, and is refused with others.

**Freshness.** Sums and insights are as of their question. Who asks many at once may accept what was read for another a
moment ago (`Cache-Control: max-age=1`, up to 5 s): they then agree with each other and cost a fraction, as on the
Overview.

**Live.** `/ws` (web socket) and `/api/logs/stream` (Server-Sent Events) send every new request under the same filters:

    curl -N 'localhost:8080/api/logs/stream?team=platform&min_cost_usd=0.50'

A reader that is too slow is told how many records it missed (`dropped`), then closed.

## Filters

Shared by logs, statistics, sessions, insights and the live stream; pages have the same names in their URLs. Those
marked with `+` may be repeated: any of the values matches.

| name | meaning |
|---|---|
"""


def document(table: list[Route]) -> str:
    """The whole page."""
    lines = [_HEAD.rstrip("\n")]
    for name, field in Filters.model_fields.items():
        shown = f"`{field.alias or name}`{' +' if name in LISTED else ''}"
        lines.append(f"| {shown} | {_cell(field.description or '')} |")
    lines += ["", "## Routes", "", "| method | path | answers | parameters |", "|---|---|---|---|"]
    filters = {field.alias or name for name, field in Filters.model_fields.items()}
    for route in sorted(table, key=lambda each: (each.path, each.method)):
        names = [item.name for item in route.query]
        shared = filters.intersection(names)
        shown_names = [f"`{name}`" for name in names if name not in shared or len(shared) < 5]
        if len(shared) >= 5:
            shown_names.insert(0, "filters")
        access = " *key*" if route.key_page else " *open*" if route.open_page or route.probe else ""
        summary = f"{_cell(route.summary)}{access}"
        lines.append(f"| {route.method} | `{route.path}` | {summary} | {', '.join(shown_names)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
