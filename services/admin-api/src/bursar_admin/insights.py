"""Insights: each a rule in words, the numbers it gives and the rows they come from. None is a guess: what a rule cannot
see, it says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bursar_admin import session_sums
from bursar_admin.adding import Asked, Only
from bursar_admin.books import Books
from bursar_admin.queries import insights as queries
from bursar_admin.queries import sessions
from bursar_admin.queries.criteria import Criteria
from bursar_admin.queries.dimensions import dimension
from bursar_admin.queries.ranges import Span
from bursar_admin.queries.sums import Question
from bursar_admin.routes.sessions import session_summary
from bursar_admin.session_facts import CACHE_1H_S, facts, hour_cache, rates_by, rewrites
from bursar_admin.usage import Row, UsageStore
from bursar_admin.usage_json import money
from bursar_common.pricing import CompiledModel, PriceBook, round_half_even
from bursar_common.usage_sums import FEW_TOOL_USES, SHORT_ANSWER_TOKENS

ROWS: Final = 20
"""Rows of one insight."""
IDS: Final = ("opus_like_sonnet", "expired_caches", "dearest_sessions", "fastest_growing_users", "refusals_by_team")
"""Of all insights, in their order."""
DEAREST: Final = 10
CACHE_SESSIONS: Final = 60
"""Sessions looked at for caches that ran out: those that wrote most. What share of all writes that is, is said."""
MAX_TURNS: Final = 20_000
MIN_GROWTH_NUSD: Final = 1_000_000_000
"""Growth below a dollar is noise."""


@dataclass(frozen=True)
class Turns:
    """Requests of sessions, and the books they were priced by."""

    by_session: dict[str, list[Row]]
    books: dict[str, PriceBook | None]


class Insights:
    def __init__(self, store: UsageStore, books: Books) -> None:
        self._store = store
        self._books = books

    async def all(
        self, wanted: Criteria, span: Span, before: Span | None = None, *, compare: bool = False, only: str = ""
    ) -> list[dict[str, Any]]:
        """``before``: the period compared to, by default as long as this one and right before it; ``compare``: numbers
        of that period beside those of this one, too, where they are found at once; of caches that ran out they are
        not: its turns are read one by one. ``only``: one of :data:`IDS`, by default all.

        Raises Refusal (503)."""
        former = before if compare else None
        before = before or span.before
        each: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "opus_like_sonnet": lambda: self._opus(wanted, span, former),
            "expired_caches": lambda: self._caches(wanted, span),
            "dearest_sessions": lambda: self._dearest(wanted, span, former),
            "fastest_growing_users": lambda: self._growth(wanted, span, before),
            "refusals_by_team": lambda: self._refusals(wanted, span, former),
        }
        return list(await asyncio.gather(*(each[name]() for name in IDS if only in ("", name))))

    async def _opus(self, wanted: Criteria, span: Span, before: Span | None) -> dict[str, Any]:
        (numbers, listed), former = await asyncio.gather(
            self._opus_of(wanted, span), self._opus_of(wanted, before) if before is not None else _nothing()
        )
        return {
            "id": "opus_like_sonnet",
            "title": "Opus requests that look like Sonnet work",
            "rule": (
                f"Completed requests to an Opus model with fewer than {SHORT_ANSWER_TOKENS} output tokens (thinking "
                f"included), no web search and at most {FEW_TOOL_USES} tool call in the answer. Their tokens are "
                "priced once at Opus's and once at Sonnet's standard list rates of the same price book (Sonnet of the "
                "same version where the book has it, else its dearest Sonnet, the newest of several). Short answers "
                "whose tool calls were not recorded are counted apart and not priced. Whether Sonnet would have done "
                "as well is not known here."
            ),
            "numbers": numbers,
            **({"previous_numbers": former[0]} if former is not None else {}),
            "rows": listed[:ROWS],
            "rows_count": len(listed),
        }

    async def _opus_of(self, wanted: Criteria, span: Span) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        store = self._store
        question = await store.question(wanted, span, columns=queries.OPUS_BY, short=True)
        asked = Asked(queries.OPUS_BY, queries.OPUS_MEASURES, only=Only(queries.OPUS, queries.is_opus))
        rows = await store.added(question, asked)
        if rows is None:
            rows = await store.ask(question, *queries.opus(question))
        found: dict[tuple[str, str], dict[str, Any]] = {}
        requests = unpriced = opus_nusd = sonnet_nusd = 0
        used: set[str] = set()
        for row in rows:
            few = row["sum_few_tools_requests"]
            if not few:
                continue
            book = await self._books.find(row["price_book_id"])
            pair = _pair(book, row["model"])
            if book is None or pair is None:
                unpriced += few
                continue
            opus, sonnet = (_cost(book, model, row, span.to_ms - 1) for model in pair)
            used.add(pair[1].id)
            requests, opus_nusd, sonnet_nusd = requests + few, opus_nusd + opus, sonnet_nusd + sonnet
            who = found.setdefault(
                (row["user_id"], row["virtual_key_id"]),
                {
                    "user_id": row["user_id"], "user": store.name_of("user", row["user_id"]) if row["user_id"] else "",
                    "virtual_key_id": row["virtual_key_id"], "virtual_key": row["virtual_key"],
                    "team_id": row["team_id"], "team": row["team"],
                    "requests": 0, "opus_nusd": 0, "sonnet_nusd": 0,
                },
            )  # fmt: skip
            who["requests"] += few
            who["opus_nusd"] += opus
            who["sonnet_nusd"] += sonnet
        listed = [
            {**who, **money("opus", who["opus_nusd"]), **money("sonnet", who["sonnet_nusd"]),
             **money("saving", who["opus_nusd"] - who["sonnet_nusd"])}
            for who in found.values()
        ]  # fmt: skip
        listed.sort(key=lambda who: (-int(who["saving_nusd"]), str(who["virtual_key_id"]), str(who["user_id"])))
        whole = {name: sum(row[f"sum_{name}"] for row in rows) for name in queries.OPUS_MEASURES}
        short, unknown = whole["short_requests"], whole["unknown_tools_requests"]
        return {
            "requests": requests,
            "opus_requests": whole["requests"],
            **money("opus_list_cost", whole["list_cost_nusd"]),
            **money("cost_at_opus", opus_nusd),
            **money("cost_at_sonnet", sonnet_nusd),
            **money("saving", opus_nusd - sonnet_nusd),
            "sonnet_models": sorted(used),
            "requests_without_price": unpriced,
            "short_requests": short,
            "requests_more_tools": short - unknown - whole["few_tools_requests"],
            "requests_tools_unknown": unknown,
            **money("tools_unknown_list_cost", whole["unknown_tools_list_cost_nusd"]),
            "short_answer_tokens": SHORT_ANSWER_TOKENS,
            "few_tool_uses": FEW_TOOL_USES,
        }, listed

    async def _leading(self, question: Question, span: Span) -> tuple[Row, dict[str, Row]]:
        """The sessions that both insights about sessions are about, and the sums of all of them by id. Asked by both,
        and answered once where they ask at the same time."""
        (leading,) = await self._store.ask(question, *queries.leading_sessions(question, CACHE_SESSIONS, DEAREST))
        ids = sorted({session for which in ("writers", "dearest") for _, session in leading[which]})
        rows = await session_sums.sums_of(self._store, question, span, ids) if ids else []
        return leading, {row["session"]: row for row in rows}

    async def _turns(self, known: dict[str, Row], question: Question, span: Span, *, caches: bool = False) -> Turns:
        """Of sessions whose sums are known."""
        if not known:
            return Turns({}, {})
        places = sessions.places_of(list(known.values()))
        turns = await self._store.ask_turns(question, span, list(known), places, MAX_TURNS, caches=caches)
        by_session: dict[str, list[Row]] = {}
        for turn in turns:
            by_session.setdefault(turn["session_id"], []).append(turn)
        books = {book_id: await self._books.find(book_id) for book_id in {turn["price_book_id"] for turn in turns}}
        return Turns(by_session, books)

    async def _caches(self, wanted: Criteria, span: Span) -> dict[str, Any]:
        store = self._store
        question = await store.question(wanted, span, dimension("session"), columns=sessions.RANKED_BY)
        leading, known = await self._leading(question, span)
        writers = {session: -int(written) for written, session in leading["writers"] if int(written) < 0}
        known = {each: known[each] for each in writers if each in known}
        turns = await self._turns(known, question, span, caches=True)
        listed: list[dict[str, Any]] = []
        totals = {"rewrites": 0, "tokens": 0, "extra": 0, "saved": 0, "dearer": 0, "within_the_hour": 0}
        rates = rates_by(turns.books)
        seen = {each for each, own in turns.by_session.items() if _all_of(known[each], own)}
        for session_id, own in turns.by_session.items():
            lost = rewrites(own, rates)
            hour = hour_cache(own, lost, rates)
            totals["saved"] += hour.saved_nusd
            totals["dearer"] += hour.dearer_nusd
            if not lost:
                continue
            extra, tokens = sum(each.extra_nusd or 0 for each in lost), sum(each.tokens for each in lost)
            totals["rewrites"] += len(lost)
            totals["tokens"] += tokens
            totals["extra"] += extra
            totals["within_the_hour"] += sum(each.pause_s <= CACHE_1H_S for each in lost)
            of = known[session_id]
            listed.append(
                {
                    "session_id": session_id, "virtual_key": of["of_virtual_key"],
                    "user_id": of["of_user_id"],
                    "user": store.name_of("user", of["of_user_id"]) if of["of_user_id"] else "",
                    "project": of["of_project"], "rewrites": len(lost), "tokens": tokens, **money("extra", extra),
                    **money("hour_cache_net", hour.net_nusd),
                }
            )  # fmt: skip
        listed.sort(key=lambda row: (-int(row["extra_nusd"]), str(row["session_id"])))
        looked = sum(written for session, written in writers.items() if session in seen)
        return {
            "id": "expired_caches",
            "title": "Caches that ran out and were written again",
            "rule": (
                "Turns that begin more than 5 minutes after the end of their agent's turn before (same session, agent "
                "and model), read less than half of what that had in its cache, and write at least 1,024 tokens. Extra "
                "is writing instead of reading those tokens, at list prices. The 1 hour cache would have saved this "
                "for pauses up to an hour, and made every other 5 minute write of these sessions as dear as a 1 hour "
                f"one; net is the difference. Looked at: the {CACHE_SESSIONS} sessions that wrote most to the cache, "
                f"up to {MAX_TURNS:,} turns. A session counts as looked at where all its requests are kept and were "
                "read; of the others only what was read is in these figures."
            ),
            "numbers": {
                "rewrites": totals["rewrites"],
                "tokens": totals["tokens"],
                "within_an_hour": totals["within_the_hour"],
                **money("extra", totals["extra"]),
                **money("hour_cache_saved", totals["saved"]),
                **money("hour_cache_dearer", totals["dearer"]),
                **money("hour_cache_net", totals["saved"] - totals["dearer"]),
                "sessions_looked_at": len(seen),
                "share_of_writes_looked_at": (looked / leading["all_written"] if leading["all_written"] else None),
                "complete": len(seen) == len(writers),
            },
            "rows": listed[:ROWS],
            "rows_count": len(listed),
        }

    async def _dearest_of(self, wanted: Criteria, span: Span) -> tuple[list[Row], Question, dict[str, Any]]:
        """(sums of the dearest sessions in order, the question about them, numbers)."""
        store = self._store
        question = await store.question(wanted, span, dimension("session"), columns=sessions.RANKED_BY)
        leading, known = await self._leading(question, span)
        found = [known[session] for _, session in leading["dearest"] if session in known]
        return found, question, {
            "sessions": leading["sessions"], **money("list_cost", sum(row["sum_list_cost_nusd"] for row in found))
        }  # fmt: skip

    async def _dearest(self, wanted: Criteria, span: Span, before: Span | None) -> dict[str, Any]:
        store = self._store
        (sums, question, numbers), former = await asyncio.gather(
            self._dearest_of(wanted, span), self._dearest_of(wanted, before) if before is not None else _nothing()
        )
        turns = await self._turns({row["session"]: row for row in sums}, question, span)
        rates = rates_by(turns.books)
        if sum(map(len, turns.by_session.values())) < MAX_TURNS:
            # They say what would be asked about agents and models.
            looked_at = {each: sessions.agents_of(own) for each, own in turns.by_session.items()}
            found = [sessions.with_agents(row, looked_at.get(row["session"])) for row in sums]
        else:
            found, _ = await store.sessions(wanted, span, "list_cost", descending=True, count=DEAREST, offset=0)
        return {
            "id": "dearest_sessions",
            "title": "The dearest sessions, and why",
            "rule": (
                f"The {DEAREST} sessions with the highest list cost in the range, each with what most of it went to. "
                "The reasons overlap: they answer different questions. There are none where requests of the session "
                "are no longer kept."
            ),
            "numbers": numbers,
            **({"previous_numbers": former[2]} if former is not None else {}),
            "rows": [
                {**session_summary(store, row), "why": facts(own, rates)[:3] if _all_of(row, own) else []}
                for row in found
                for own in [turns.by_session.get(row["session"], [])]
            ],
            "rows_count": len(found),
        }

    async def _users(self, wanted: Criteria, span: Span) -> dict[str, Row]:
        store = self._store
        question = await store.question(wanted, span, dimension("user"))
        rows = await store.added(question, Asked(("user_id",), ("requests", "list_cost_nusd")))
        if rows is None:
            rows = await store.ask(question, *queries.by_user(question))
        return {row["user_id"]: row for row in rows if row["user_id"]}

    async def _growth(self, wanted: Criteria, span: Span, period: Span) -> dict[str, Any]:
        store = self._store
        now, before = await asyncio.gather(self._users(wanted, span), self._users(wanted, period))
        rows = []
        for user_id, row in now.items():
            earlier = before[user_id]["sum_list_cost_nusd"] if user_id in before else 0
            growth = row["sum_list_cost_nusd"] - earlier
            if growth >= MIN_GROWTH_NUSD:
                rows.append(
                    {
                        "user_id": user_id, "user": store.name_of("user", user_id), "requests": row["sum_requests"],
                        **money("list_cost", row["sum_list_cost_nusd"]), **money("previous_list_cost", earlier),
                        **money("growth", growth), "change": growth / earlier if earlier else None,
                    }
                )  # fmt: skip
        rows.sort(key=lambda row: (-int(row["growth_nusd"]), str(row["user_id"])))
        return {
            "id": "fastest_growing_users",
            "title": "Whose use grows fastest",
            "rule": (
                "Users by how much more their requests cost at list prices than in the period compared to (by default "
                "of the same length, right before); a dollar at least. Change is null where there was nothing before. "
                "Requests of keys without a user are not among them."
            ),
            "numbers": {"users": len(rows), **money("growth", sum(row["growth_nusd"] for row in rows))},
            "rows": rows[:ROWS],
            "rows_count": len(rows),
        }

    async def _refusals(self, wanted: Criteria, span: Span, before: Span | None) -> dict[str, Any]:
        found, former = await asyncio.gather(
            self._refusals_of(wanted, span), self._refusals_of(wanted, before) if before is not None else _nothing()
        )
        rows = sorted((row for row in found.values() if row["refused"]), key=_most_refused)
        if former is not None:
            for row in rows:
                row["previous_refused"] = former[row["team_id"]]["refused"] if row["team_id"] in former else 0
        return {
            "id": "refusals_by_team",
            "title": "Requests refused, by team",
            "rule": "Requests refused before they were sent, by the reason given; share is of all the team's requests.",
            "numbers": _refusal_numbers(found),
            **({"previous_numbers": _refusal_numbers(former)} if former is not None else {}),
            "rows": rows[:ROWS],
            "rows_count": len(rows),
        }

    async def _refusals_of(self, wanted: Criteria, span: Span) -> dict[str, dict[str, Any]]:
        """Team's id to its refusals."""
        store = self._store
        question = await store.question(wanted, span, dimension("team"), dimension("refused_by"))
        rows = await store.added(question, Asked(queries.REFUSED_BY, ("requests", "refused"), "team"))
        if rows is None:
            rows = await store.ask(question, *queries.refusals(question))
        teams: dict[str, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: (row["label_ms"], row["label"])):
            team = teams.setdefault(
                row["team_id"], {"team_id": row["team_id"], "team": "", "refused": 0, "requests": 0, "reasons": {}}
            )
            team["team"] = store.name_of("team", row["team_id"], row["label"]) if row["team_id"] else ""
            team["refused"] += row["sum_refused"]
            team["requests"] += row["sum_requests"]
            if row["refused_by"] and row["sum_refused"]:
                team["reasons"][row["refused_by"]] = row["sum_refused"]
        for team in teams.values():
            every = team["refused"] + team["requests"]
            team["share"] = team["refused"] / every if every else None
            team["reasons"] = dict(sorted(team["reasons"].items()))
        return teams


