"""The way of a command: decide, append, read one's own outcome off the log, wait until the ledger has it.

What a crash leaves: before the append nothing happened; after it the event stands, whoever asked did not hear of it,
and repeating the command is answered with a conflict (the name exists, the version has moved), never done twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from bursar_admin.chronicle import Chronicle, public_version
from bursar_admin.enforcer import Enforcer
from bursar_admin.errors import Refusal, conflict, unavailable
from bursar_admin.projection import Projection
from bursar_admin.writes import Decision, NoChange, Write
from bursar_common.clock import Clock, rfc3339
from bursar_common.eventlog.port import EventLog, LogPosition, LogUnavailable, NewRecord, OffsetLost
from bursar_common.events import GOVERNANCE_TOPIC, GovernanceData, decode_envelope, decode_governance, encode_event
from bursar_common.governance import Applied, Rejected
from bursar_common.ids import IdMinter

log = structlog.get_logger()

MAX_ATTEMPTS = 10
"""Times a command is judged before it is given up because writers in other replicas were faster."""
ATTEMPT_PAUSE_S = 0.01
"""Longest pause before the second attempt, doubled for each further one: replicas that collide step out of each other's
rhythm, and the slower one waits until the other's queue is done."""
ATTEMPT_PAUSE_MOST_S = 0.5
APPEND_TIMEOUT_S = 10.0
"""Until an append that is not confirmed is given up as unknown."""
APPLIED_TIMEOUT_S = 5.0
"""Until a change the ledger has not taken over is answered with 202."""
READ_WAIT_S = 1.0
"""One waiting read of the log; also how soon a stop is noticed."""
RETRY_FIRST_S = 0.2
RETRY_MOST_S = 5.0
"""Pause before reading a log again that could not be reached."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command that was not refused."""

    entity_id: str
    event_id: str = ""
    """Empty: nothing had to change."""
    in_force: bool = True
    """False: recorded, but the ledger has not taken it over yet (202)."""


