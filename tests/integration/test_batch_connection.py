"""The connection between edge and enforcer that carries batches: both sides, cut anywhere, and against other HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, web

from bursar_common.wire import BATCH_PATH, INTERNAL_TOKEN_HEADER, MAX_BATCH_BYTES, batch_answer, batch_head
from bursar_edge.batch_link import BatchLink, NoConnection
from bursar_enforcer.batch_server import BatchServer
from tests.harness.waiting import eventually

TOKEN = "internal-token-of-the-tests"
WAIT_S = 60.0
SHUTDOWN_S = 10.0


def request(body: bytes, token: str = TOKEN) -> bytes:
    return b"%b%d\r\n\r\n%b" % (batch_head(token, "bursar"), len(body), body)


class Served:
    """A BatchServer that answers a batch with itself in capitals, and what else came with ``aiohttp``."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def batch(self, body: bytes) -> tuple[int, bytes]:
        self.batches.append(body)
        await self.gate.wait()
        if body == b"fail":
            raise RuntimeError("a batch failed")
        return 200, body.upper()

    async def other(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=f"aiohttp {request.method} {request.path} {len(await request.read())}")

    async def start(self) -> None:
        self.runner = web.ServerRunner(
            BatchServer(self.other, self.batch, TOKEN, access_log=None), shutdown_timeout=SHUTDOWN_S
        )
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    await made.start()
    yield made
    made.gate.set()
    await made.runner.cleanup()


async def read(reader: asyncio.StreamReader, size: int) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return await reader.readexactly(size)


async def test_a_batch_is_read_wherever_its_body_is_cut(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    whole, answer = request(b"some batch"), batch_answer(200, b"SOME BATCH")
    for cut in range(whole.index(b"\r\n\r\n") + 4, len(whole) + 1):
        writer.write(whole[:cut])
        await asyncio.sleep(0.005)
        writer.write(whole[cut:])
        assert await read(reader, len(answer)) == answer
    assert set(served.batches) == {b"some batch"}
    writer.close()


@pytest.mark.parametrize(
    "head",
    [
        batch_head("another-token", "bursar"),
        batch_head(TOKEN, "a host"),
        batch_head(TOKEN, "bursar").replace(b"content-length", b"Content-Length"),
        batch_head(TOKEN, "bursar").replace(b"host", b"x-more: 1\r\nhost"),
    ],
)
async def test_any_other_head_is_aiohttps(served: Served, head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"%b%d\r\n\r\n%b" % (head, 5, b"12345"))
    assert (await read(reader, 12)) in (b"HTTP/1.1 200", b"HTTP/1.1 400")
    assert served.batches == []
    writer.close()


async def test_a_head_cut_in_two_and_what_follows_a_batch_are_aiohttps(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    answer = batch_answer(200, b"ONE")
    writer.write(request(b"one"))
    assert await read(reader, len(answer)) == answer
    whole = request(b"two")
    writer.write(whole[:30])
    await asyncio.sleep(0.01)
    writer.write(whole[30:])
    async with asyncio.timeout(WAIT_S):
        said = await reader.readuntil(f"aiohttp POST {BATCH_PATH} 3".encode())
    assert said.startswith(b"HTTP/1.1 200")
    assert served.batches == [b"one"]
    writer.close()


async def test_health_and_a_batch_from_an_ordinary_client_share_the_port(served: Served) -> None:
    async with ClientSession() as session:
        async with session.get(f"{served.url}/readyz") as health:
            assert await health.text() == "aiohttp GET /readyz 0"
        headers = {INTERNAL_TOKEN_HEADER: TOKEN}
        async with session.post(served.url + BATCH_PATH, data=b"[]", headers=headers) as batch:
            assert await batch.text() == f"aiohttp POST {BATCH_PATH} 2"


@pytest.mark.parametrize("length", [0, MAX_BATCH_BYTES + 1])
async def test_an_empty_or_too_large_batch_is_aiohttps(served: Served, length: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"%b%d\r\n\r\n" % (batch_head(TOKEN, "bursar"), length))
    if length:
        for _ in range(length >> 16):
            writer.write(bytes(1 << 16))
        writer.write(bytes(length & 0xFFFF))
    assert (await read(reader, 8)) == b"HTTP/1.1"
    assert served.batches == []
    writer.close()


@pytest.mark.parametrize("second", [request(b"two"), b"x"])
async def test_more_before_the_answer_ends_the_connection(served: Served, second: bytes) -> None:
    served.gate.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request(b"one"))
    await eventually(lambda: served.batches == [b"one"], WAIT_S, 0.01)
    writer.write(second)
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    served.gate.set()


async def test_a_batch_that_fails_ends_its_connection_only(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request(b"fail"))
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert await asked(BatchLink(served.url, TOKEN), b"next") == (200, b"NEXT", "")


async def test_a_stop_waits_for_the_batch_in_hand_and_closes_idle_connections(served: Served) -> None:
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", served.port)
    idle_writer.write(request(b"idle"))
    await read(idle_reader, len(batch_answer(200, b"IDLE")))
    served.gate.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request(b"last"))
    await eventually(lambda: served.batches == [b"idle", b"last"], WAIT_S, 0.01)
    stopping = asyncio.create_task(served.runner.cleanup())
    async with asyncio.timeout(WAIT_S):
        assert await idle_reader.read() == b""
        served.gate.set()
        assert await reader.read() == batch_answer(200, b"LAST")
        await stopping