def _all_of(session: Row, turns: Sequence[Row]) -> bool:
    """Whether these are all turns of a session. Part of them would give reasons for what it did not cost."""
    return len(turns) >= sessions.requests_of(session)


async def _nothing() -> None:
    return None


def _most_refused(row: dict[str, Any]) -> tuple[int, str]:
    return -row["refused"], row["team_id"]


def _refusal_numbers(teams: dict[str, dict[str, Any]]) -> dict[str, Any]:
    refused = [team["refused"] for team in teams.values() if team["refused"]]
    return {"refused": sum(refused), "teams": len(refused)}


def _pair(book: PriceBook | None, opus_name: str) -> tuple[CompiledModel, CompiledModel] | None:
    """The Opus model and the Sonnet it is compared to."""
    opus = book.find(opus_name) if book is not None else None
    if book is None or opus is None:
        return None
    twin = book.listed(opus.id.replace("opus", "sonnet"))
    if twin is not None and "sonnet" in twin.id:
        return opus, twin
    sonnets = [model for model in book.models if "sonnet" in model.id]
    dearest = max(sonnets, key=lambda model: (model.rates(0).tiers[0][1].input, _version(model.id)), default=None)
    return (opus, dearest) if dearest is not None else None


def _version(model_id: str) -> tuple[int, ...]:
    """``claude-sonnet-4-6-20260110`` -> (4, 6): later models compare greater."""
    return tuple(int(digits) for digits in re.findall(r"\d+", model_id) if len(digits) < 6)


def _cost(book: PriceBook, model: CompiledModel, row: Row, at_ms: int) -> int:
    rates = model.rates(at_ms).tiers[0][1]
    scaled = sum(
        row[f"sum_few_tools_{name}_tokens"] * getattr(rates, name)
        for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    )
    return round_half_even(scaled, book.scale)
