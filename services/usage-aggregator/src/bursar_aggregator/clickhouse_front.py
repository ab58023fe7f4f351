"""chDB on ClickHouse's HTTP interface: for admin-api, people with curl, BI tools, and tests that need a "server".

Readers get one reading statement at a time, on a connection of their own, under caps (:mod:`bursar_aggregator.engine`,
:mod:`bursar_aggregator.statement`). Whoever has the internal token may do anything. Also a program of its own:
``python -m bursar_aggregator.clickhouse_front`` serves ``<home>/clickhouse``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
from aiohttp import web

from bursar_aggregator.engine import Answer, Engine, EngineError
from bursar_aggregator.front_access import Access, Denied, Role, access_of
from bursar_aggregator.front_request import MAX_BODY_BYTES, Asked, BadRequest, asked, decompressed
from bursar_aggregator.native_frames import compress_frames
from bursar_aggregator.statement import NotAllowed, check_tree, read_statement
from bursar_common.service import listen, run, until_signalled
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging

log = structlog.get_logger()
T = TypeVar("T")

QUERIES_AT_ONCE: Final = 4
"""Queries the engine works on at once; each may take READER_MEMORY_BYTES, and the machine has other work."""
QUERIES_WAITING: Final = 32
"""Queries that wait for one of those; more are told to come back (a page makes about ten)."""
READER_BODY_BYTES: Final = 1 << 20
"""Bytes of a reader's body: the longest statement (MAX_QUERY_CHARS) in any encoding, or a form with parameters."""
BODY_TIME_S: Final = 30.0
"""Seconds a body may take to arrive; callers are near."""
CHECKED_MOST: Final = 1_000
"""Texts that are remembered as allowed, by digest."""
FOLDER: Final = "clickhouse"
"""Folder of the engine's data below ``BURSAR_HOME``."""

_STATUS_OF_CODE: Final = {62: 400, 36: 400, 47: 404, 60: 404, 73: 400, 81: 404, 164: 403, 202: 503, 396: 400, 497: 403}
_INSERT: Final = re.compile(r"\s*INSERT\s+INTO\s+.+?\s+FORMAT\s+(\w+)\s*$", re.IGNORECASE | re.DOTALL)
_FORMAT_CLAUSE: Final = re.compile(r"\s+FORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_CONTENT_TYPES: Final = {
    "CSV": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "TabSep": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
}


