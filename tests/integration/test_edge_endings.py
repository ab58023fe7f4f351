"""How requests end that do not end well: clients that leave, upstreams that die, silence, stopping."""

from __future__ import annotations

import asyncio

import pytest

from bursar_common import wire
from bursar_edge.app import Waits
from bursar_edge.refusals import PING
from bursar_edge.usage_reader import BYTES_PER_TOKEN
from tests.harness.edge_stand_ins import (
    SMALL,
    START,
    STREAM_HEAD,
    WAIT_S,
    chunk,
    delta,
    finish,
    json_answer,
    message,
    patient_world,
    post,
    unchunk,
    world,
)
from tests.harness.waiting import eventually

FAST = Waits(ping_s=0.05, drain_s=60)


async def _closed(w, writer):
    writer.close()
    async with asyncio.timeout(WAIT_S):
        await w.upstream.closed.wait()


async def test_client_leaving_a_silent_stream_closes_the_upstream_and_pays_for_what_was_produced(tmp_path):
    async with patient_world(tmp_path) as w:
        text = "x" * 400

        async def respond(got, writer):
            writer.write(STREAM_HEAD + chunk(START) + chunk(delta(text)))
            await asyncio.sleep(60)

        w.upstream.respond = respond
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL))
        await reader.readuntil(text.encode())
        await _closed(w, writer)
        usage = await w.event()
        (settle,) = await w.enforcer.wait_for(wire.Settle)
    assert usage.outcome == "interrupted"
    assert usage.estimated
    assert usage.input_tokens == 12
    assert 100 <= usage.output_tokens <= 400 // BYTES_PER_TOKEN + 5
    assert usage.cost_nusd == settle.amounts.n > 0
    assert settle.usage is None


async def test_client_leaving_before_the_answer_costs_what_was_held(tmp_path):
    async with patient_world(tmp_path) as w:
        arrived = asyncio.Event()

        async def respond(got, writer):
            arrived.set()
            await asyncio.sleep(60)

        w.upstream.respond = respond
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL))
        await arrived.wait()
        await _closed(w, writer)
        usage = await w.event()
        (settle,) = await w.enforcer.wait_for(wire.Settle)
    assert (usage.outcome, usage.estimated) == ("unknown", True)
    assert settle.amounts == usage.amounts == wire.Amounts(n=5_000_000, t=400, r=1)


async def test_client_leaving_while_it_waits_for_admission_gives_the_hold_back(tmp_path):
    async with patient_world(tmp_path) as w:
        asked = asyncio.Event()

        def decide(ask):
            asked.set()
            return wire.Reserved("n:b:1:2", 20, wire.Refused("budget_reserved"))

        w.enforcer.decide = decide
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL))
        await asked.wait()
        writer.close()
        (release,) = await w.enforcer.wait_for(wire.Release)
        assert release.request_id == w.enforcer.of(wire.Admit)[0].request_id
        assert not w.upstream.got
        assert not w.enforcer.of(wire.Settle)


async def test_client_leaving_while_it_sends_its_body_is_never_admitted(tmp_path):
    async with patient_world(tmp_path) as w:
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL)[:-10])
        await writer.drain()
        while w.edge.memory.free_bytes == w.limits.all_bodies_bytes:
            await asyncio.sleep(0.01)
        writer.close()
        while w.edge.memory.free_bytes != w.limits.all_bodies_bytes:
            await asyncio.sleep(0.01)
        assert not w.enforcer.operations


@pytest.mark.parametrize("framing", ["chunked", "until_close"])
async def test_upstream_dying_at_an_event_boundary_ends_in_an_error_event(tmp_path, framing):
    async with patient_world(tmp_path) as w:

        async def respond(got, writer):
            events = START + delta("abc")
            if framing == "chunked":
                writer.write(STREAM_HEAD + chunk(events))
            else:
                writer.write(STREAM_HEAD.replace(b"transfer-encoding: chunked\r\n", b"") + events)
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()

        w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        events = unchunk(raw.partition(b"\r\n\r\n")[2])
        assert events.startswith(START + delta("abc") + b"event: error\ndata: {")
        assert b"broke off" in events
        usage = await w.event()
    assert (usage.outcome, usage.estimated, usage.input_tokens) == ("interrupted", True, 12)


async def test_upstream_dying_inside_an_event_aborts_the_answer(tmp_path):
    async with patient_world(tmp_path) as w:

        async def respond(got, writer):
            writer.write(STREAM_HEAD + chunk(START + delta("abc")[:30]))
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()

        w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        body = raw.partition(b"\r\n\r\n")[2]
        assert b"event: error" not in body
        with pytest.raises(ValueError, match=r"invalid literal|no end"):
            unchunk(body)
        assert (await w.event()).outcome == "interrupted"


