"""``/api/sessions``: Claude Code's sessions, and one with its agents and turns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import Refusal, bad_field, not_found
from bursar_admin.queries import sessions
from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.cursors import make_cursor, question_id, read_cursor
from bursar_admin.queries.ranges import Span, span_of
from bursar_admin.queries.sums import MEASURES
from bursar_admin.requests import check_query, json_answer, whole
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import FILTERS, TIMEZONE, asked, choice, shown
from bursar_admin.routes.usage_sums import COMPARE, previous, times
from bursar_admin.session_facts import agents_of, facts, hour_cache, rates_by, rewrites, turn_json
from bursar_admin.usage import UsageStore
from bursar_admin.usage_answers import SessionAnswer, SessionPageAnswer
from bursar_admin.usage_json import money, sums_json
from bursar_common.clock import rfc3339

PATH: Final = "/api/sessions"
MAX_LIMIT: Final = 500
MAX_OFFSET: Final = 100_000
MAX_TURNS: Final = 20_000
"""Turns of a session that are read: some 8 MB. Beyond it the answer says so."""
MAX_TURNS_SHOWN: Final = 2_000
MAX_ID_CHARS: Final = 200
COST_RULE: Final = "Facts are about list cost, so that sessions paid by a subscription can be compared; they overlap."

PAGE: Final = (
    Parameter("limit", "Sessions of one page.",
              {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 50}),
    Parameter("offset", "Sessions to skip.", {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET, "default": 0}),
    Parameter("cursor", "next_cursor of the page before: of the same filters, sort_by and order."),
    Parameter("sort_by", "What to sort by.", {"type": "string", "enum": list(sessions.SORTS), "default": "last_at"}),
    Parameter("order", "Direction.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    *COMPARE,
    TIMEZONE,
)  # fmt: skip
TURNS: Final = (
    Parameter("limit", "Turns to show, oldest first; sums are of all.",
              {"type": "integer", "minimum": 0, "maximum": MAX_TURNS_SHOWN, "default": 500}),
    Parameter("offset", "Turns to skip.", {"type": "integer", "minimum": 0, "maximum": MAX_TURNS, "default": 0}),
)  # fmt: skip


class Sessions:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.store: UsageStore = desk.usage

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET", PATH, self.listed, "list_sessions",
                "Sessions with requests in the range under the filters; figures are of those requests. "
                "first_at, last_at, duration_s, agent_count and models are null where requests are no longer kept. "
                "With a period to compare to, sums over all sessions of both (summary, previous). "
                "Default range: 7 days.", SessionPageAnswer, query=(*FILTERS, *PAGE), asks_analytics=True,
            ),
            Route(
                "GET", PATH + "/{id}", self.get, "get_session",
                "One session: the tree of its agents, its turns in order, what made it dear. Where requests of it are "
                "no longer kept, sums are of all of them, the rest of those that are there; notice says so.",
                SessionAnswer,
                query=TURNS, asks_analytics=True,
            ),
        ]  # fmt: skip

    async def listed(self, request: web.Request) -> web.Response:
        filters, query = asked(request, PAGE)
        sort_by = choice(query, "sort_by", tuple(sessions.SORTS), "last_at")
        descending = choice(query, "order", ("asc", "desc"), "desc") == "desc"
        limit, offset = whole(query, "limit", 50, 1, MAX_LIMIT), whole(query, "offset", 0, 0, MAX_OFFSET)
        bound = question_id(PATH, {**shown(filters), "sort_by": sort_by, "descending": descending})
        if "cursor" in query:
            if "offset" in query:
                raise bad_field("offset", "cannot be combined with cursor", query["offset"], "one of them")
            (offset,) = read_cursor(query["cursor"], bound, (int,))
            if not 0 <= offset <= MAX_OFFSET:
                raise bad_field("cursor", "leads too far", None, f"at most {MAX_OFFSET} sessions")
        span = span_of(filters, self.desk.clock.now_ms())
        wanted = self.store.criteria(filters)
        before = previous(query, span, default="none")
        (found, total), *sums = await asyncio.gather(
            self.store.sessions(wanted, span, sort_by, descending=descending, count=limit, offset=offset),
            *(self._all(wanted, each) for each in ([span, before] if before is not None else [])),
        )
        more = offset + len(found) < total and offset + limit <= MAX_OFFSET
        return json_answer(
            {
                "sessions": [self._summary(row) for row in found],
                "count": len(found),
                "total_count": total,
                "limit": limit,
                "offset": offset,
                "next_cursor": make_cursor(bound, [offset + limit]) if more else None,
                **(dict(zip(("summary", "previous"), sums, strict=True)) if sums else {}),
                **times(span, before),
            }
        )

    async def _all(self, wanted: Criteria, span: Span) -> dict[str, Any]:
        row = await self.store.all_sessions(wanted, span)
        return {"sessions": row["sessions"], **sums_json({name: row[f"sum_{name}"] for name in MEASURES})}

    def _summary(self, row: dict[str, Any]) -> dict[str, Any]:
        return session_summary(self.store, row)

    async def get(self, request: web.Request) -> web.Response:
        query = check_query(request, TURNS)
        limit = whole(query, "limit", 500, 0, MAX_TURNS_SHOWN)
        offset = whole(query, "offset", 0, 0, MAX_TURNS)
        session_id = request.match_info["id"]
        turns: list[dict[str, Any]] = []
        left: dict[str, Any] | None = None
        if session_id and len(session_id) <= MAX_ID_CHARS:
            turns, left = await asyncio.gather(
                self.store.analytics.rows(*sessions.turns([session_id], MAX_TURNS + 1)),
                self.store.session_left(session_id),
            )
        notice = await self._notice(left, turns)
        if not turns and left is None:
            unknown = not_found("session", session_id[:MAX_ID_CHARS])
            gone = await self.store.rows_kept.before(0)
            raise Refusal(404, "not_found_error", f"{unknown} {gone}") if gone else unknown
        if not turns and left is not None:
            summary = self._summary(sessions.with_agents(left, None))
            gone_too = {**_NOTHING_KEPT, "requests_left": sessions.requests_of(left)}
            return json_answer({"session": {**summary, **gone_too}, "notice": notice})
        complete = len(turns) <= MAX_TURNS
        turns = turns[:MAX_TURNS]
        books = {book_id: await self.desk.books.find(book_id) for book_id in {turn["price_book_id"] for turn in turns}}
        rates = rates_by(books)
        lost = rewrites(turns, rates)
        hour = hour_cache(turns, lost, rates)
        last = turns[-1]
        sums = sums_of(turns)
        if left is not None:
            sums = {name: value + int(left[f"sum_{name}"]) for name, value in sums.items()}
        return json_answer(
            {
                "session": {
                    "id": session_id,
                    "first_at": rfc3339(turns[0]["started_at_ms"]),
                    "last_at": rfc3339(max(turn["started_at_ms"] + (turn["latency_ms"] or 0) for turn in turns)),
                    "user": self.store.name_of("user", last["user_id"]) if last["user_id"] else "",
                    **{
                        name: last[name]
                        for name in ("user_id", "virtual_key", "virtual_key_id", "team", "team_id", "customer",
                                     "customer_id", "project")
                    },
                    "models": sorted({turn["model"] for turn in turns}),
                    "agent_count": len({turn["agent_id"] for turn in turns}),
                    **sums_json(sums),
                    "agents": agents_of(turns),
                    "turns": [turn_json(turn) for turn in turns[offset : offset + limit]],
                    "turns_count": len(turns),
                    "turns_offset": offset,
                    "complete": complete,
                    "facts": facts(turns, rates),
                    "facts_rule": COST_RULE,
                    "cache": {
                        "rewrites": [
                            {
                                "id": each.turn["request_id"], "agent_id": each.turn["agent_id"],
                                "at": rfc3339(each.turn["started_at_ms"]), "pause_s": round(each.pause_s),
                                "tokens": each.tokens, **money("extra", each.extra_nusd),
                            }
                            for each in lost[:200]
                        ],
                        "rewrites_count": len(lost),
                        **money("hour_cache_saved", hour.saved_nusd),
                        **money("hour_cache_dearer", hour.dearer_nusd),
                        **money("hour_cache_net", hour.net_nusd),
                    },
                    "requests_left": sessions.requests_of(left) if left is not None else 0,
                },
                "notice": notice,
            }
        )  # fmt: skip

    async def _notice(self, left: Mapping[str, Any] | None, turns: Sequence[Mapping[str, Any]]) -> str | None:
        """What is said of a session with requests that have left; None: there are none."""
        if left is None:
            return None
        said = await self.store.rows_kept.before(0)
        if not turns:
            return f"{said} All requests of this session are among them: its agents and turns are not known any more."
        count = sessions.requests_of(left)
        return (
            f"{said} {count:,} {'requests' if count != 1 else 'request'} of this session "
            f"{'are' if count != 1 else 'is'} among them: its sums are of all, agents, turns and times of the others."
        )


_NOTHING_KEPT: Final[dict[str, Any]] = {
    "agents": [], "turns": [], "turns_count": 0, "turns_offset": 0, "complete": False, "facts": [],
    "facts_rule": COST_RULE, "cache": None,
}  # fmt: skip
"""Of a session whose requests have all left."""


def sums_of(turns: list[dict[str, Any]]) -> dict[str, int]:
    """Measures over turns, as the sums by hour have them."""
    served = [turn for turn in turns if turn["outcome"] not in ("refused", "not_sent", "upstream_error")]
    names = (
        "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
        "thinking_tokens", "web_searches", "cost_nusd", "list_cost_nusd",
    )  # fmt: skip
    return {
        "requests": sum(turn["outcome"] != "refused" for turn in turns),
        "refused": sum(turn["outcome"] == "refused" for turn in turns),
        "errors": sum(turn["outcome"] == "upstream_error" for turn in turns),
        "estimated": sum(bool(turn["estimated"]) for turn in turns),
        "without_counts": sum(turn["output_tokens"] is None for turn in served),
        **{name: sum(turn[name] or 0 for turn in turns) for name in names},
    }


def session_summary(store: UsageStore, row: dict[str, Any]) -> dict[str, Any]:
    """A session of a list. What only its requests know is None where some of them have left."""
    user_id, whole = row["of_user_id"], row["first_ms"] is not None
    return {
        "id": row["session"],
        "first_at": rfc3339(row["first_ms"]) if whole else None,
        "last_at": rfc3339(row["last_ms"]) if whole else None,
        "duration_s": round((row["last_ms"] - row["first_ms"]) / 1000) if whole else None,
        "agent_count": row["agents"],
        "models": sorted(model for model in row["models"] if model) if whole else None,
        "keys": sorted(row["keys"]),
        "user": store.name_of("user", user_id) if user_id else "",
        **{
            name: row[f"of_{name}"]
            for name in ("user_id", "virtual_key", "virtual_key_id", "team", "team_id", "customer", "customer_id",
                         "project")
        },
        **sums_json({name.removeprefix("sum_"): value for name, value in row.items() if name.startswith("sum_")}),
    }  # fmt: skip


def routes(desk: Desk) -> list[Route]:
    return Sessions(desk).routes()
