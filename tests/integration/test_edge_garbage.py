"""What clients should not send: the provider's envelope, no hold left, nothing of it in a log line."""

from __future__ import annotations

import asyncio
import json

import pytest
import structlog

from bursar_common import wire
from bursar_edge.bodies import Limits
from bursar_edge.connection import ClientConnection
from tests.harness.edge_stand_ins import KEY, SMALL, World, post
from tests.harness.edge_stand_ins import patient_world as world

SECRET = "do-not-log-this-value"


def envelope(raw: bytes) -> tuple[int, dict]:
    head, _, body = raw.partition(b"\r\n\r\n")
    answer = json.loads(body)
    assert answer["type"] == "error"
    lines = head.decode().lower().split("\r\n")
    assert f"request-id: {answer['request_id']}" in lines
    assert f"x-bursar-request-id: {answer['request_id']}" in lines
    assert answer["error"]["message"].endswith(f"(request {answer['request_id']})")
    assert "\n" not in answer["error"]["message"]
    return int(head.split()[1]), answer["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xef\xbb\xbf" + SMALL,
        b'{"max_tokens":1}',
        b'{"model":7,"max_tokens":1}',
        b'{"model":"a","max_tokens":"1"}',
        b'{"model":"a","max_tokens":1.5}',
        b'{"model":"a","max_tokens":-1}',
        b'{"model":"a","model":"b","max_tokens":1}',
        b'{"model":"a","max_tokens":1,"max_tokens":2}',
        b'{"model":"a","max_tokens":1,"stream":true,"stream":false}',
        b'{"model":"a","max_tokens":1,"speed":"fast","\\u0073peed":"x"}',
        SMALL + b"x",
        b"[" * 100_000,
    ],
)
async def test_bad_heads_are_400(tmp_path, body, capsys):
    async with world(tmp_path) as w:
        status, error = envelope(await w.raw(post(body)))
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert not w.enforcer.operations
        assert not w.upstream.got


@pytest.mark.parametrize("header", ["content-type: text/plain", "content-encoding: gzip"])
async def test_other_content_is_415(tmp_path, header):
    async with world(tmp_path) as w:
        request = post(SMALL)
        if header.startswith("content-type"):
            request = request.replace(b"content-type: application/json", header.encode())
        else:
            request = post(SMALL, header)
        assert envelope(await w.raw(request))[0] == 415


async def test_33_mib_is_413_by_its_declared_length(tmp_path):
    async with world(tmp_path) as w:
        request = post(b"").replace(b"content-length: 0", b"content-length: %d" % (33 << 20))
        status, error = envelope(await w.raw(request + b"x" * 1000))
        assert (status, error["type"]) == (413, "request_too_large")
        assert w.edge.memory.free_bytes == w.limits.all_bodies_bytes


async def test_too_much_of_a_chunked_body_is_413(tmp_path):
    async with world(tmp_path, limits=Limits(body_bytes=100_000)) as w:
        request = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
        piece = b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000)
        assert envelope(await w.raw(request + piece * 3 + b"0\r\n\r\n"))[0] == 413


async def test_broken_chunks_are_400(tmp_path):
    async with world(tmp_path) as w:
        request = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
        assert envelope(await w.raw(request + b"zz\r\nabc\r\n"))[0] == 400
        assert not w.enforcer.operations


async def test_slow_body_is_timed_out(tmp_path):
    async with world(tmp_path, limits=Limits(body_idle_s=0.1)) as w:
        status, error = envelope(await w.raw(post(SMALL)[:-5]))
        assert status == 408
        assert "in time" in error["message"]
        assert w.edge.memory.free_bytes == w.limits.all_bodies_bytes


def short_of_time(w: World) -> None:
    """From here on a head may take 0.2 s on the one connection there is, on which a request was answered: that one
    could come in its time, however the machine paused."""
    assert w.edge._server is not None
    (connection,) = w.edge._server.connections
    assert isinstance(connection, ClientConnection)
    connection._head_s = 0.2


async def test_half_a_head_is_timed_out_also_on_a_used_connection(tmp_path):
    async with world(tmp_path, limits=Limits(head_s=0.2)) as w:
        assert envelope(await w.raw(b"POST /v1/messages HTTP/1.1\r\nx-api-key: " + SECRET.encode()))[0] == 408
    async with world(tmp_path) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL, close=False))
        await reader.readuntil(b'"output_tokens":7}}')
        short_of_time(w)
        writer.write(b"POST /v1/mess")
        assert envelope(await reader.read())[0] == 408
        writer.close()


