"""Every limit in its present window, for ``/metrics``: read from Redis when somebody asks, at most every KEPT_S."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from bursar_common.clock import Clock
from bursar_common.governance import Customer, Team, VirtualKey, effective_timezone
from bursar_common.metrics import Family, Labels, one
from bursar_common.scopes import OwnerKind, counter_id
from bursar_common.windows import bounds, parse_window
from bursar_enforcer import metrics, redis_names
from bursar_enforcer.chain import owner_limits
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.plan import Limit
from bursar_enforcer.stored import Stored, counter_of

KEPT_S = 5.0
"""How long figures are kept: several Prometheus servers, and people, ask at the same moments."""
READ_AT_ONCE = 500
"""Documents, or counters, of one command: about a millisecond for Redis and for us."""
MAX_DOCUMENTS = 100_000
"""Documents looked at; a larger installation sees the limits of the first ones only."""
_ENFORCEMENTS = {"s": "standard", "S": "strict", "o": "observe"}
_UNITS = {"t": "tokens", "T": "tokens", "r": "requests"}


class Shown(NamedTuple):
    """A limit of today."""

    limit: Limit
    labels: Labels
    counter: str
    until_s: int


class ShownLimits:
    """``most`` limits are shown, those nearest to their end first."""

    def __init__(self, ledger: Ledger, clock: Clock, *, most: int) -> None:
        self._ledger = ledger
        self._clock = clock
        self._most = most
        self._changes: bytes | None = None
        self._limits: list[tuple[Limit, Labels]] = []
        self._shown: list[Shown] = []
        self._read_at_s = -KEPT_S
        self._figures: list[tuple[Shown, Stored]] = []
        self._reading = asyncio.Lock()

    async def families(self) -> list[Family]:
        """Raises RedisUnavailable, UnsafeRedis."""
        async with self._reading:
            if self._clock.monotonic_s() - self._read_at_s >= KEPT_S:
                await self._read()
                self._read_at_s = self._clock.monotonic_s()
        return list(_families(self._figures, len(self._shown) - len(self._figures)))

    async def _read(self) -> None:
        (changes,) = await self._ledger.commands([("HGET", redis_names.POLICY, redis_names.CHANGES)])
        if changes is None or changes != self._changes:
            self._limits = [each async for each in self._documents()]
            self._shown = []
            self._changes = changes
        await self._roll(self._clock.now_ms() // 1000)
        figures: list[tuple[Shown, Stored]] = []
        for at in range(0, len(self._shown), READ_AT_ONCE):
            part = self._shown[at : at + READ_AT_ONCE]
            (values,) = await self._ledger.commands([("MGET", *(redis_names.COUNTER + each.counter for each in part))])
            figures += zip(part, map(counter_of, values), strict=True)
        if len(figures) > self._most:
            figures = heapq.nlargest(self._most, figures, key=lambda each: _ratio(each[1].spent, each[0].limit.limit))
        self._figures = figures

    async def _roll(self, now_s: int) -> None:
        """Put every limit into its window of now."""
        before = {each.limit: each for each in self._shown}
        rolled = []
        for number, (limit, labels) in enumerate(self._limits):
            known = before.get(limit)
            rolled.append(known if known is not None and now_s < known.until_s else _at(limit, labels, now_s))
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._shown = rolled

    async def _documents(self) -> Any:
        """Limits of all owners."""
        keys: list[VirtualKey] = []
        teams: dict[str, Team] = {}
        customers: dict[str, Customer] = {}
        cursor, count = b"0", 0
        while True:
            (reply,) = await self._ledger.commands(
                [("HSCAN", redis_names.DOCUMENTS, cursor.decode(), "COUNT", READ_AT_ONCE)]
            )
            cursor, pairs = reply
            for field, document in zip(pairs[::2], pairs[1::2], strict=True):
                entity = field.partition(b":")[0]
                if entity == b"virtual_key":
                    if b'"limit_nusd"' in document or b'"rate_limit"' in document:
                        keys += _read(document, VirtualKey)
                elif entity == b"team":
                    teams |= {team.id: team for team in _read(document, Team)}
                elif entity == b"customer":
                    customers |= {customer.id: customer for customer in _read(document, Customer)}
            count += len(pairs) // 2
            if cursor == b"0" or count >= MAX_DOCUMENTS:
                break
        for customer in customers.values():
            for each in _limits_of("customer", customer, customer.name, None, customer):
                yield each
        for team in teams.values():
            for each in _limits_of("team", team, team.name, team, customers.get(team.customer_id)):
                yield each
        for number, key in enumerate(keys):
            of = teams.get(key.team_id)
            payer = customers.get(key.customer_id or (of.customer_id if of is not None else ""))
            for each in _limits_of("virtual_key", key, key.name, of, payer, key.name):
                yield each
            for config in key.provider_configs or ():
                for each in _limits_of("provider_config", config, f"{key.name}/{config.provider}", of, payer, key.name):
                    yield each
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)


def _read(document: bytes, type_: type[Any]) -> list[Any]:
    """The document; empty where it cannot be read (the policy says so when it is used)."""
    try:
        return [msgspec.json.decode(document, type=type_, strict=False)]
    except msgspec.MsgspecError:
        return []


def _limits_of(
    kind: OwnerKind, owner: Any, name: str, team: Team | None, customer: Customer | None, key: str = ""
) -> Iterator[tuple[Limit, Labels]]:
    for limit in owner_limits(owner, kind, name, effective_timezone(team, customer)):
        pairs = [
            ("owner_kind", kind),
            ("owner", name),
            ("customer", customer.name if customer is not None else ""),
            ("team", team.name if team is not None else ""),
            ("key", key),
            ("window", limit.window),
        ]
        if limit.unit == "n":
            pairs += [("budget", limit.limit_id), ("enforcement", _ENFORCEMENTS[limit.mode])]
        else:
            pairs += [("limit", limit.limit_id), ("unit", _UNITS[limit.unit])]
        yield limit, Labels([pair for pair in pairs if pair[1]])


def _at(limit: Limit, labels: Labels, now_s: int) -> Shown:
    window = parse_window(limit.window, limit.calendar_aligned)
    start_s, end_s = bounds(window, limit.calendar_aligned, limit.anchored_at_s, limit.timezone, now_s)
    return Shown(limit, labels, counter_id(limit.unit, limit.limit_id, start_s, end_s), end_s)


def _families(figures: list[tuple[Shown, Stored]], not_shown: int) -> Iterator[Family]:
    budgets = [(shown.labels, shown, stored) for shown, stored in figures if shown.limit.unit == "n"]
    rates = [(shown.labels, shown, stored) for shown, stored in figures if shown.limit.unit != "n"]
    yield Family(metrics.BUDGET_LIMIT, [(labels, shown.limit.limit / 1e9) for labels, shown, _ in budgets])
    yield Family(metrics.BUDGET_SPENT, [(labels, stored.spent / 1e9) for labels, _, stored in budgets])
    yield Family(metrics.BUDGET_HELD, [(labels, stored.held / 1e9) for labels, _, stored in budgets])
    yield Family(
        metrics.BUDGET_USED, [(labels, _ratio(stored.spent, shown.limit.limit)) for labels, shown, stored in budgets]
    )
    yield Family(
        metrics.BUDGET_REMAINING,
        [
            (labels, max(0.0, 1.0 - _ratio(stored.spent + stored.held, shown.limit.limit)))
            for labels, shown, stored in budgets
        ],
    )
    yield Family(metrics.BUDGET_RESETS, [(labels, shown.until_s) for labels, shown, _ in budgets])
    yield Family(
        metrics.RATE_USED, [(labels, _ratio(stored.spent, shown.limit.limit)) for labels, shown, stored in rates]
    )
    yield one(metrics.NOT_SHOWN, not_shown)


def _ratio(amount: int, limit: int) -> float:
    """A limit of 0 is used up from the start."""
    return amount / limit if limit else 1.0
