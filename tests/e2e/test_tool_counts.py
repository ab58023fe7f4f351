"""How many tools a request offered and how often its answer called one: from the bytes to the page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.harness.gateway import Gateway
from tests.harness.one_machine import OneMachine

pytestmark = pytest.mark.timeout(400)

TOOLS = [
    {"name": "Read", "input_schema": {"type": "object"}},
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
]
CALLS = {"input-tokens": 10, "output-tokens": 40, "web-searches": 2, "tool-name": "Read"}
"""Two searches by the provider and one call for the client."""


def body_of(*, stream: bool, tools: Any = TOOLS) -> bytes:
    told = {} if tools is None else {"tools": tools}
    content = [{"role": "user", "content": "x"}]
    return json.dumps(
        {"model": "claude-sonnet-4-6", "max_tokens": 64, "stream": stream, "messages": content, **told}
    ).encode()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
async def test_tools_are_counted_in_every_kind_of_answer(gateway: Gateway, stream: bool) -> None:
    key = await gateway.create_key(f"tools {stream}", budget={"max_limit": 100, "reset_duration": "1M"})
    sims: list[tuple[dict[str, Any], Any]] = [
        (CALLS, TOOLS),
        ({**CALLS, "compress": "gzip"}, TOOLS),
        ({**CALLS, "odd": "noevent" if stream else "", "chunk-bytes": 9}, TOOLS),
        ({"input-tokens": 10, "output-tokens": 4}, None),
        ({"status": 400}, TOOLS[:1]),
    ]
    for number, (sim, tools) in enumerate(sims, 1):
        await gateway.message(key.value, body=body_of(stream=stream, tools=tools), sim=sim)
        await gateway.usage_rows(key.id, at_least=number)
    rows = await gateway.usage_rows(key.id, at_least=len(sims))
    assert [(row["tools_offered"], row["tool_uses"]) for row in rows] == [(2, 3), (2, 3), (2, 3), (0, 0), (1, None)]


async def test_an_interrupted_answer_has_the_calls_that_came(gateway: Gateway) -> None:
    key = await gateway.create_key("tools cut", budget={"max_limit": 100, "reset_duration": "1M"})
    whole = await gateway.message(key.value, body=body_of(stream=True), sim={**CALLS, "ping": "false"})
    events = [part for part in whole.body.split(b"\n\n") if part]
    first = next(n for n, event in enumerate(events, 1) if b'"server_tool_use"' in event)
    cut = await gateway.message(
        key.value, body=body_of(stream=True), sim={**CALLS, "ping": "false", "drop": f"after-event:{first}"}
    )
    assert not cut.body.endswith(events[-1] + b"\n\n")
    rows = await gateway.usage_rows(key.id, at_least=2)
    assert [(row["outcome"], row["tools_offered"], row["tool_uses"]) for row in rows] == [
        ("completed", 2, 3),
        ("interrupted", 2, 1),
    ]


async def test_rest_file_and_page_show_them(one_machine: OneMachine) -> None:
    async with one_machine.gateway() as gateway:
        key = await gateway.create_key("tools shown", budget={"max_limit": 100, "reset_duration": "1M"})
        await gateway.message(key.value, body=body_of(stream=True), sim=CALLS)
        await gateway.usage_rows(key.id, at_least=1)
        [listed] = (await gateway.api("GET", f"/api/logs?key={key.id}"))["logs"]
        one = (await gateway.api("GET", f"/api/logs/{listed['id']}"))["log"]
        assert [(entry["tools_offered"], entry["tool_uses"]) for entry in (listed, one)] == [(2, 3)] * 2
        async with ClientSession(headers=gateway.admin_headers) as session:
            async with session.get(f"{gateway.admin_url}/fragments/logs/{listed['id']}") as answer:
                assert "<dt>Tools</dt><dd>2 offered, 3 called</dd>" in await answer.text()
            async with session.get(f"{gateway.admin_url}/api/logs?key={key.id}&format=csv") as answer:
                head, line = (await answer.text()).splitlines()
        cells = dict(zip(head.split(","), line.split(","), strict=True))
        assert (cells["tools_offered"], cells["tool_uses"]) == ("2", "3")