async def test_upstream_dying_in_a_json_answer_aborts_and_charges_the_hold(tmp_path):
    async with patient_world(tmp_path) as w:

        async def respond(got, writer):
            writer.write(json_answer(message())[:-20])
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()

        w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        assert raw.endswith(message()[:-20])
        usage = await w.event()
    assert (usage.outcome, usage.cost_nusd) == ("interrupted", 5_000_000)


async def test_no_answer_is_unknown_and_says_so(tmp_path):
    async with patient_world(tmp_path) as w:

        async def respond(got, writer):
            writer.close()

        w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        assert raw.startswith(b"HTTP/1.1 502 ")
        assert b"x-should-retry: false" in raw
        usage = await w.event()
        assert (usage.outcome, usage.status, usage.cost_nusd, usage.amounts.r) == ("unknown", 502, 5_000_000, 1)


async def test_late_answer_is_504(tmp_path):
    async with world(tmp_path, waits=FAST._replace(answer_s=0.1)) as w:

        async def respond(got, writer):
            await asyncio.sleep(60)

        w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        assert raw.startswith(b"HTTP/1.1 504 ")
        assert b'"timeout_error"' in raw
        assert (await w.event()).outcome == "unknown"


async def test_no_connection_is_not_sent_and_free(tmp_path):
    async with patient_world(tmp_path) as w:
        await w.upstream.stop()
        raw = await w.raw(post(SMALL))
        assert raw.startswith(b"HTTP/1.1 502 ")
        assert b"nothing was charged" in raw
        usage = await w.event()
        (settle,) = await w.enforcer.wait_for(wire.Settle)
    assert (usage.outcome, usage.attempts, usage.cost_nusd) == ("not_sent", 0, 0)
    assert settle.amounts == wire.Amounts()


async def test_silence_is_filled_with_pings_at_event_boundaries_only(tmp_path):
    async with world(tmp_path, waits=FAST) as w:
        half, rest = delta("abc")[:30], delta("abc")[30:]
        pinged = asyncio.Event()

        async def respond(got, writer):
            writer.write(STREAM_HEAD + chunk(START))
            await pinged.wait()
            writer.write(chunk(half))
            await asyncio.sleep(0.3)
            writer.write(chunk(rest) + chunk(finish(3)) + b"0\r\n\r\n")

        w.upstream.respond = respond
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL))
        async with asyncio.timeout(WAIT_S):
            raw = await reader.readuntil(PING)
            pinged.set()
            raw += await reader.read()
        writer.close()
        events = unchunk(raw.partition(b"\r\n\r\n")[2])
        assert events.startswith(START + PING)
        assert half + rest in events
        assert events.replace(PING, b"") == START + half + rest + finish(3)
        assert (await w.event()).outcome == "completed"


async def test_no_ping_into_a_compressed_or_json_answer(tmp_path):
    async with world(tmp_path, waits=FAST) as w:
        body = message()

        async def respond(got, writer):
            writer.write(json_answer(body)[:-5])
            await asyncio.sleep(0.2)
            writer.write(body[-5:])

        w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        assert raw.endswith(body)


async def test_dead_silence_counts_as_cut(tmp_path):
    async with world(tmp_path, waits=FAST._replace(ping_s=0.05, silence_s=0.2)) as w:

        async def respond(got, writer):
            writer.write(STREAM_HEAD + chunk(START))
            await asyncio.sleep(60)

        w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        assert b"event: error" in raw
        assert (await w.event()).outcome == "interrupted"


async def test_error_event_of_the_provider_is_relayed_and_the_rest_billed(tmp_path):
    async with patient_world(tmp_path) as w:
        error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
        w.upstream.streams(START, delta("abcd"), error)
        raw = await w.raw(post(SMALL))
        assert unchunk(raw.partition(b"\r\n\r\n")[2]).endswith(error)
        usage = await w.event()
    assert (usage.outcome, usage.error_type, usage.estimated) == ("interrupted", "overloaded_error", True)


async def test_holds_are_renewed_with_the_usage_so_far_and_follow(tmp_path):
    async with patient_world(tmp_path, settings={"hold_ttl_s": 6}) as w:
        grown = (wire.HoldEntry("n:budget-1:1700000000:1800000000", 7_000_000, 80_000_000),)
        w.enforcer.renewed_hold = grown
        go_on = asyncio.Event()

        async def respond(got, writer):
            writer.write(STREAM_HEAD + chunk(START))
            await go_on.wait()
            writer.write(chunk(finish(3)) + b"0\r\n\r\n")

        w.upstream.respond = respond
        answering = asyncio.ensure_future(w.raw(post(SMALL)))
        (renew,) = await w.enforcer.wait_for(wire.Renew)
        assert renew.prompt_known
        assert b'"input_tokens":12' in bytes(renew.event)
        go_on.set()
        await answering
        (settle,) = await w.enforcer.wait_for(wire.Settle)
    assert settle.hold == grown


