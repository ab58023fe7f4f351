"""The embedded ClickHouse (chDB): one data folder, opened by one process, many connections.

Measured on chDB 26.9: connections of one process to one folder are independent (own settings, own current database,
queries side by side), opening one takes 0.4 ms, and one connection serialises its queries. So each reader's query gets
a connection of its own, capped and then made read-only, and closed after it. Calls block: run them on threads.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

READER_MEMORY_BYTES: Final = 256 << 20
"""Memory of one reader's query, its answer included: a GROUP BY with some million groups."""
SERVER_MEMORY_BYTES: Final = 1536 << 20
"""Memory of the whole engine; a query that would exceed it fails, the process lives."""
READER_TIME_S: Final = 30
"""Seconds a reader's query may run."""
READER_RESULT_ROWS: Final = 1_000_000
READER_RESULT_BYTES: Final = 32 << 20
"""Size of one answer, which is held in memory before it is sent."""
READER_THREADS: Final = 2
"""Cores a reader's query may use: the machine also serves requests."""
CACHE_BYTES: Final = 32 << 20
"""Each of the engine's caches (defaults are up to 5 GiB, made for servers)."""

ENGINE_OPTIONS: Final[Mapping[str, str]] = {
    "max_server_memory_usage": str(SERVER_MEMORY_BYTES),
    "mark_cache_size": str(CACHE_BYTES),
    "index_mark_cache_size": str(CACHE_BYTES),
    "primary_index_cache_size": str(CACHE_BYTES),
    "query_condition_cache_size": str(CACHE_BYTES),
    "background_pool_size": "2",
}

_ERROR = re.compile(r"Code: (\d+)\. DB::Exception: ")
_NESTED = re.compile(
    r"^(?:Code: \d+\. DB::Exception: )+(?=Code: \d+\. DB::Exception: )| \(\w+\) \(version [^)]*\)\.(?= \()"
)


class EngineError(Exception):
    """The engine's answer to a statement, in ClickHouse's own words. ``code`` is its error number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Answer(msgspec.Struct, frozen=True):
    body: bytes
    rows: int
    read_rows: int
    read_bytes: int
    elapsed_ns: int


class Engine:
    """The engine on ``folder``, which is created if absent. Closing it waits for its own connection only."""

    def __init__(self, folder: Path) -> None:
        """Raises EngineError when another process has the folder open."""
        # chDB compares paths as text and changes the working directory while it is imported.
        self.path = os.path.realpath(folder)
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        self._chdb = _import_chdb()
        self._main_lock = threading.Lock()
        self._main = self._connect(f"{self.path}?{urlencode(ENGINE_OPTIONS)}")
        self._replace_default_database()
        self.run_main("CREATE DATABASE IF NOT EXISTS bursar COMMENT 'Bursar: usage and its cost'", "Null")
        self.version = self.run_main("SELECT version()", "TSVRaw").body.decode().strip()

    def _connect(self, text: str) -> Any:
        try:
            return self._chdb.connect(text)
        except RuntimeError as error:
            raise _engine_error(error) from None

    def _replace_default_database(self) -> None:
        """chDB's ``default`` reads any file of the machine as a table; ours is an ordinary, empty database."""
        engine = self.run_main("SELECT engine FROM system.databases WHERE name = 'default'", "TSVRaw").body.strip()
        if engine != b"Atomic":
            if engine:
                self.run_main("DROP DATABASE default", "Null")
            self.run_main("CREATE DATABASE default ENGINE = Atomic", "Null")

    def run_main(self, sql: str, output_format: str) -> Answer:
        """Run a trusted statement on the engine's own connection, one at a time. Raises EngineError."""
        with self._main_lock:
            return _run(self._main, sql, output_format, {})

    def insert(self, sql: str, input_format: str, body: bytes) -> int:
        """Insert ``body`` (in ``input_format``) with ``INSERT INTO table (columns)``; returns rows written. Trusted
        callers only. Raises EngineError."""
        with _Session(self, ()) as connection:
            try:
                inserter = connection.send_insert(sql, input_format)
            except RuntimeError as error:
                raise _engine_error(error) from None
            try:
                connection.insert_append(inserter, body)
                result = connection.insert_done(inserter)
            except RuntimeError as error:
                raise _engine_error(error) from None
            return int(result.rows_written())

    def run_trusted(
        self,
        sql: str,
        output_format: str,
        *,
        database: str,
        settings: Mapping[str, str],
        parameters: Mapping[str, str],
    ) -> Answer:
        """Run anything on a connection of its own. Raises EngineError."""
        assignments = [f"`{name}` = {quote(value)}" for name, value in settings.items()]
        with _Session(self, assignments, database) as connection:
            return _run(connection, sql, output_format, parameters)

    def read(
        self,
        sql: str,
        output_format: str,
        *,
        database: str,
        settings: Mapping[str, str],
        parameters: Mapping[str, str],
        tag: str,
    ) -> Answer:
        """Run a reader's statement, already checked, under the caps and read-only. ``settings`` are applied before
        the caps; ``tag`` names it for :meth:`kill`. Raises EngineError."""
        with self._reader(database, settings) as connection:
            answer = _run(connection, sql + _mark(tag), output_format, parameters)
        # The engine's own cap counts a constant column once; this one counts what would be sent.
        if len(answer.body) > READER_RESULT_BYTES:
            message = f"Limit for result exceeded, max bytes: {READER_RESULT_BYTES}. (TOO_MANY_ROWS_OR_BYTES)"
            raise EngineError(f"Code: 396. DB::Exception: {message}", 396)
        return answer

    def tree(self, sql: str, *, database: str, parameters: Mapping[str, str]) -> list[str]:
        """The engine's syntax tree of a statement, which is not run. Raises EngineError."""
        with self._reader(database, {}) as connection:
            # Not raw: a line break within a name must not look like a line of the tree.
            answer = _run(connection, "EXPLAIN AST " + sql, "TSV", parameters)
        return answer.body.decode(errors="replace").splitlines()

    def kill(self, tag: str) -> None:
        """Stop the reader's statement of that tag, if it still runs."""
        self.run_main(f"KILL QUERY WHERE endsWith(query, {quote(_mark(tag))}) ASYNC", "Null")

    def _reader(self, database: str, settings: Mapping[str, str]) -> _Session:
        caps = {
            "max_memory_usage": READER_MEMORY_BYTES,
            "max_execution_time": READER_TIME_S,
            "max_result_rows": READER_RESULT_ROWS,
            "max_result_bytes": READER_RESULT_BYTES,
            "max_threads": READER_THREADS,
        }
        assignments = ["session_timezone = 'UTC'", "result_overflow_mode = 'throw'"]
        assignments += [f"`{name}` = {quote(value)}" for name, value in settings.items() if name not in caps]
        for name, cap in caps.items():
            wanted = settings.get(name, "")
            lower = wanted.isascii() and wanted.isdigit() and 0 < int(wanted) < cap
            assignments.append(f"{name} = {int(wanted) if lower else cap}")
        # Last: from here on the connection can change nothing, not even its settings.
        assignments.append("readonly = 1")
        return _Session(self, assignments, database)

    def close(self) -> None:
        """Idempotent."""
        if self._main is not None:
            self._main.close()
            self._main = None