class Journal:
    """Keeps the projection at the end of the governance topic and takes commands through the log."""

    def __init__(
        self, event_log: EventLog, projection: Projection, enforcer: Enforcer, clock: Clock, mint: IdMinter
    ) -> None:
        self._log = event_log
        self.event_log = event_log
        """For those who follow other topics."""
        self.projection = projection
        self.chronicle = Chronicle()
        """What happened, for people."""
        self._enforcer = enforcer
        self._clock = clock
        self._mint = mint
        self._next_offset = 0
        self._turn = asyncio.Lock()
        self._outcomes: dict[str, tuple[int, Applied | Rejected] | None] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.failure = "the governance log has not been read yet"
        """Why this process is not ready; empty: it is."""
        self.started = False
        """The projection has been at the end of the log once: questions can be answered."""

    async def start(self) -> None:
        """Read the topic to its end as of now, then keep following it. Raises LogUnavailable, OffsetLost."""
        await self._log.start()
        end = await self._log.end_offset(GOVERNANCE_TOPIC, 0)
        self._next_offset = await self._log.begin_offset(GOVERNANCE_TOPIC, 0)
        while self._next_offset < end:
            if not await self._pull(READ_WAIT_S):
                break  # what is left of the offsets holds no records
        self.failure, self.started = "", True
        self._task = asyncio.create_task(self._follow(), name="governance-follower")

    async def close(self) -> None:
        self._closing = True  # a client library may swallow a cancellation that meets an arriving record
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._log.close()

    @property
    def follower(self) -> asyncio.Task[None] | None:
        """Ends only when the topic cannot be followed any more (OffsetLost): then the process must."""
        return self._task

    @property
    def next_offset(self) -> int:
        """Of the first governance event not yet applied here."""
        return self._next_offset

    async def submit(self, command: Callable[[Projection], Decision], beside: Sequence[NewRecord] = ()) -> Outcome:
        """Run a command to its end; ``beside``: records to append right before its event (on SQLite both or none).

        Raises Refusal: the command's own, 409 when other writers were faster each time, 503 when the log cannot be
        written."""
        async with self._turn:  # within one process commands queue instead of colliding
            for attempt in range(MAX_ATTEMPTS):
                if attempt:
                    longest_s = min(ATTEMPT_PAUSE_S * 2 ** (attempt - 1), ATTEMPT_PAUSE_MOST_S)
                    await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - spreads writers, hides nothing
                decision = command(self.projection)
                if isinstance(decision, NoChange):
                    return Outcome(decision.entity_id)
                event_id = self._mint()
                offset, verdict = await self._append(event_id, decision, beside)
                if isinstance(verdict, Applied):
                    break
                log.info("command_overtaken", event_id=event_id, version_id=public_version(verdict.version_id))
            else:
                raise conflict("Others changed the same thing at the same time. Nothing was done; try again.")
        in_force = await self._enforcer.wait_past(offset, APPLIED_TIMEOUT_S)
        return Outcome(decision.entity_id, event_id, in_force)

    async def append_usage(self, records: Sequence[NewRecord]) -> list[LogPosition]:
        """Append usage events that did not come through the gateway (imports, corrections). Durable when this
        returns.

        Raises Refusal (503): they may or may not be recorded; whoever sends them again sends the same ids."""
        try:
            async with asyncio.timeout(APPEND_TIMEOUT_S):
                return await self._log.append(records)
        except (LogUnavailable, TimeoutError):
            raise unavailable("The event log did not confirm in time; sending the same again is safe.") from None

    async def begin(self, events: Sequence[GovernanceData]) -> None:
        """Append an installation's first events; those another replica was faster with are rejected by the log."""
        for data in events:
            await self._append(self._mint(), Write("created", data))

    async def _append(
        self, event_id: str, decision: Write, beside: Sequence[NewRecord] = ()
    ) -> tuple[int, Applied | Rejected]:
        """Append and read on until the event has been judged."""
        data = decision.data
        value = encode_event(
            id=event_id,
            source="bursar/admin",
            type=f"bursar.{data.entity}.{decision.action}.v1",
            time=rfc3339(self._clock.now_ms()),
            subject=data.entity_id,
            data=data,
        )
        record = NewRecord(topic=GOVERNANCE_TOPIC, key=data.entity_id, value=value)
        self._outcomes[event_id] = None
        try:
            async with asyncio.timeout(APPEND_TIMEOUT_S):
                await self._log.append([*beside, record])
                while True:
                    outcome = self._outcomes[event_id]
                    if outcome is not None:
                        return outcome
                    await self._pull(READ_WAIT_S)
        except (LogUnavailable, TimeoutError) as error:
            log.error("governance_append_unknown", event_id=event_id, error=type(error).__name__)
            raise _unknown(event_id) from None
        finally:
            del self._outcomes[event_id]

    async def _pull(self, wait_s: float) -> bool:
        """Apply what follows; several callers may read at once, each record is applied once. False: nothing came."""
        records = await self._log.read(GOVERNANCE_TOPIC, 0, self._next_offset, wait_s=wait_s)
        for record in records:
            if record.offset >= self._next_offset:
                self._take(record.offset, record.value)
                self._next_offset = record.offset + 1
        return bool(records)

    def _take(self, offset: int, value: bytes) -> None:
        try:
            envelope = decode_envelope(value)
            data = decode_governance(envelope)
        except (msgspec.DecodeError, msgspec.ValidationError):
            # Poison: nobody can read it, so it changes nothing for anybody.
            log.error("governance_event_unreadable", offset=offset)
            return
        before = self.projection.document(data.entity, data.entity_id)
        verdict = self.projection.apply(data)
        self.chronicle.note(offset, envelope, data, verdict, before, self.projection)
        if envelope.id in self._outcomes:
            self._outcomes[envelope.id] = (offset, verdict)

    async def _follow(self) -> None:
        pause_s = RETRY_FIRST_S
        while not self._closing:
            try:
                await self._pull(READ_WAIT_S)
                self.failure, pause_s = "", RETRY_FIRST_S
            except LogUnavailable:
                self.failure = "the event log cannot be reached"
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MOST_S)
            except OffsetLost:
                self.failure = "the governance log no longer holds what follows"
                log.critical("governance_log_lost", next_offset=self._next_offset)
                raise


def _unknown(event_id: str) -> Refusal:
    return unavailable(
        "The event log did not confirm the change in time. It may or may not have been recorded: read it "
        "before repeating.",
        event_id=event_id,
    )
