"""chDB's HTTP front as its clients see it: what it serves, in which forms, and what it does not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import clickhouse_connect
import lz4.block
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from bursar_aggregator.engine import READER_TIME_S
from bursar_aggregator.migrations import load_migrations, migrate
from bursar_aggregator.native_frames import frame_hash
from bursar_aggregator.rows import COLUMN_TYPES, COLUMNS, TABLE
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from tests.harness.processes import ServiceProcess, eventually, free_port

TOKEN = "token-of-the-tests"
TOKEN_HEADER = {"x-bursar-internal-token": TOKEN}
SECRET = "content-of-a-file-of-this-machine"


class Front:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.process = ServiceProcess(
            "bursar_aggregator.clickhouse_front",
            env={
                "BURSAR_HOME": str(folder / "home"),
                "BURSAR_CLICKHOUSE_LISTEN": f"127.0.0.1:{self.port}",
                "BURSAR_INTERNAL_TOKEN": TOKEN,
                "BURSAR_PUBLIC_HOSTS": "bi.example",
            },
            address=f"127.0.0.1:{self.port}",
            folder=folder,
        )
        self.session: aiohttp.ClientSession = None  # type: ignore[assignment]

    async def ask(self, sql: str, **options: Any) -> tuple[int, str]:
        params = options.pop("params", {})
        async with self.session.post(self.url, data=sql.encode(), params=params, **options) as answer:
            return answer.status, (await answer.read()).decode(errors="replace")

    async def value(self, sql: str, **options: Any) -> str:
        status, text = await self.ask(sql, **options)
        assert status == 200, text
        return text.rstrip("\n")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One process for the module; tests leave it as they found it."""
    front = Front(tmp_path_factory.mktemp("front"))
    (front.folder / "file.csv").write_text(SECRET)

    async def prepare() -> None:
        await front.process.ready()
        analytics = Analytics(front.url, internal_token=TOKEN)
        await migrate(analytics, load_migrations())
        await analytics.close()

    with front.process:
        asyncio.run(prepare())
        yield front


@pytest.fixture
async def front(running: Front) -> AsyncIterator[Front]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        running.session = session
        yield running


async def test_curl_and_the_forms_of_asking(front: Front) -> None:
    async with front.session.get(front.url) as answer:
        assert (answer.status, await answer.text()) == (200, "Ok.\n")
    async with front.session.get(front.url + "ping") as answer:
        assert (answer.status, await answer.text()) == (200, "Ok.\n")
    async with front.session.get(front.url, params={"query": "SELECT 1 AS a FORMAT JSON"}) as answer:
        assert answer.headers["X-ClickHouse-Format"] == "JSON"
        assert answer.headers["Content-Type"].startswith("application/json")
        assert json.loads(await answer.text())["data"] == [{"a": 1}]
    async with front.session.post(front.url, data=b"SELECT 1", params={"query_id": "mine"}) as answer:
        assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
        assert json.loads(answer.headers["X-ClickHouse-Summary"])["result_rows"] == "1"
    assert await front.value("1", params={"query": "SELECT"}) == "1"
    assert await front.value("SELECT {x:String}", params={"param_x": "it's"}) == "it\\'s"
    assert await front.value("SELECT 1, 'a'", params={"default_format": "CSV"}) == '1,"a"'
    assert await front.value("SELECT 1, 'a'", headers={"X-ClickHouse-Format": "CSV"}) == '1,"a"'
    assert await front.value("SELECT currentDatabase()") == "bursar"
    assert await front.value("SELECT currentDatabase()", params={"database": "system"}) == "system"
    assert await front.value("SELECT currentDatabase()", headers={"X-ClickHouse-Database": "default"}) == "default"
    assert await front.value("SELECT timezone(), toHour(toDateTime(0))") == "UTC\t0"
    form = aiohttp.FormData({"query": "SELECT {x:UInt8}", "param_x": "7"}, default_to_multipart=True)
    async with front.session.post(front.url, data=form) as answer:
        assert await answer.text() == "7\n"


