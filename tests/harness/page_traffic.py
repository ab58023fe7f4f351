"""A Bursar with owners, budgets and requests for pages to show: seven weeks of a company, and what pages break on.

Most requests are appended to the log as an edge would have written them, so the ledger, ClickHouse and every page agree
about them; a few go through the gateway. The same every time, but for the clock."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bursar_common.eventlog.port import NewRecord
from bursar_common.money import NUSD_PER_DOLLAR
from tests.harness.coding_sessions import PEOPLE, Turn, month_start_ms, planned
from tests.harness.gateway import ROWS_WAIT_S, CreatedKey, Gateway
from tests.harness.processes import eventually
from tests.harness.usage_events import usage, usage_record

HTML_NAME = 'R&D <img src=x onerror="document.title=1"> "Söhne"'
LONG_NAME = "a-team-whose-name-has-one-hundred-and-twenty-characters-" + "x" * 64
TOOLS_KNOWN_DAYS = 15
SHARES = {"platform": 0.62, "data-science": 0.87, "payments": 1.02, "mobile": 0.31}
"""Part of its month's budget that each team will have spent."""


@dataclass
class Seeded:
    keys: dict[str, CreatedKey] = field(default_factory=dict)
    teams: dict[str, str] = field(default_factory=dict)
    """Name to id."""
    session: str = ""
    """The newest session that has agents below agents."""


def monthly(dollars: float, **more: Any) -> dict[str, Any]:
    return {"max_limit": dollars, "reset_duration": "1M", "calendar_aligned": True, **more}


def daily(dollars: float, **more: Any) -> dict[str, Any]:
    return {"max_limit": dollars, "reset_duration": "1d", "calendar_aligned": True, **more}


