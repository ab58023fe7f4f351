"""The simulator answers as the provider does, as it is told to, and counts what it sent."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import zstandard
from aiohttp import web

from bursar.simulator import Simulator, runner

MODEL = "claude-opus-4-8"


class Upstream:
    def __init__(self, simulator: Simulator, url: str, session: aiohttp.ClientSession) -> None:
        self.simulator, self.url, self.session = simulator, url, session

    async def ask(self, *, stream: bool = False, raw: bytes | None = None, **plan: Any) -> tuple[int, Any, bytes]:
        body = raw if raw is not None else json.dumps({"model": MODEL, "max_tokens": 9, "stream": stream}).encode()
        headers = {f"x-sim-{name.replace('_', '-')}": str(value) for name, value in plan.items()}
        async with self.session.post(f"{self.url}/v1/messages?beta=true", data=body, headers=headers) as answer:
            return answer.status, answer.headers, await answer.read()

    async def ask_cut(self, **plan: Any) -> bytes:
        """The bytes of an answer that ends in a broken connection."""
        got = b""
        headers = {f"x-sim-{name.replace('_', '-')}": str(value) for name, value in plan.items()}
        body = json.dumps({"model": MODEL, "max_tokens": 9, "stream": True})
        with pytest.raises(aiohttp.ClientError):  # noqa: PT012 - it breaks anywhere in the answer
            async with self.session.post(f"{self.url}/v1/messages", data=body, headers=headers) as answer:
                async for chunk in answer.content.iter_any():
                    got += chunk
        return got

    async def control(self, method: str, path: str, value: Any = None) -> Any:
        async with self.session.request(method, self.url + path, json=value) as answer:
            return await answer.json()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    simulator = Simulator()
    serving = runner(simulator)
    await serving.setup()
    site = web.TCPSite(serving, "127.0.0.1", 0)
    await site.start()
    host, port = serving.addresses[0][:2]
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield Upstream(simulator, f"http://{host}:{port}", session)
    await serving.cleanup()


def events_of(stream: bytes) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in stream.replace(b"\r\n", b"\n").decode().split("\n\n"):
        fields = [line.partition(":") for line in block.split("\n") if line and not line.startswith(":")]
        named = {name: value.lstrip() for name, _, value in fields}
        if named:
            found.append((named.get("event", ""), json.loads(named["data"])))
    return found


async def last_served(upstream: Upstream) -> dict[str, Any]:
    return (await upstream.control("GET", "/sim/served"))[-1]


async def test_a_json_answer_has_the_chosen_counts_and_is_recorded(upstream: Upstream) -> None:
    body = json.dumps({"model": MODEL, "max_tokens": 9, "odd": "ż"}).encode()
    plan = {"input_tokens": 12, "cache_write_5m_tokens": 5000, "cache_write_1h_tokens": 3}
    plan |= {"cache_read_tokens": 15000, "output_tokens": 7, "thinking_tokens": 2, "web_searches": 1}
    status, headers, answer = await upstream.ask(raw=body, **plan)
    message = json.loads(answer)
    assert status == 200
    assert message["usage"] == {
        "input_tokens": 12,
        "cache_creation_input_tokens": 5003,
        "cache_read_input_tokens": 15000,
        "cache_creation": {"ephemeral_5m_input_tokens": 5000, "ephemeral_1h_input_tokens": 3},
        "output_tokens": 7,
        "service_tier": "standard",
        "inference_geo": "not_available",
        "output_tokens_details": {"thinking_tokens": 2},
        "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
    }
    record = await last_served(upstream)
    assert headers["request-id"] == record["request_id"]
    assert message["id"] == record["message_id"]
    assert record["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert record["answer_sha256"] == hashlib.sha256(answer).hexdigest()
    assert record["path"] == "/v1/messages?beta=true"
    assert ["x-sim-input-tokens", "12"] in record["headers"]
    assert record["outcome"] == "completed"
    assert record["usage"] == {name: plan.get(name, 0) for name in record["usage"]}


async def test_a_stream_is_cumulative_and_ends_with_the_chosen_counts(upstream: Upstream) -> None:
    _, headers, stream = await upstream.ask(
        stream=True, output_tokens=100, thinking_tokens=40, events=10, deltas=3, input_tokens=50, cache_read_tokens=7
    )
    assert headers["content-type"].startswith("text/event-stream")
    events = events_of(stream)
    assert all(name == data["type"] for name, data in events)
    names = [name for name, _ in events]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("message_delta") == 3
    start = events[0][1]["message"]["usage"]
    assert (start["input_tokens"], start["cache_read_input_tokens"], start["output_tokens"]) == (50, 7, 1)
    outputs = [data["usage"]["output_tokens"] for name, data in events if name == "message_delta"]
    assert outputs == sorted(outputs)
    assert outputs[-1] == 100
    texts = [d["delta"] for _, d in events if d["type"] == "content_block_delta"]
    assert {d["type"] for d in texts} == {"thinking_delta", "signature_delta", "text_delta"}
    assert len("".join(d.get("text", "") for d in texts)) == 60 * 4
    record = await last_served(upstream)
    assert record["usage"]["output_tokens"] == 100
    assert record["events_sent"] == len(events)


async def test_late_counts_and_iterations_arrive_at_the_end(upstream: Upstream) -> None:
    iterations = [
        {"type": "message", "model": MODEL, "input_tokens": 5, "output_tokens": 6},
        {"type": "compaction", "input_tokens": 900, "output_tokens": 90},
        {"type": "message", "model": "claude-haiku-4-5", "input_tokens": 7, "output_tokens": 8},
    ]
    _, _, stream = await upstream.ask(
        stream=True,
        iterations=json.dumps(iterations),
        late_input_tokens=20,
        late_cache_write_1h_tokens=4,
        delta_split=1,
    )
    events = events_of(stream)
    assert events[0][1]["message"]["usage"]["input_tokens"] == 12
    final = events[-2][1]["usage"]
    assert (final["input_tokens"], final["output_tokens"], final["iterations"]) == (20, 14, iterations)
    assert final["cache_creation"] == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 4}
    record = await last_served(upstream)
    assert record["usage"]["input_tokens"] == 20
    assert record["iterations"] == iterations


@pytest.mark.parametrize(
    ("drop", "whole_events", "half"),
    [("after-head", 0, False), ("after-event:1", 1, False), ("mid-event:1", 0, True), ("mid-event:6", 5, True)],
)
@pytest.mark.parametrize("reset", [0, 1])
async def test_a_dropped_stream_is_billed_for_what_was_sent(
    upstream: Upstream, drop: str, whole_events: int, half: bool, reset: int
) -> None:
    got = await upstream.ask_cut(drop=drop, output_tokens=100, input_tokens=30, events=10, drop_reset=reset)
    assert got.count(b"\n\n") == whole_events
    assert (not got.endswith(b"\n\n") and got != b"") == half
    record = await last_served(upstream)
    assert (record["outcome"], record["events_sent"]) == ("cut", whole_events)
    assert record["usage"]["input_tokens"] == (30 if whole_events else 0)
    deltas = sum(data["type"] == "content_block_delta" for _, data in events_of(got.rpartition(b"\n\n")[0]))
    assert record["usage"]["output_tokens"] == (max(1, deltas * 10) if whole_events else 0)
    assert record["answer_sha256"] == hashlib.sha256(got).hexdigest()


async def test_before_head_and_mid_body_drops(upstream: Upstream) -> None:
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await upstream.ask(drop="before-head")
    assert (await last_served(upstream))["usage"]["input_tokens"] == 0
    with pytest.raises(aiohttp.ClientPayloadError):
        await upstream.ask(drop="mid-body")
    record = await last_served(upstream)
    assert (record["outcome"], record["usage"]["output_tokens"]) == ("cut", 0)


async def test_an_error_in_the_middle_of_a_stream(upstream: Upstream) -> None:
    _, _, stream = await upstream.ask(stream=True, error_after=4)
    events = events_of(stream)
    assert len(events) == 5
    assert events[-1] == ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert (await last_served(upstream))["outcome"] == "cut"


async def test_a_client_that_leaves_is_noticed_in_silence(upstream: Upstream) -> None:
    headers = {"x-sim-silence-ms": "600000", "x-sim-silence-at": "5", "x-sim-output-tokens": "400"}
    body = json.dumps({"model": MODEL, "stream": True})
    async with upstream.session.post(f"{upstream.url}/v1/messages", data=body, headers=headers) as answer:
        await answer.content.readuntil(b"content_block_delta")
    async with asyncio.timeout(20):
        while (record := await last_served(upstream))["outcome"] == "open":
            await asyncio.sleep(0.02)
    assert record["outcome"] == "client_gone"
    assert 0 < record["usage"]["output_tokens"] < 400


async def test_errors_carry_the_chosen_status_body_and_headers(upstream: Upstream) -> None:
    status, headers, answer = await upstream.ask(status=529, headers=json.dumps({"retry-after": "3"}))
    assert (status, headers["retry-after"]) == (529, "3")
    assert json.loads(answer)["error"]["type"] == "overloaded_error"
    assert json.loads(answer)["request_id"] == headers["request-id"]
    status, _, answer = await upstream.ask(status=502, body="<html>bad gateway</html>")
    assert (status, answer) == (502, b"<html>bad gateway</html>")
    totals = await upstream.control("GET", "/sim/totals")
    assert totals["outcomes"] == {"error": 2}
    assert totals["usage"]["input_tokens"] == 0


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("stream", [False, True])
async def test_compressed_answers_are_the_same_answers(upstream: Upstream, kind: str, stream: bool) -> None:
    _, headers, packed = await upstream.ask(stream=stream, compress=kind, output_tokens=50)
    assert headers["content-encoding"] == kind
    text = (
        gzip.decompress(packed) if kind == "gzip" else zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    )
    _, _, plain = await upstream.ask(stream=stream, output_tokens=50)
    assert text.replace(b"000000", b"000001") == plain.replace(b"000000", b"000001") or len(text) == len(plain)
    assert (await upstream.control("GET", "/sim/served"))[0]["answer_sha256"] == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize(
    "odd", ["spacing", "crlf", "comments", "unknown", "noevent", "nospace", "utf8", "crlf,spacing,utf8"]
)
async def test_odd_forms_say_the_same(upstream: Upstream, odd: str) -> None:
    def told(stream: bytes) -> list[Any]:
        known = [data for _, data in events_of(stream) if not data["type"].startswith("x_")]
        return [{k: v for k, v in data.items() if k in ("type", "usage")} for data in known]

    _, _, plain = await upstream.ask(stream=True)
    _, _, strange = await upstream.ask(stream=True, odd=odd)
    assert told(strange) == told(plain)
    assert strange != plain


async def test_pieces_of_any_size_make_the_same_stream(upstream: Upstream) -> None:
    _, _, whole = await upstream.ask(stream=True, flush="all")
    for plan in ({"chunk_bytes": 7}, {"cut_at": 100}, {"pace_ms": 1}):
        _, _, pieces = await upstream.ask(stream=True, **plan)
        assert len(pieces) == len(whole)
        assert pieces[pieces.index(b"event: content_block") :] == whole[whole.index(b"event: content_block") :]


async def test_defaults_queue_and_reset(upstream: Upstream) -> None:
    await upstream.control("POST", "/sim/defaults", {"output_tokens": 3})
    assert await upstream.control("POST", "/sim/next", [{"status": 500}, {"input_tokens": 4}]) == {"queued": 2}
    assert (await upstream.ask())[0] == 500
    for expected in ({"input_tokens": 4, "output_tokens": 3}, {"input_tokens": 15, "output_tokens": 3}):
        usage = json.loads((await upstream.ask())[2])["usage"]
        assert {name: usage[name] for name in expected} == expected
    await upstream.control("POST", "/sim/reset")
    assert await upstream.control("GET", "/sim/served") == []
    assert json.loads((await upstream.ask())[2])["usage"]["output_tokens"] > 3


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"outputtokens": 1}, "outputtokens"),
        ({"output_tokens": "many"}, "int"),
        ({"odd": "x"}, "allowed"),
        ({"drop": "mid-event:"}, "missing"),
    ],
)
async def test_an_impossible_plan_is_refused_by_name(upstream: Upstream, plan: dict[str, Any], said: str) -> None:
    status, _, answer = await upstream.ask(**plan)
    assert status == 400
    assert said in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"stream":true}', b'{"model":7}'])
async def test_a_malformed_request_is_a_400_in_the_envelope(upstream: Upstream, raw: bytes) -> None:
    status, _, answer = await upstream.ask(raw=raw)
    assert (status, json.loads(answer)["error"]["type"]) == (400, "invalid_request_error")


async def test_count_tokens_models_and_head(upstream: Upstream) -> None:
    body = json.dumps({"model": MODEL, "messages": []}).encode()
    async with upstream.session.post(f"{upstream.url}/v1/messages/count_tokens", data=body) as answer:
        assert await answer.json() == {"input_tokens": len(body) // 4}
    async with upstream.session.get(f"{upstream.url}/v1/models?limit=1000") as answer:
        listed = await answer.json()
        assert MODEL in [entry["id"] for entry in listed["data"]]
    async with upstream.session.head(f"{upstream.url}/") as answer:
        assert answer.status == 200
    async with upstream.session.get(f"{upstream.url}/v1/files") as answer:
        assert (answer.status, (await answer.json())["type"]) == (404, "error")
    totals = await upstream.control("GET", "/sim/totals")
    assert totals["usage"]["output_tokens"] == 0


async def test_records_are_bounded_and_totals_are_not(upstream: Upstream) -> None:
    upstream.simulator.served = type(upstream.simulator.served)(most=3)
    for _ in range(5):
        await upstream.ask(output_tokens=2, input_tokens=1)
    assert len(await upstream.control("GET", "/sim/served")) == 3
    totals = await upstream.control("GET", "/sim/totals")
    assert totals["usage"]["output_tokens"] == 10
    assert totals["by_model"][MODEL]["requests"] == 5
