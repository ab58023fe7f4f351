"""Reading request bodies within bounds: of one body, of all bodies together, and of the time they may take."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from bursar_edge.incoming import ClientGone, Incoming, whole
from bursar_edge.known_head import Body

MIB = 1 << 20


class Limits(NamedTuple):
    """Bounds of what clients may do; the defaults are what runs, tests set smaller ones."""

    body_bytes: int = 32 * MIB
    """The provider's own limit."""
    all_bodies_bytes: int = 768 * MIB
    """Bodies held at once: from their first byte until the provider has answered."""
    memory_wait_s: float = 10.0
    """How long a request waits for such memory."""
    head_s: float = 20.0
    """From the first byte of a request's head (or a new connection) to its end."""
    body_idle_s: float = 30.0
    """Pause within a body."""
    body_total_s: float = 300.0
    """From a body's first byte to its last: 32 MiB at 110 kB/s."""


class BodyProblem(Exception):
    """The body was not read: ``reason`` is a refusal's name."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class BodyMemory:
    """The bytes all bodies may take together. First come, first served."""

    def __init__(self, total_bytes: int, wait_s: float) -> None:
        self._free = total_bytes
        self._wait_s = wait_s
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free_bytes(self) -> int:
        return self._free

    def take_now(self, size: int) -> Lease | None:
        """``size`` bytes, if they are free and nobody waits."""
        if self._waiters or size > self._free:
            return None
        self._free -= size
        return Lease(self, size)

    async def take(self, size: int) -> Lease:
        """Wait for ``size`` bytes. Raises BodyProblem ``memory_full`` when the wait is over."""
        if self._waiters or size > self._free:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (size, future)
            self._waiters.append(entry)
            try:
                async with asyncio.timeout(self._wait_s):
                    await future
            except TimeoutError:
                raise BodyProblem("memory_full") from None
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():
                    self._give(size)
                raise
            finally:
                if entry in self._waiters:
                    self._waiters.remove(entry)
                    self._serve()
        else:
            self._free -= size
        return Lease(self, size)

    def try_more(self, size: int) -> bool:
        """Take more for a body of unknown length, without waiting: half-read bodies must not wait for each other."""
        if size > self._free:
            return False
        self._free -= size
        return True

    def _give(self, size: int) -> None:
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._waiters:
            size, future = self._waiters[0]
            if size > self._free:
                return
            self._waiters.popleft()
            if not future.done():
                self._free -= size
                future.set_result(None)


class Lease:
    """Memory taken for one body."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: BodyMemory, size: int) -> None:
        self._memory = memory
        self._size = size

    def grow(self, size: int) -> None:
        if not self._memory.try_more(size):
            raise BodyProblem("memory_full")
        self._size += size

    def release(self) -> None:
        """Give it back. Idempotent."""
        size, self._size = self._size, 0
        if size:
            self._memory._give(size)


_GROW_BYTES = MIB


async def read_body(incoming: Incoming, limits: Limits, memory: BodyMemory) -> tuple[bytes | memoryview, Lease]:
    """The body, bounded. Raises BodyProblem, ClientGone; then the connection is not used again, unless the body was
    read."""
    length = incoming.length
    if length is not None and length > limits.body_bytes:
        leave_unread(incoming)
        raise BodyProblem("too_large", f"{limits.body_bytes // MIB} MiB")
    payload = incoming.payload
    size = length if length is not None else 0
    lease = memory.take_now(size) or await memory.take(size)
    try:
        if isinstance(payload, Body):
            return payload.take() if payload.is_eof() else await _rest_of(payload, incoming, limits), lease
        if payload.is_eof() and length is not None:
            return whole(payload), lease
        if incoming.headers.get("expect", "").lower() == "100-continue":
            incoming.continue_100()
        return await _read_slowly(incoming, payload, limits, lease, length), lease
    except BaseException:
        lease.release()
        raise


async def _rest_of(body: Body, incoming: Incoming, limits: Limits) -> bytes | memoryview:
    watch = _SlowWatch(body, limits, lambda: body.received)
    try:
        return await body.whole()
    except BodyProblem:
        leave_unread(incoming)
        raise
    except OSError:
        raise ClientGone("the client left while sending") from None
    finally:
        watch.stop()


async def _read_slowly(
    incoming: Incoming, payload: StreamReader, limits: Limits, lease: Lease, length: int | None
) -> bytes:
    watch = _SlowWatch(payload, limits, lambda: size)
    chunks: list[bytes] = []
    size = taken = 0
    try:
        while chunk := await payload.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > limits.body_bytes:
                leave_unread(incoming)
                raise BodyProblem("too_large", f"{limits.body_bytes // MIB} MiB")
            if length is None and size > taken:
                more = max(_GROW_BYTES, size - taken)
                lease.grow(more)
                taken += more
    except RequestPayloadError:
        leave_unread(incoming)
        raise BodyProblem("bad_http", "the body's framing is broken") from None
    except BodyProblem:
        leave_unread(incoming)
        raise
    except (ConnectionError, OSError):
        raise ClientGone("the client left while sending") from None
    finally:
        watch.stop()
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _SlowWatch:
    """Ends the wait for a body that comes too slowly. ``received`` tells how many bytes have come."""

    def __init__(self, payload: StreamReader | Body, limits: Limits, received: Callable[[], int]) -> None:
        self._payload = payload
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._received = received
        self._end_s = self._loop.time() + limits.body_total_s
        self._size_before = -1
        self._handle = self._loop.call_later(limits.body_idle_s, self._tick)

    def _tick(self) -> None:
        size = self._received()
        if size == self._size_before or self._loop.time() >= self._end_s:
            self._payload.set_exception(BodyProblem("slow_request", "the body paused or took too long"))
            return
        self._size_before = size
        self._handle = self._loop.call_later(self._limits.body_idle_s, self._tick)

    def stop(self) -> None:
        self._handle.cancel()


def leave_unread(incoming: Incoming) -> None:
    """The connection ends with the answer: its body is not wanted."""
    incoming.keep_alive = False
