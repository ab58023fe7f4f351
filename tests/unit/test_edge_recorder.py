"""What has ended is recorded before it is settled, together where it can be, whatever the log does."""

from __future__ import annotations

import asyncio

import pytest

from bursar_common.eventlog.port import LogUnavailable, RecordTooLarge
from bursar_common.events import decode_envelope
from bursar_common.wire import Admitted, Features, HoldEntry, Owners, Route, Settle
from bursar_edge.attribution import Attribution
from bursar_edge.meter import Meter
from bursar_edge.recorder import Ended, Recorder
from bursar_edge.request_head import RequestHead
from bursar_edge.usage_event import Facts


class Outbox:
    """Fails as told: ``at_once`` by raising, ``later`` through the future; appends of one always work."""

    def __init__(self):
        self.at_once = self.later = None
        self.together, self.alone, self.freed = [], [], 0

    def submit(self, records):
        if self.at_once is not None:
            raise self.at_once
        self.together.append(records)
        future = asyncio.get_running_loop().create_future()
        if self.later is not None:
            future.set_exception(self.later)
        else:
            future.get_loop().call_later(0.01, future.set_result, [])
        return future

    async def append(self, key, value):
        await asyncio.sleep(0)
        if b"lost" in value:
            raise RecordTooLarge
        self.alone.append(value)

    def free(self):
        self.freed += 1


class Enforcer:
    def __init__(self):
        self.settled_ids, self.woken = [], []

    def tell(self, operation, *, since_s):
        assert isinstance(operation, Settle)
        self.settled_ids.append(operation.request_id)

    def settled(self, counters):
        self.woken += counters


class Clock:
    def now_ms(self):
        return 5_000


class World:
    def __init__(self, books=None):
        self.outbox, self.enforcer, self.tasks = Outbox(), Enforcer(), []
        self.recorder = Recorder(
            outbox=self.outbox, enforcer=self.enforcer, books=books, meter=Meter(), clock=Clock(), spawn=self.spawn
        )

    def spawn(self, work, name):
        self.tasks.append(asyncio.get_running_loop().create_task(work, name=name))

    def end(self, request_id, outcome="upstream_error"):
        owners = Owners(virtual_key_id="vk", virtual_key="key")
        route = Route(provider="anthropic", provider_id="p", credential="env:K")
        hold = (HoldEntry(counter="n:b:w", expected=1, bound=2),)
        admitted = Admitted(hold, "x-api-key", "book", route, owners, ttl_s=60, expected_nusd=1, bound_nusd=2)
        head = RequestHead(b"", "m", "", 1, False, Features(text_bytes=1), "", "")
        facts = Facts(request_id, 1_000, head, Attribution({}), admitted=admitted, hold=hold, provider="anthropic")
        self.recorder.ended(Ended(facts, outcome, 1.0, 2.0, 3.0))

    async def done(self):
        await self.recorder.finished()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_what_ends_together_is_one_append_and_is_settled_when_that_is_durable():
    world = World()
    for request_id in ("1", "2", "3"):
        world.end(request_id)
    await asyncio.sleep(0)
    assert [len(records) for records in world.outbox.together] == [3]
    assert world.enforcer.settled_ids == []
    await world.done()
    assert world.enforcer.settled_ids == ["1", "2", "3"]
    assert world.outbox.freed == 3
    assert [decode_envelope(record.value).id for record in world.outbox.together[0]] == [
        "usage:1",
        "usage:2",
        "usage:3",
    ]
    assert not world.tasks


@pytest.mark.parametrize("way", ["at_once", "later"])
@pytest.mark.parametrize("problem", [LogUnavailable("full"), RecordTooLarge("long")])
async def test_where_the_log_refuses_each_is_tried_alone(way, problem):
    world = World()
    setattr(world.outbox, way, problem)
    for request_id in ("1", "lost", "3"):
        world.end(request_id)
    await world.done()
    assert world.enforcer.settled_ids == ["1", "3"]
    assert len(world.outbox.alone) == 2
    assert world.outbox.freed == 3


async def test_an_event_that_cannot_be_made_gives_its_room_back(monkeypatch):
    def fails(*_, **__):
        raise ValueError("no")

    world = World()
    monkeypatch.setattr(Meter, "finished", fails)
    world.end("1")
    await world.done()
    assert (world.outbox.freed, world.outbox.together, world.enforcer.settled_ids) == (1, [], [])


async def test_an_unknown_price_book_is_fetched_first():
    class Books:
        def known(self, book_id):
            return None

        async def get(self, book_id):
            await asyncio.sleep(0.01)

    world = World(Books())
    world.end("1", outcome="unknown")
    assert len(world.tasks) == 1
    await asyncio.gather(*world.tasks)
    await world.done()
    assert world.enforcer.settled_ids == ["1"]
    assert world.outbox.freed == 1
