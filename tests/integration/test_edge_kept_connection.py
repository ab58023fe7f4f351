"""Requests on a connection that is kept: the head is known after the first, and nothing may be read differently."""

from __future__ import annotations

import asyncio
import functools
import json

import pytest

from bursar_common import wire
from bursar_edge.bodies import Limits
from bursar_edge.connection import ClientConnection
from bursar_edge.known_head import VIEW_BYTES
from tests.harness.edge_stand_ins import KEY, MODEL, WAIT_S
from tests.harness.edge_stand_ins import patient_world as world
from tests.harness.edge_stand_ins import post as post_and_close

post = functools.partial(post_and_close, close=False)
OTHER_KEY = "sk-bf-" + "1" * 64


def body_of(size: int) -> bytes:
    return json.dumps(
        {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "x" * size}]}, separators=(",", ":")
    ).encode()


class Client:
    """A connection that stays."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.01)

    async def answer(self) -> bytes:
        """Head and body of the next answer."""
        async with asyncio.timeout(WAIT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            return head + await self.reader.readexactly(length)


async def connect(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


async def test_bodies_of_changing_length_arrive_as_sent(tmp_path):
    async with world(tmp_path) as w:
        client = await connect(w.port)
        bodies = [body_of(size) for size in (10, 5, 0, 2_000, 10, 100_000, 700_000, 7)]
        for body in bodies:
            await client.send(post(body))
            assert (await client.answer()).startswith(b"HTTP/1.1 200")
        assert w.edge._server is not None
        (connection,) = w.edge._server.connections
        assert isinstance(connection, ClientConnection)
        assert connection._known is not None  # so that this test is about what it says
        assert [got.body for got in w.upstream.got] == bodies
        assert len({got.head.partition(b"content-length")[0] for got in w.upstream.got}) == 1


async def test_a_long_body_that_came_with_its_head(tmp_path):
    async with world(tmp_path) as w:
        client = await connect(w.port)
        await client.send(post(body_of(1)))
        await client.answer()
        plain = body_of(VIEW_BYTES)
        prefixed = plain.replace(MODEL.encode(), b"anthropic/" + MODEL.encode())
        await client.send(post(plain) + post(prefixed))  # the second is ahead of the first one's answer
        for _ in range(2):
            assert (await client.answer()).startswith(b"HTTP/1.1 200")
        await client.send(post(prefixed))
        assert (await client.answer()).startswith(b"HTTP/1.1 200")
        await client.send(post(b"\xef\xbb\xbf" + plain))
        assert b"byte order mark" in await client.answer()
        await client.send(post(plain[:-1]))
        assert b"not valid JSON" in await client.answer()
        assert [got.body for got in w.upstream.got[1:]] == [plain] * 3


@pytest.mark.parametrize("cut", [1, 20, -60, -1])
async def test_cut_anywhere(tmp_path, cut):
    async with world(tmp_path) as w:
        client = await connect(w.port)
        body = body_of(50)
        for _ in range(3):
            whole = post(body)
            await client.send(whole)
            await client.answer()
            await client.send(whole[:cut], whole[cut:])
            assert (await client.answer()).startswith(b"HTTP/1.1 200")
        assert [got.body for got in w.upstream.got] == [body] * 6


async def test_sent_ahead_of_the_answer(tmp_path):
    async with world(tmp_path) as w:
        client = await connect(w.port)
        bodies = [body_of(size) for size in (1, 2, 30, 4, 5, 6, 7)]
        await client.send(post(bodies[0]))
        await client.answer()
        await client.send(b"".join(post(body) for body in bodies[1:4]), post(bodies[4]), post(bodies[5]))
        for _ in bodies[1:6]:
            assert (await client.answer()).startswith(b"HTTP/1.1 200")
        await client.send(post(bodies[6]))
        await client.answer()
        assert [got.body for got in w.upstream.got] == bodies


async def test_another_head_is_another_head(tmp_path):
    async with world(tmp_path) as w:
        client = await connect(w.port)
        first = post(body_of(3))
        for request in (first, first.replace(KEY.encode(), OTHER_KEY.encode()), first):
            await client.send(request)
            await client.answer()
        sessions = [(ask.key_hashes, ask.session) for ask in await w.enforcer.wait_for(wire.Admit, 3)]
        assert sessions[0] == sessions[2] != sessions[1]
        assert KEY.encode() not in b"".join(got.head for got in w.upstream.got)


@pytest.mark.parametrize(
    "length", [b"+5", b"-5", b"0x5", b"5_0", b" 5 5", b"5, 5", b"5\r\ncontent-length: 6", b"9" * 30, b""]
)
async def test_a_length_that_is_none_is_judged_by_the_parser(tmp_path, length):
    async with world(tmp_path) as w:
        client = await connect(w.port)
        body = body_of(3)
        whole = post(body)
        await client.send(whole)
        await client.answer()
        digits = b"content-length: %d" % len(body)
        at = whole.lower().index(digits) + len(b"content-length: ")
        await client.send(whole[:at] + length + whole[at + len(b"%d" % len(body)) :])
        async with asyncio.timeout(WAIT_S):
            answer = await client.reader.read()
        assert b" 200 " not in answer[:16]
        assert len(w.upstream.got) == 1


async def test_a_slow_body_behind_a_known_head_is_timed_out(tmp_path):
    async with world(tmp_path, limits=Limits(body_idle_s=0.2)) as w:
        client = await connect(w.port)
        whole = post(body_of(300))
        await client.send(whole)
        await client.answer()
        await client.send(whole[:-20])
        assert (await client.answer()).startswith(b"HTTP/1.1 408")
        assert w.edge.memory.free_bytes == w.edge._limits.all_bodies_bytes


async def test_too_much_behind_a_known_head_is_413(tmp_path):
    async with world(tmp_path, limits=Limits(body_bytes=1 << 20)) as w:
        client = await connect(w.port)
        await client.send(post(body_of(300)))
        await client.answer()
        client.writer.write(post(body_of(3 << 20)))
        assert (await client.answer()).startswith(b"HTTP/1.1 413")
        assert len(w.upstream.got) == 1


async def test_a_client_that_leaves_within_a_body_gives_the_memory_back(tmp_path):
    async with world(tmp_path) as w:
        client = await connect(w.port)
        whole = post(body_of(300))
        await client.send(whole)
        await client.answer()
        await client.send(whole[:-20])
        client.writer.close()
        async with asyncio.timeout(WAIT_S):
            while w.edge._active or w.edge.memory.free_bytes != w.edge._limits.all_bodies_bytes:
                await asyncio.sleep(0.01)
        assert len(w.upstream.got) == 1