@pytest.mark.parametrize("name", ["Parquet", "Arrow", "RowBinaryWithNamesAndTypes", "Native", "Pretty", "XML", "Null"])
async def test_formats(front: Front, name: str) -> None:
    async with front.session.post(front.url, data=f"SELECT number FROM numbers(3) FORMAT {name}".encode()) as answer:
        body = await answer.read()
        assert answer.status == 200
        assert answer.headers["X-ClickHouse-Format"] == name
        assert bool(body) == (name != "Null")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM file('{path}')",
        "SELECT * FROM file('{path}', 'LineAsString')",
        "SELECT file('{path}')",
        "SELECT `file`('{path}')",
        "SELECT * FROM (SELECT 1) AS a, (SELECT file('{path}')) AS b",
        "WITH (SELECT file('{path}')) AS x SELECT x",
        "SELECT * FROM default.`{path}`",
        "SELECT * FROM `{path}`",
        "DESCRIBE TABLE file('{path}')",
        "DESCRIBE (SELECT file('{path}') AS x)",
        "EXPLAIN SELECT * FROM file('{path}')",
        "SELECT * FROM view(SELECT * FROM file('{path}'))",
        "SELECT * FROM fileCluster('default', '{path}')",
        "SELECT 1 WHERE 'x' IN (SELECT * FROM file('{path}'))",
        "SELECT * FROM url('http://127.0.0.1:{port}/ping')",
        "DESCRIBE TABLE url('http://127.0.0.1:{port}/ping')",
        "SELECT * FROM s3('http://127.0.0.1:{port}/ping')",
        "SELECT * FROM remote('127.0.0.1', system.one)",
        "SELECT * FROM cluster('default', system.one)",
        "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        "SELECT * FROM sqlite('{path}', 't')",
        "SELECT * FROM executable('ls', 'TSV', 'a String')",
        "SELECT * FROM python(x)",
        "SELECT * FROM Python(x)",
        "SELECT * FROM eval('SELECT 1')",
        "SELECT * FROM merge('bursar', '.*')",
        "SELECT * FROM loop(system.one)",
        "SELECT hasColumnInTable('127.0.0.1:1', 'a', 'b', 'c')",
        "SELECT 1 INTO OUTFILE '{path}.out'",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE bursar.usage_events",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1 SETTINGS max_execution_time = 100000",
        "INSERT INTO bursar.usage_events (request_id) VALUES ('x')",
        "INSERT INTO FUNCTION file('{path}.out', 'CSV', 'a Int8') VALUES (1)",
        "WITH 1 AS x INSERT INTO bursar.usage_events (request_id) SELECT 'x'",
        "CREATE TABLE bursar.x (a Int8) ENGINE = Memory",
        "CREATE TEMPORARY TABLE x (a Int8)",
        "CREATE FUNCTION f AS () -> 1",
        "DROP TABLE bursar.usage_events",
        "TRUNCATE TABLE bursar.usage_events",
        "ALTER TABLE bursar.usage_events DELETE WHERE 1",
        "OPTIMIZE TABLE bursar.usage_events",
        "RENAME TABLE bursar.usage_events TO bursar.x",
        "SET readonly = 0",
        "USE system",
        "KILL QUERY WHERE 1",
        "SYSTEM FLUSH LOGS",
        "GRANT ALL ON *.* TO default",
        "ATTACH DATABASE x ENGINE = Atomic",
        "BACKUP DATABASE bursar TO File('{path}.out')",
    ],
)
async def test_what_readers_cannot_do(front: Front, sql: str) -> None:
    path = front.folder / "file.csv"
    status, text = await front.ask(sql.format(path=path, port=front.port))
    assert status >= 400
    assert text.startswith("Code: ")
    assert SECRET not in text
    assert not path.with_suffix(".csv.out").exists()
    assert (
        await front.value("SELECT count() FROM system.tables WHERE database = 'bursar' AND name = 'usage_events'")
        == "1"
    )