async def test_stop_finishes_running_streams_and_their_records(tmp_path):
    async with patient_world(tmp_path) as w:
        go_on = asyncio.Event()

        async def respond(got, writer):
            writer.write(STREAM_HEAD + chunk(START))
            await go_on.wait()
            writer.write(chunk(finish(3)) + b"0\r\n\r\n")

        w.upstream.respond = respond
        answering = asyncio.ensure_future(w.raw(post(SMALL)))
        while not w.upstream.got:
            await asyncio.sleep(0.01)
        port = w.port
        stopping = asyncio.ensure_future(w.edge.stop())
        await eventually(lambda: _refused(port), WAIT_S)
        assert not stopping.done()
        go_on.set()
        raw = await answering
        assert raw.endswith(b"0\r\n\r\n")
        assert await stopping == 0
        assert (await w.event()).outcome == "completed"
        assert len(w.enforcer.of(wire.Settle)) == 1


async def _refused(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


async def test_streams_longer_than_the_drain_are_cut_and_billed(tmp_path):
    async with world(tmp_path, waits=FAST._replace(drain_s=0.1)) as w:

        async def respond(got, writer):
            writer.write(STREAM_HEAD + chunk(START))
            await asyncio.sleep(60)

        w.upstream.respond = respond
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL))
        async with asyncio.timeout(WAIT_S):
            await reader.readuntil(START)  # the stream runs
            await w.edge.stop()
            await reader.read()
        writer.close()
        assert (await w.event()).outcome == "interrupted"
        assert len(w.enforcer.of(wire.Settle)) == 1


async def test_a_slow_client_slows_the_upstream_and_memory_stays(tmp_path):
    async with patient_world(tmp_path) as w:
        piece = delta("x" * 60_000)
        total, sent = 600, 0

        async def respond(got, writer):
            nonlocal sent
            writer.write(STREAM_HEAD + chunk(START))
            for _ in range(total):
                writer.write(chunk(piece))
                await writer.drain()
                sent += 1
            writer.write(chunk(finish(3)) + b"0\r\n\r\n")

        w.upstream.respond = respond
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port, limit=1 << 16)
        writer.write(post(SMALL))
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < total
        body = await reader.read()
        assert unchunk(body) == START + piece * total + finish(3)
        assert (await w.event()).outcome == "completed"
        writer.close()


async def test_a_reader_that_fails_does_not_fail_the_answer(tmp_path, monkeypatch):
    def fail(self, chunk):
        raise ValueError("a defect")

    monkeypatch.setattr("bursar_edge.usage_reader.SseReader.feed", fail)
    async with patient_world(tmp_path) as w:

        async def respond(got, writer):
            writer.write(STREAM_HEAD + chunk(START))
            await asyncio.sleep(0.05)
            writer.write(chunk(finish(3)) + b"0\r\n\r\n")

        w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        assert unchunk(raw.partition(b"\r\n\r\n")[2]) == START + finish(3)
        usage = await w.event()
        assert (usage.outcome, usage.estimated) == ("unreadable", True)


async def test_client_leaving_while_the_edge_connects_is_not_sent(tmp_path, monkeypatch):
    async with patient_world(tmp_path) as w:
        connecting = asyncio.Event()

        async def connect(*arguments):
            connecting.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(w.edge.upstreams.connector, "connect", connect)
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL))
        await connecting.wait()
        writer.close()
        usage = await w.event()
        (settle,) = await w.enforcer.wait_for(wire.Settle)
    assert (usage.outcome, usage.attempts, usage.cost_nusd) == ("not_sent", 0, 0)
    assert settle.amounts == wire.Amounts()


@pytest.mark.parametrize("after_ms", range(0, 24, 2))
async def test_a_client_leaving_at_any_moment_leaves_nothing_open(tmp_path, after_ms):
    """Whatever was going on: one release, or one event and one settlement; no memory or outbox room kept."""
    async with patient_world(tmp_path) as w:
        w.upstream.streams(START, delta("abc"), finish(3))
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL))
        await asyncio.sleep(after_ms / 1000)
        writer.transport.abort()
        await asyncio.sleep(0.05)

        async def at_rest():
            # Also where the edge hears of the connection only now.
            await w.edge.parts.finished()
            await w.edge.enforcer.drained()
            ended = {each.request_id for kind in (wire.Settle, wire.Release) for each in w.enforcer.of(kind)}
            return not w.edge._active and {each.request_id for each in w.enforcer.of(wire.Admit)} <= ended

        await eventually(at_rest, WAIT_S, 0.01)
        settles, releases = w.enforcer.of(wire.Settle), w.enforcer.of(wire.Release)
        assert len(settles) + len(releases) <= 1
        assert w.edge.outbox._open == 0
        assert w.edge.memory.free_bytes == w.limits.all_bodies_bytes
        if settles:
            usage = await w.event()
            assert usage.request_id == settles[0].request_id
            assert usage.amounts == settles[0].amounts
