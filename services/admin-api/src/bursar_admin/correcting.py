"""The way of a correction: judge by all that came before it, append, read off the log whether it counts.

ClickHouse lags, so what it has is completed from the topic, from the first offset that its table lacks up to the end.
Other replicas do the same at the same time: of two corrections of one request that did not know of each other the first
in the log counts (:class:`bursar_common.finance.CorrectionFold`), and the second is judged anew here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from bursar_admin.analytics import Analytics
from bursar_admin.errors import Refusal, conflict, unavailable
from bursar_admin.journal import Journal
from bursar_admin.queries.correcting import charged, standing
from bursar_common.clock import Clock, rfc3339
from bursar_common.eventlog.port import LogUnavailable, NewRecord, OffsetLost
from bursar_common.events import CORRECTIONS_TOPIC, decode_envelope, encode_event
from bursar_common.finance import USAGE_CORRECTED, Correction, CorrectionFold

MAX_ATTEMPTS: Final = 5
"""Times a correction is judged before it is given up because others of the same request were faster."""
READ_S: Final = 10.0
"""Until the log is given up for this command."""
READ_WAIT_S: Final = 1.0
TRUTH_WITHIN_MS: Final = 8 * 86_400_000
"""How long after a request began its own record may still replace an expired hold's guess: an edge keeps what it could
not deliver for a week."""

_decode = msgspec.json.Decoder(Correction).decode


@dataclass
class _Standing:
    """A request's corrections that count, as far as they were read."""

    fold: CorrectionFold = field(default_factory=CorrectionFold)
    counting: dict[str, Correction] = field(default_factory=dict)
    """By id: those of the request, and the one of the id asked for."""
    next_offset: int = 0

    def take(self, offset: int, correction: Correction) -> None:
        if self.fold.take(offset, correction) == "counts":
            self.counting[correction.correction_id] = correction

    def added(self, request_id: str) -> tuple[int, int]:
        """(billed, list), nano-dollars."""
        own = [each for each in self.counting.values() if each.request_id == request_id]
        return sum(each.cost_nusd for each in own), sum(each.list_cost_nusd for each in own)


LEAVING: Final = (
    "The requests of this one's month are leaving ClickHouse, as they are older than BURSAR_USAGE_ROWS_DAYS says, and "
    "can no longer be corrected. Nothing was done."
)


