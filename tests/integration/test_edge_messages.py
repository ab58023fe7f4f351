"""One paid request through the edge: bytes, records, settlements."""

from __future__ import annotations

from bursar_common import wire
from bursar_common.keys import sha256_hex
from bursar_common.pricing import cost
from tests.harness.edge_stand_ins import (
    BOOK,
    COUNTER,
    KEY,
    MODEL,
    SMALL,
    START,
    TOKEN_COUNTER,
    delta,
    finish,
    json_answer,
    message,
    post,
    unchunk,
)
from tests.harness.edge_stand_ins import patient_world as world


async def test_json_answer_is_relayed_recorded_and_settled(tmp_path):
    async with world(tmp_path) as w:
        raw = await w.raw(
            post(SMALL, "User-Agent: claude-cli/2.1.197 (external, cli)", "X-Custom: One", "x-custom: two")
        )
        head, _, body = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_upstream\r\n")
        assert body == message()
        (got,) = w.upstream.got
        assert got.body == SMALL
        assert got.target == "/v1/messages"
        assert got.header("x-api-key") == ["sk-ant-provider"]
        assert "X-Custom: One" in got.header_lines
        assert "x-custom: two" in got.header_lines
        assert KEY.encode() not in got.head
        usage = await w.event()
        (settle,) = await w.enforcer.wait_for(wire.Settle)
    counts = wire.UsageCounts(input_tokens=12, output_tokens=7)
    price = cost(BOOK, MODEL, counts, started_at_ms=usage.started_at_ms)
    assert price is not None
    assert usage.outcome == "completed"
    assert not usage.estimated
    assert usage.cost_nusd == price.billed_nusd == settle.amounts.n > 0
    assert usage.charged_to == (COUNTER, TOKEN_COUNTER)
    assert usage.client_version == "2.1.197"
    assert usage.upstream_request_id == "req_upstream"
    assert f"x-bursar-request-id: {usage.request_id}".encode() in head
    assert settle.usage == counts
    assert settle.request_id == usage.request_id
    (admit,) = w.enforcer.of(wire.Admit)
    assert admit.key_hashes == (wire.KeyHash("x-api-key", sha256_hex(KEY)),)
    assert admit.request_id == usage.request_id
    assert admit.started_at_ms == usage.started_at_ms


async def test_a_model_without_a_choice_of_region_has_none(tmp_path):
    async with world(tmp_path) as w:
        w.upstream.answers(json_answer(message(inference_geo="not_available")))
        await w.raw(post(SMALL))
        assert (await w.event()).inference_geo == ""


async def test_stream_is_relayed_byte_for_byte_and_its_usage_read(tmp_path):
    async with world(tmp_path) as w:
        parts = [START, delta("Hello"), delta(" there"), finish(42)]
        w.upstream.streams(*parts)
        raw = await w.raw(post(SMALL[:-1] + b',"stream":true}', "x-claude-code-session-id: s-1"))
        head, _, body = raw.partition(b"\r\n\r\n")
        assert b"Content-Type: text/event-stream; charset=utf-8" in head
        assert unchunk(body) == b"".join(parts)
        usage = await w.event()
    assert usage.outcome == "completed"
    assert usage.stream
    assert usage.session_id == "s-1"
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_5m_tokens) == (12, 15000, 5000)
    assert usage.output_tokens == 42
    assert usage.service_tier == "standard"
    assert usage.amounts.t == 12 + 5000 + 42
    assert usage.amounts.t + 15000 == usage.amounts.T
    assert usage.amounts.r == 1
    assert usage.time_to_first_token_ms is not None


async def test_upstream_error_comes_back_as_it_is_and_costs_nothing(tmp_path):
    async with world(tmp_path) as w:
        error = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
        w.upstream.answers(json_answer(error, status="529 Overloaded", headers=b"x-should-retry: true\r\n"))
        raw = await w.raw(post(SMALL))
        assert raw.startswith(b"HTTP/1.1 529 Overloaded\r\n")
        assert raw.endswith(error)
        assert b"x-should-retry: true" in raw
        usage = await w.event()
    assert (usage.outcome, usage.status, usage.error_type, usage.cost_nusd) == (
        "upstream_error",
        529,
        "overloaded_error",
        0,
    )
    assert usage.amounts == wire.Amounts(r=1)


async def test_keep_alive_serves_many_on_both_sides(tmp_path):
    async with world(tmp_path) as w:
        await w.raw(post(SMALL, close=False) * 4 + post(SMALL))
        assert len(w.upstream.got) == 5
        assert w.upstream.connections == 1
        assert len(await w.events(5)) == 5
        await w.enforcer.wait_for(wire.Settle, 5)