async def test_an_idle_connection_outlives_the_head_time_between_requests(tmp_path):
    async with world(tmp_path) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        for _ in range(2):
            writer.write(post(SMALL, close=False))
            await reader.readuntil(b'"output_tokens":7}}')
            short_of_time(w)
            await asyncio.sleep(0.5)
        writer.close()


@pytest.mark.parametrize(
    "flood",
    [
        "".join(f"x-{number}: {SECRET}\r\n" for number in range(2000)),
        f"x-long: {SECRET}{'a' * 100_000}\r\n",
        f"bad header {SECRET}\r\n",
        f"content-length: {SECRET}\r\n",
    ],
)
async def test_floods_and_malformed_heads_answer_without_telling(tmp_path, flood, capsys, caplog):
    with structlog.testing.capture_logs() as lines:
        async with world(tmp_path) as w:
            request = b"POST /v1/messages HTTP/1.1\r\nhost: h\r\n" + flood.encode() + b"\r\n"
            status, error = envelope(await w.raw(request))
            assert (status, error["type"]) == (400, "invalid_request_error")
            assert SECRET not in error["message"]
    captured = capsys.readouterr()
    assert SECRET not in str(lines) + captured.out + captured.err + caplog.text


async def test_memory_for_bodies_is_bounded(tmp_path):
    async with world(tmp_path, limits=Limits(all_bodies_bytes=len(SMALL) + 10, memory_wait_s=0.2)) as w:
        _, holding = await asyncio.open_connection("127.0.0.1", w.port)
        holding.write(post(SMALL)[:-1])
        while w.edge.memory.free_bytes > 10:
            await asyncio.sleep(0.01)
        status, error = envelope(await w.raw(post(SMALL)))
        assert (status, error["type"]) == (503, "overloaded_error")
        w.edge.memory._wait_s = 60.0  # who waits next is to get it, however late it is given back
        waiting = asyncio.ensure_future(w.raw(post(SMALL)))
        while not w.edge.memory._waiters:
            assert not waiting.done()
            await asyncio.sleep(0.01)
        holding.close()
        assert (await waiting).startswith(b"HTTP/1.1 200 OK")


async def test_expect_100_is_asked_for_only_when_the_size_is_right(tmp_path):
    async with world(tmp_path) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(post(SMALL, "Expect: 100-continue")[: -len(SMALL)])
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(SMALL)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        assert not w.upstream.got[0].header("expect")
        too_large = post(b"", "Expect: 100-continue").replace(b"content-length: 0", b"content-length: 99999999")
        assert envelope(await w.raw(too_large))[0] == 413
        keyless = post(SMALL, "Expect: 100-continue", key="")[: -len(SMALL)]
        assert envelope(await w.raw(keyless))[0] == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages/batches"),
        ("GET", "/anthropic/v1/files"),
        ("GET", "/v1/messages"),
        ("POST", "/anthropic/v1/complete"),
        ("POST", "/v1/messages/"),
        ("POST", "/v1/Messages"),
        ("POST", "//v1/messages"),
        ("POST", "/v1/../v1/messages"),
        ("GET", "/v1"),
        ("GET", "/anthropic/other"),
    ],
)
async def test_what_is_not_supported_is_404_and_never_relayed(tmp_path, method, path):
    async with world(tmp_path) as w:
        raw = await w.raw(
            f"{method} {path} HTTP/1.1\r\nhost: h\r\nx-api-key: {KEY}\r\nconnection: close\r\n\r\n".encode()
        )
        status, error = envelope(raw)
        assert (status, error["type"]) == (404, "not_found_error")
        assert "not supported" in error["message"]
        assert not w.upstream.got
        assert not w.enforcer.of(wire.Admit)


async def test_cheap_greetings(tmp_path):
    async with world(tmp_path) as w:
        for line in ("HEAD /", "HEAD /anthropic/", "HEAD /anthropic", "HEAD /api/hello", "GET /anthropic/api/hello"):
            raw = await w.raw(f"{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n".encode())
            assert raw.startswith(b"HTTP/1.1 200 OK\r\n"), line
            assert raw.endswith(b"\r\n\r\n" if line.startswith("HEAD") else b"{}")


async def test_a_request_that_passed_this_gateway_is_refused(tmp_path):
    async with world(tmp_path) as w:
        await w.raw(post(SMALL))
        (via,) = w.upstream.got[0].header("via")
        status, error = envelope(await w.raw(post(SMALL, f"via: 1.1 other, {via}")))
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert len(w.upstream.got) == 1
