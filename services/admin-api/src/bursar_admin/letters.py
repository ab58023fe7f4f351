"""Dead letters: records that a reader set aside, listed newest first over all topics, and appended again on request."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bursar_admin.errors import Refusal, conflict, unavailable
from bursar_admin.projection import Projection
from bursar_admin.writes import Decision, NoChange, Write
from bursar_common.clock import rfc3339
from bursar_common.eventlog.port import EventLog, LogRecord, LogUnavailable, NewRecord, OffsetLost
from bursar_common.events import CONTENT_TOPIC, RETRY_HEADER, USAGE_TOPIC, GovernanceData

SUFFIX: Final = ".dlq"
TOPICS: Final = (USAGE_TOPIC, CONTENT_TOPIC)
"""Topics whose readers set records aside."""
PRIVATE: Final = frozenset({CONTENT_TOPIC})
"""Topics whose records are never shown: what people wrote."""
REASON_HEADER: Final = "bursar-dlq-reason"
POSITION_HEADER: Final = "bursar-dlq-position"
CUT_HEADER: Final = "bursar-dlq-cut"
OWN_HEADERS: Final = frozenset({REASON_HEADER, POSITION_HEADER, CUT_HEADER, RETRY_HEADER})
"""Headers of ours, see the aggregator; the others are the original record's."""
MAX_SHOWN_CHARS: Final = 4_000
"""Of a record's content in an answer: a usage event has some 2,000."""
ENTITY: Final = "dead_letter"
_ID = re.compile(r"([a-z0-9.-]{1,100}):([0-9]{1,5}):([0-9]{1,15})")

Place = tuple[str, int]
"""Dead-letter topic and partition."""


@dataclass(frozen=True)
class Letter:
    """One record that was set aside."""

    record: LogRecord

    @property
    def id(self) -> str:
        return f"{self.record.topic}:{self.record.partition}:{self.record.offset}"

    @property
    def entity_id(self) -> str:
        """Its name in the governance log."""
        return f"dead-letter:{self.id}"

    @property
    def topic(self) -> str:
        """Where it came from, and goes again."""
        return self.record.topic.removesuffix(SUFFIX)

    def header(self, name: str) -> str:
        found = [value for each, value in self.record.headers if each == name]
        return found[-1].decode("utf-8", "replace") if found else ""

    @property
    def text(self) -> str | None:
        """Its beginning; None: it is not for reading."""
        if self.topic in PRIVATE:
            return None
        return self.record.value[: MAX_SHOWN_CHARS * 4].decode("utf-8", "replace")[:MAX_SHOWN_CHARS]

    @property
    def time(self) -> str:
        return rfc3339(self.record.appended_at_ms)


def place_of(letter_id: str) -> tuple[str, int, int] | None:
    """(dead-letter topic, partition, offset) of an id; None: there can be no such letter."""
    match = _ID.fullmatch(letter_id)
    if match is None or match[1].removesuffix(SUFFIX) not in TOPICS or not match[1].endswith(SUFFIX):
        return None
    return match[1], int(match[2]), int(match[3])


