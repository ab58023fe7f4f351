"""The log of one machine forgets what is old enough, written and consumed, and nothing of which that is not known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from bursar_aggregator import enforcer_position
from bursar_aggregator.enforcer_position import EnforcerPosition
from bursar_aggregator.log_worker import GROUP
from bursar_aggregator.rows_retention import RowsRetention
from bursar_common.eventlog.sqlite import SqliteEventLog
from bursar_common.events import USAGE_TOPIC
from bursar_common.settings import Settings
from bursar_common.wire import INTERNAL_TOKEN_HEADER, STATE_PATH
from bursar_enforcer.redis_names import usage_field
from tests.harness.usage_events import usage, usage_record

DAY_MS = 86_400_000
UNKNOWN = "log: the budget-enforcer does not say what it has consumed of it, so nothing is deleted"


class EnforcerState:
    """Answers as the enforcer does (``bursar_enforcer.state``)."""

    def __init__(self) -> None:
        self.positions: Any = {}
        self.status = 200

    async def answer(self, request: web.Request) -> web.Response:
        if request.headers.get(INTERNAL_TOKEN_HEADER) != "inner":
            return web.Response(status=401)
        body = {"status": "ok", "open_holds": 0, "positions": self.positions}
        return web.json_response(body, status=self.status)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is there answers, however long the machine pauses."""
    monkeypatch.setattr(enforcer_position, "ANSWER_S", 60.0)


@pytest.fixture
async def enforcer(tmp_path: Path) -> AsyncIterator[EnforcerState]:
    state = EnforcerState()
    app = web.Application()
    app.router.add_get(STATE_PATH, state.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "enforcer.sock")).start()
    yield state
    await runner.cleanup()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    log = SqliteEventLog(tmp_path / "log.db")
    await log.start()
    await log.append([usage_record(usage(number)) for number in range(10)])
    await log.commit(GROUP, USAGE_TOPIC, 0, 8)
    yield log
    await log.close()


async def retention(log: SqliteEventLog, url: str, token: str = "inner", days: float = 1.5) -> RowsRetention:
    """Of a log that keeps a day, ``days`` after the newest event."""
    (last,) = await log.read(USAGE_TOPIC, 0, 9)
    settings = Settings(usage_retention_days=1, enforcer_url=url, internal_token=SecretStr(token))
    return RowsRetention(None, log, settings, lambda: last.appended_at_ms + int(days * DAY_MS))  # type: ignore[arg-type]


async def test_what_the_enforcer_has_not_consumed_is_kept(
    tmp_path: Path, log: SqliteEventLog, enforcer: EnforcerState
) -> None:
    keeping = await retention(log, f"unix:{tmp_path}/enforcer.sock")
    enforcer.positions = {usage_field(0): 5, "governance": 9}
    assert await keeping.forget_log() == "log: the budget-enforcer has not consumed it beyond offset 5"
    assert await log.begin_offset(USAGE_TOPIC, 0) == 5
    enforcer.positions = {usage_field(0): 10, "governance": 9}
    assert await keeping.forget_log() == ""
    assert await log.begin_offset(USAGE_TOPIC, 0) == 8  # what is not in ClickHouse stays as well


@pytest.mark.parametrize("positions", [{}, {"usage:1": 9}, {"usage:0": "9"}, {"usage:0": None}, {"usage:0": True}, []])
async def test_where_the_enforcer_does_not_know_everything_is_kept(
    tmp_path: Path, log: SqliteEventLog, enforcer: EnforcerState, positions: Any
) -> None:
    enforcer.positions = positions
    keeping = await retention(log, f"unix:{tmp_path}/enforcer.sock")
    assert await keeping.forget_log() == UNKNOWN
    assert await log.begin_offset(USAGE_TOPIC, 0) == 0


async def test_an_enforcer_that_does_not_answer_keeps_everything(
    tmp_path: Path, log: SqliteEventLog, enforcer: EnforcerState
) -> None:
    enforcer.positions = {usage_field(0): 10}
    socket = f"unix:{tmp_path}/enforcer.sock"
    for url, token in (("", "inner"), (f"unix:{tmp_path}/nobody.sock", "inner"), (socket, "wrong")):
        assert await (await retention(log, url, token)).forget_log() == UNKNOWN
    enforcer.status = 503
    assert await (await retention(log, socket)).forget_log() == UNKNOWN
    assert await log.begin_offset(USAGE_TOPIC, 0) == 0


async def test_nobody_is_asked_while_nothing_is_old(log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def usage_asked(_: EnforcerPosition, partition: int) -> int | None:
        asked.append(partition)
        return None

    monkeypatch.setattr(EnforcerPosition, "usage", usage_asked)
    assert await (await retention(log, "unix:nowhere", days=0.5)).forget_log() == ""
    assert asked == []
    assert await (await retention(log, "unix:nowhere")).forget_log() == UNKNOWN
    assert asked == [0]