async def test_caps_on_time_memory_and_size(front: Front) -> None:
    params = {"max_execution_time": "1"}
    status, text = await front.ask("SELECT count() FROM numbers(1000000000000)", params=params)
    assert (status, "TIMEOUT_EXCEEDED" in text) == (500, True)
    status, text = await front.ask("SELECT length(groupArray(number)) FROM numbers(1000000000)")
    assert "MEMORY_LIMIT_EXCEEDED" in text
    status, text = await front.ask("SELECT number FROM numbers(1000001)")
    assert "TOO_MANY_ROWS" in text
    status, text = await front.ask("SELECT repeat('x', 1000000) FROM numbers(50)")
    assert (status, "TOO_MANY_ROWS_OR_BYTES" in text) == (400, True)
    status, text = await front.ask("SELECT repeat('x', 1000000) FROM numbers(100000)")
    assert "MEMORY_LIMIT_EXCEEDED" in text
    # A cap can be made tighter, never wider.
    for name, wider in (("max_memory_usage", 1 << 50), ("max_execution_time", 10**6), ("max_result_rows", 0)):
        default = await front.value(f"SELECT getSetting('{name}')")
        assert await front.value(f"SELECT getSetting('{name}')", params={name: str(wider)}) == default
        assert await front.value(
            f"SELECT getSetting('{name}')", params={name: "1000000"[: -1 if name[4] == "e" else 7]}
        )
    assert await front.value("SELECT getSetting('readonly')", params={"readonly": "0"}) == "1"
    # As DBeaver asks for the first page of a table.
    page = {"max_result_rows": "3", "result_overflow_mode": "break", "max_block_size": "1"}
    assert len((await front.value("SELECT number FROM numbers(100)", params=page)).splitlines()) < 100
    status, _ = await front.ask("SELECT 1", params={"max_insert_threads": "4"})
    assert status == 403


async def test_heads_of_requests_that_are_refused(front: Front) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://127.0.0.1"}, {"Sec-Fetch-Site": "cross-site"}):
        status, text = await front.ask("SELECT 1", headers=headers)
        assert (status, text.startswith("Code: 195")) == (403, True)
    assert await front.value("SELECT 1", headers={"Host": f"bi.example:{front.port}"}) == "1"
    status, text = await front.ask("SELECT 1 -- " + "x" * (1 << 20))
    assert (status, text.startswith("Code: 62")) == (413, True)
    async with front.session.put(front.url, data=b"SELECT 1") as answer:
        assert answer.status == 405
    # The token does not make a GET write: a link in a page could carry a password.
    params = {"query": "DROP TABLE bursar.usage_events", "password": TOKEN}
    async with front.session.get(front.url, params=params) as answer:
        assert answer.status == 403


async def test_errors_are_clickhouses_own(front: Front) -> None:
    for sql, status, code, name in (
        ("SELECT", 400, "62", "SYNTAX_ERROR"),
        ("SELECT nope", 404, "47", "UNKNOWN_IDENTIFIER"),
        ("SELECT * FROM nope", 404, "60", "UNKNOWN_TABLE"),
        ("SELECT {x:UInt8}", 500, "456", "UNKNOWN_QUERY_PARAMETER"),
        ("SELECT 1 FORMAT Nope", 400, "73", "UNKNOWN_FORMAT"),
    ):
        async with front.session.post(front.url, data=sql.encode()) as answer:
            text = await answer.text()
            assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (status, code), text
            assert text.startswith(f"Code: {code}. DB::Exception: ")
            assert f"({name})" in text


async def test_a_readers_query_ends_when_the_reader_leaves(front: Front) -> None:
    began_s = time.monotonic()
    asking = asyncio.ensure_future(front.ask("SELECT count(), 'endless' FROM numbers(1000000000000)"))
    running = (
        "SELECT count() FROM system.processes WHERE query LIKE '%endless%' AND query NOT LIKE '%system.processes%'"
    )

    async def seen(count: str) -> bool:
        return await front.value(running) == count

    await eventually(lambda: seen("1"))
    asking.cancel()
    # Before its own time is over.
    await eventually(lambda: seen("0"), READER_TIME_S - 2 - (time.monotonic() - began_s))


