"""From a script's reply to the answer the edge gets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bursar_common.wire import Balance, Owners, Refused, Reserved
from bursar_enforcer.plan import Plan
from bursar_enforcer.stored import counter_at, counter_of, counters_of

RETRY_IN_MS = 50
"""When a waiting request should ask again: renewals and settlements free room at any moment, the edge's queue keeps
the order, and one look costs some 50 us."""

_MONEY = {b"spent": "budget_spent", b"large": "budget_too_large", b"reserved": "budget_reserved"}
_TOKENS = {b"spent": "tokens_limited", b"large": "tokens_too_large", b"reserved": "tokens_reserved"}


def refusal(plan: Plan, reply: list[Any], amounts: tuple[int, ...], owners: Owners, now_s: int) -> Refused | Reserved:
    """The answer to ``{refused, code, index, changes, counters}``."""
    code, index = reply[1], int(reply[2]) - 1
    counter = plan.counters[index]
    limit = counter.limit
    if limit.unit == "n":
        reason = _MONEY[code]
    elif limit.unit == "r":
        reason = "requests_limited"
    else:
        reason = _TOKENS[code]
    refused = Refused(
        reason,
        owner_kind=limit.owner_kind,
        owner=limit.owner,
        budget_id=limit.limit_id,
        spent=counter_at(reply[4], len(plan.counters), index).spent,
        limit=limit.limit,
        needed=amounts[counter.expected_at],
        strict=counter.strict,
        unit=limit.unit,
        window=limit.window,
        resets_at_s=counter.window_end_s,
        retry_after_s=0 if limit.unit == "n" else max(1, counter.window_end_s - now_s),
        owners=owners,
    )
    if code == b"reserved":
        return Reserved(counter.id, RETRY_IN_MS, refused)
    return refused


def balances_of(reply: list[Any], named: Sequence[str]) -> tuple[Balance, ...]:
    """The counters in the answer ``{closed_now, rank before, names, counters}`` to a closing that named these."""
    names = reply[2].decode().split(" ") if reply[2] else named
    states = counters_of(reply[3], len(names))
    return tuple([Balance(name, *state[:4]) for name, state in zip(names, states, strict=True)])


def balance_of(counter: str, value: bytes | None) -> Balance:
    """A counter as read. Overshoot is reported of money only."""
    spent, held, exposed, open_holds, promised = counter_of(value)
    overshoot = spent - promised if promised is not None and counter.startswith("n") else None
    return Balance(counter, spent, held, exposed, open_holds, overshoot)
