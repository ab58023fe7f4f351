"""A company of ten thousand teams, each with a key, a budget and a session: written to the log at once, as the admin
API and an edge would have written it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec

from bursar_common.clock import rfc3339
from bursar_common.eventlog.port import NewRecord
from bursar_common.events import GOVERNANCE_TOPIC, GovernanceData, encode_event
from bursar_common.governance import Budget, Customer, Team, VirtualKey
from bursar_common.ids import uuid7_from
from bursar_common.money import NUSD_PER_DOLLAR
from bursar_common.wire import Amounts
from tests.harness.coding_sessions import DAY_MS, month_start_ms
from tests.harness.gateway import Gateway
from tests.harness.processes import eventually
from tests.harness.usage_events import usage, usage_record

CUSTOMERS = 20
MODELS = ("claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5")
BATCH = 2000
WAIT_S = 180.0
"""Bound for the ledger and ClickHouse to take it over on a busy machine."""


@dataclass(frozen=True)
class Company:
    customers: list[str]
    teams: list[str]
    keys: list[str]
    """Ids, in the order of their names."""


def _id(kind: int, number: int, now_ms: int) -> str:
    return uuid7_from(now_ms, (kind * 10_000_000 + number).to_bytes(10, "big"))


def _created(entity: str, document: Any, now_ms: int) -> NewRecord:
    data = GovernanceData(
        entity=entity,
        entity_id=document.id,
        actor="test",
        seen={document.id: 0},
        document=msgspec.to_builtins(document),
    )
    value = encode_event(
        id=_id(9, int(document.created_at_s), now_ms)[:-12] + document.id[-12:],
        source="bursar/admin",
        type=f"bursar.{entity}.created.v1",
        time=rfc3339(now_ms),
        subject=document.id,
        data=data,
    )
    return NewRecord(GOVERNANCE_TOPIC, document.id, value)


def _budget(budget_id: str, dollars: int, window: str, now_s: int) -> tuple[Budget, ...]:
    limit = dollars * NUSD_PER_DOLLAR
    return (
        Budget(id=budget_id, limit_nusd=limit, window=window, anchored_at_s=now_s, calendar_aligned=True),
    )  # fmt: skip


async def found(gateway: Gateway, teams: int = 10_000) -> Company:
    """Returns once ledger and ClickHouse have all of it. Each team made one request, in a session of its own."""
    now_ms = int(time.time() * 1000)
    now_s = now_ms // 1000
    company = Company(*([_id(kind, number, now_ms) for number in range(count)]
                        for kind, count in ((1, CUSTOMERS), (2, teams), (3, teams))))  # fmt: skip
    records = [
        _created(
            "customer",
            Customer(
                id=each, name=f"customer {number:02}", created_at_s=now_s,
                budgets=_budget(f"b-{each}", 9000, "1M", now_s) if number % 2 else (),
            ),
            now_ms,
        )
        for number, each in enumerate(company.customers)
    ]  # fmt: skip
    for number, (team, key) in enumerate(zip(company.teams, company.keys, strict=True)):
        document = Team(
            id=team, name=f"team {number:05}", created_at_s=now_s, customer_id=company.customers[number % CUSTOMERS],
            budgets=_budget(f"b-{team}", 1 + number % 50, "1M", now_s),
        )  # fmt: skip
        records.append(_created("team", document, now_ms))
        held_by = VirtualKey(id=key, name=f"key {number:05}", hmac=f"{number:064x}", created_at_s=now_s, team_id=team)
        records.append(_created("virtual_key", held_by, now_ms))
    for at in range(0, len(records), BATCH):
        await gateway.log.append(records[at : at + BATCH])
    turns = [_turn(company, number, now_ms) for number in range(teams)]
    for at in range(0, len(turns), BATCH):
        await gateway.log.append(turns[at : at + BATCH])

    # Only requests of this month count in its budgets: early in a month not those of the last teams.
    charged = [number for number in range(teams) if _started_at_ms(number, now_ms) >= _month_s(now_ms)[0] * 1000]

    async def there() -> bool:
        rows = await gateway.query("SELECT count() AS n FROM bursar.usage")
        listed = await gateway.api("GET", "/api/governance/virtual-keys?limit=1")
        for number in charged[-1:]:
            state = await gateway.api("GET", f"/api/governance/teams/{company.teams[number]}")
            (budget,) = state["team"]["budgets"]
            if not budget["spent_nusd"]:
                return False
        return int(rows[0]["n"]) >= teams and listed["total_count"] >= teams

    await eventually(there, WAIT_S)
    return company


def _started_at_ms(number: int, now_ms: int) -> int:
    """Between now and five days ago, the later ones earlier."""
    return now_ms - 60_000 - number * 43_000


def _month_s(now_ms: int) -> tuple[int, int]:
    """Where the month begins and ends, Unix s."""
    begins_ms = month_start_ms(now_ms)
    return begins_ms // 1000, month_start_ms(begins_ms + 32 * DAY_MS) // 1000


def _turn(company: Company, number: int, now_ms: int) -> NewRecord:
    """The request of one team. The newest one nearly spends its budget: some want attention on any day of a month."""
    cost = (97 - number % 97) * NUSD_PER_DOLLAR // 100
    started_at_ms = _started_at_ms(number, now_ms)
    team, customer = company.teams[number], company.customers[number % CUSTOMERS]
    begins, ends = _month_s(now_ms)
    return usage_record(
        usage(
            request_id=_id(4, number, started_at_ms),
            started_at_ms=started_at_ms,
            latency_ms=900,
            virtual_key_id=company.keys[number],
            virtual_key=f"key {number:05}",
            team_id=team,
            team=f"team {number:05}",
            customer_id=customer,
            customer=f"customer {number % CUSTOMERS:02}",
            session_id=f"5e551000-0000-4000-8000-{number:012}",
            project=f"project {number % 700:03}",
            model=MODELS[number % 3],
            requested_model=MODELS[number % 3],
            input_tokens=1200,
            cache_read_tokens=40_000,
            output_tokens=400,
            cost_nusd=cost,
            amounts=Amounts(n=cost, t=1600, T=41_600, r=1),
            charged_to=(f"n:b-{team}:{begins}:{ends}",) if started_at_ms >= begins * 1000 else (),
        )
    )
