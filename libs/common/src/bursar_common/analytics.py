"""The analytics port: ClickHouse through clickhouse-connect, wherever it runs.

``http(s)://user:password@host:port/database`` is a ClickHouse server, or the aggregator's HTTP front over chDB, which
speaks the same interface. ``chdb:////absolute/folder`` is the embedded engine itself; only the one process that owns
the folder (the aggregator of one machine) may open it.

:class:`Analytics` runs the blocking client on threads of its own. Reads may overlap; over ``chdb:`` they wait for each
other, because one connection serialises its queries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from clickhouse_connect import get_client
from clickhouse_connect.driver import options as client_options
from clickhouse_connect.driver.exceptions import ClickHouseError, Error, OperationalError
from urllib3.exceptions import HTTPError

from bursar_common.settings import SettingsError
from bursar_common.wire import INTERNAL_TOKEN_HEADER

T = TypeVar("T")

for _name in ("pd", "pd_time_test", "pl"):
    # The client imports pandas at the first insert, to see whether it was given a data frame: 2 s and 60 MB for
    # nothing. None is its own mark for "not installed".
    vars(client_options).setdefault(_name, None)

DATABASE = "bursar"
CONNECT_TIMEOUT_S = 5
"""Seconds to reach the server; longer means it is down, and whoever asks has its own way of waiting."""
QUERY_TIMEOUT_S = 60
"""Seconds of silence before a query is given up. The largest insert takes well under a second, the heaviest page query
is capped to 30 s by the front."""
CALLS_AT_ONCE = 4
"""Threads, hence calls in flight, of one Analytics. ClickHouse uses all cores for one query already."""

_UNAVAILABLE_CODES = frozenset(
    {
        159,  # TIMEOUT_EXCEEDED
        160,  # TOO_SLOW
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        279,  # ALL_CONNECTION_TRIES_FAILED
        319,  # UNKNOWN_STATUS_OF_INSERT
        394,  # QUERY_WAS_CANCELLED
        439,  # CANNOT_SCHEDULE_TASK
        999,  # KEEPER_EXCEPTION
    }
)
"""Server errors that pass by themselves."""


class AnalyticsUnavailable(Exception):
    """ClickHouse cannot be reached or cannot work now. Retryable; an insert may or may not have happened."""


class AnalyticsRefused(Exception):
    """ClickHouse answered that the statement itself is wrong (``code`` is its error number). Asking again will not
    help."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(message)
        self.code = code


class Analytics:
    """A connection to ClickHouse, opened at the first call. Safe to share between tasks of one event loop."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        internal_token: str = "",
        options: Mapping[str, str] | None = None,
    ) -> None:
        """``internal_token`` is sent along where the chDB front asks for it (inserts, DDL); never to a server that is
        not ours. ``options`` are engine options of ``chdb:``. Raises SettingsError for an address of another kind."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "chdb"):
            raise SettingsError(
                "BURSAR_CLICKHOUSE_URL must be http://, https:// (a server) or chdb:////absolute/folder (one machine)."
            )
        self.address = f"{parts.scheme}://{parts.hostname or ''}:{parts.port or ''}" if parts.hostname else url
        """For messages: the address without user and password."""
        self._parts = parts
        self._ca_file = ca_file
        self._internal_token = internal_token
        self._options = dict(options or {})
        self._client: Any = None
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="clickhouse")
        self._opening = asyncio.Lock()

    async def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a SELECT by column name. Tables are named with their database (``bursar.usage``); parameters are
        bound by the server: ``{name:Type}`` in the text.

        Raises AnalyticsUnavailable, AnalyticsRefused."""
        return await self._call(
            lambda client: list(client.query(sql, parameters=dict(parameters or {})).named_results())
        )

    async def command(self, sql: str) -> None:
        """Run a statement that answers nothing. Raises AnalyticsUnavailable, AnalyticsRefused."""
        await self._call(lambda client: client.command(sql))

    async def insert_columns(
        self, table: str, names: Sequence[str], types: Sequence[str], columns: Sequence[Sequence[Any]]
    ) -> None:
        """Insert one block, given by columns; when it returns the rows are in and readable.

        Raises AnalyticsUnavailable (the rows may be in), AnalyticsRefused."""
        await self._call(
            lambda client: client.insert(
                table,
                columns,
                column_names=list(names),
                column_type_names=list(types),
                column_oriented=True,
                database=DATABASE,
            )
        )

    async def export(self, sql: str, output_format: str) -> bytes:
        """The whole answer of a SELECT in one of ClickHouse's formats, held in memory.

        Raises AnalyticsUnavailable, AnalyticsRefused."""
        return await self._call(lambda client: bytes(client.raw_query(sql, fmt=output_format)))

    async def import_block(self, table: str, names: Sequence[str], data: bytes, input_format: str) -> None:
        """Insert what :meth:`export` gave. Raises AnalyticsUnavailable (the rows may be in), AnalyticsRefused."""
        await self._call(
            lambda client: client.raw_insert(
                f"{DATABASE}.{table}", column_names=list(names), insert_block=data, fmt=input_format
            )
        )

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, client.close)
        self._threads.shutdown(wait=False)

    async def _call(self, call: Callable[[Any], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with self._opening:
                if self._client is None:
                    self._client = await loop.run_in_executor(self._threads, self._open)
            return await loop.run_in_executor(self._threads, partial(call, self._client))
        except Error as error:
            if isinstance(error, OperationalError) and error.code is None:
                raise AnalyticsUnavailable(f"ClickHouse at {self.address} cannot be reached") from error
            if error.code in _UNAVAILABLE_CODES:
                raise AnalyticsUnavailable(f"ClickHouse at {self.address}: {_first_line(error)}") from error
            raise AnalyticsRefused(_first_line(error), error.code) from error
        except (HTTPError, OSError, ClickHouseError) as error:
            raise AnalyticsUnavailable(f"ClickHouse at {self.address} cannot be reached") from error

    def _open(self) -> Any:
        parts = self._parts
        if parts.scheme == "chdb":
            return get_client(
                interface="chdb", path="/" + parts.path.lstrip("/"), chdb_options=self._options, tz_mode="aware"
            )
        headers = {INTERNAL_TOKEN_HEADER: self._internal_token} if self._internal_token else {}
        return get_client(
            interface=parts.scheme,
            host=parts.hostname or "localhost",
            port=parts.port or (8443 if parts.scheme == "https" else 8123),
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            # Not the URL's database: it may not exist before the first migration, and every name here is qualified.
            database="default",
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=QUERY_TIMEOUT_S,
            query_retries=0,
            ca_cert=str(self._ca_file) if self._ca_file else None,
            headers=headers,
            autogenerate_session_id=False,
            tz_mode="aware",
        )


def _first_line(error: Exception) -> str:
    """The server's sentence, without the stack traces some versions add."""
    return str(error).strip().partition("\n")[0][:1000]