async def test_more_readers_than_turns_wait_for_theirs(front: Front) -> None:
    answers = await asyncio.gather(*(front.value(f"SELECT {n} + sleep(0.05)") for n in range(20)))
    assert answers == [str(n) for n in range(20)]
    crowd = await asyncio.gather(*(front.ask("SELECT sleep(1)") for _ in range(90)))
    assert {status for status, _ in crowd} == {200, 503}
    assert all("TOO_MANY_SIMULTANEOUS_QUERIES" in text for status, text in crowd if status == 503)


async def test_connections_share_nothing(front: Front) -> None:
    await front.value("SELECT 1", params={"max_result_rows": "5", "database": "system", "session_id": "s"})
    assert await front.value("SELECT getSetting('max_result_rows'), currentDatabase()", params={"session_id": "s"}) == (
        "1000000\tbursar"
    )


async def test_clickhouse_connect_reads(front: Front) -> None:
    client = await asyncio.to_thread(
        clickhouse_connect.get_client, host="127.0.0.1", port=front.port, database="bursar"
    )
    rows = client.query(
        "SELECT {a:String}, {b:Array(UInt64)}, toDecimal128('8000000000.123456789', 9), NULL, map('k', 'v')",
        parameters={"a": "it's\t\\", "b": [1, 2]},
    ).result_rows
    assert rows == [("it's\t\\", [1, 2], Decimal("8000000000.123456789"), None, {"k": "v"})]
    assert client.query("SELECT number FROM numbers(100000)").row_count == 100_000
    assert client.command("SELECT count() FROM usage") == 0
    assert len(client.query("SELECT * FROM usage LIMIT 0").column_names) == 60
    with pytest.raises(DatabaseError) as refused:
        client.command("DROP TABLE bursar.usage_events")
    assert refused.value.code == 164
    with pytest.raises(DatabaseError):
        client.insert("usage_events", [["x"]], column_names=["request_id"], column_type_names=["String"])
    client.close()
    for compress in ("lz4", "zstd", "gzip", False):
        client = await asyncio.to_thread(
            clickhouse_connect.get_client, host="127.0.0.1", port=front.port, compress=compress, headers=TOKEN_HEADER
        )
        client.insert("people", [["u", "Ann", 1]], column_names=["user_id", "name", "version"], database="bursar")
        assert client.query("SELECT name FROM bursar.people FINAL").result_rows == [("Ann",)]
        client.close()


async def test_the_port_tells_unavailable_from_refused(tmp_path: Path) -> None:
    front = Front(tmp_path)
    front.process.start()
    await front.process.ready()
    analytics = Analytics(front.url)
    assert await analytics.query("SELECT {n:UInt8} + 1 AS n", {"n": 1}) == [{"n": 2}]
    with pytest.raises(AnalyticsRefused) as refused:
        await analytics.query("SELECT nope")
    assert refused.value.code == 47
    assert front.process.terminate() == 0
    with pytest.raises(AnalyticsUnavailable):
        await analytics.query("SELECT 1")
    with pytest.raises(AnalyticsUnavailable):
        await analytics.insert_columns(TABLE, COLUMNS[:1], COLUMN_TYPES[:1], [["x"]])
    await analytics.close()


async def test_native_compression_as_the_jdbc_driver_asks_for_it(front: Front) -> None:
    params = {"compress": "1", "default_format": "RowBinaryWithNamesAndTypes", "database": "default"}
    headers = {"User-Agent": "jdbc-v2/0.9.0", "Authorization": "Basic ZGVmYXVsdDo="}
    async with front.session.post(
        front.url, data=b"SELECT number FROM numbers(300000)", params=params, headers=headers
    ) as answer:
        body = await answer.read()
    plain = b""
    while body:
        size = int.from_bytes(body[17:21], "little")
        frame = body[16 : 16 + size]
        assert body[:16] == frame_hash(frame)
        assert frame[0] == 0x82
        plain += lz4.block.decompress(frame[9:], uncompressed_size=int.from_bytes(frame[5:9], "little"))
        body = body[16 + size :]
    assert plain == b"\x01\x06number\x06UInt64" + b"".join(number.to_bytes(8, "little") for number in range(300_000))
