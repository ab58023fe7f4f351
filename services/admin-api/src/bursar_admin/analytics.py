"""Questions to ClickHouse over its HTTP interface: a server, or the aggregator's front on one machine.

Asynchronous and small: pages ask ten questions at once, and the blocking client costs a second and 20 MB to import.
Values are always parameters bound by the server. Answers are bounded in rows, bytes and time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlencode, urlsplit

import aiohttp
import msgspec
import structlog

from bursar_admin.errors import Refusal, unavailable

log = structlog.get_logger()

QUERY_TIME_S: Final = 25
"""Seconds a question may run at the server: below what the edge waits for an answer's head."""
CALL_TIMEOUT_S: Final = 30.0
"""Seconds until an answer must be there, waiting in the front's queue included."""
STREAM_TIMEOUT_S: Final = 600.0
"""Seconds for the whole of an export; a month of a large fleet takes some."""
CONNECT_TIMEOUT_S: Final = 3.0
QUESTIONS_AT_ONCE: Final = 4
"""Questions on their way: the front works on four at once; the others wait here, where leaving is cheap."""
QUESTIONS_WAITING: Final = 200
"""Questions that wait for their turn; a page asks about ten."""
MAX_ROWS: Final = 100_000
MAX_BYTES: Final = 32 << 20
"""Of one answer, held in memory while it is read."""
URL_BYTES: Final = 8_000
"""Parameters up to this size go into the address, larger ones into a form."""

_SETTINGS: Final[Mapping[str, str]] = {
    "default_format": "JSONCompact",
    "output_format_json_quote_64bit_integers": "1",
    "output_format_json_quote_denormals": "1",
    "max_execution_time": str(QUERY_TIME_S),
    "max_result_rows": str(MAX_ROWS),
    "max_result_bytes": str(MAX_BYTES),
    "result_overflow_mode": "throw",
    "session_timezone": "UTC",
    # Events of one request stand in one partition, so partitions need not be merged with each other.
    "do_not_merge_across_partitions_select_final": "1",
}
_PASSING: Final = frozenset({159, 160, 202, 209, 210, 241, 243, 394, 439, 999})
"""Server errors that pass by themselves (time, memory, too many questions)."""
_NOT_MIGRATED: Final = frozenset({60, 81, 47, 16})
"""Unknown table, database or column: the aggregator has not applied this release's schema yet."""
_INTEGERS: Final = ("Int", "UInt", "Nullable(Int", "Nullable(UInt")


class AnalyticsBroken(Exception):
    """An answer broke off after it had begun: what was received is not whole."""


class _Answer(msgspec.Struct):
    meta: list[dict[str, str]]
    data: list[list[Any]]


_decode = msgspec.json.Decoder(_Answer).decode


