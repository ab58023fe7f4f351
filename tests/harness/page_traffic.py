"""A Bursar with owners, budgets and requests for pages to show: usual ones, and those that pages break on."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.harness.gateway import CreatedKey, Gateway

HTML_NAME = 'Fabrikam <img src=x onerror="document.title=1"> & "Söhne"'
LONG_NAME = "a-team-whose-name-has-one-hundred-and-twenty-characters-" + "x" * 64
MODELS = ("claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5")
REQUESTS = 60
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
    return found