class ClickHouseFront:
    """The HTTP application. Closing waits for queries that run; readers' are stopped."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self._engine = engine
        self._access = access
        self._threads = ThreadPoolExecutor(QUERIES_AT_ONCE, thread_name_prefix="chdb")
        self._turns = asyncio.Semaphore(QUERIES_AT_ONCE)
        self._waiting = 0
        self._running: set[str] = set()
        self._checked: set[bytes] = set()
        self._closing = False

    def application(self) -> web.Application:
        app = web.Application(client_max_size=READER_BODY_BYTES)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/livez", self._healthy)
        app.router.add_get("/readyz", self._healthy)
        app.router.add_route("*", "/", self._handle)
        return app

    async def close(self) -> None:
        self._closing = True
        while self._running:
            for tag in list(self._running):
                await asyncio.to_thread(self._engine.kill, tag)
            await asyncio.sleep(0.02)
        await asyncio.to_thread(self._threads.shutdown)

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _healthy(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _handle(self, request: web.Request) -> web.Response:
        query_id = request.query.get("query_id", "")
        try:
            return await self._answer(request)
        except Denied as error:
            return self._error(error.status, error.code, f"{error}. (AUTHENTICATION_FAILED)", query_id)
        except BadRequest as error:
            return self._error(error.status, error.code, f"{error}. (BAD_ARGUMENTS)", query_id)
        except NotAllowed as error:
            return self._error(403, 164, f"Not allowed for readers: {error}. (READONLY)", query_id)
        except web.HTTPRequestEntityTooLarge:
            return self._error(413, 62, f"a body has at most {READER_BODY_BYTES} bytes here. (SYNTAX_ERROR)", query_id)
        except TimeoutError:
            return self._error(408, 209, f"the body did not come within {BODY_TIME_S:g} s. (SOCKET_TIMEOUT)", query_id)
        except EngineError as error:
            return self._error(_STATUS_OF_CODE.get(error.code, 500), error.code, str(error), query_id)

    async def _answer(self, request: web.Request) -> web.Response:
        role = self._access.role(request.headers, request.query)
        if request.method not in ("GET", "HEAD", "POST"):
            raise BadRequest("GET and POST are served here", 1001, 405)
        # A GET may be made by a link in a page: it never writes, whatever it carries.
        if request.method != "POST":
            role = "reader"
        query = dict(request.query)
        async with asyncio.timeout(BODY_TIME_S):
            if request.content_type == "multipart/form-data":
                body = await self._form(request, query)
            else:
                raw = await _body(request, MAX_BODY_BYTES if role == "internal" else READER_BODY_BYTES)
                body = decompressed(raw, request.headers.get("Content-Encoding", "").lower())
        question = asked(query, request.headers, body, internal=role == "internal")
        if not question.statement.strip():
            return web.Response(text="Ok.\n")
        return await self._in_turn(question, role)

    async def _form(self, request: web.Request, query: dict[str, str]) -> bytes:
        """A form's fields are parameters; files (external tables) are not accepted."""
        for name, value in (await request.post()).items():
            if not isinstance(value, str):
                raise BadRequest("external tables are not accepted here", 48, 501)
            query[name] = value
        return b""

    async def _in_turn(self, question: Asked, role: Role) -> web.Response:
        if self._waiting >= QUERIES_WAITING or self._closing:
            raise EngineError(
                "Code: 202. DB::Exception: Too many queries wait here. (TOO_MANY_SIMULTANEOUS_QUERIES)", 202
            )
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            if role == "internal":
                return await self._trusted(question)
            return await self._reader(question)
        finally:
            self._turns.release()

    async def _reader(self, question: Asked) -> web.Response:
        reading = read_statement(question.statement)
        output_format = reading.format or question.default_format
        tag = uuid.uuid4().hex

        def work() -> Answer:
            self._check(reading.sql, question)
            return self._engine.read(
                reading.sql,
                output_format,
                database=question.database,
                settings=question.settings,
                parameters=question.parameters,
                tag=tag,
            )

        self._running.add(tag)
        working = asyncio.ensure_future(self._off_loop(work))
        try:
            answer = await asyncio.shield(working)
        except asyncio.CancelledError:
            # The client left. The engine's thread is ours until it returns, so the query is stopped, not abandoned.
            await asyncio.shield(self._stop(tag, working))
            raise
        finally:
            self._running.discard(tag)
        return await self._response(question, output_format, answer)

    def _check(self, sql: str, question: Asked) -> None:
        """The engine's tree of a text is the same each time, but for parameters that are names: pages ask the same
        texts again and again, with other values. Raises NotAllowed."""
        key = hashlib.blake2b(f"{question.database}\0{sql}".encode("utf-8", "surrogateescape")).digest()
        if key in self._checked:
            return
        check_tree(self._engine.tree(sql, database=question.database, parameters=question.parameters))
        if "identifier" not in sql.lower():
            if len(self._checked) >= CHECKED_MOST:
                self._checked.clear()
            self._checked.add(key)

    async def _stop(self, tag: str, working: asyncio.Future[Answer]) -> None:
        while not working.done():
            await asyncio.get_running_loop().run_in_executor(None, self._engine.kill, tag)
            await asyncio.wait({working}, timeout=0.5)
        if not working.cancelled():
            working.exception()

    async def _trusted(self, question: Asked) -> web.Response:
        insert = _INSERT.match(question.statement)
        if insert is not None and question.data:
            sql = question.statement[: _FORMAT_CLAUSE.search(question.statement).start()]  # type: ignore[union-attr]
            rows = await asyncio.shield(self._off_loop(partial(self._engine.insert, sql, insert[1], question.data)))
            return self._plain(question, {"written_rows": str(rows), "result_rows": str(rows)}, b"", insert[1])
        statement, output_format = question.statement, question.default_format
        if question.data:
            statement = f"{statement}\n{question.data.decode()}"
        clause = _FORMAT_CLAUSE.search(statement)
        if clause is not None:
            statement, output_format = statement[: clause.start()], clause[1]
        call = partial(
            self._engine.run_trusted,
            statement,
            output_format,
            database=question.database,
            settings=question.settings,
            parameters=question.parameters,
        )
        answer = await asyncio.shield(self._off_loop(call))
        return await self._response(question, output_format, answer)

    async def _response(self, question: Asked, output_format: str, answer: Answer) -> web.Response:
        body = answer.body
        if question.native_compression:
            body = await self._off_loop(partial(compress_frames, body))
        summary = {
            "read_rows": str(answer.read_rows),
            "read_bytes": str(answer.read_bytes),
            "result_rows": str(answer.rows),
            "result_bytes": str(len(answer.body)),
            "elapsed_ns": str(answer.elapsed_ns),
        }
        return self._plain(question, summary, body, output_format)

    def _plain(self, question: Asked, summary: dict[str, str], body: bytes, output_format: str) -> web.Response:
        kind = next((kind for start, kind in _CONTENT_TYPES.items() if output_format.startswith(start)), "text/plain")
        headers = {
            **self._headers(question.query_id or str(uuid.uuid4())),
            "Content-Type": kind,
            "X-ClickHouse-Format": output_format,
            "X-ClickHouse-Summary": json.dumps(summary),
        }
        return web.Response(body=body, headers=headers)

    def _error(self, status: int, code: int, message: str, query_id: str) -> web.Response:
        if not message.startswith("Code: "):
            message = f"Code: {code}. DB::Exception: {message}"
        headers = {
            **self._headers(query_id if query_id.isascii() and query_id.isprintable() else ""),
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Exception-Code": str(code),
        }
        if status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="Bursar analytics"'
        text = f"{message} (version {self._engine.version} (embedded))\n"
        return web.Response(status=status, body=text.encode(), headers=headers)

    def _headers(self, query_id: str) -> dict[str, str]:
        return {
            "X-ClickHouse-Server-Display-Name": "bursar",
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": "UTC",
            "X-Content-Type-Options": "nosniff",
        }

    async def _off_loop(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


async def _body(request: web.Request, max_bytes: int) -> bytes:
    """The body as it came. Raises BadRequest as soon as it is too large."""
    parts: list[bytes] = []
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > max_bytes:
            raise BadRequest(f"a body has at most {max_bytes} bytes here", 62, 413)
        parts.append(part)
    return b"".join(parts)


async def serve(front: ClickHouseFront, address: str) -> web.AppRunner:
    """Serve the front on ``host:port``; the runner's ``cleanup`` ends it."""
    runner = web.AppRunner(
        front.application(),
        access_log=None,
        handler_cancellation=True,
        auto_decompress=False,
        shutdown_timeout=2.0,
        max_line_size=65_536,
        max_field_size=65_536,
    )
    await runner.setup()
    await listen(runner, address)
    return runner


def engine_folder(settings: Settings) -> Path:
    """Where the embedded engine keeps its data. Raises SettingsError."""
    if settings.clickhouse_url.startswith("chdb:"):
        return Path("/" + settings.clickhouse_url.removeprefix("chdb:").lstrip("/"))
    if settings.home is None:
        raise SettingsError("BURSAR_HOME is not set, and the embedded ClickHouse keeps its data there.")
    return settings.home / FOLDER


async def main(settings: Settings) -> int:
    """The front alone, until SIGTERM."""
    access = access_of(settings)
    engine = await asyncio.to_thread(Engine, engine_folder(settings))
    front = ClickHouseFront(engine, access)
    runner = await serve(front, settings.clickhouse_listen)
    log.info("serving", address=settings.clickhouse_listen)
    await until_signalled()
    await front.close()
    await runner.cleanup()
    engine.close()
    return 0


if __name__ == "__main__":
    try:
        _settings = load_settings(os.environ, required=("home", "internal_token"))
        configure_logging("clickhouse-front", _settings.log_level)
        sys.exit(run(lambda: main(_settings)))
    except (SettingsError, EngineError) as _error:
        sys.stderr.write(f"{_error}\n")
        sys.exit(2)
