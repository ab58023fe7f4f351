"""A session put together from its turns: the tree of its agents, and what made it dear. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bursar_admin.quota import usd
from bursar_admin.usage_json import COUNTS, money, total_tokens
from bursar_common.clock import rfc3339
from bursar_common.money import sentence
from bursar_common.pricing import PriceBook, ScaledRates, round_half_even

CACHE_5M_S: Final = 300
CACHE_1H_S: Final = 3600
MIN_REWRITTEN: Final = 1024
"""Tokens written again that count as a cache lost: less is an ordinary turn."""
MAX_FACTS: Final = 8

Turn = Mapping[str, Any]
Rates = Callable[[Turn], tuple[ScaledRates, int] | None]
"""Standard rates of a turn's model and the scale they are in."""


def rates_by(books: Mapping[str, PriceBook | None]) -> Rates:
    """Rates from books by id."""

    def rates(turn: Turn) -> tuple[ScaledRates, int] | None:
        book = books.get(turn["price_book_id"])
        found = book.find(turn["model"]) if book is not None else None
        if book is None or found is None:
            return None
        card = found.rates(turn["started_at_ms"], speed=turn["speed"], inference_geo=turn["inference_geo"])
        return card.at(prompt_tokens(turn)), book.scale

    return rates


def prompt_tokens(turn: Turn) -> int:
    return sum(turn[name] or 0 for name in COUNTS[:4])


@dataclass(frozen=True)
class Rewrite:
    """A cache that had run out before the next turn of its agent, and was written again."""

    turn: Turn
    pause_s: float
    tokens: int
    extra_nusd: int | None
    """What writing cost above reading; None: no price is known."""


def rewrites(turns: Sequence[Turn], rates: Rates) -> list[Rewrite]:
    """Turns that begin more than five minutes after the end of their agent's turn before, read less than half of what
    that had in its cache, and write at least 1,024 tokens. Tokens written again: what was in the cache and is not read,
    as far as it is written."""
    found: list[Rewrite] = []
    before: dict[tuple[str, str, str], Turn] = {}
    for turn in turns:
        if turn["output_tokens"] is None:
            continue
        key = (turn["session_id"], turn["agent_id"], turn["model"])
        last = before.get(key)
        before[key] = turn
        if last is None:
            continue
        pause_s = (turn["started_at_ms"] - last["started_at_ms"] - (last["latency_ms"] or 0)) / 1000
        cached = _cached(last)
        read, written = turn["cache_read_tokens"] or 0, turn["cache_write_5m_tokens"] or 0
        lost = min(written, cached - read)
        if pause_s <= CACHE_5M_S or read * 2 >= cached or lost < MIN_REWRITTEN:
            continue
        priced = rates(turn)
        extra = None
        if priced is not None:
            extra = round_half_even(lost * (priced[0].cache_write_5m - priced[0].cache_read), priced[1])
        found.append(Rewrite(turn, pause_s, lost, extra))
    return found


def _cached(turn: Turn) -> int:
    return sum(turn[name] or 0 for name in ("cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"))


@dataclass(frozen=True)
class HourCache:
    """What the cache of one hour would have changed."""

    saved_nusd: int
    """Rewrites after pauses of 5 minutes to an hour, read instead."""
    dearer_nusd: int
    """All 5 minute cache writes at the price of 1 hour ones, but those that would not have been."""

    @property
    def net_nusd(self) -> int:
        return self.saved_nusd - self.dearer_nusd


def hour_cache(turns: Sequence[Turn], found: Sequence[Rewrite], rates: Rates) -> HourCache:
    saved = sum(each.extra_nusd or 0 for each in found if each.pause_s <= CACHE_1H_S)
    avoided = {each.turn["request_id"]: each.tokens for each in found if each.pause_s <= CACHE_1H_S}
    dearer = 0
    for turn in turns:
        written = (turn["cache_write_5m_tokens"] or 0) - avoided.get(turn["request_id"], 0)
        priced = rates(turn) if written else None
        if priced is not None:
            dearer += round_half_even(written * (priced[0].cache_write_1h - priced[0].cache_write_5m), priced[1])
    return HourCache(saved, dearer)


