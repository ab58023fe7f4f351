"""A byte the client sends is the byte the provider receives, and back."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
import zstandard

from bursar_common import wire
from tests.harness.edge_stand_ins import (
    KEY,
    SMALL,
    START,
    STREAM_HEAD,
    chunk,
    delta,
    finish,
    json_answer,
    message,
    patient_world,
    post,
    unchunk,
)

ODD = (
    b'\r\n {\t"messages" : [ {"role":"user" ,"content": "caf\\u00e9 \xc3\xa9 \\/ 1E5"} ] ,\n'
    b'"max_tokens":1,"unknown":{"model":"other","max_tokens":2.50e+3,"x":[1.0,-0,1e400]}, '
    b'"model" :  "claude-sonnet-4-6" } \n'
)


@pytest.mark.parametrize("size", [0, 1_000, 65_535, 65_536, 1 << 20])
async def test_bodies_of_all_sizes_both_ways(tmp_path, size):
    async with patient_world(tmp_path) as w:
        body = json.dumps(
            {"model": "claude-sonnet-4-6", "max_tokens": 1, "messages": [{"role": "user", "content": "é" * size}]}
        ).encode()
        answer = message(padding="x" * size)
        w.upstream.answers(json_answer(answer))
        raw = await w.raw(post(body))
        assert w.upstream.got[0].body == body
        assert raw.partition(b"\r\n\r\n")[2] == answer


async def test_32_mib_both_ways(tmp_path):
    async with patient_world(tmp_path) as w:
        body = SMALL[:-1] + b',"pad":"' + b"x" * ((32 << 20) - len(SMALL) - 10) + b'"}'
        assert len(body) <= 32 << 20
        answer = message(padding="y" * (31 << 20))
        w.upstream.answers(json_answer(answer))
        raw = await w.raw(post(body))
        assert w.upstream.got[0].body == body
        assert raw.partition(b"\r\n\r\n")[2] == answer
        assert (await w.event()).outcome == "completed"
        assert w.edge.memory.free_bytes == w.limits.all_bodies_bytes


@pytest.mark.parametrize("body", [SMALL, ODD, SMALL[:-1] + b',"stream":false,"stream_options":null}'])
async def test_odd_json_goes_up_as_it_is(tmp_path, body):
    async with patient_world(tmp_path) as w:
        await w.raw(post(body))
        assert w.upstream.got[0].body == body


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        (b'"anthropic/claude-sonnet-4-6"', b'"claude-sonnet-4-6"'),
        (b'"anthropic\\/claude-sonnet-4-6"', b'"claude-sonnet-4-6"'),
        (b'"anthropi\\u0063\\u002Fclaude-sonnet-4-6"', b'"claude-sonnet-4-6"'),
    ],
)
async def test_only_the_provider_prefix_is_cut(tmp_path, sent, forwarded):
    async with patient_world(tmp_path) as w:
        body = ODD.replace(b'"claude-sonnet-4-6"', sent)
        await w.raw(post(body))
        assert w.upstream.got[0].body == ODD.replace(b'"claude-sonnet-4-6"', forwarded)
        (admit,) = w.enforcer.of(wire.Admit)
        assert (admit.provider, admit.model) == ("anthropic", "claude-sonnet-4-6")


async def test_chunked_request_body(tmp_path):
    async with patient_world(tmp_path) as w:
        head = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
        cut = chunk(SMALL[:10]) + chunk(SMALL[10:]) + b"0\r\n\r\n"
        await w.raw(head + cut)
        (got,) = w.upstream.got
        assert got.body == SMALL
        assert got.header("content-length") == [str(len(SMALL))]
        assert not got.header("transfer-encoding")


async def test_query_path_and_headers_go_up_as_they_came(tmp_path):
    async with patient_world(tmp_path) as w:
        kept = [
            "anthropic-version: 2023-06-01",
            "Anthropic-Beta: a-1,b-2",
            "anthropic-beta: c-3",
            "X-Stainless-Lang: js",
            "User-Agent: claude-cli/2.1.197",
            "x-claude-code-session-id: s",
            "via: 1.1 corporate",
            "x-latin: caf\xe9",
        ]
        dropped = [
            "Cookie: a=b",
            "Forwarded: for=1.2.3.4",
            "X-Forwarded-For: 1.2.3.4",
            "x-bursar-project: p",
            "X-BF-DIM-a: b",
            f"x-bf-vk: {KEY}",
            "authorization: Bearer sk-ant-oat-other",
            "Accept-Encoding: gzip, br",
            "TE: trailers",
            "Keep-Alive: 5",
            "x-listed: gone",
            "Connection: close, X-Listed",
        ]
        path = "/anthropic/v1/messages?beta=true&x=%2F%20a+b&&y"
        await w.raw(post(SMALL, *kept, *dropped, path=path, close=False))
        (got,) = w.upstream.got
        assert got.target == "/v1/messages?beta=true&x=%2F%20a+b&&y"
        assert [line for line in got.header_lines if line in kept] == kept
        names = {line.partition(":")[0].lower() for line in got.header_lines}
        assert names == {
            "host", "content-type", "content-length", "x-api-key", "accept-encoding", "via",
            *(line.partition(":")[0].lower() for line in kept),
        }  # fmt: skip
        assert got.header("accept-encoding") == ["identity"]
        assert got.header("x-api-key") == ["sk-ant-provider"]
        assert KEY.encode() not in got.head
        (admit,) = w.enforcer.of(wire.Admit)
        assert admit.features.betas == ("a-1", "b-2", "c-3")


async def test_answer_headers_come_back_in_order_and_spelling(tmp_path):
    async with patient_world(tmp_path) as w:
        headers = (
            b"anthropic-ratelimit-requests-remaining: 99\r\nX-Odd-CASE: a\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"
            b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: cloudflare\r\nKeep-Alive: timeout=5\r\n"
        )
        w.upstream.answers(json_answer(message(), headers=headers))
        raw = await w.raw(post(SMALL))
        head = raw.partition(b"\r\n\r\n")[0]
        assert headers.replace(b"Keep-Alive: timeout=5\r\n", b"") in head + b"\r\n"
        assert b"eep-Alive" not in head


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_streams_cut_anywhere(tmp_path, size):
    async with patient_world(tmp_path) as w:
        stream = START + delta("Hello, w\u00f6rld") + b": comment\n\n" + finish(9)
        w.upstream.streams(*(stream[at : at + size] for at in range(0, len(stream), size)))
        raw = await w.raw(post(SMALL))
        assert unchunk(raw.partition(b"\r\n\r\n")[2]) == stream
        usage = await w.event()
        assert (usage.outcome, usage.input_tokens, usage.output_tokens) == ("completed", 12, 9)


def _deflate_raw(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


@pytest.mark.parametrize(
    ("encoding", "squeeze"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", _deflate_raw),
        ("zstd", zstandard.ZstdCompressor().compress),
    ],
)
@pytest.mark.parametrize("kind", ["json", "stream"])
async def test_compressed_all_the_same_passes_untouched_and_is_read(tmp_path, encoding, squeeze, kind):
    async with patient_world(tmp_path) as w:
        if kind == "json":
            body = squeeze(message())
            w.upstream.answers(json_answer(body, headers=b"content-encoding: %b\r\n" % encoding.encode()))
        else:
            body = squeeze(START + delta("abc") + finish(7))

            async def respond(got, writer):
                writer.write(STREAM_HEAD[:-2] + b"content-encoding: %b\r\n\r\n" % encoding.encode())
                writer.write(chunk(body[:9]) + chunk(body[9:]) + b"0\r\n\r\n")

            w.upstream.respond = respond
        raw = await w.raw(post(SMALL))
        head, _, rest = raw.partition(b"\r\n\r\n")
        assert b"content-encoding: %b" % encoding.encode() in head
        assert (unchunk(rest) if kind == "stream" else rest) == body
        usage = await w.event()
        assert (usage.outcome, usage.output_tokens) == ("completed", 7)


async def test_unreadable_usage_costs_what_was_held(tmp_path):
    async with patient_world(tmp_path) as w:
        w.upstream.answers(json_answer(b"\x00garbage", headers=b"content-encoding: br\r\n"))
        raw = await w.raw(post(SMALL))
        assert raw.endswith(b"\x00garbage")
        usage = await w.event()
        assert (usage.outcome, usage.estimated, usage.cost_nusd) == ("unreadable", True, 5_000_000)
