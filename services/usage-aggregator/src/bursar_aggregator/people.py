"""Names of people, from the governance topic into ``bursar.people``, so that a person can be forgotten.

Above the follower everything is pure. What it does is a comparison: who has which name at the end of the log, against
the rows of the table. Rows that are missing are inserted, rows of an older version (a former name, a person who was
deleted) are deleted from the table's parts, not masked. So the effect is repeatable, several replicas may do it at
once, and a table that was lost or restored from a copy is put right at the next comparison.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import structlog

from bursar_aggregator.governance_reading import GovernanceReading
from bursar_aggregator.writer import FIRST_RETRY_S, LONGEST_RETRY_S
from bursar_common.analytics import Analytics, AnalyticsRefused, AnalyticsUnavailable
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.events import GOVERNANCE_TOPIC

log = structlog.get_logger()

PEOPLE_GROUP: Final = "bursar-usage-aggregator-people"
"""Group whose committed offset says how far the names are. Reading starts at the topic's beginning all the same:
which events count is known only from those before them."""
MAX_ID_BYTES: Final = 200
"""Ids are UUIDs of 36 bytes; a longer one is not ours, and would make a statement too long."""
MAX_DELETED_AT_ONCE: Final = 200
"""Rows one statement deletes: at MAX_ID_BYTES it has some 90 kB, and ClickHouse reads up to 256 KiB."""
LOOK_EVERY_S: Final = 1.0
"""Seconds between looks for new events: nobody waits for a name, and many changes are taken together."""
READ_WAIT_S: Final = 1.0
"""Seconds to wait for an event that is known to be there (Kafka answers in well under one)."""
COMPARE_EVERY_S: Final = 600.0
"""Seconds after which the table is compared although nobody changed: what another replica wrote late, or a restored
copy brought back, stays no longer than this."""
FINISH_S: Final = 5.0
"""Seconds a comparison under way gets to be finished when the process is to stop."""


class Person(msgspec.Struct, frozen=True):
    version: int
    """Of the entity, after the latest event that counts."""
    name: str
    """Empty: deleted, or never named. Nothing of the person is to be in the table."""


class PersonRow(msgspec.Struct, frozen=True):
    """A row of ``bursar.people`` without its name."""

    user_id: str
    version: int


class Difference(msgspec.Struct, frozen=True):
    """What makes the table agree with the log."""

    missing: tuple[tuple[str, str, int], ...]
    """Rows to insert: user id, name, version."""
    stale: tuple[PersonRow, ...]
    """Rows to delete."""


class People:
    """Who has which name, as far as the governance topic was read, in its order from its beginning."""

    def __init__(self) -> None:
        self._reading = GovernanceReading()
        self._people: dict[str, Person] = {}

    def take(self, value: bytes) -> bool:
        """Whether the record changed a person. What the projector rejects, or nobody can read, changes nothing."""
        applied = self._reading.take(value)
        if applied is None:
            return False
        user_id = applied.entity_id
        if applied.entity != "user" or not user_id or len(user_id.encode()) > MAX_ID_BYTES:
            return False
        name = (applied.document or {}).get("name")
        self._people[user_id] = Person(applied.versions[user_id], name if isinstance(name, str) else "")
        return True

    def difference(self, rows: Iterable[PersonRow]) -> Difference:
        """Against all rows of the table. Rows of people the log does not know are left alone, and so are rows newer
        than what was read: another replica is ahead."""
        there: set[str] = set()
        stale: list[PersonRow] = []
        for row in rows:
            person = self._people.get(row.user_id)
            if person is None:
                continue
            if row.version < person.version or (row.version == person.version and not person.name):
                stale.append(row)
            else:
                there.add(row.user_id)
        missing = (
            (user_id, person.name, person.version)
            for user_id, person in self._people.items()
            if person.name and user_id not in there
        )
        return Difference(tuple(missing), tuple(stale))


def deletion(rows: Sequence[PersonRow]) -> str:
    """The statement that takes exactly these rows out of the table's parts. Ids are written in hex: whatever they are
    made of, they are not SQL."""
    keys = ", ".join(f"(unhex('{row.user_id.encode().hex()}'), {row.version})" for row in rows)
    return f"ALTER TABLE bursar.people DELETE WHERE (user_id, version) IN ({keys}) SETTINGS mutations_sync = 2"


class PeopleFollower:
    """A task beside the usage job, which never depends on it: whatever fails here is tried again."""

    def __init__(self, analytics: Analytics, event_log: EventLog) -> None:
        self._analytics = analytics
        self._event_log = event_log
        self._at_work = asyncio.Lock()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._begin_again()

    def start(self) -> None:
        """Begin, once the schema is applied and the log is connected."""
        self._task = asyncio.create_task(self._run(), name="people-follower")

    async def close(self) -> None:
        """Stop; a comparison under way is finished within FINISH_S. Idempotent."""
        self._closing = True  # a client library may swallow a cancellation that meets an arriving record
        task, self._task = self._task, None
        if task is None:
            return
        try:
            async with asyncio.timeout(FINISH_S):
                await self._at_work.acquire()
        except TimeoutError:
            pass
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _begin_again(self) -> None:
        self._people = People()
        self._offset: int | None = None
        self._committed: int | None = None
        self._changed = True
        self._compare_at = 0.0

    async def _run(self) -> None:
        pause_s = FIRST_RETRY_S
        waiting = False
        while not self._closing:
            try:
                await self._step()
            except (AnalyticsUnavailable, LogUnavailable) as error:
                why = str(error)
            except AnalyticsRefused as error:
                why = f"ClickHouse refuses (code {error.code})"
            except Exception as error:
                # OffsetLost (another log than before), or what nobody thought of: the usage job goes on in any case.
                # Never the error's own text: it may quote a name.
                why = type(error).__name__
                self._begin_again()
            else:
                if waiting:
                    log.info("names of people: going on")
                pause_s, waiting = FIRST_RETRY_S, False
                continue
            if not waiting:
                log.warning("names of people: waiting", why=why)
            waiting = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_RETRY_S)

    async def _step(self) -> None:
        """Read to the end of the topic, compare if that is due, remember the position, rest."""
        offset = self._offset
        if offset is None:
            offset = await self._event_log.begin_offset(GOVERNANCE_TOPIC, 0)
        offset = await self._read_on(offset, 0.0)
        end = await self._event_log.end_offset(GOVERNANCE_TOPIC, 0)
        while offset < end:
            before = offset
            offset = await self._read_on(offset, READ_WAIT_S)
            if offset == before:
                break  # nothing but gaps up to the end
        now = asyncio.get_running_loop().time()
        if self._changed or now >= self._compare_at:
            async with self._at_work:
                await self._compare()
            self._changed, self._compare_at = False, now + COMPARE_EVERY_S
        if self._committed != offset:
            await self._event_log.commit(PEOPLE_GROUP, GOVERNANCE_TOPIC, 0, offset)
            self._committed = offset
        await asyncio.sleep(LOOK_EVERY_S)

    async def _read_on(self, offset: int, wait_s: float) -> int:
        for record in await self._event_log.read(GOVERNANCE_TOPIC, 0, offset, wait_s=wait_s):
            self._changed = self._people.take(record.value) or self._changed
            offset = record.offset + 1
        self._offset = offset
        await asyncio.sleep(0)  # SQLite reads without waiting: a long topic must not keep the usage job from its turn
        return offset

    async def _compare(self) -> None:
        rows: list[dict[str, Any]] = await self._analytics.query("SELECT user_id, version FROM bursar.people")
        difference = self._people.difference(PersonRow(row["user_id"], row["version"]) for row in rows)
        if difference.missing:
            await self._analytics.insert_columns(
                "people",
                ("user_id", "name", "version"),
                ("String", "String", "UInt64"),
                list(zip(*difference.missing, strict=True)),
            )
        stale = difference.stale
        for first in range(0, len(stale), MAX_DELETED_AT_ONCE):
            await self._analytics.command(deletion(stale[first : first + MAX_DELETED_AT_ONCE]))


def follow_people(analytics: Analytics, event_log: EventLog, stack: AsyncExitStack) -> None:
    """Follow until ``stack`` is left. The schema is applied and the log is connected; /readyz does not depend on it."""
    follower = PeopleFollower(analytics, event_log)
    stack.push_async_callback(follower.close)
    follower.start()
