"""HTTP/1.1 as a client, with every byte of the request head our own.

Uses aiohttp's connector (pool, TLS, tunnels through a proxy, happy eyeballs) and its parser, and leaves out its
request and response classes: they rebuild header names, add defaults, and cost more than the rest of a small request.
Nothing is decompressed, no redirect followed, no cookie kept, nothing tried twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import BaseConnector, ClientTimeout, TCPConnector, UnixConnector
from aiohttp.client_exceptions import ClientError, ClientPayloadError
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.streams import StreamReader
from yarl import URL

from bursar_edge.equal_waits import EqualWaits
from bursar_edge.incoming import whole

Header = tuple[bytes, bytes]

CONNECT_S = 10.0
"""Time to get a connection (resolve, connect, TLS), also from a full pool."""
READ_BUFFER_BYTES = 1 << 16
"""Read ahead of a slow client, per answer: twice this stops reading from the upstream."""
MAX_HEADER_BYTES = 32 * 1024
"""One header line of an answer."""


JOIN_BYTES = 1 << 16
"""Up to this length it is cheaper to copy a body behind its head than to write the two together."""


class NotConnected(Exception):
    """No connection was made: nothing was sent."""


class NoAnswer(Exception):
    """The request was sent, or partly, and no answer's head came."""


class AnswerLate(NoAnswer):
    """The same, because the time for it was over."""


class Origin:
    """Scheme, host, port (and proxy) to connect to; made once per address."""

    __slots__ = ("base_path", "host", "template", "url")

    def __init__(self, url: URL, *, ssl: Any = True, proxy: URL | None = None) -> None:
        self.url = url
        self.base_path = url.raw_path.rstrip("/")
        self.host = (url.host_port_subcomponent or "").encode()
        self.template = ClientRequest("POST", url, ssl=ssl, proxy=proxy, loop=asyncio.get_running_loop())


def service_at(url: str, *, limit: int) -> tuple[BaseConnector, Origin]:
    """The way to another service of Bursar, by its setting: ``unix:<path>``, ``http://…`` or ``https://…``."""
    if url.startswith("unix:"):
        return UnixConnector(url[5:], limit=limit), Origin(URL("http://bursar"))
    return TCPConnector(limit=limit), Origin(URL(url))


class Reply:
    """An answer whose head has come. Close or release it, always."""

    __slots__ = ("_connection", "body", "headers", "raw_headers", "reason", "status", "until_close")

    def __init__(self, connection: Connection, message: Any, body: StreamReader) -> None:
        self._connection = connection
        self.status: int = message.code
        self.reason: str = message.reason
        self.raw_headers: tuple[Header, ...] = message.raw_headers
        self.headers = message.headers
        self.body = body
        self.until_close: bool = (
            bool(message.should_close) and not message.chunked and "content-length" not in self.headers
        )
        """The body ends with the connection: a cut cannot be told from its end."""

    def release(self) -> None:
        """The body was read to its end: the connection may serve again."""
        self._connection.release()

    @property
    def protocol(self) -> Any:
        """aiohttp's side of the connection."""
        return self._connection.protocol

    def close(self) -> None:
        """Close the connection at once, whatever is still coming."""
        protocol = self._connection.protocol
        if protocol is not None:
            protocol.abort()
        self._connection.close()

    def cut(self) -> None:
        """Stop waiting for more of the body: its reader gets an error."""
        self.body.set_exception(ClientPayloadError("silent"))

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises NoAnswer if it is cut or longer than ``limit`` bytes."""
        if self.body.is_eof():
            content = whole(self.body)
            if len(content) <= limit:
                self.release()
                return content
            self.close()
            raise NoAnswer(f"an answer of more than {limit} bytes")
        chunks: list[bytes] = []
        size = 0
        try:
            while chunk := await self.body.readany():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    self.close()
                    raise NoAnswer(f"an answer of more than {limit} bytes")
        except (ClientError, OSError, RuntimeError) as error:
            self.close()
            raise NoAnswer(type(error).__name__) from None
        except asyncio.CancelledError:
            self.close()
            raise
        self.release()
        return b"".join(chunks) if len(chunks) != 1 else chunks[0]


_TIMEOUT = ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S)


async def exchange(
    connector: BaseConnector,
    origin: Origin,
    head: bytes,
    body: bytes | memoryview,
    *,
    answer_s: float | EqualWaits[Any],
    no_body: bool = False,
    sending: Callable[[], None] | None = None,
) -> Reply:
    """Send one request and wait up to ``answer_s`` seconds for the head of its answer (given as EqualWaits, these call
    :func:`answer_is_late`). ``sending`` is called just before the first byte: from then on nobody knows whether the
    other side acts on it.

    Raises NotConnected, NoAnswer, AnswerLate. Cancelled at any point, the connection is closed."""
    try:
        connection = await connector.connect(origin.template, [], _TIMEOUT)
    except (ClientError, OSError, TimeoutError) as error:
        raise NotConnected(type(error).__name__) from None
    protocol = connection.protocol
    assert protocol is not None
    try:
        protocol.set_response_params(
            skip_payload=no_body,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=256,
        )
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise NotConnected("closed while idle")
        if sending is not None:
            sending()
        if len(body) < JOIN_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        late = None
        if isinstance(answer_s, EqualWaits):
            answer_s.begin(protocol)
        else:
            late = protocol._loop.call_later(answer_s, answer_is_late, protocol)
        try:
            while True:
                message, payload = await protocol.read()
                if message.code >= 200 or message.code == 101:
                    break
        finally:
            if late is not None:
                late.cancel()
            elif isinstance(answer_s, EqualWaits):
                answer_s.end(protocol)
    except BaseException as error:
        protocol.abort()
        connection.close()
        if isinstance(error, NoAnswer | NotConnected | asyncio.CancelledError):
            raise
        if isinstance(error, Exception):
            raise NoAnswer(type(error).__name__) from None
        raise
    return Reply(connection, message, payload)


def answer_is_late(protocol: Any) -> None:
    """End the wait for an answer: AnswerLate."""
    protocol.set_exception(AnswerLate("no answer in time"))