class Analytics:
    """A client of ClickHouse: ``rows`` for questions, ``stream`` for exports. Closed with the process."""

    def __init__(self, url: str, *, ca_file: Path | None = None) -> None:
        self._url = url
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        self._waiting = 0

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def rows(
        self, sql: str, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Rows by column name. Integers of any width are exact, 64-bit floats floats, times texts.

        Raises Refusal (503 with what to do; 400 where the question is too large to be answered)."""
        if not self._url:
            raise unavailable("No analytics are configured: set BURSAR_CLICKHOUSE_URL for admin-api.")
        if self._waiting >= QUESTIONS_WAITING:
            raise unavailable("Too many questions wait for the analytics; try again in a moment.")
        self._waiting += 1
        try:
            async with self._turns:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    return await self._ask(sql, parameters or {}, settings or {})
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("analytics_unreachable", error=type(error).__name__)
            raise unavailable(
                "The analytics (ClickHouse) do not answer now. Budgets and traffic are not affected; try again."
            ) from None
        finally:
            self._waiting -= 1

    async def stream(
        self, sql: str, parameters: Mapping[str, Any], output: str, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """The answer's bytes in ClickHouse's format ``output``, as they come: exports, of any length a server allows.

        Raises Refusal before the first bytes; AnalyticsBroken when the answer breaks off after them."""
        if not self._url:
            raise unavailable("No analytics are configured: set BURSAR_CLICKHOUSE_URL for admin-api.")
        started = False
        try:
            async with self._turns:
                address = {"default_format": output, "session_timezone": "UTC", **(settings or {})}
                async with self._post(sql, parameters, address, STREAM_TIMEOUT_S) as answer:
                    if answer.status != 200:
                        raise _refusal(answer, await _bounded(answer))
                    async for part in answer.content.iter_any():
                        started = True
                        yield part
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("analytics_unreachable", error=type(error).__name__)
            if started:
                raise AnalyticsBroken from None
            raise unavailable("The analytics (ClickHouse) do not answer now; try again.") from None

    async def _ask(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, str]) -> list[dict[str, Any]]:
        async with self._post(sql, parameters, {**_SETTINGS, **settings}, CALL_TIMEOUT_S) as answer:
            body = await _bounded(answer)
            if answer.status != 200:
                raise _refusal(answer, body)
        return read_rows(body)

    def _post(
        self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, str], timeout_s: float
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        bound = {f"param_{name}": literal(value) for name, value in parameters.items()}
        options: dict[str, Any] = {"data": sql.encode()}
        address = dict(settings)
        if sum(len(urlencode({name: value})) for name, value in bound.items()) <= URL_BYTES:
            address |= bound
        else:
            form = aiohttp.FormData(default_to_multipart=True)
            for name, value in {"query": sql, **bound}.items():
                form.add_field(name, value)
            options = {"data": form}
        session, base = self._connection()
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        return session.post(base, params=address, timeout=timeout, **options)

    def _connection(self) -> tuple[aiohttp.ClientSession, str]:
        parts = urlsplit(self._url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = parts.port or (8443 if parts.scheme == "https" else 8123)
        if self._session is None or self._session.closed:
            auth = None
            if parts.username:
                auth = aiohttp.BasicAuth(unquote(parts.username), unquote(parts.password or ""), encoding="utf-8")
            context: ssl.SSLContext | bool = True
            if parts.scheme == "https" and self._ca_file is not None:
                context = ssl.create_default_context(cafile=str(self._ca_file))
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=QUESTIONS_AT_ONCE, ssl=context),
                auth=auth,
                timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
            )
        return self._session, f"{parts.scheme}://{host}:{port}/"


def literal(value: Any) -> str:
    """A parameter's value as ClickHouse reads it (TSV escapes; quoted within arrays)."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    if isinstance(value, Sequence):
        # Arrays are read as they stand: only their elements are quoted, the whole has no further escapes.
        return "[" + ",".join(_element(each) for each in value) + "]"
    raise TypeError(f"cannot bind a {type(value).__name__}")


def _element(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def read_rows(body: bytes) -> list[dict[str, Any]]:
    """Rows of a JSONCompact answer. Raises Refusal (503) for anything else."""
    try:
        answer = _decode(body)
    except msgspec.MsgspecError:
        raise unavailable("The analytics (ClickHouse) gave an answer that cannot be read; try again.") from None
    names = [column["name"] for column in answer.meta]
    whole = [index for index, column in enumerate(answer.meta) if column["type"].startswith(_INTEGERS)]
    for row in answer.data:
        for index in whole:
            value = row[index]
            if isinstance(value, str):
                row[index] = int(value)
    return [dict(zip(names, row, strict=True)) for row in answer.data]


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > MAX_BYTES:
            answer.close()
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _refusal(answer: aiohttp.ClientResponse, body: bytes) -> Refusal:
    code_text = answer.headers.get("X-ClickHouse-Exception-Code", "")
    code = int(code_text) if code_text.isascii() and code_text.isdigit() else 0
    # Never the text at `info` or in an answer: ClickHouse quotes the statement, and with it what was asked for.
    log.warning("analytics_refused", status=answer.status, code=code)
    log.debug("analytics_refused_because", text=body[:500].decode(errors="replace"))
    if code in (396, 158, 307):
        return _too_large()
    if code in (159, 160, 241):
        return unavailable(
            "This question takes the analytics (ClickHouse) too long or too much memory: "
            "ask for a shorter range, or add a filter."
        )
    if code in _NOT_MIGRATED:
        return unavailable("The analytics are being prepared (their tables are not there yet); try again in a moment.")
    if answer.status in (401, 403) and code in (0, 192, 193, 194, 497, 516):
        return unavailable("The analytics (ClickHouse) do not let admin-api in: check BURSAR_CLICKHOUSE_URL.")
    if code in _PASSING or answer.status in (502, 503, 504):
        return unavailable("The analytics (ClickHouse) are busy; try again in a moment.")
    return Refusal(500, "internal_error", "The analytics did not understand the question; that is a fault of ours.")


def _too_large() -> Refusal:
    return Refusal(
        400, "invalid_request_error", "The answer would be too large: ask for a shorter range or a smaller limit."
    )