# ---- the edge's side


async def asked(link: BatchLink, body: bytes, *, within_s: float = WAIT_S) -> tuple[int, bytes, str]:
    """One batch over the link, and what came of it."""
    answered: asyncio.Future[tuple[int, bytes, str]] = asyncio.get_running_loop().create_future()
    connection = link.idle() or await link.connect()
    connection.post(body, lambda *answer: answered.set_result(answer), within_s)
    async with asyncio.timeout(WAIT_S):
        return await answered


@contextlib.asynccontextmanager
async def answering(respond: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[BatchLink]:
    """A link to a server that answers a request's bytes as it is told."""
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                await respond(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = BatchLink(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", TOKEN)
    try:
        yield link
    finally:
        link.close()
        for writer in connections:
            writer.close()
        server.close()


async def test_an_answer_is_read_wherever_it_is_cut() -> None:
    answer = batch_answer(200, b"[1,2,3]")
    cut = 0

    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(answer[:cut])
        await asyncio.sleep(0.005)
        writer.write(answer[cut:])

    async with answering(respond) as link:
        first = None
        for cut in range(1, len(answer) + 1):
            assert await asked(link, b"x") == (200, b"[1,2,3]", "")
            idle = link.idle()
            assert idle is not None, "the connection serves again"
            link.free(idle)
            first = first or idle
            assert idle is first


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        (b"HTTP/1.1 503 Away\r\nContent-Length: 4\r\n\r\nlate", (503, b"late", "")),
        (b"HTTP/1.1 200 OK\r\nDate: x\r\nCONTENT-LENGTH:2\r\nServer: y\r\n\r\n[]", (200, b"[]", "")),
        (b"HTTP/1.1 204 None\r\ncontent-length: 0\r\n\r\n", (204, b"", "")),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", (0, b"", "length")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n", (0, b"", "too long")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n[]", (0, b"", "more came")),
        (b"SSH-2.0-x\r\n\r\n", (0, b"", "status")),
        (b"x" * 20_000, (0, b"", "head is too long")),
    ],
)
async def test_what_answers_are_taken(answer: bytes, came: tuple[int, bytes, str]) -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with answering(respond) as link:
        status, content, problem = await asked(link, b"x")
        assert (status, content) == came[:2]
        assert (came[2] in problem) if came[2] else not problem
        if problem:
            await asyncio.sleep(0.05)
            assert link.idle() is None, "a connection that cannot be trusted is not used again"


async def test_a_connection_that_ends_is_a_problem_once() -> None:
    async def leave(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with answering(leave) as link:
        assert await asked(link, b"x") == (0, b"", "the connection was lost")

    async def last(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]")

    async with answering(last) as link:
        assert await asked(link, b"x") == (200, b"[]", "")
        assert link.idle() is None


async def test_an_answer_that_does_not_come_is_given_up() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        pass

    async with answering(silent) as link:
        assert await asked(link, b"x", within_s=0.05) == (0, b"", "no answer in time")


async def test_nobody_there(tmp_path: Any) -> None:
    with pytest.raises(NoConnection):
        await BatchLink(f"unix:{tmp_path}/nobody.sock", TOKEN).connect()
