"""Promise 1, through the whole gateway: what a budget allows is not exceeded, whatever the concurrency."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from tests.harness import eventually
from tests.harness.books import assert_books_agree
from tests.harness.gateway import CreatedKey, Gateway
from tests.harness.one_machine import OneMachine
from tests.harness.script_replies import CounterState, script_replies

pytestmark = [pytest.mark.timeout(400)]

MODEL = "claude-sonnet-4-6"
DOLLAR = 10**9
OUTPUT_NUSD = 15_000  # of one output token of MODEL
INPUT_NUSD = 3_000


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    folder = tmp_path_factory.mktemp("promises")
    with OneMachine(folder, BURSAR_LOG_LEVEL="debug", BURSAR_ADMISSION_WAIT_S="2") as machine:
        yield machine


def replies_of(machine: OneMachine, counter: str) -> list[CounterState]:
    log = machine.home / "logs" / "enforcer.log"
    return [reply for reply in script_replies(log) if reply.counter == counter]


async def owner_with(gateway: Gateway, label: str, level: str, budget: dict[str, object]) -> tuple[CreatedKey, str]:
    """A key whose owner at ``level`` has the budget; and the budget's id."""
    customer = await gateway.create_customer(f"{label} c", **({"budget": budget} if level == "customer" else {}))
    team = await gateway.create_team(
        f"{label} t", customer_id=customer["id"], **({"budget": budget} if level == "team" else {})
    )
    config = {"provider": "anthropic"} | ({"budget": budget} if level == "provider_config" else {})
    key = await gateway.create_key(
        f"{label} k",
        team_id=team["id"],
        provider_configs=[config],
        **({"budget": budget} if level == "virtual_key" else {}),
    )
    holder = {"customer": customer, "team": team, "virtual_key": key.document}.get(level)
    holder = holder or key.document["provider_configs"][0]
    return key, holder["budgets"][0]["id"]


async def many(gateway: Gateway, key: CreatedKey, requests: int, **request: object) -> list[int]:
    async with ClientSession(timeout=ClientTimeout(total=120), connector=TCPConnector(limit=0)) as session:
        answers = await asyncio.gather(
            *(gateway.message(key.value, model=MODEL, session=session, **request) for _ in range(requests))  # type: ignore[arg-type]
        )
    return [answer.status for answer in answers]


def the_counter(machine: OneMachine, budget_id: str) -> str:
    log = machine.home / "logs" / "enforcer.log"
    (counter,) = {reply.counter for reply in script_replies(log) if reply.counter.startswith(f"n:{budget_id}:")}
    return counter


@pytest.mark.parametrize("level", ["provider_config", "virtual_key", "team", "customer"])
async def test_a_strict_budget_with_room_for_ten_meets_two_hundred(machine: OneMachine, level: str) -> None:
    async with machine.gateway() as gateway:
        probe, _ = await owner_with(gateway, f"{level} probe", level, {"max_limit": 1000, "reset_duration": "1M"})
        sim = {"input-tokens": 40, "output-tokens": 1000, "head-delay-ms": 300}
        assert await many(gateway, probe, 1, max_tokens=1000, sim=sim) == [200]
        (row,) = await gateway.usage_rows(probe.id, at_least=1)
        limit_nusd = row["bound_nusd"] * 10
        budget = {"max_limit": limit_nusd / DOLLAR, "reset_duration": "1M", "enforcement": "strict"}
        key, budget_id = await owner_with(gateway, level, level, budget)

        statuses = await many(gateway, key, 200, max_tokens=1000, sim=sim)
        assert set(statuses) <= {200, 402, 429}
        assert statuses.count(200) >= 10

        await assert_books_agree(gateway)
        replies = replies_of(machine, the_counter(machine, budget_id))
        assert max(reply.spent + reply.held for reply in replies) <= limit_nusd
        assert {reply.limit for reply in replies if reply.script == "admit"} == {limit_nusd}
        # An independent model: what the provider counted for this key, at the list price, is what was spent.
        cost_nusd = 40 * INPUT_NUSD + 1000 * OUTPUT_NUSD
        assert replies[-1].spent == statuses.count(200) * cost_nusd <= limit_nusd
        assert (replies[-1].held, replies[-1].exposed) == (0, 0)


async def test_a_standard_budget_ends_within_what_was_in_flight(machine: OneMachine) -> None:
    """Answers cost more than expected: the excess is that of the requests in flight at the last admission, and the
    ledger reports that figure."""
    async with machine.gateway() as gateway:
        budget = {"max_limit": 1.0, "reset_duration": "1M"}
        # None is answered before all were sent, however late some of them were: the first figures would lower what the
        # ledger still lets in.
        key, budget_id = await owner_with(gateway, "standard", "virtual_key", budget)
        sim = {"input-tokens": 100, "output-tokens": 20_000, "head-delay-ms": 8_000}
        statuses = await many(gateway, key, 60, max_tokens=64_000, sim=sim)
        assert statuses.count(200) >= 5
        await assert_books_agree(gateway)

        counter = the_counter(machine, budget_id)
        replies = replies_of(machine, counter)
        at_last_admission = [reply for reply in replies if reply.script == "admit"]
        # A refusal changes nothing: its reply repeats the state. The last admission is where held last grew.
        grown = [
            after
            for before, after in zip([None, *replies], replies, strict=False)
            if after.script == "admit" and after.held > (before.held if before else 0)
        ]
        assert at_last_admission
        promised = replies[-1].spent - (grown[-1].spent + grown[-1].held)
        cost_nusd = 100 * INPUT_NUSD + 20_000 * OUTPUT_NUSD
        assert replies[-1].spent == statuses.count(200) * cost_nusd
        assert replies[-1].spent > DOLLAR, "the test must overshoot to mean anything"
        assert replies[-1].spent - DOLLAR <= promised
        balance = (await gateway.balances([counter]))[counter]
        assert balance.overshoot_bound == promised
        assert max(reply.spent + reply.held for reply in grown) <= DOLLAR


async def test_twenty_large_sessions_use_up_their_budget(machine: OneMachine) -> None:
    """400 kB prompts, 95 % cache reads, 64,000 tokens asked for and 1,000 produced, against $100: expectations must
    not refuse anybody before $90 is spent."""
    async with machine.gateway() as gateway:
        key = await gateway.create_key("large", budget={"max_limit": 100, "reset_duration": "1M"})
        body = json.dumps(
            {"model": "claude-opus-4-8", "max_tokens": 64_000, "messages": [{"role": "user", "content": "x" * 400_000}]}
        ).encode()
        # 100,000 tokens of prompt a request; $0.104 each: a good 960 requests.
        sim = {"input-tokens": 0, "cache-read-tokens": 95_000, "cache-write-5m-tokens": 5_000, "output-tokens": 1_000}
        refused_at_nusd: list[int] = []

        async def spent_nusd() -> int:
            return int((await gateway.key(key.id))["budgets"][0]["spent_nusd"])

        async def converse(number: int, session: ClientSession) -> None:
            headers = {"x-claude-code-session-id": f"session-{number}"}
            while not refused_at_nusd:
                answer = await gateway.message(key.value, body=body, sim=sim, headers=headers, session=session)
                if answer.status == 200:
                    continue
                assert answer.status in (402, 429), answer.body
                refused_at_nusd.append(await spent_nusd())

        async with ClientSession(timeout=ClientTimeout(total=300), connector=TCPConnector(limit=0)) as session:
            await asyncio.gather(*(converse(number, session) for number in range(20)))
        assert min(refused_at_nusd) >= 90 * DOLLAR
        await assert_books_agree(gateway)
        await eventually(spent_nusd)
