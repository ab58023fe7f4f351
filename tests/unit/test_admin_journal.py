"""The way of a command when the log misbehaves: what is answered, and what state is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

import pytest

from bursar_admin import journal as journal_module
from bursar_admin.errors import Refusal
from bursar_admin.journal import Journal
from bursar_admin.limits import Moment
from bursar_admin.owners import create_team
from bursar_admin.projection import Projection
from bursar_admin.schemas import TeamBody
from bursar_admin.writes import Decision
from bursar_common.clock import SystemClock
from bursar_common.eventlog.port import LogPosition, LogRecord, LogUnavailable, NewRecord, OffsetLost
from bursar_common.events import GOVERNANCE_TOPIC


class FakeLog:
    """A log in memory that can be told to fail."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.lost_answers = 0
        """Appends that are durable although they are answered with an error."""
        self.refused_appends = 0
        self.unreadable = False
        self.lost = False
        self.more = asyncio.Event()

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    def put(self, *values: bytes) -> None:
        self.values += values
        self.more.set()

    async def append(self, records: Sequence[NewRecord]) -> list[LogPosition]:
        if self.refused_appends:
            self.refused_appends -= 1
            raise LogUnavailable("no")
        positions = [LogPosition(GOVERNANCE_TOPIC, 0, len(self.values) + number) for number in range(len(records))]
        self.put(*(record.value for record in records))
        if self.lost_answers:
            self.lost_answers -= 1
            raise LogUnavailable("who knows")
        return positions

    async def read(self, topic: str, partition: int, offset: int, *, wait_s: float = 0.0, **_: Any) -> list[LogRecord]:
        if self.lost:
            raise OffsetLost("gone")
        if self.unreadable:
            raise LogUnavailable("away")
        if offset >= len(self.values) and wait_s:
            self.more.clear()
            try:
                await asyncio.wait_for(self.more.wait(), 0.02)
            except TimeoutError:
                return []
        return [LogRecord(topic, 0, at, "", value) for at, value in enumerate(self.values) if at >= offset]

    async def end_offset(self, topic: str, partition: int) -> int:
        return len(self.values)

    async def begin_offset(self, topic: str, partition: int) -> int:
        return 0


class FakeEnforcer:
    def __init__(self) -> None:
        self.in_force = True
        self.waited_for: list[int] = []

    async def wait_past(self, offset: int, timeout_s: float) -> bool:
        self.waited_for.append(offset)
        return self.in_force


class Parts:
    def __init__(self) -> None:
        self.log = FakeLog()
        self.enforcer = FakeEnforcer()
        self.ids = count(1)
        self.journal = self.replica()

    def replica(self) -> Journal:
        return Journal(self.log, Projection(), self.enforcer, SystemClock(), self.mint)  # type: ignore[arg-type]

    def mint(self) -> str:
        return f"id-{next(self.ids)}"

    def create(self, name: str) -> Any:
        def command(projection: Projection) -> Decision:
            return create_team(projection, TeamBody(name=name), Moment(1_795_000_000, self.mint))

        return command


@pytest.fixture
async def parts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parts]:
    monkeypatch.setattr(journal_module, "RETRY_FIRST_S", 0.001)
    monkeypatch.setattr(journal_module, "APPEND_TIMEOUT_S", 1.0)
    parts = Parts()
    await parts.journal.start()
    yield parts
    await parts.journal.close()


def names(journal: Journal) -> set[str]:
    return {team.name for team in journal.projection.teams.values()}


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_applied_command_waits_for_the_ledger_at_its_own_offset(parts: Parts) -> None:
    parts.log.put(b"{not an event}")
    outcome = await parts.journal.submit(parts.create("a"))
    assert outcome.in_force
    assert parts.enforcer.waited_for == [1]
    parts.enforcer.in_force = False
    assert not (await parts.journal.submit(parts.create("b"))).in_force
    assert names(parts.journal) == {"a", "b"}


async def test_an_append_that_failed_is_503_and_may_be_repeated(parts: Parts) -> None:
    parts.log.refused_appends = 1
    with pytest.raises(Refusal) as caught:
        await parts.journal.submit(parts.create("a"))
    assert caught.value.status == 503
    assert caught.value.extra["event_id"]
    await parts.journal.submit(parts.create("a"))
    assert names(parts.journal) == {"a"}


async def test_an_append_that_was_durable_after_all_is_found_when_repeated(parts: Parts) -> None:
    parts.log.lost_answers = 1
    with pytest.raises(Refusal) as caught:
        await parts.journal.submit(parts.create("a"))
    assert caught.value.status == 503
    await eventually(lambda: names(parts.journal) == {"a"})
    with pytest.raises(Refusal) as caught:
        await parts.journal.submit(parts.create("a"))
    assert caught.value.status == 409


async def test_a_command_overtaken_is_judged_again(parts: Parts) -> None:
    other = parts.replica()
    await other.start()
    try:
        judged = 0

        def command(projection: Projection) -> Decision:
            nonlocal judged
            judged += 1
            decision = parts.create("a")(projection)
            if judged == 1:  # another replica is faster, right after this one has judged
                faster = parts.create("b")(other.projection)
                record = journal_module.encode_event(
                    id="other", source="bursar/admin", type="", time="", subject="", data=faster.data
                )
                parts.log.put(record)
            return decision

        await parts.journal.submit(command)
        assert judged == 2
        assert names(parts.journal) == {"a", "b"}
        await eventually(lambda: names(other) == {"a", "b"})
    finally:
        await other.close()


async def test_one_overtaken_each_time_is_told_so(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "ATTEMPT_PAUSE_S", 0.0)
    numbers = count()

    def command(projection: Projection) -> Decision:
        decision = parts.create("a")(projection)
        faster = parts.create(f"x{next(numbers)}")(projection)
        parts.log.put(
            journal_module.encode_event(id="o", source="bursar/admin", type="", time="", subject="", data=faster.data)
        )
        return decision

    with pytest.raises(Refusal) as caught:
        await parts.journal.submit(command)
    assert caught.value.status == 409
    assert "a" not in names(parts.journal)


async def test_a_log_that_goes_away_is_said_and_followed_again(parts: Parts) -> None:
    parts.log.unreadable = True
    await eventually(lambda: parts.journal.failure)
    assert "cannot be reached" in parts.journal.failure
    parts.log.unreadable = False
    await eventually(lambda: not parts.journal.failure)


async def test_a_log_that_lost_what_follows_ends_the_follower(parts: Parts) -> None:
    parts.log.lost = True
    follower = parts.journal.follower
    assert follower is not None
    with pytest.raises(OffsetLost):
        await asyncio.wait_for(asyncio.shield(follower), 10)
    assert "no longer holds" in parts.journal.failure
