"""admin-api as a process, with the real enforcer on a real Valkey: the next request sees a change, figures are the
ledger's, a changed window takes its spending along."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bursar_common.clock import SystemClock
from bursar_common.keys import sha256_hex
from bursar_common.wire import (
    BATCH_PATH,
    INTERNAL_TOKEN_HEADER,
    Admit,
    Admitted,
    Amounts,
    Features,
    HoldEntry,
    KeyHash,
    Ok,
    Operation,
    Refused,
    Reply,
    Settle,
    Unavailable,
    decode_replies,
    encode,
)
from tests.harness import RedisServer, ServiceProcess
from tests.harness.admin import INTERNAL_TOKEN, KEY_SECRET, EnforcerStandIn, running_admin
from tests.harness.waiting import eventually

TOKEN = "the-admin-token"
KEYS = "/api/governance/virtual-keys"
WAIT_S = 60.0


class Machine:
    """Valkey, the enforcer and admin-api, as processes on one SQLite log."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.folder = folder
        common = {
            "BURSAR_HOME": str(folder),
            "BURSAR_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "BURSAR_KEY_SECRET": KEY_SECRET,
            "BURSAR_HOLD_TTL_S": "600",  # no hold expires here before it is settled
        }
        self.enforcer = ServiceProcess(
            "bursar_enforcer",
            env={**common, "BURSAR_REDIS_URL": redis.url, "BURSAR_ENFORCER_LISTEN": "unix:enforcer.sock"},
            address="unix:enforcer.sock",
            folder=folder,
        )
        self.admin = ServiceProcess(
            "bursar_admin",
            env={
                **common,
                "BURSAR_ENFORCER_URL": "unix:enforcer.sock",
                "BURSAR_ADMIN_LISTEN": "unix:admin.sock",
                "BURSAR_ADMIN_TOKEN": TOKEN,
            },
            address="unix:admin.sock",
            folder=folder,
        )

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {TOKEN}"}
        connector = aiohttp.UnixConnector(str(self.folder / "admin.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.request(method, f"http://localhost{path}", json=body, headers=headers) as response:
                return response.status, await response.json()

    async def ask(self, *operations: Operation) -> list[Reply]:
        """Replies, once the enforcer decides (it restores its ledger first)."""

        async def decided() -> list[Reply] | None:
            replies = await self._ask(*operations)
            return None if any(isinstance(reply, Unavailable) for reply in replies) else replies

        replies: list[Reply] = await eventually(decided, WAIT_S)
        return replies

    async def live(self, path: str) -> Any:
        """What a GET answers, once the ledger had answered it in time."""

        async def answered() -> Any:
            _, answer = await self.call("GET", path)
            return answer if answer["balances"] == "live" else None

        return await eventually(answered, WAIT_S)

    async def _ask(self, *operations: Operation) -> list[Reply]:
        connector = aiohttp.UnixConnector(str(self.folder / "enforcer.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.post(
                f"http://enforcer{BATCH_PATH}",
                data=encode(list(operations)),
                headers={INTERNAL_TOKEN_HEADER: INTERNAL_TOKEN, "content-type": "application/json"},
            ) as response:
                assert response.status == 200, await response.text()
                return decode_replies(await response.read())


def admission(value: str, request_id: str) -> Admit:
    return Admit(
        request_id=request_id,
        key_hashes=(KeyHash("x-api-key", sha256_hex(value)),),
        model="claude-sonnet-4-6",
        max_tokens=1000,
        features=Features(text_bytes=400),
        started_at_ms=SystemClock().now_ms(),
    )


@pytest.fixture
async def machine(tmp_path: Path, valkey_server: RedisServer) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path, valkey_server)
    machine.enforcer.start()
    machine.admin.start()
    try:
        await machine.enforcer.ready()
        await machine.admin.ready()
        yield machine
    finally:
        await asyncio.to_thread(machine.admin.stop)
        await asyncio.to_thread(machine.enforcer.stop)


async def test_the_very_next_request_sees_a_change_and_figures_are_the_ledgers(machine: Machine) -> None:
    status, answer = await machine.call(
        "POST", KEYS, {"name": "k", "budget": {"max_limit": 10, "reset_duration": "1M"}}
    )
    assert status == 200, answer
    key, value = answer["virtual_key"], answer["virtual_key"]["value"]
    path = f"{KEYS}/{key['id']}"

    (admitted,) = await machine.ask(admission(value, "01a1fd90-0000-7000-8000-000000000001"))
    assert isinstance(admitted, Admitted), admitted
    answer = await machine.live(path)
    (budget,) = answer["virtual_key"]["budgets"]
    assert budget["held_nusd"] == admitted.hold[0].expected > 0
    assert budget["spent_nusd"] == 0

    (settled,) = await machine.ask(
        Settle(
            request_id="01a1fd90-0000-7000-8000-000000000001",
            hold=admitted.hold,
            amounts=Amounts(n=2_500_000_000, t=10, T=10, r=1),
            outcome="completed",
            virtual_key_id=key["id"],
        )
    )
    assert isinstance(settled, Ok), settled
    answer = await machine.live(path)
    (budget,) = answer["virtual_key"]["budgets"]
    assert (budget["current_usage"], budget["held_nusd"]) == (2.5, 0)

    # A lower limit keeps the budget and what was spent; the next request is refused.
    status, answer = await machine.call("PATCH", path, {"budget": {"max_limit": 2}})
    assert status == 200
    assert answer["virtual_key"]["budgets"][0]["id"] == budget["id"]
    assert answer["virtual_key"]["budgets"][0]["current_usage"] == 2.5
    (refused,) = await machine.ask(admission(value, "01a1fd90-0000-7000-8000-000000000002"))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.spent, refused.limit) == ("budget_spent", 2_500_000_000, 2_000_000_000)

    # A longer window is another budget that opens with what the old one stood at.
    status, answer = await machine.call("PATCH", path, {"budget": {"reset_duration": "1Q"}})
    assert status == 200
    (longer,) = answer["virtual_key"]["budgets"]
    assert longer["id"] != budget["id"]
    assert longer["spent_nusd"] == 2_500_000_000
    (refused,) = await machine.ask(admission(value, "01a1fd90-0000-7000-8000-000000000003"))
    assert isinstance(refused, Refused)

    for change, reason in (({"is_active": False, "budget": None}, "inactive_key"), ({"is_active": True}, "")):
        assert (await machine.call("PATCH", path, change))[0] == 200
        (reply,) = await machine.ask(admission(value, f"01a1fd90-0000-7000-8000-00000000001{len(reason)}"[:36]))
        assert (reply.reason if isinstance(reply, Refused) else "") == reason

    status, answer = await machine.call("POST", f"{path}/rotate")
    assert status == 200
    (old,) = await machine.ask(admission(value, "01a1fd90-0000-7000-8000-000000000021"))
    (new,) = await machine.ask(admission(answer["virtual_key"]["value"], "01a1fd90-0000-7000-8000-000000000022"))
    assert isinstance(old, Refused)
    assert old.reason == "unknown_key"
    assert isinstance(new, Admitted)

    assert (await machine.call("DELETE", path))[0] == 200
    (gone,) = await machine.ask(admission(answer["virtual_key"]["value"], "01a1fd90-0000-7000-8000-000000000023"))
    assert isinstance(gone, Refused)


class ShiftedClock(SystemClock):
    """The system's clock, ``shift_s`` ahead."""

    def __init__(self, shift_s: int) -> None:
        self._shift_ms = shift_s * 1000

    def now_ms(self) -> int:
        return super().now_ms() + self._shift_ms


async def test_a_closed_window_reports_its_overshoot(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are admitted and settled now; a second admin-api that lives a day later reads the window as closed."""
    monkeypatch.setattr("bursar_admin.enforcer.CALL_TIMEOUT_S", WAIT_S)  # of the second one, which is in this process
    body = {"name": "k", "budget": {"max_limit": 1, "reset_duration": "1d"}}
    status, answer = await machine.call("POST", KEYS, body)
    assert status == 200, answer
    key = answer["virtual_key"]
    (budget,) = key["budgets"]
    assert budget["previous_window"] is None
    first, second = (f"01a1fd90-0000-7000-8000-00000000000{number}" for number in (1, 2))
    holds = []
    for request_id in (first, second):
        (admitted,) = await machine.ask(admission(key["value"], request_id))
        assert isinstance(admitted, Admitted), admitted
        holds.append(admitted.hold)
    (before,) = [entry.expected for entry in holds[0] if budget["id"] in entry.counter]
    held = 2 * before
    path = f"{KEYS}/{key['id']}"

    async def settle(request_id: str, hold: tuple[HoldEntry, ...], cost_nusd: int) -> None:
        amounts = Amounts(n=cost_nusd, t=1, T=1, r=1)
        (settled,) = await machine.ask(Settle(request_id, hold, amounts, "completed", virtual_key_id=key["id"]))
        assert isinstance(settled, Ok), settled

    async with running_admin(machine.folder, enforcer=EnforcerStandIn(), clock=ShiftedClock(86_400), name="later") as a:
        await settle(first, holds[0], 900_000_000)
        _, answer, _ = await a.call("GET", path)
        assert answer["balances"] == "live"
        closed = answer["virtual_key"]["budgets"][0]["previous_window"]
        assert closed == {
            "window_start": budget["window_start"],
            "window_end": budget["window_end"],
            "spent_nusd": 900_000_000,
            "open_holds": 1,
            "overshoot_nusd": 0,
            "overshoot_bound_nusd": 900_000_000 - held,
        }

        await settle(second, holds[1], 600_000_000)
        _, listed, _ = await a.call("GET", KEYS)
        (reported,) = listed["virtual_keys"][0]["budgets"]
        assert (reported["spent_nusd"], reported["window_start"]) == (0, budget["window_end"])
        assert reported["previous_window"] == {
            **closed,
            "spent_nusd": 1_500_000_000,
            "open_holds": 0,
            "overshoot_nusd": 500_000_000,
            "overshoot_bound_nusd": 1_500_000_000 - held,
        }

        # What the ledger never heard of is none, not zero; and the limit is the one that holds now.
        created = await a.create("virtual-keys", name="unused", budget={"max_limit": 1, "reset_duration": "1d"})
        assert created["virtual_key"]["budgets"][0]["previous_window"] is None
        status, answer, _ = await a.call("PATCH", path, {"budget": {"max_limit": 1.4}})
        assert status == 200
        assert answer["virtual_key"]["budgets"][0]["previous_window"]["overshoot_nusd"] == 100_000_000

    later = ShiftedClock(2 * 86_400)
    async with running_admin(machine.folder, enforcer=EnforcerStandIn(), clock=later, name="even-later") as a:
        _, listed, _ = await a.call("GET", KEYS)
        assert [k["budgets"][0]["previous_window"] for k in listed["virtual_keys"]] == [None, None]


async def test_a_key_brought_along_by_its_hash_works(machine: Machine) -> None:
    value = "corp-key-7f3c9a1e5b2d4860"
    status, answer = await machine.call("POST", KEYS, {"name": "k", "value_sha256": sha256_hex(value).upper()})
    assert status == 200
    assert "value" not in answer["virtual_key"]
    (reply,) = await machine.ask(admission(value, "01a1fd90-0000-7000-8000-000000000001"))
    assert isinstance(reply, Admitted)


async def test_kill_9_loses_nothing_and_sigterm_ends_cleanly(machine: Machine) -> None:
    status, answer = await machine.call("POST", KEYS, {"name": "k"})
    assert status == 200
    machine.admin.kill9()
    machine.admin.start()
    await machine.admin.ready()
    _, listed = await machine.call("GET", KEYS)
    assert [key["id"] for key in listed["virtual_keys"]] == [answer["virtual_key"]["id"]]
    assert await asyncio.to_thread(machine.admin.terminate) == 0
    assert TOKEN not in machine.admin.output()


async def test_without_the_enforcer_changes_wait_and_figures_are_unknown(machine: Machine) -> None:
    await asyncio.to_thread(machine.enforcer.terminate)
    status, answer = await machine.call("POST", KEYS, {"name": "k", "budget": {"max_limit": 1, "reset_duration": "1d"}})
    assert status == 202
    assert answer["balances"] == "unavailable"
    assert answer["virtual_key"]["budgets"][0]["spent_nusd"] is None
    machine.enforcer.start()
    await machine.enforcer.ready()
    value = answer["virtual_key"]["value"]

    async def admitted() -> bool:
        (reply,) = await machine.ask(admission(value, "01a1fd90-0000-7000-8000-000000000001"))
        assert isinstance(reply, Admitted), reply
        return True

    # An enforcer that starts decides by what Redis has, and catches up with the log meanwhile.
    await eventually(admitted, WAIT_S)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"BURSAR_ADMIN_LISTEN": "0.0.0.0:0"}, "BURSAR_ADMIN_TOKEN"),
        ({"BURSAR_KEY_SECRET": ""}, "BURSAR_KEY_SECRET"),
        ({"BURSAR_INTERNAL_TOKEN": ""}, "BURSAR_INTERNAL_TOKEN"),
        ({"BURSAR_ENFORCER_URL": ""}, "BURSAR_ENFORCER_URL"),
        ({"BURSAR_HOME": ""}, "BURSAR_HOME"),
        ({"BURSAR_CLICKHOUSE_URL": "chdb:////tmp/x"}, "BURSAR_CLICKHOUSE_URL"),
        ({"BURSAR_ADMIN_TOKN": "x"}, "BURSAR_ADMIN_TOKEN"),
    ],
)
def test_wrong_settings_do_not_start(tmp_path: Path, changed: dict[str, str], says: str) -> None:
    env = {
        "BURSAR_HOME": str(tmp_path),
        "BURSAR_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "BURSAR_KEY_SECRET": KEY_SECRET,
        "BURSAR_ENFORCER_URL": "unix:nobody.sock",
        "BURSAR_ADMIN_LISTEN": "unix:admin.sock",
        **changed,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "bursar_admin"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
