"""Connections to the provider: used again while they are good, and never when they are not."""

from __future__ import annotations

import asyncio

from bursar_edge.link import _TIMEOUT
from bursar_edge.pool import Pool
from tests.harness.edge_stand_ins import SMALL, WAIT_S, json_answer, message, post
from tests.harness.edge_stand_ins import patient_world as world


async def test_one_connection_serves_requests_after_each_other(tmp_path):
    async with world(tmp_path) as w:
        for _ in range(4):
            assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200")
        assert w.upstream.connections == 1


async def test_a_connection_that_said_close_is_not_used_again(tmp_path):
    async with world(tmp_path) as w:
        w.upstream.answers(json_answer(message(), headers=b"connection: close\r\n"))
        for _ in range(3):
            assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200")
        assert w.upstream.connections == 3


async def test_a_connection_that_spoke_unasked_is_not_used_again(tmp_path):
    async with world(tmp_path) as w:

        async def respond(got, writer):
            writer.write(json_answer(message()))
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(json_answer(b'{"stolen":1}'))
            await writer.drain()
            spoken.set()

        spoken = asyncio.Event()
        w.upstream.respond = respond
        for _ in range(3):
            answer = await w.raw(post(SMALL))
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"stolen" not in answer
            async with asyncio.timeout(WAIT_S):
                await spoken.wait()
            spoken.clear()
            await asyncio.sleep(0.1)  # from there it is this process' own loop that brings it to the edge
        assert w.upstream.connections == 3


async def test_a_connection_the_provider_closed_is_not_used_again(tmp_path):
    async with world(tmp_path) as w:
        pool = w.edge.upstreams.connector

        async def respond(got, writer):
            writer.write(json_answer(message()))
            await writer.drain()
            writer.close()

        w.upstream.respond = respond
        for _ in range(3):
            assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200")
            # Given back, and known to be closed.
            async with asyncio.timeout(WAIT_S):
                while pool._taken > sum(
                    not each.protocol.is_connected() for idle in pool._idle.values() for each in idle
                ):
                    await asyncio.sleep(0.01)
        assert w.upstream.connections == 3


async def test_idle_connections_end(tmp_path):
    async with world(tmp_path) as w:
        pool = w.edge.upstreams.connector
        pool._keep_s = 0.1
        await w.raw(post(SMALL))
        async with asyncio.timeout(WAIT_S):
            await w.upstream.closed.wait()
            while pool._taken:
                await asyncio.sleep(0.01)
        assert (await w.raw(post(SMALL))).startswith(b"HTTP/1.1 200")


async def test_an_idle_connection_makes_room_for_another_address(tmp_path):
    async with world(tmp_path / "one") as w, world(tmp_path / "two") as other:
        pool = Pool(limit=1, keepalive_s=30.0)
        there = w.edge.upstreams.origin(w.enforcer.route()).template
        elsewhere = other.edge.upstreams.origin(other.enforcer.route()).template
        for request in (there, elsewhere, there):
            async with asyncio.timeout(WAIT_S):
                (await pool.connect(request, [], _TIMEOUT)).release()
        lent = await pool.connect(there, [], _TIMEOUT)
        waiting = asyncio.ensure_future(pool.connect(elsewhere, [], _TIMEOUT))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        lent.release()
        async with asyncio.timeout(WAIT_S):
            (await waiting).close()
        assert pool._taken == 0
        await pool.close()