def _rounded(nusd: float) -> float:
    """A limit as people set them: dollars with two digits that matter, at least 5."""
    whole = max(5, round(nusd / NUSD_PER_DOLLAR))
    step = 10 ** max(0, len(str(whole)) - 2)
    return float(-(-whole // step) * step)


async def seed(gateway: Gateway) -> Seeded:
    await gateway.reset_simulator()
    now_ms = int(time.time() * 1000)
    plan = planned(random.Random(11), now_ms)
    found = Seeded(session=plan.session)
    spent = plan.spent_since(month_start_ms(now_ms))
    customer = await gateway.create_customer("Northwind", budget=monthly(_rounded(sum(spent.values()) / 0.7)))
    for team, share in SHARES.items():
        limits: dict[str, Any] = {"budget": monthly(_rounded(spent.get(team, 0) / share))}
        if team == "payments":  # spent, even on the first of a month
            limits = {"budget": monthly(round(spent.get(team, 0) / share / NUSD_PER_DOLLAR, 2))}
        if team == "data-science":
            limits = {"budgets": [{**limits["budget"], "enforcement": "strict"}, daily(5, enforcement="observe")]}
        if team == "mobile":  # enough until the reset, on any day of a month: by the days of it that are over
            pace = spent.get(team, 0) * 40 / max(1, time.gmtime().tm_mday - 1)
            limits = {"budget": monthly(_rounded(max(spent.get(team, 0) / share, pace)))}
            limits["rate_limit"] = {"request_max_limit": 60, "request_reset_duration": "1m"}
        found.teams[team] = (await gateway.create_team(team, customer_id=customer["id"], **limits))["id"]
    documents: dict[str, dict[str, Any]] = {}
    for person in PEOPLE:
        body: dict[str, Any] = {"team_id": found.teams[person.team]}
        if person.user:
            email = f"{person.user.split()[0].lower()}@example.com"
            user = {"name": person.user, "email": email, **body}
            documents[person.user] = (await gateway.api("POST", "/api/governance/users", user))["user"]
            body["user_id"] = documents[person.user]["id"]
        budget = daily(10) if person.user else monthly(100)
        found.keys[person.key] = await gateway.create_key(person.key, budget=budget, **body)
    found.keys["frozen"] = await gateway.create_key("frozen", team_id=found.teams["payments"], budget=monthly(0))
    await _ask(gateway, found)
    await append(gateway, found, plan.turns, await _counters(gateway, found, customer["id"]))
    return found


async def _ask(gateway: Gateway, found: Seeded) -> None:
    """A few requests that take the whole way, one of them refused."""
    sim = {"input-tokens": 1800, "cache-read-tokens": 42_000, "output-tokens": 640}
    answers = await asyncio.gather(
        *(
            gateway.message(found.keys[key].value, stream=True, sim=sim, headers={"x-bursar-project": "checkout"})
            for key in ("alice-laptop", "dana-laptop", "bao-laptop")
        ),
        gateway.message(found.keys["frozen"].value),
    )
    assert [answer.status for answer in answers[:3]] == [200] * 3
    assert answers[3].status in (400, 402, 403, 429), answers[3].body
    # All of them: one that came later would change what a test reads twice.
    for key in ("alice-laptop", "dana-laptop", "bao-laptop", "frozen"):
        await gateway.usage_rows(found.keys[key].id, at_least=1)


async def _counters(gateway: Gateway, found: Seeded, customer_id: str) -> dict[str, list[tuple[str, int]]]:
    """Key to the counters of its budgets and of those above it, each with the start of its window, Unix ms."""

    def of(owner: dict[str, Any]) -> list[tuple[str, int]]:
        windows = []
        for budget in owner["budgets"]:
            start, end = (_unix_s(budget[name]) for name in ("window_start", "window_end"))
            windows.append((f"n:{budget['id']}:{start}:{end}", start * 1000))
        return windows

    customer = (await gateway.api("GET", f"/api/governance/customers/{customer_id}"))["customer"]
    teams = {
        team: of((await gateway.api("GET", f"/api/governance/teams/{team}"))["team"]) for team in found.teams.values()
    }
    return {
        name: [*of(key.document), *teams[key.document["team_id"]], *of(customer)] for name, key in found.keys.items()
    }


def _unix_s(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())


async def append(
    gateway: Gateway, found: Seeded, turns: list[Turn], counters: dict[str, list[tuple[str, int]]]
) -> None:
    """The turns, in the log; returns once ClickHouse and the ledger have them all."""
    (newest,) = await gateway.query("SELECT max(price_book_id) AS book, count() AS rows FROM bursar.usage")
    names = {team_id: name for name, team_id in found.teams.items()}
    records = [_record(turn, found.keys[turn.key], names, newest["book"], counters.get(turn.key, [])) for turn in turns]
    for first in range(0, len(records), 1000):
        await gateway.log.append(records[first : first + 1000])

    due: dict[str, int] = {}
    for turn in turns:
        for counter in _charged(turn, counters.get(turn.key, [])):
            due[counter] = due.get(counter, 0) + _billed(turn)

    async def there() -> bool:
        rows = await gateway.query("SELECT count() AS n FROM bursar.usage")
        return int(rows[0]["n"]) >= int(newest["rows"]) + len(records)

    async def charged() -> bool:
        balances = await gateway.balances(list(due))
        return all(balances[counter].spent >= nusd and not balances[counter].held for counter, nusd in due.items())

    await eventually(there, ROWS_WAIT_S)
    await eventually(charged, ROWS_WAIT_S)


def _billed(turn: Turn) -> int:
    return turn.cost_nusd if turn.billing == "metered" else 0


def _charged(turn: Turn, counters: list[tuple[str, int]]) -> tuple[str, ...]:
    """The counters whose window had begun."""
    sent = turn.outcome != "refused"
    return tuple(name for name, since_ms in counters if sent and turn.started_at_ms >= since_ms)


def _record(
    turn: Turn, key: CreatedKey, teams: dict[str, str], book: str, counters: list[tuple[str, int]]
) -> NewRecord:
    owner = key.document
    sent = turn.outcome != "refused"
    billed = _billed(turn)
    return usage_record(
        usage(
            request_id=turn.request_id,
            started_at_ms=turn.started_at_ms,
            ended_at_ms=turn.started_at_ms + turn.latency_ms,
            latency_ms=turn.latency_ms,
            time_to_first_token_ms=turn.latency_ms // 8 if turn.output_tokens else None,
            outcome=turn.outcome,
            refused_by=turn.refused_by,
            status=turn.status,
            error_type=turn.error_type,
            billing=turn.billing,
            virtual_key_id=key.id,
            virtual_key=owner["name"],
            team_id=owner["team_id"] or "",
            team=teams.get(owner["team_id"], ""),
            user_id=owner["user_id"] or "",
            customer_id=owner["customer_id"] or "",
            customer="Northwind" if owner["customer_id"] else "",
            session_id=turn.session_id,
            agent_id=turn.agent_id,
            parent_agent_id=turn.parent_agent_id,
            project=turn.project,
            tags={"ticket": turn.ticket} if turn.ticket else {},
            model=turn.model,
            requested_model=turn.model,
            stream=True,
            max_tokens=32_000,
            **_tools(turn),
            client_version="2.0.51" if turn.session_id else "",
            price_book_id=book if sent else "",
            input_tokens=turn.input_tokens if sent else None,
            cache_read_tokens=turn.cache_read_tokens if sent else None,
            cache_write_5m_tokens=turn.cache_write_5m_tokens if sent else None,
            cache_write_1h_tokens=0 if sent else None,
            output_tokens=turn.output_tokens if sent else None,
            cost_nusd=billed,
            list_cost_nusd=turn.cost_nusd,
            held_nusd=turn.cost_nusd * 3 // 2,
            bound_nusd=turn.cost_nusd * 9,
            amounts=turn.amounts(billed),
            charged_to=_charged(turn, counters),
        )
    )


def _tools(turn: Turn) -> dict[str, Any]:
    """As Claude Code's requests have them; those of older gateways do not say."""
    if not turn.output_tokens or turn.started_at_ms < (time.time() - TOOLS_KNOWN_DAYS * 86_400) * 1000:
        return {"tools_offered": None, "tool_uses": None}
    return {"tools_offered": 17, "tool_uses": int(turn.request_id[-1], 16) % 4}


async def seed_oddities(gateway: Gateway, found: Seeded) -> None:
    """What pages break on: a name of 120 characters, HTML in a name, $9 billion, $0, nothing spent at all."""
    customer = await gateway.create_customer("Fabrikam", budget=monthly(9_000_000_000))
    for name, limits in ((HTML_NAME, {"budget": monthly(0)}), (LONG_NAME, {})):
        found.teams[name] = (await gateway.create_team(name, customer_id=customer["id"], **limits))["id"]
    key = await gateway.create_key("ci-" + "k" * 60, team_id=found.teams[LONG_NAME], budget=monthly(0.000_001))
    found.keys["odd"] = await gateway.create_key(HTML_NAME[:60], team_id=found.teams[LONG_NAME])
    headers = {"x-bursar-project": HTML_NAME.encode().decode("ascii", "ignore"), "x-bursar-tag-note": "<b>bold</b>"}
    answers = await asyncio.gather(
        gateway.message(found.keys["odd"].value, headers=headers), gateway.message(key.value, headers=headers)
    )
    assert answers[0].status == 200
    # Both: a page that is looked at draws itself anew when a request comes.
    for each in (found.keys["odd"], key):
        await gateway.usage_rows(each.id, at_least=1)