class Correcting:
    def __init__(self, journal: Journal, analytics: Analytics, clock: Clock) -> None:
        self._journal = journal
        self._analytics = analytics
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of each request that is being corrected: this process does not overtake itself."""

    async def correct(self, wanted: Correction, expected_cost_nusd: int | None = None) -> tuple[Correction, int]:
        """(the correction as it is on record, when its request began, Unix ms). One that is on record already is not
        recorded again. ``expected_cost_nusd``: what the request costs, corrections included, by whoever wants it; None:
        whatever it costs.

        Raises Refusal: 404 no such request, 409 it cannot be, 503 the log or the analytics are away."""
        turn = self._turns.get(wanted.request_id)
        if turn is None:
            turn = self._turns[wanted.request_id] = asyncio.Lock()
        async with turn:
            for _ in range(MAX_ATTEMPTS):
                found = await self._analytics.rows(*charged(wanted.request_id))
                if not found:
                    raise Refusal(404, "not_found_error", "There is no charged request of that id.")
                request = found[0]
                known = await self._standing(wanted)
                there = known.counting.get(wanted.correction_id)
                if there is not None:
                    return _same(there, wanted), request["started_at_ms"]
                if request["leaving"]:
                    raise conflict(LEAVING)
                check(request, known.added(wanted.request_id), wanted, self._clock.now_ms(), expected_cost_nusd)
                correction = msgspec.structs.replace(wanted, seen_offset=known.next_offset)
                if await self._append(correction, known):
                    return correction, request["started_at_ms"]
        raise conflict("This request was corrected by others all the while. Nothing was done; read it and try again.")

    async def _standing(self, wanted: Correction) -> _Standing:
        (row,) = await self._analytics.rows(*standing(wanted.request_id, wanted.correction_id))
        known = _Standing(next_offset=row["next_offset"])
        for place, each in enumerate(row["correction_ids"]):
            counted = Correction(
                correction_id=each,
                request_id=row["request_ids"][place],
                reason=row["reasons"][place],
                actor="",
                # Integers of 64 bits within arrays come as text.
                corrected_at_ms=int(row["corrected_at_mss"][place]),
                cost_nusd=int(row["cost_nusds"][place]),
                list_cost_nusd=int(row["list_cost_nusds"][place]),
            )
            known.take(int(row["log_offsets"][place]), counted)
        await self._read(known, None, wanted)
        return known

    async def _append(self, correction: Correction, known: _Standing) -> bool:
        """Whether it counts."""
        value = encode_event(
            id=correction.correction_id,
            source="bursar/admin",
            type=USAGE_CORRECTED,
            time=rfc3339(correction.corrected_at_ms),
            subject=correction.request_id,
            data=correction,
        )
        (position,) = await self._journal.append_usage([NewRecord(CORRECTIONS_TOPIC, correction.request_id, value)])
        await self._read(known, position.offset, correction)
        return known.fold.take(position.offset, correction) == "counts"

    async def _read(self, known: _Standing, end: int | None, wanted: Correction) -> None:
        """Read the topic on, to ``end`` (exclusive) or to its end as of now."""
        log = self._journal.event_log
        try:
            async with asyncio.timeout(READ_S):
                begin = await log.begin_offset(CORRECTIONS_TOPIC, 0)
                end = await log.end_offset(CORRECTIONS_TOPIC, 0) if end is None else end
                known.next_offset = max(known.next_offset, begin)
                while known.next_offset < end:
                    records = await log.read(CORRECTIONS_TOPIC, 0, known.next_offset, wait_s=READ_WAIT_S)
                    if not records:
                        break  # nothing but gaps up to the end
                    for record in records:
                        if record.offset >= end:
                            return
                        known.next_offset = record.offset + 1
                        correction = _read_one(record.value)
                        if correction is not None and (
                            correction.request_id == wanted.request_id
                            or correction.correction_id == wanted.correction_id
                        ):
                            known.take(record.offset, correction)
                    await asyncio.sleep(0)  # SQLite reads without waiting: others get their turn
        except (LogUnavailable, OffsetLost, TimeoutError):
            raise unavailable(
                "The event log does not answer, so it is not known whether this correction counts. Sending it again "
                "with the same correction_id is safe."
            ) from None


def _read_one(value: bytes) -> Correction | None:
    try:
        envelope = decode_envelope(value)
        return _decode(envelope.data) if envelope.type == USAGE_CORRECTED else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # nobody can read it, so it corrects nothing


def _same(there: Correction, wanted: Correction) -> Correction:
    """What is on record under the id. Raises Refusal (409) where it is another correction. Pure."""
    if (there.request_id, there.cost_nusd, there.list_cost_nusd) != (
        wanted.request_id, wanted.cost_nusd, wanted.list_cost_nusd,
    ):  # fmt: skip
        raise conflict(
            "There is another correction of that correction_id.", field="correction_id", existing_id=there.correction_id
        )
    return there


def check(
    request: dict[str, Any], added: tuple[int, int], wanted: Correction, now_ms: int, expected: int | None = None
) -> None:
    """Raises Refusal (409) where the request costs something else than was expected, or would cost less than nothing,
    now or once its truth arrives. ``added``: billed and list cost of what counts so far. Pure."""
    costs, lists = request["cost_nusd"] + added[0], request["list_cost_nusd"] + added[1]
    if expected is not None and costs != expected:
        raise conflict(
            f"expected_cost_nusd: the request costs {costs} nano-dollars, not {expected}. Nothing was done.",
            field="expected_cost_nusd", given=expected, allowed=costs, cost_nusd=costs, list_cost_nusd=lists,
        )  # fmt: skip
    for name, so_far, more in (
        ("cost_nusd", added[0], wanted.cost_nusd),
        ("list_cost_nusd", added[1], wanted.list_cost_nusd),
    ):
        now = request[name] + so_far
        if more < 0 and now + more < 0:
            raise conflict(
                f"{name}: the request would cost less than nothing: {now + more} nano-dollars.",
                field=name, given=more, allowed=f"at least {-now}", cost_nusd=costs, list_cost_nusd=lists,
            )  # fmt: skip
        may_change_until_ms = request["started_at_ms"] + TRUTH_WITHIN_MS
        if request["outcome"] == "expired" and more < 0 and so_far + more < 0 and now_ms < may_change_until_ms:
            raise conflict(
                "The request's hold expired, so its cost is a guess, which its own record may still replace by less "
                f"than is taken off here. It can be lowered from {rfc3339(may_change_until_ms)} on.",
                field=name, given=more,
            )  # fmt: skip
