"""Seven weeks of people coding with agents, as turns of sessions: numbers only. Pure but for its ``Random``.

Shaped as Claude Code's traffic is: a session's cache grows with every turn, is read by the next, runs out over lunch
and is written again; agents below it have caches of their own; weekends are quiet."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass
from typing import NamedTuple

from bursar_common.events import Billing, Outcome
from bursar_common.ids import uuid7_from
from bursar_common.wire import Amounts

PAST_DAYS = 50
DAY_MS, HOUR_MS, MINUTE_MS = 86_400_000, 3_600_000, 60_000
OPUS, SONNET, HAIKU = "claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5"
RATES = {OPUS: (5000, 500, 6250, 25_000), SONNET: (3000, 300, 3750, 15_000), HAIKU: (1000, 100, 1250, 5000)}
"""List prices, nano-dollars a token: input, cache read, cache write for 5 minutes, output."""


class Person(NamedTuple):
    key: str
    user: str
    """Empty: a key nobody owns."""
    team: str
    model: str
    sessions: float
    """A workday."""
    project: str
    billing: Billing = "metered"


PEOPLE = (
    Person("alice-laptop", "Alice Moreau", "platform", OPUS, 1.1, "checkout"),
    Person("bao-laptop", "Bao Nguyen", "platform", SONNET, 1.0, "search"),
    Person("chiara-laptop", "Chiara Rossi", "platform", SONNET, 0.6, "checkout"),
    Person("ci-nightly", "", "platform", HAIKU, 0.8, "ci"),
    Person("dana-laptop", "Dana Levi", "data-science", OPUS, 0.9, "forecasting"),
    Person("jonas-laptop", "Jonas Weber", "data-science", SONNET, 0.7, "forecasting"),
    Person("erik-laptop", "Erik Lindqvist", "payments", SONNET, 0.8, "billing"),
    Person("farah-laptop", "Farah Haddad", "payments", OPUS, 0.4, "billing"),
    Person("grace-laptop", "Grace Okafor", "mobile", SONNET, 0.5, "ios-app", "subscription"),
    Person("hana-laptop", "Hana Sato", "mobile", HAIKU, 0.6, "ios-app"),
)


@dataclass(frozen=True, kw_only=True)
class Turn:
    request_id: str
    key: str
    team: str
    started_at_ms: int
    model: str
    latency_ms: int
    session_id: str = ""
    agent_id: str = ""
    parent_agent_id: str = ""
    project: str = ""
    ticket: str = ""
    billing: Billing = "metered"
    outcome: Outcome = "completed"
    refused_by: str = ""
    error_type: str = ""
    status: int | None = 200
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    output_tokens: int = 0

    @property
    def cost_nusd(self) -> int:
        counts = (self.input_tokens, self.cache_read_tokens, self.cache_write_5m_tokens, self.output_tokens)
        return sum(count * rate for count, rate in zip(counts, RATES[self.model], strict=True))

    def amounts(self, billed_nusd: int) -> Amounts:
        if self.outcome == "refused":
            return Amounts()
        fresh = self.input_tokens + self.cache_write_5m_tokens + self.output_tokens
        return Amounts(n=billed_nusd, t=fresh, T=fresh + self.cache_read_tokens, r=1)


@dataclass(frozen=True)
class Plan:
    turns: list[Turn]
    session: str

    def spent_since(self, since_ms: int) -> dict[str, int]:
        """Nano-dollars billed, by team."""
        spent: dict[str, int] = {}
        for turn in self.turns:
            if turn.started_at_ms >= since_ms and turn.billing == "metered":
                spent[turn.team] = spent.get(turn.team, 0) + turn.cost_nusd
        return spent


def month_start_ms(now_ms: int) -> int:
    today = time.gmtime(now_ms // 1000)
    return now_ms // DAY_MS * DAY_MS - (today.tm_mday - 1) * DAY_MS


class _Writer:
    """Turns one after the other, with ids made of their number."""

    def __init__(self, chance: random.Random, now_ms: int) -> None:
        self.chance, self.now_ms = chance, now_ms
        self.turns: list[Turn] = []

    def turn(self, person: Person, at_ms: int, **fields: object) -> None:
        if at_ms >= self.now_ms - 5000:
            return
        number = len(self.turns) + 1
        identity = uuid7_from(at_ms, number.to_bytes(10, "big"))
        self.turns.append(
            Turn(request_id=identity, key=person.key, team=person.team, started_at_ms=at_ms, project=person.project,
                 billing=person.billing, **fields)  # type: ignore[arg-type]
        )  # fmt: skip

    def session(self, person: Person, start_ms: int, *, turns: int, agents: int) -> str:
        """One run of Claude Code; its id."""
        chance = self.chance
        session_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        common: dict[str, object] = {
            "session_id": session_id,
            "ticket": chance.choice(("", f"OPS-{chance.randrange(100, 180)}")),
        }
        at_ms, cache, parent = start_ms, 0, ""
        starts = {chance.randrange(1, max(2, turns - 1)) for _ in range(agents)}
        for number in range(turns):
            lost = number > 2 and chance.random() < 0.05
            at_ms += chance.randrange(330_000, 2_400_000) if lost else chance.randrange(3000, 80_000)
            fresh = chance.randrange(28_000, 60_000) if not cache else chance.randrange(900, 14_000)
            output = chance.choice((chance.randrange(60, 480), chance.randrange(60, 480), chance.randrange(500, 4200)))
            latency = 900 + output * 14 + chance.randrange(2500)
            failed = chance.random() < 0.008
            self.turn(
                person, at_ms, model=person.model, latency_ms=latency, input_tokens=chance.randrange(3, 60),
                cache_read_tokens=0 if lost else cache, cache_write_5m_tokens=fresh + (cache if lost else 0),
                output_tokens=0 if failed else output, outcome="interrupted" if failed else "completed", **common,
            )  # fmt: skip
            cache = min(cache + fresh, 185_000)
            if number in starts:
                agent = f"{chance.getrandbits(48):012x}"
                self._agent(person, at_ms + latency, agent, parent, common)
                parent = "" if parent else agent
            at_ms += latency
        return session_id

    def _agent(self, person: Person, at_ms: int, agent: str, parent: str, common: dict[str, object]) -> None:
        chance, cache = self.chance, 0
        model = person.model if chance.random() < 0.3 else HAIKU
        for _ in range(chance.randrange(3, 9)):
            fresh = chance.randrange(9000, 24_000) if not cache else chance.randrange(600, 8000)
            output = chance.randrange(80, 900)
            latency = 700 + output * 9
            self.turn(
                person, at_ms, model=model, latency_ms=latency, agent_id=agent, parent_agent_id=parent,
                input_tokens=chance.randrange(3, 30), cache_read_tokens=cache, cache_write_5m_tokens=fresh,
                output_tokens=output, **common,
            )  # fmt: skip
            cache += fresh
            at_ms += latency + chance.randrange(500, 6000)


def planned(chance: random.Random, now_ms: int) -> Plan:
    """Everything up to now, in the order of time."""
    writer = _Writer(chance, now_ms)
    today_ms = now_ms // DAY_MS * DAY_MS
    for day in range(PAST_DAYS, -1, -1):
        start_ms = today_ms - day * DAY_MS
        weekend = time.gmtime(start_ms // 1000).tm_wday >= 5
        # Use grows over the weeks; on weekends only what runs by itself goes on, and a few who cannot stop.
        growth = 0.5 + 0.5 * (PAST_DAYS - day) / PAST_DAYS
        for person in PEOPLE:
            expected = person.sessions * growth * (0.12 if weekend and person.user else 1)
            if chance.random() < expected:
                at_ms = start_ms + chance.randrange(7 * HOUR_MS, 15 * HOUR_MS)
                writer.session(person, at_ms, turns=chance.randrange(5, 26), agents=chance.choice((0, 0, 1, 2)))
    alice = PEOPLE[0]
    session = writer.session(alice, now_ms - 47 * MINUTE_MS, turns=22, agents=4)
    for number in range(9):
        reason = "model_not_allowed" if number % 4 == 3 else "budget_spent"
        writer.turn(
            PEOPLE[6 + number % 2], now_ms - chance.randrange(10 * MINUTE_MS, 30 * HOUR_MS), model=SONNET,
            latency_ms=4, outcome="refused", refused_by=reason, status=429 if reason == "budget_spent" else 403,
            error_type="rate_limit_error" if reason == "budget_spent" else "permission_error",
        )  # fmt: skip
    return Plan(sorted(writer.turns, key=lambda turn: turn.started_at_ms), session)
