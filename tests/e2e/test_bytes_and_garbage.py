"""Through the whole gateway: bytes arrive as they were sent, and garbage leaves neither a hold nor a trace in a log."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random

import pytest
from aiohttp import ClientSession

from tests.harness import eventually
from tests.harness.gateway import CreatedKey, Gateway
from tests.harness.one_machine import OneMachine

pytestmark = pytest.mark.timeout(400)

MIB = 1 << 20
MARK = "gArBaGe-MaRk-1f6d"
"""Stands in every piece of garbage; it must not be found in any log."""


def body_of(size: int) -> bytes:
    """A valid request of exactly ``size`` bytes (at least the smallest one)."""
    start = b'{"model":"claude-sonnet-4-6","max_tokens":1,"messages":[{"role":"user","content":"'
    end = b'"}]}'
    filler = random.Random(size).choices(b"abcdefghijklmnopqrstuvwxyz .,", k=max(0, size - len(start) - len(end)))
    return start + bytes(filler) + end


ODD = (
    b' \r\n{ "unknown_field" : {"b":[1,2.50,-0.0,1e3,"\\u00e9\\/"], "a":null} ,\t"stream":true,'
    b'"system":[{"type":"text","text":"b"},{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}],'
    b'"messages" :[{"content":"caf\xc3\xa9 \xf0\x9f\x92\xb8","role":"user"}] , "max_tokens": 16,'
    b'"model"\n:\n"claude-sonnet-4-6"  }\n\n'
)


@pytest.fixture
async def key(gateway: Gateway) -> CreatedKey:
    name = f"bytes {random.randrange(10**9)}"
    return await gateway.create_key(name, budget={"max_limit": 1000, "reset_duration": "1M"})


@pytest.mark.parametrize("size", [90, 1000, 100_000, MIB, 8 * MIB, 32 * MIB])
async def test_a_body_of_any_size_arrives_as_it_was_sent(gateway: Gateway, key: CreatedKey, size: int) -> None:
    body = body_of(size)
    await gateway.reset_simulator()
    answer = await gateway.message(key.value, body=body, sim={"input-tokens": 10})
    assert answer.status == 200, answer.body
    (record,) = await gateway.provider.served()
    assert (record["body_bytes"], record["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert record["answer_sha256"] == hashlib.sha256(answer.body).hexdigest()


@pytest.mark.parametrize("odd", ["", "spacing", "crlf", "comments", "unknown", "nospace", "utf8"])
async def test_odd_bytes_pass_both_ways(gateway: Gateway, key: CreatedKey, odd: str) -> None:
    await gateway.reset_simulator()
    headers = {"anthropic-beta": "some-beta-2099-01-01,another-2099", "x-unknown": "kept", "cookie": "dropped=1"}
    sim = {"odd": odd, "chunk-bytes": 7, "output-tokens": 40, "input-tokens": 10}
    answer = await gateway.message(key.value, body=ODD, sim=sim, headers=headers)
    assert answer.status == 200, answer.body
    (record,) = await gateway.provider.served()
    assert record["body_sha256"] == hashlib.sha256(ODD).hexdigest()
    assert record["answer_sha256"] == hashlib.sha256(answer.body).hexdigest()
    received = {name.lower(): value for name, value in record["headers"]}
    assert received["anthropic-beta"] == headers["anthropic-beta"]
    assert received["x-unknown"] == "kept"
    assert "cookie" not in received
    assert key.value not in json.dumps(record["headers"])
    (row,) = await gateway.usage_rows(key.id, at_least=1)
    assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("completed", 10, 40)


def garbage() -> list[tuple[str, bytes, dict[str, str], set[int]]]:
    valid = body_of(200)
    return [
        ("no json", b"{" + MARK.encode(), {}, {400}),
        ("a list", json.dumps([MARK]).encode(), {}, {400}),
        ("byte order mark", b"\xef\xbb\xbf" + valid, {}, {400}),
        ("two models", valid[:-1] + b',"model":"' + MARK.encode() + b'"}', {}, {400}),
        ("two limits", valid[:-1] + b',"max_tokens":2}', {}, {400}),
        ("model is a number", valid.replace(b'"claude-sonnet-4-6"', b"7"), {}, {400}),
        ("limit is text", valid.replace(b'"max_tokens":1', f'"max_tokens":"{MARK}"'.encode()), {}, {400}),
        ("no model", b'{"max_tokens":1,"messages":[],"x":"' + MARK.encode() + b'"}', {}, {400}),
        ("wrong type", valid + MARK.encode(), {"content-type": "text/plain"}, {400, 415}),
        ("too large", body_of(33 * MIB), {}, {413}),
    ]


async def test_garbage_is_refused_in_the_providers_envelope(one_machine: OneMachine) -> None:
    async with one_machine.gateway() as gateway:
        key = await gateway.create_key("garbage", budget={"max_limit": 1000, "reset_duration": "1M"})
        await gateway.reset_simulator()
        for what, body, headers, expected in garbage():
            headers = {"content-type": "application/json", "x-api-key": key.value, "x-mark": MARK, **headers}
            async with ClientSession() as session:
                async with session.post(gateway.url + "/v1/messages", data=body, headers=headers) as answer:
                    text = await answer.text()
                    assert answer.status in expected, f"{what}: {answer.status} {text}"
            error = json.loads(text)
            assert error["type"] == "error", what
            kinds = {400: "invalid_request_error", 413: "request_too_large", 415: "invalid_request_error"}
            assert error["error"]["type"] == kinds[answer.status], what
            assert answer.headers["x-should-retry"] == "false", what
            assert error["request_id"] in error["error"]["message"], what
        flood = b"GET / HTTP/1.1\r\n" + b"".join(f"x-{n}: {MARK}\r\n".encode() for n in range(20_000)) + b"\r\n"
        assert b" 4" in (await raw(one_machine.port, flood))[:20]
        await raw(one_machine.port, f"POST /v1/messages HTTP/1.1\r\nhost: {MARK}\r\nbad header{MARK}\r\n\r\n".encode())

        assert await gateway.provider.served() == []
        owner = await gateway.key(key.id)
        assert [(b["spent_nusd"], b["held_nusd"]) for b in owner["budgets"]] == [(0, 0)]
        assert (await gateway.message(key.value)).status == 200
    for log in (one_machine.home / "logs").iterdir():
        assert MARK not in log.read_text(errors="replace"), f"garbage stands in {log.name}"
        assert key.value not in log.read_text(errors="replace"), f"a key stands in {log.name}"


async def raw(port: int, data: bytes) -> bytes:
    """What comes back for these bytes until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    received = b""
    try:
        while chunk := await asyncio.wait_for(reader.read(65536), 60):
            received += chunk
    except ConnectionError:
        pass
    writer.close()
    return received


@pytest.mark.parametrize("limit", [8_000_000, 8_000_000_000])
async def test_millions_and_billions_are_exact(gateway: Gateway, limit: int) -> None:
    key = await gateway.create_key(f"rich {limit}", budget={"max_limit": limit, "reset_duration": "1Y"})
    # One request of eight digits of dollars: 2.5e11 tokens of the dearest kind the simulator may claim.
    sim = {"input-tokens": limit * 10**9 // 3000 // 2 - 1, "output-tokens": 1}
    assert (await gateway.message(key.value, sim=sim)).status == 200
    expected = (sim["input-tokens"]) * 3000 + 15_000

    async def spent() -> bool:
        (budget,) = (await gateway.key(key.id))["budgets"]
        return (budget["spent_nusd"], budget["held_nusd"]) == (expected, 0)

    await eventually(spent)
    (row,) = await gateway.usage_rows(key.id, at_least=1)
    assert row["cost_nusd"] == expected
    assert (await gateway.message(key.value)).status == 200