class Letters:
    """Reads the dead-letter topics. Raises Refusal (503) while the log cannot be reached."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._turn = asyncio.Lock()
        """One reader at a time: on Kafka each topic has one consumer, which is moved about."""

    async def bounds(self) -> dict[Place, tuple[int, int]]:
        """First offset and end of every partition that has letters."""
        found: dict[Place, tuple[int, int]] = {}
        try:
            for topic in (f"{topic}{SUFFIX}" for topic in TOPICS):
                for partition in range(await self._log.partitions(topic)):
                    begin = await self._log.begin_offset(topic, partition)
                    end = await self._log.end_offset(topic, partition)
                    if end > begin:
                        found[topic, partition] = (begin, end)
        except LogUnavailable:
            raise _away() from None
        return found

    async def count(self) -> int:
        return sum(end - begin for begin, end in (await self.bounds()).values())

    async def page(self, ends: Mapping[Place, int] | None, limit: int) -> tuple[list[Letter], dict[Place, int] | None]:
        """Letters, newest first, before ``ends`` (None: all), and where the next page ends (None: there is none)."""
        async with self._turn:
            bounds = await self.bounds()
            upto = {
                place: min(end, ends.get(place, begin) if ends is not None else end)
                for place, (begin, end) in bounds.items()
            }
            found: list[LogRecord] = []
            for place, end in upto.items():
                found += await self._last(place, bounds[place][0], end, limit)
        found.sort(key=lambda record: (record.appended_at_ms, record.topic, record.partition, record.offset))
        chosen = found[-limit:][::-1]
        for record in chosen:
            place = record.topic, record.partition
            upto[place] = min(upto[place], record.offset)
        more = any(end > bounds[place][0] for place, end in upto.items())
        return [Letter(record) for record in chosen], upto if more and chosen else None

    async def _last(self, place: Place, begin: int, end: int, limit: int) -> list[LogRecord]:
        """Up to ``limit`` records right before ``end``; offsets may have gaps."""
        start = end
        found: list[LogRecord] = []
        while start > begin and len(found) < limit:
            upper, start = start, max(begin, start - limit)
            found = await self._between(place, start, upper) + found
        return found[-limit:]

    async def _between(self, place: Place, start: int, end: int) -> list[LogRecord]:
        found: list[LogRecord] = []
        at = start
        while at < end:
            try:
                records = await self._log.read(*place, at, max_records=end - at)
            except LogUnavailable:
                raise _away() from None
            except OffsetLost:
                return found
            records = [record for record in records if record.offset < end]
            if not records:
                return found
            found += records
            at = records[-1].offset + 1
        return found

    async def find(self, letter_id: str) -> Letter | None:
        place = place_of(letter_id)
        if place is None:
            return None
        topic, partition, offset = place
        async with self._turn:
            bounds = (await self.bounds()).get((topic, partition))
            if bounds is None or not bounds[0] <= offset < bounds[1]:
                return None
            records = await self._between((topic, partition), offset, offset + 1)
        return Letter(records[0]) if records and records[0].offset == offset else None

    async def original(self, letter: Letter) -> bytes:
        """The whole record as it was: of a letter that was cut, from where it was read.

        Raises Refusal (409): that is no longer in the log."""
        if not letter.header(CUT_HEADER):
            return letter.record.value
        topic, _, rest = letter.header(POSITION_HEADER).partition(":")
        partition, _, offset = rest.partition(":")
        if topic == letter.topic and partition.isdigit() and offset.isdigit():
            async with self._turn:
                records = await self._between((topic, int(partition)), int(offset), int(offset) + 1)
            if records and records[0].offset == int(offset):
                return records[0].value
        raise conflict("Only the beginning of this record was kept, and the log no longer has the whole of it.")

    async def again(self, letter: Letter) -> NewRecord:
        """The record to append: as it was, with a mark that it was set aside before. Raises Refusal (409, 503)."""
        headers = tuple((name, value) for name, value in letter.record.headers if name not in OWN_HEADERS)
        return NewRecord(
            topic=letter.topic,
            key=letter.record.key,
            value=await self.original(letter),
            headers=(*headers, (RETRY_HEADER, letter.id.encode())),
        )


def retry(projection: Projection, letter: Letter, actor: str) -> Decision:
    """The event that says so; nothing where it was retried before. Pure."""
    if projection.version(letter.entity_id):
        return NoChange(ENTITY, letter.entity_id)
    document = {
        "name": letter.id,
        "topic": letter.topic,
        "reason": letter.header(REASON_HEADER),
        "set_aside_from": letter.header(POSITION_HEADER),
    }
    return Write(
        "retried",
        GovernanceData(
            entity=ENTITY,
            entity_id=letter.entity_id,
            actor=actor,
            seen={letter.entity_id: 0},
            document=document,
        ),
    )


def _away() -> Refusal:
    return unavailable("The event log cannot be reached, so dead letters cannot be read now; try again.")
