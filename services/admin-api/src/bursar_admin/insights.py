"""Insights: each a rule in words, the numbers it gives and the rows they come from. None is a guess: what a rule cannot
see, it says."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

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
from bursar_common.usage_sums import SHORT_ANSWER_TOKENS

ROWS: Final = 20
"""Rows of one insight."""
DEAREST: Final = 10
CACHE_SESSIONS: Final = 100
"""Sessions looked at for caches that ran out: those that wrote most. What share of all writes that is, is said."""
MAX_TURNS: Final = 20_000
MIN_GROWTH_NUSD: Final = 1_000_000_000
"""Growth below a dollar is noise."""


class Insights:
    def __init__(self, store: UsageStore, books: Books) -> None:
        self._store = store
        self._books = books

    async def all(self, wanted: Criteria, span: Span) -> list[dict[str, Any]]:
        """Raises Refusal (503)."""
        return list(
            await asyncio.gather(
                self._short_opus(wanted, span),
                self._caches(wanted, span),
                self._dearest(wanted, span),
                self._growth(wanted, span),
                self._refusals(wanted, span),
            )
        )

    async def _short_opus(self, wanted: Criteria, span: Span) -> dict[str, Any]:
        store = self._store
        question = await store.question(wanted, span, columns=queries.SHORT_BY, short=True)
        rows = await store.analytics.rows(*queries.short_opus(question))
        (everything,) = await store.analytics.rows(*queries.opus_total(question))
        found: dict[tuple[str, str], dict[str, Any]] = {}
        requests = unpriced = opus_nusd = sonnet_nusd = 0
        used: set[str] = set()
        for row in rows:
            book = await self._books.find(row["of_book"])
            pair = _pair(book, row["of_model"])
            if book is None or pair is None:
                unpriced += row["sum_requests"]
                continue
            opus, sonnet = (_cost(book, model, row, span.to_ms - 1) for model in pair)
            used.add(pair[1].id)
            requests, opus_nusd, sonnet_nusd = requests + row["sum_requests"], opus_nusd + opus, sonnet_nusd + sonnet
            who = found.setdefault(
                (row["of_user"], row["of_key"]),
                {
                    "user_id": row["of_user"], "user": store.name_of("user", row["of_user"]) if row["of_user"] else "",
                    "virtual_key_id": row["of_key"], "virtual_key": row["of_key_name"],
                    "team_id": row["of_team"], "team": row["of_team_name"],
                    "requests": 0, "opus_nusd": 0, "sonnet_nusd": 0,
                },
            )  # fmt: skip
            who["requests"] += row["sum_requests"]
            who["opus_nusd"] += opus
            who["sonnet_nusd"] += sonnet
        listed = [
            {**who, **money("opus", who["opus_nusd"]), **money("sonnet", who["sonnet_nusd"]),
             **money("saving", who["opus_nusd"] - who["sonnet_nusd"])}
            for who in found.values()
        ]  # fmt: skip
        listed.sort(key=lambda who: (-int(who["saving_nusd"]), str(who["virtual_key_id"])))
        return {
            "id": "opus_like_sonnet",
            "title": "Opus requests that look like Sonnet work",
            "rule": (
                f"Completed requests to an Opus model with fewer than {SHORT_ANSWER_TOKENS} output tokens (thinking "
                "included) and no web search. Their tokens are priced once at Opus's and once at Sonnet's standard "
                "list rates of the same price book (Sonnet of the same version where the book has it, else its dearest "
                "Sonnet, the newest of several). Whether Sonnet would have done as well, and how many tools were "
                "offered, is not known here."
            ),
            "numbers": {
                "requests": requests,
                "opus_requests": everything["sum_requests"],
                **money("opus_list_cost", everything["sum_list_cost_nusd"]),
                **money("cost_at_opus", opus_nusd),
                **money("cost_at_sonnet", sonnet_nusd),
                **money("saving", opus_nusd - sonnet_nusd),
                "sonnet_models": sorted(used),
                "requests_without_price": unpriced,
            },
            "rows": listed[:ROWS],
            "rows_count": len(listed),
        }

    async def _turns(
        self, ids: list[str], question: Question, span: Span, *, caches: bool = False
    ) -> tuple[list[Row], dict[str, PriceBook | None]]:
        """Turns of sessions, and the books they were priced by."""
        places = await self._store.places(question, ids)
        turns = await self._store.analytics.rows(
            *sessions.turns(ids, MAX_TURNS, question.criteria, span, places, caches=caches)
        )
        books = {book_id: await self._books.find(book_id) for book_id in {turn["price_book_id"] for turn in turns}}
        return turns, books

    async def _caches(self, wanted: Criteria, span: Span) -> dict[str, Any]:
        store = self._store
        question = await store.question(wanted, span, dimension("session"), columns=sessions.RANKED_BY)
        writers = await store.analytics.rows(*queries.cache_writers(question, CACHE_SESSIONS))
        listed: list[dict[str, Any]] = []
        totals = {"rewrites": 0, "tokens": 0, "extra": 0, "saved": 0, "dearer": 0, "within_the_hour": 0}
        turns: list[Row] = []
        books: dict[str, PriceBook | None] = {}
        if writers:
            turns, books = await self._turns([row["session"] for row in writers], question, span, caches=True)
        rates = rates_by(books)
        by_session: dict[str, list[Row]] = {}
        for turn in turns:
            by_session.setdefault(turn["session_id"], []).append(turn)
        for session_id, own in by_session.items():
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
            last = own[-1]
            listed.append(
                {
                    "session_id": session_id, "virtual_key": last["virtual_key"], "user_id": last["user_id"],
                    "user": store.name_of("user", last["user_id"]) if last["user_id"] else "",
                    "project": last["project"], "rewrites": len(lost), "tokens": tokens, **money("extra", extra),
                    **money("hour_cache_net", hour.net_nusd),
                }
            )  # fmt: skip
        listed.sort(key=lambda row: (-int(row["extra_nusd"]), str(row["session_id"])))
        all_written = writers[0]["all_written"] if writers else 0
        looked = sum(row["written"] for row in writers)
        return {
            "id": "expired_caches",
            "title": "Caches that ran out and were written again",
            "rule": (
                "Turns that begin more than 5 minutes after the end of their agent's turn before (same session, agent "
                "and model), read less than half of what that had in its cache, and write at least 1,024 tokens. Extra "
                "is writing instead of reading those tokens, at list prices. The 1 hour cache would have saved this "
                "for pauses up to an hour, and made every other 5 minute write of these sessions as dear as a 1 hour "
                f"one; net is the difference. Looked at: the {CACHE_SESSIONS} sessions that wrote most to the cache, "
                f"up to {MAX_TURNS:,} turns."
            ),
            "numbers": {
                "rewrites": totals["rewrites"],
                "tokens": totals["tokens"],
                "within_an_hour": totals["within_the_hour"],
                **money("extra", totals["extra"]),
                **money("hour_cache_saved", totals["saved"]),
                **money("hour_cache_dearer", totals["dearer"]),
                **money("hour_cache_net", totals["saved"] - totals["dearer"]),
                "sessions_looked_at": len(by_session),
                "share_of_writes_looked_at": looked / all_written if all_written else None,
                "complete": len(turns) < MAX_TURNS,
            },
            "rows": listed[:ROWS],
            "rows_count": len(listed),
        }

    async def _dearest(self, wanted: Criteria, span: Span) -> dict[str, Any]:
        store = self._store
        found, total = await store.sessions(wanted, span, "list_cost", descending=True, count=DEAREST, offset=0)
        turns: list[Row] = []
        books: dict[str, PriceBook | None] = {}
        if found:
            question = await store.question(wanted, span, dimension("session"), columns=sessions.RANKED_BY)
            turns, books = await self._turns([row["session"] for row in found], question, span)
        rates = rates_by(books)
        by_session: dict[str, list[Row]] = {}
        for turn in turns:
            by_session.setdefault(turn["session_id"], []).append(turn)
        return {
            "id": "dearest_sessions",
            "title": "The dearest sessions, and why",
            "rule": (
                f"The {DEAREST} sessions with the highest list cost in the range, each with what most of it went to. "
                "The reasons overlap: they answer different questions."
            ),
            "numbers": {"sessions": total, **money("list_cost", sum(row["sum_list_cost_nusd"] for row in found))},
            "rows": [
                {**session_summary(store, row), "why": facts(by_session.get(row["session"], []), rates)[:3]}
                for row in found
            ],
            "rows_count": len(found),
        }

    async def _growth(self, wanted: Criteria, span: Span) -> dict[str, Any]:
        store = self._store
        by = dimension("user")
        now, before = [
            {
                row["of_user"]: row
                for row in await store.analytics.rows(*queries.by_user(await store.question(wanted, each, by)))
            }
            for each in (span, span.before)
        ]
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
                "Users by how much more their requests cost at list prices than in the period of the same length right "
                "before; a dollar at least. Change is null where there was nothing before. Requests of keys without a "
                "user are not among them."
            ),
            "numbers": {"users": len(rows), **money("growth", sum(row["growth_nusd"] for row in rows))},
            "rows": rows[:ROWS],
            "rows_count": len(rows),
        }

    async def _refusals(self, wanted: Criteria, span: Span) -> dict[str, Any]:
        store = self._store
        question = await store.question(wanted, span, dimension("team"), dimension("refused_by"))
        found = await store.analytics.rows(*queries.refusals(question, 1000))
        rows = [
            {
                "team_id": row["of_team"],
                "team": store.name_of("team", row["of_team"], row["of_team_name"]) if row["of_team"] else "",
                "refused": row["sum_refused"],
                "requests": row["sum_requests"],
                "share": row["sum_refused"] / (row["sum_refused"] + row["sum_requests"]),
                "reasons": {reason: int(count) for reason, count in row["reasons"].items() if reason and int(count)},
            }
            for row in found
        ]
        return {
            "id": "refusals_by_team",
            "title": "Requests refused, by team",
            "rule": "Requests refused before they were sent, by the reason given; share is of all the team's requests.",
            "numbers": {"refused": sum(row["refused"] for row in rows), "teams": len(rows)},
            "rows": rows[:ROWS],
            "rows_count": len(rows),
        }


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
        row[f"sum_{name}_tokens"] * getattr(rates, name)
        for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    )
    return round_half_even(scaled, book.scale)