class _Session:
    """A connection for one statement."""

    def __init__(self, engine: Engine, assignments: list[str] | tuple[str, ...], database: str = "") -> None:
        self._engine = engine
        self._assignments = assignments
        self._database = database

    def __enter__(self) -> Any:
        self._connection = self._engine._connect(self._engine.path)
        try:
            if self._database:
                _run(self._connection, f"USE {quote_name(self._database)}", "Null", {})
            if self._assignments:
                _run(self._connection, "SET " + ", ".join(self._assignments), "Null", {})
        except BaseException:
            self._connection.close()
            raise
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


def _import_chdb() -> Any:
    """The engine's module, without the 40 MB of pyarrow that its Python interface imports if there."""
    hidden = "pyarrow" not in sys.modules
    if hidden:
        sys.modules["pyarrow"] = None  # type: ignore[assignment]
    try:
        from chdb import _chdb
    finally:
        if hidden:
            del sys.modules["pyarrow"]
    return _chdb


def quote(text: str) -> str:
    """A ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(text: str) -> str:
    """A ClickHouse identifier."""
    return "`" + text.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _mark(tag: str) -> str:
    # At the end, so that positions in error messages are the caller's; on a line of its own behind any comment.
    return f"\n/* bursar-query:{tag} */"


def _run(connection: Any, sql: str, output_format: str, parameters: Mapping[str, str]) -> Answer:
    try:
        result = connection.query(sql, output_format, params=dict(parameters))
    except RuntimeError as error:
        raise _engine_error(error) from None
    return Answer(
        body=result.bytes(),
        rows=result.rows_read(),
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        elapsed_ns=int(result.elapsed() * 1e9),
    )


def _engine_error(error: Exception) -> EngineError:
    text = str(error).strip()
    match = _ERROR.search(text)
    if match is None:
        return EngineError(f"Code: 1001. DB::Exception: {text} (STD_EXCEPTION)", 1001)
    return EngineError(_NESTED.sub("", text[match.start() :]), int(match[1]))
