"""A Bursar with owners, budgets and requests for pages to show: usual ones, and those that pages break on."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from bursar_common.ids import uuid7_from
from tests.harness.gateway import CreatedKey, Gateway
from tests.harness.processes import eventually
from tests.harness.usage_events import usage, usage_record

HTML_NAME = 'Fabrikam <img src=x onerror="document.title=1"> & "Söhne"'
LONG_NAME = "a-team-whose-name-has-one-hundred-and-twenty-characters-" + "x" * 64
MODELS = ("claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5")
REQUESTS = 60
PAST_DAYS = 50
RATES = {
    "claude-opus-4-8": (5000, 500, 6250, 25_000),
    "claude-sonnet-4-6": (3000, 300, 3750, 15_000),
    "claude-haiku-4-5": (1000, 100, 1250, 5000),
}
"""List prices, nano-dollars a token: input, cache read, cache write for 5 minutes, output."""
OBSERVED = {"max_limit": 0.5, "reset_duration": "1d", "enforcement": "observe"}


@dataclass
class Seeded:
    keys: list[CreatedKey] = field(default_factory=list)
    teams: dict[str, str] = field(default_factory=dict)
    """Name to id."""
    sessions: list[str] = field(default_factory=list)


def monthly(dollars: float, **more: Any) -> dict[str, Any]:
    return {"max_limit": dollars, "reset_duration": "1M", "calendar_aligned": True, **more}


async def seed(gateway: Gateway) -> Seeded:
    """The same owners and requests every time."""
    await gateway.reset_simulator()
    found, chance = Seeded(), random.Random(11)
    northwind = await gateway.create_customer("Northwind", budget=monthly(400))
    fabrikam = await gateway.create_customer(HTML_NAME, budget=monthly(9_000_000_000))
    for name, customer, limits in (
        ("platform", northwind, {"budget": monthly(3)}),
        ("data-science", northwind, {"budgets": [monthly(20, enforcement="strict"), OBSERVED]}),
        (LONG_NAME, fabrikam, {}),
    ):  # fmt: skip
        team = await gateway.create_team(name, customer_id=customer["id"], **limits)
        found.teams[name] = team["id"]
    people = {}
    for name, team_name in (("Alice Moreau", "platform"), ("Bao Nguyen", "platform"), ("Dana Levi", "data-science")):
        body = {"name": name, "email": f"{name.split()[0].lower()}@example.com", "team_id": found.teams[team_name]}
        people[name] = (await gateway.api("POST", "/api/governance/users", body))["user"]
    for name, person, budget in (
        ("alice-laptop", "Alice Moreau", monthly(50)),
        ("bao-laptop", "Bao Nguyen", {"max_limit": 0.01, "reset_duration": "1d"}),
        ("dana-laptop", "Dana Levi", monthly(50)),
    ):
        owner = people[person]
        found.keys.append(await gateway.create_key(name, team_id=owner["team_id"], user_id=owner["id"], budget=budget))
    found.keys.append(await gateway.create_key("ci", team_id=found.teams[LONG_NAME], budget=monthly(5)))
    found.sessions = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(3)]
    agents = [f"{chance.getrandbits(48):012x}" for _ in range(3)]
    for _ in range(REQUESTS):
        headers = {
            "x-claude-code-session-id": chance.choice(found.sessions),
            "x-bursar-project": chance.choice(["checkout", "search"]),
            "x-bursar-tag-ticket": f"OPS-{chance.randrange(3)}",
        }
        kind = chance.random()
        if kind < 0.3:
            headers["x-claude-code-agent-id"] = agents[0]
        elif kind < 0.45:
            headers |= {"x-claude-code-agent-id": agents[1], "x-claude-code-parent-agent-id": agents[0]}
        counts = {
            "input-tokens": chance.randrange(10, 4000),
            "cache-read-tokens": chance.randrange(0, 40_000),
            "cache-write-5m-tokens": chance.choice([0, 0, 8000, 20_000]),
            "output-tokens": chance.randrange(5, 2500),
        }
        await gateway.message(
            chance.choice(found.keys).value,
            model=chance.choice(MODELS),
            stream=chance.random() < 0.5,
            headers=headers,
            sim=counts,
        )

    for key in found.keys:
        await gateway.usage_rows(key.id, at_least=1)
    await _past(gateway, found, chance)
    return found


async def _past(gateway: Gateway, found: Seeded, chance: random.Random) -> None:
    """Requests of the weeks before, as they would stand in the log. They are charged to no limit: the windows they
    would have counted in are over."""
    (newest,) = await gateway.query("SELECT max(price_book_id) AS book FROM bursar.usage")
    today_ms = int(time.time()) // 86_400 * 86_400_000
    records = []
    for day in range(1, PAST_DAYS + 1):
        start_ms = today_ms - day * 86_400_000
        weekend = time.gmtime(start_ms // 1000).tm_wday >= 5
        for number in range(chance.randrange(1, 4) if weekend else chance.randrange(8, 22)):
            key = chance.choice(found.keys)
            owner, model = key.document, chance.choice(MODELS)
            rates = RATES[model]
            counts = [chance.randrange(10, most) for most in (4000, 90_000, 6000, 3000)]
            cost = sum(count * rate for count, rate in zip(counts, rates, strict=True))
            started_ms = start_ms + chance.randrange(7 * 3_600_000, 17 * 3_600_000)
            records.append(
                usage_record(
                    usage(
                        request_id=uuid7_from(started_ms, (day * 1000 + number).to_bytes(10, "big")),
                        started_at_ms=started_ms,
                        ended_at_ms=started_ms + 9000,
                        latency_ms=chance.randrange(900, 30_000),
                        time_to_first_token_ms=chance.randrange(300, 2500),
                        virtual_key_id=key.id,
                        virtual_key=owner["name"],
                        team_id=owner["team_id"] or "",
                        team=next((name for name, team in found.teams.items() if team == owner["team_id"]), ""),
                        user_id=owner["user_id"] or "",
                        customer_id=owner["customer_id"] or "",
                        session_id=str(uuid.UUID(int=day * 7 + number % 3, version=4)),
                        project=chance.choice(["checkout", "search", "billing"]),
                        model=model,
                        requested_model=model,
                        stream=True,
                        price_book_id=newest["book"],
                        input_tokens=counts[0],
                        cache_read_tokens=counts[1],
                        cache_write_5m_tokens=counts[2],
                        cache_write_1h_tokens=0,
                        output_tokens=counts[3],
                        cost_nusd=cost,
                        charged_to=(),
                        tags={},
                    )
                )
            )
    await gateway.log.append(records)

    async def there() -> bool:
        rows = await gateway.query("SELECT count() AS n FROM bursar.usage WHERE latency_ms >= 900 AND charged_to = []")
        return int(rows[0]["n"]) >= len(records)

    await eventually(there, 60)
