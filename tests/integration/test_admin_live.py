"""The live stream of admin-api: web socket and Server-Sent Events on a real SQLite log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bursar_admin import live as live_module
from bursar_admin.live import LiveFeed
from bursar_admin.queries.criteria import criteria
from bursar_admin.queries.filters import Filters
from bursar_admin.routes import live as live_routes
from bursar_common.eventlog.port import NewRecord
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import USAGE_TOPIC
from tests.harness.admin import Admin, running_admin
from tests.harness.processes import eventually
from tests.harness.usage_events import request_id, usage, usage_record

TOKEN = "an-admin-token"
WAIT_S = 60.0


async def record(admin: Admin, *numbers: int, **fields: Any) -> None:
    await admin.desk.journal.event_log.append([usage_record(usage(number, **fields)) for number in numbers])


async def messages(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(WAIT_S):
        return [json.loads(await socket.receive_str()) for _ in range(count)]


async def connect(admin: Admin, query: str = "", **headers: str) -> aiohttp.ClientWebSocketResponse:
    return await admin.session.ws_connect(f"http://admin/ws{query}", headers={"Host": "localhost", **headers})


async def test_a_web_socket_gets_what_is_new_and_matches(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        await record(admin, 1)
        socket = await connect(admin, "?team=platform-engineering&model=claude-opus-4-6")
        assert await messages(socket, 1) == [
            {"type": "hello", "filters": {"team": ["platform-engineering"], "model": ["claude-opus-4-6"]}}
        ]
        await record(admin, 2)
        await admin.desk.journal.event_log.append([NewRecord(USAGE_TOPIC, "k", b"poison")])
        await record(admin, 3, model="claude-opus-4-6", tags={"x": "<script>"})
        (message,) = await messages(socket, 1)
        assert message["type"] == "log"
        assert message["log"]["id"] == request_id(3)
        assert message["log"]["cost_usd"] == "1.000000004"
        assert message["log"]["tags"] == {"x": "<script>"}
        await socket.close()
        assert socket.close_code == 1000
        await eventually(lambda: _value(admin.desk.live.watchers == 0), WAIT_S)
        # Watching again begins anew.
        socket = await connect(admin)
        await messages(socket, 1)
        await record(admin, 4)
        assert (await messages(socket, 1))[0]["log"]["id"] == request_id(4)


async def _value(found: bool) -> bool:
    return found


async def test_server_sent_events(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        async with admin.session.get(
            "http://admin/api/logs/stream?outcome=refused", headers={"Host": "localhost"}
        ) as got:
            assert got.status == 200
            assert got.content_type == "text/event-stream"
            assert await got.content.readuntil(b"\n\n") == (
                b'retry: 3000\nevent: hello\ndata: {"type":"hello","filters":{"outcome":["refused"]}}\n\n'
            )
            await record(admin, 1)
            await record(admin, 2, outcome="refused", refused_by="budget_spent", cost_nusd=0)
            async with asyncio.timeout(WAIT_S):
                event = await got.content.readuntil(b"\n\n")
            assert event.startswith(b"event: log\ndata: ")
            assert json.loads(event.partition(b"data: ")[2])["log"]["id"] == request_id(2)


@pytest.mark.parametrize(
    ("query", "field"),
    [("?temas=x", "temas"), ("?from=2026-01-01", ""), ("?min_tokens=-1", "min_tokens"), ("?outcome=nope", "outcome")],
)
async def test_wrong_filters_are_refused_before_the_upgrade(tmp_path: Path, query: str, field: str) -> None:
    async with running_admin(tmp_path) as admin:
        for path in ("/ws", "/api/logs/stream"):
            headers = {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                       "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
            status, answer, _ = await admin.call("GET", path + query, headers=headers if path == "/ws" else {})
            assert status == 400, answer
            assert answer["error"]["field"] == field
        status, answer, headers_back = await admin.call("GET", "/ws")
        assert status == 426
        assert headers_back["Upgrade"] == "websocket"


async def test_foreign_pages_and_strangers_may_not_watch(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await connect(admin, **headers)
            assert refused.value.status == 403
        await (await connect(admin, Origin="http://localhost")).close()
    async with running_admin(tmp_path, admin_token=TOKEN, name="other") as admin:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connect(admin)
        assert refused.value.status == 401
        await (await connect(admin, Authorization=f"Bearer {TOKEN}")).close()


async def test_more_watchers_than_there_may_be_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MAX_WATCHERS", 2)
    async with running_admin(tmp_path) as admin:
        sockets = [await connect(admin) for _ in range(2)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connect(admin)
        assert refused.value.status == 503
        await sockets[0].close()
        await eventually(lambda: _value(admin.desk.live.watchers == 1), WAIT_S)
        await (await connect(admin)).close()


async def test_a_talkative_watcher_is_sent_away(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        socket = await connect(admin)
        for _ in range(100):
            try:
                await socket.send_str("hello?")
            except ConnectionError:
                break
        async with asyncio.timeout(WAIT_S):
            while not (await socket.receive()).type.name.startswith("CLOS"):
                pass
        assert socket.close_code == 1008
        await eventually(lambda: _value(admin.desk.live.watchers == 0), WAIT_S)


async def test_a_slow_reader_is_told_what_it_lost_and_finally_sent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MAX_WAITING", 5)
    monkeypatch.setattr(live_module, "MAX_DROPPED", 50)
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    feed = LiveFeed(log, lambda _: "")
    watcher = await feed.join(criteria(Filters(), {}))
    other = await feed.join(criteria(Filters(), {}))
    seen: list[bytes] = []

    async def read_on() -> bool:
        seen.extend(await other.next(0.05))
        other.taken()
        return len(seen) >= 12

    for number in range(12):
        await log.append([usage_record(usage(number))])
        await eventually(lambda number=number: _value(_offered(watcher, number + 1)), WAIT_S)
        await read_on()
    await eventually(read_on, WAIT_S)
    assert len(seen) == 12  # the one beside it lost nothing
    got = [json.loads(message) for message in await watcher.next(1)]
    assert [message["type"] for message in got] == ["log"] * 5 + ["dropped"]
    assert got[-1]["count"] == feed.dropped == 7
    assert not watcher.over
    await log.append([usage_record(usage(number)) for number in range(20, 80)])
    await eventually(lambda: _value(bool(watcher.over)), WAIT_S)
    assert "slowly" in watcher.over
    feed.leave(watcher)
    feed.leave(other)
    await feed.close()
    await log.close()


async def test_who_is_sent_away_gets_what_waited_and_hears_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MAX_WAITING", 5)
    monkeypatch.setattr(live_module, "MAX_DROPPED", 7)
    async with running_admin(tmp_path) as admin:
        socket = await connect(admin)
        await messages(socket, 1)
        events = await admin.session.get("http://admin/api/logs/stream", headers={"Host": "localhost"})
        await events.content.readuntil(b"\n\n")
        for watcher in admin.desk.live._watchers:
            for number in range(12):  # at once: nobody reads in between
                watcher.offer(json.dumps({"type": "log", "log": number}).encode())
            assert watcher.over
        got = await messages(socket, 6)
        assert [each.get("log") for each in got[:5]] == list(range(5))
        assert got[5] == {"type": "dropped", "count": 7}
        async with asyncio.timeout(WAIT_S):
            closing = await socket.receive()
            told = (await events.content.read()).decode()
        assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, 1013)
        assert [line for line in told.splitlines() if line.startswith("event: ")] == [
            *["event: log"] * 5, "event: dropped", "event: bye",
        ]  # fmt: skip
        assert '"count":7' in told
        await eventually(lambda: _value(admin.desk.live.watchers == 0), WAIT_S)


@pytest.mark.parametrize("path", ["/ws", "/api/logs/stream"])
@pytest.mark.parametrize("how", ["over while it is being sent to", "takes too little in all"])
async def test_who_takes_nothing_gives_up_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, how: str
) -> None:
    ended = how.startswith("over")
    monkeypatch.setattr(live_routes, "SEND_TIMEOUT_S", 1e6 if ended else 0.2)
    monkeypatch.setattr(live_routes, "LAST_TIMEOUT_S", 0.1 if ended else 1e6)
    async with running_admin(tmp_path) as admin:
        _, writer = await asyncio.open_unix_connection(f"{tmp_path}/admin.http", limit=1024)
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        await eventually(lambda: _value(admin.desk.live.watchers == 1), WAIT_S)
        (watcher,) = admin.desk.live._watchers
        for _ in range(8):
            watcher.offer(b'{"type":"log","log":"' + b"x" * (1 << 20) + b'"}')
        if ended:
            await eventually(lambda: _value(watcher.hurry is not None and not watcher.waiting), WAIT_S)
            watcher.end("Enough.")
        await eventually(lambda: _value(admin.desk.live.watchers == 0), WAIT_S)
        assert watcher.over == ("Enough." if ended else "You read too slowly.")
        writer.transport.abort()


async def test_all_that_is_sent_at_once_has_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_routes, "SEND_TIMEOUT_S", 0.2)
    watcher = live_module.Watcher(criteria(Filters(), {}))
    for _ in range(live_module.MAX_WAITING):
        watcher.offer(b"{}")
    taken: list[bytes] = []

    async def trickle(batch: list[bytes]) -> None:
        for message in batch:
            await asyncio.sleep(0.01)  # each by itself in good time
            taken.append(message)

    assert await live_routes.hand_on(watcher, trickle) is False
    assert watcher.over == "You read too slowly."
    assert len(taken) < live_module.MAX_WAITING


def _offered(watcher: live_module.Watcher, count: int) -> bool:
    return len(watcher.waiting) + watcher.dropped >= count


async def test_stopping_sends_everybody_away(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        socket = await connect(admin)
        await messages(socket, 1)
        closing = asyncio.create_task(admin.desk.live.close())
        async with asyncio.timeout(WAIT_S):
            message = await socket.receive()
        await closing
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1013
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connect(admin)
        assert refused.value.status == 503
