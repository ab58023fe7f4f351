"""Prompts and answers all the way on one machine: stored where content is on only, found, shown, deleted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import ClientSession

from bursar_common.events import CONTENT_TOPIC
from tests.harness import eventually
from tests.harness.gateway import Gateway
from tests.harness.one_machine import OneMachine

pytestmark = pytest.mark.timeout(400)

SECRET = "ghp_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC2"
PRIVATE = "a sentence that nobody may keep"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    with OneMachine(tmp_path_factory.mktemp("content")) as machine:
        yield machine


@pytest.fixture
async def gateway(machine: OneMachine) -> AsyncIterator[Gateway]:
    machine.wait_healthy()
    async with machine.gateway() as gateway:
        await gateway.reset_simulator()
        yield gateway


async def logs(gateway: Gateway, **filters: str) -> list[dict[str, Any]]:
    return (await gateway.api("GET", f"/api/logs?{urlencode(filters)}"))["logs"]  # type: ignore[no-any-return]


async def stored(gateway: Gateway, request_id: str) -> dict[str, Any] | None:
    return (await gateway.api("GET", f"/api/logs/{request_id}"))["log"]["content"]  # type: ignore[no-any-return]


async def page(gateway: Gateway, path: str) -> str:
    async with ClientSession() as session, session.get(gateway.url + path) as answer:
        assert answer.status == 200
        return await answer.text()


def everything_in(home: Path) -> bytes:
    """Of all files. Engines rename and remove theirs meanwhile; where one was gone before it was read, everything is
    read once more, so that it is found under its new name."""
    found = []
    for _ in range(20):
        gone = False
        for folder, _, names in os.walk(home):
            for path in (Path(folder, name) for name in names):
                try:
                    found.append(path.read_bytes() if path.is_file() else b"")
                except FileNotFoundError:
                    gone = True
        if not gone:
            break
    assert found
    return b"".join(found)


async def test_content_from_prompt_to_deletion(gateway: Gateway, machine: OneMachine) -> None:
    user = (await gateway.api("POST", "/api/governance/users", {"name": "Alice"}))["user"]
    team = await gateway.create_team("writers", content="on")
    assert team["content"] == "on"
    key = await gateway.create_key("alice", team_id=team["id"], user_id=user["id"])
    other = await gateway.create_key("bob", team_id=team["id"])
    forbidden = await gateway.create_key("eve", team_id=team["id"], content="off")
    plain = await gateway.create_key("plain")
    assert [each.document["content_stored"] for each in (key, forbidden, plain)] == [True, False, False]

    await gateway.message(key.value, prompt=f"<script>alert(1)</script> unicorn {SECRET}", stream=True)
    await gateway.message(other.value, prompt="another unicorn", stream=False)
    await gateway.message(forbidden.value, prompt=PRIVATE)
    await gateway.message(plain.value, prompt=PRIVATE)

    async def found() -> list[dict[str, Any]]:
        rows = await logs(gateway, text="UNICORN")
        return rows if len(rows) == 2 else []

    rows = {row["virtual_key"]: row for row in await eventually(found, 120)}
    assert set(rows) == {"alice", "bob"}
    assert await logs(gateway, text="unicorn", key="alice", model="no-such-model") == []

    async def by_cost() -> bool:  # a page of a text search ends after two seconds with what it has
        return len(await logs(gateway, text="unicorn", sort_by="cost")) == 2

    await eventually(by_cost)
    assert (await gateway.api("GET", "/api/logs/stats?text=unicorn"))["stats"]["requests"] == 2

    one = await stored(gateway, rows["alice"]["id"])
    assert one is not None
    assert one["prompt"] == [
        {
            "role": "user",
            "kind": "text",
            "name": "",
            "text": "<script>alert(1)</script> unicorn [redacted: github token]",
        }
    ]
    assert (one["redacted"], one["prompt_cut"], one["answer_cut"]) == (1, False, False)
    assert one["answer"][0]["role"] == "assistant"
    assert one["answer"][0]["text"]
    shown = await page(gateway, f"/fragments/logs/{rows['alice']['id']}")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; unicorn" in shown
    assert "<script>" not in shown

    for each in (forbidden, plain):
        (row,) = await gateway.usage_rows(each.id, at_least=1)
        assert await stored(gateway, row["request_id"]) is None
    everything = everything_in(machine.folder)
    assert PRIVATE.encode() not in everything
    assert SECRET.encode() not in everything
    assert b"unicorn" not in machine.up.output().encode()

    async def deleted() -> dict[str, Any]:  # 202 where analytics take longer than five seconds; asked again, it is gone
        return await gateway.api("DELETE", "/api/content?user=Alice")

    answer = await eventually(deleted)
    assert (answer["gone"], answer["user_id"]) == (True, user["id"])
    assert answer["message"].startswith("Prompts and answers deleted: ")
    assert answer["message"].endswith(f"are gone by {answer['log_until']} at the latest.")
    assert await stored(gateway, rows["alice"]["id"]) is None
    assert "Not stored" in await page(gateway, f"/fragments/logs/{rows['alice']['id']}")
    assert "alice" not in [row["virtual_key"] for row in await logs(gateway, text="unicorn")]

    async def the_other_is_found() -> bool:
        return [row["virtual_key"] for row in await logs(gateway, text="unicorn")] == ["bob"]

    await eventually(the_other_is_found)
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    rebuilt = subprocess.run(
        [sys.executable, "-m", "bursar", "rebuild", "analytics", "--home", str(machine.home)],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert "Prompts and answers of 1 requests written again." in rebuilt.stdout
    assert await stored(gateway, rows["alice"]["id"]) is None
    assert await stored(gateway, rows["bob"]["id"]) is not None


async def test_the_installation_switches_it_on_and_off_for_the_next_request(gateway: Gateway) -> None:
    key = await gateway.create_key("carol")
    asked = 0

    async def kept(word: str, *, content: str) -> bool:
        nonlocal asked
        await gateway.api("PATCH", "/api/config", {"client_config": {"content": content}})
        assert (await gateway.api("GET", "/api/config"))["client_config"]["content"] == content
        await gateway.message(key.value, prompt=word)
        asked += 1
        rows = await gateway.usage_rows(key.id, at_least=asked)
        if content == "off":
            return await stored(gateway, rows[-1]["request_id"]) is not None

        async def there() -> bool:
            return await stored(gateway, rows[-1]["request_id"]) is not None

        await eventually(there)
        return True

    assert await kept("first", content="on")
    assert not await kept("second", content="off")


async def test_a_key_that_forbids_it_wins_over_the_installation_in_log_and_table(
    gateway: Gateway, machine: OneMachine
) -> None:
    hidden = "a sentence of keys that forbid it"
    silent = await gateway.create_team("silent", content="off")
    forbidding = [
        await gateway.create_key("dave", content="off"),
        await gateway.create_key("erin", team_id=silent["id"], content="on"),  # whoever forbids wins
        await gateway.create_key("finn"),
    ]
    last = await gateway.create_key("gina")
    await gateway.api("PATCH", "/api/config", {"client_config": {"content": "on"}})
    try:
        await gateway.message(forbidding[2].value, prompt="finn may be kept so far")
        await gateway.api("PATCH", f"/api/governance/virtual-keys/{forbidding[2].id}", {"content": "off"})
        for key in forbidding:
            shown = await gateway.api("GET", f"/api/governance/virtual-keys/{key.id}")
            assert shown["virtual_key"]["content_stored"] is False
            for stream in (True, False):
                await gateway.message(key.value, prompt=hidden, stream=stream)
        await gateway.message(last.value, prompt="the last of them, which is kept")
    finally:
        await gateway.api("PATCH", "/api/config", {"client_config": {"content": "off"}})
    for key, requests in zip(forbidding, (2, 2, 3), strict=True):
        await gateway.usage_rows(key.id, at_least=requests)

    async def kept() -> dict[str, int]:
        rows = await gateway.query(
            "SELECT virtual_key_id, count() AS requests FROM bursar.content FINAL GROUP BY virtual_key_id"
        )
        found = {row["virtual_key_id"]: int(row["requests"]) for row in rows}
        return found if last.id in found and forbidding[2].id in found else {}

    # What was sent last is in the table, so what was sent before it would be, too.
    rows = await eventually(kept, 120)
    assert [rows.get(key.id, 0) for key in (*forbidding, last)] == [0, 0, 1, 1]
    records = b"".join(record.value for record in await gateway.log.read(CONTENT_TOPIC, 0, 0, max_records=10_000))
    assert last.id.encode() in records
    assert not any(key.id.encode() in records for key in forbidding[:2])
    assert hidden.encode() not in records
    assert hidden.encode() not in everything_in(machine.folder)