def hit_rate(turn: Turn) -> float | None:
    prompt = prompt_tokens(turn)
    return (turn["cache_read_tokens"] or 0) / prompt if prompt and turn["output_tokens"] is not None else None


def turn_json(turn: Turn) -> dict[str, Any]:
    return {
        "id": turn["request_id"],
        "started_at": rfc3339(turn["started_at_ms"]),
        "started_at_ms": turn["started_at_ms"],
        **{name: turn[name] for name in ("agent_id", "provider", "model", "outcome", "status", "billing", "estimated")},
        **{name: turn[name] for name in ("refused_by", "error_type", "latency_ms", "time_to_first_token_ms", *COUNTS)},
        "tokens": total_tokens(turn),
        "prompt_tokens": prompt_tokens(turn),
        "cache_hit_rate": hit_rate(turn),
        **money("cost", turn["cost_nusd"]),
        **money("list_cost", turn["list_cost_nusd"]),
    }


def agents_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The agents as trees: those nobody started first, each with its ``children``. An agent whose starter is not known
    stands at the top, with ``parent_agent_id`` as it says; circles are cut."""
    own: dict[str, dict[str, Any]] = {}
    for turn in turns:
        agent = own.setdefault(
            turn["agent_id"],
            {
                "agent_id": turn["agent_id"], "parent_agent_id": turn["parent_agent_id"],
                "first_at_ms": turn["started_at_ms"], "last_at_ms": turn["started_at_ms"], "requests": 0, "refused": 0,
                "models": [], "cost_nusd": 0, "list_cost_nusd": 0, **dict.fromkeys(COUNTS, 0), "children": [],
            },
        )  # fmt: skip
        agent["last_at_ms"] = max(agent["last_at_ms"], turn["started_at_ms"] + (turn["latency_ms"] or 0))
        agent["refused" if turn["outcome"] == "refused" else "requests"] += 1
        if turn["model"] not in agent["models"]:
            agent["models"].append(turn["model"])
        for name in ("cost_nusd", "list_cost_nusd"):
            agent[name] += turn[name]
        for name in COUNTS:
            agent[name] += turn[name] or 0
    tops: list[dict[str, Any]] = []
    placed: dict[str, str] = {}
    for agent_id, agent in own.items():
        parent = agent["parent_agent_id"]
        if not parent and agent_id and "" in own:
            parent = ""  # a sub-agent of the session's own agent, which has no id
        if agent_id and parent in own and not _leads_to(placed, parent, agent_id):
            placed[agent_id] = parent
            own[parent]["children"].append(agent)
        else:
            tops.append(agent)
    for agent in tops:
        _sum_up(agent)
    return tops


def _leads_to(placed: Mapping[str, str], start: str, wanted: str) -> bool:
    seen: set[str] = set()
    while start not in seen:
        if start == wanted:
            return True
        seen.add(start)
        if start not in placed:
            return False
        start = placed[start]
    return True


def _sum_up(top: dict[str, Any]) -> None:
    """Costs with those of the agents below; without recursion, since depth comes from clients."""
    order, stack = [], [top]
    while stack:
        agent = stack.pop()
        order.append(agent)
        stack.extend(agent["children"])
    for agent in reversed(order):
        prompt = sum(agent[name] for name in COUNTS[:4])
        agent["cache_hit_rate"] = agent["cache_read_tokens"] / prompt if prompt else None
        agent["tokens"] = prompt + agent["output_tokens"]
        agent["first_at"], agent["last_at"] = rfc3339(agent["first_at_ms"]), rfc3339(agent["last_at_ms"])
        for name in ("cost", "list_cost"):
            nusd = agent[f"{name}_nusd"]
            agent[f"{name}_usd"] = usd(nusd)
            below = nusd + sum(child[f"{name}_with_children_nusd"] for child in agent["children"])
            agent |= money(f"{name}_with_children", below)


def facts(turns: Sequence[Turn], rates: Rates) -> list[dict[str, Any]]:
    """What the list cost went to, dearest first: plain sentences with their numbers. Costs overlap: they are answers to
    different questions, not parts of a sum."""
    total = sum(turn["list_cost_nusd"] for turn in turns)
    if not total:
        return []
    found: list[dict[str, Any]] = []
    models: dict[str, int] = {}
    for turn in turns:
        models[turn["model"]] = models.get(turn["model"], 0) + turn["list_cost_nusd"]
    for model, nusd in models.items():
        if nusd:
            found.append(_fact("model", f"{_share(nusd, total)} of the cost is {model}.", nusd, total, model=model))
    lost = rewrites(turns, rates)
    extra = sum(each.extra_nusd or 0 for each in lost)
    if lost:
        tokens, longest = sum(each.tokens for each in lost), max(each.pause_s for each in lost)
        hour = hour_cache(turns, lost, rates)
        text = (
            f"{len(lost)} {'time' if len(lost) == 1 else 'times'} the cache had run out after a pause of more than 5 "
            f"minutes, and {tokens:,} tokens were written again: {sentence(extra)} more than reading them."
        )
        found.append(
            _fact("cache_rewritten", text, extra, total, times=len(lost), tokens=tokens, longest_pause_s=round(longest),
                  hour_cache_saves_nusd=hour.net_nusd)
        )  # fmt: skip
    subagents = sum(turn["list_cost_nusd"] for turn in turns if turn["agent_id"])
    if subagents > 0:
        count = len({turn["agent_id"] for turn in turns if turn["agent_id"]})
        text = f"{_share(subagents, total)} of the cost is {count} sub-agent{'s' if count > 1 else ''}."
        found.append(_fact("subagents", text, subagents, total, agents=count))
    largest = max(turns, key=prompt_tokens)
    text = (
        f"The largest prompt had {prompt_tokens(largest):,} tokens and cost {sentence(largest['list_cost_nusd'])}, "
        f"answer included."
    )
    found.append(
        _fact("largest_prompt", text, largest["list_cost_nusd"], total, id=largest["request_id"],
              tokens=prompt_tokens(largest))
    )  # fmt: skip
    dearest = max(turns, key=lambda turn: turn["list_cost_nusd"])
    if dearest is not largest:
        text = f"The dearest turn cost {sentence(dearest['list_cost_nusd'])}."
        found.append(_fact("dearest_turn", text, dearest["list_cost_nusd"], total, id=dearest["request_id"]))
    for kind, label, columns in (
        ("output", "output", ("output_tokens",)),
        ("cache_writes", "cache writes", ("cache_write_5m_tokens", "cache_write_1h_tokens")),
        ("cache_reads", "cache reads", ("cache_read_tokens",)),
        ("input", "input that was not cached", ("input_tokens",)),
    ):
        nusd = _cost_of(turns, columns, rates)
        if nusd:
            tokens = sum(turn[name] or 0 for turn in turns for name in columns)
            text = f"{_share(nusd, total)} of the cost is {label}: {tokens:,} tokens."
            found.append(_fact(kind, text, nusd, total, tokens=tokens))
    found.sort(key=lambda fact: -int(fact["cost_nusd"]))
    return found[:MAX_FACTS]


def _cost_of(turns: Sequence[Turn], columns: Sequence[str], rates: Rates) -> int:
    total = 0
    for turn in turns:
        priced = rates(turn)
        if priced is not None:
            scaled = sum((turn[name] or 0) * getattr(priced[0], name.removesuffix("_tokens")) for name in columns)
            total += round_half_even(scaled, priced[1])
    return total


def _fact(kind: str, text: str, nusd: int, total: int, **numbers: Any) -> dict[str, Any]:
    return {"kind": kind, "text": text, **money("cost", nusd), "share": nusd / total, "numbers": numbers}


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"
