"""Whether Redis still knows what it knew, and opening admission when it does.

Admission is open for one server process: the policy hash names its run id, and every admission script compares. A
restart, a failover or another server has another run id, a flushed one has none: all find admission closed by
themselves, without anyone having to notice in time. It opens again

- at once, where nothing can be missing: an empty Redis and an empty usage topic, or a clean stop with no hold open;
- else after one renewal interval, in which every edge has renewed its holds, and after the topics were applied up to
  the ends they had when the loss was noticed.

A clean stop is remembered in Redis *and* in the log, because Redis may come back as it was before the stop's token was
taken away. If the log cannot be reached, a Redis that has policy opens after the interval: what the log may still
tell is applied when it is back.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import structlog

from bursar_common.clock import Clock
from bursar_common.eventlog.port import EventLog, LogUnavailable
from bursar_common.events import GOVERNANCE_TOPIC, USAGE_TOPIC
from bursar_enforcer import redis_names
from bursar_enforcer.calls import RENEWALS_PER_TTL, state_call
from bursar_enforcer.following import ends_of, reached
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.policy import Policy
from bursar_enforcer.redis_checks import UnsafeRedis
from bursar_enforcer.redis_connection import RedisUnavailable

log = structlog.get_logger()

LOOK_EVERY_S = 1.0
"""How often continuity is looked at while nothing tells of a loss."""
LOOK_CLOSED_S = 0.05
"""How often while admission is closed."""
REFRESH_EVERY_S = 10.0
"""How often replicas are counted and the server's settings looked at again."""
CLEAN_STOP_GROUP = "bursar-ledger-clean-stop"


class Continuity:
    """``regained_at_s``: monotonic time since which holds may be judged; expiry waits one time to live from it."""

    def __init__(self, ledger: Ledger, event_log: EventLog, policy: Policy, clock: Clock, *, hold_ttl_s: int) -> None:
        self._ledger = ledger
        self._log = event_log
        self._policy = policy
        self._clock = clock
        self._interval_s = hold_ttl_s / RENEWALS_PER_TTL
        self._wake = asyncio.Event()
        self._run_id = ""
        self._lost_at_s: float | None = None
        self._ends: dict[str, dict[int, int]] | None = None
        self._first_start = False
        self.regained_at_s: float | None = None
        self.open = False

    def noticed_closed(self) -> None:
        """An admission was answered ``closed``. While closed already, the next look comes soon enough."""
        if self.open:
            self._wake.set()

    async def run(self) -> None:
        """Never returns."""
        refresh_at_s = self._clock.monotonic_s() + REFRESH_EVERY_S
        while True:
            try:
                if self._clock.monotonic_s() >= refresh_at_s:
                    refresh_at_s = self._clock.monotonic_s() + REFRESH_EVERY_S
                    await self._ledger.refresh()
                await self.look()
            except (RedisUnavailable, UnsafeRedis, LogUnavailable) as error:
                self.open = False
                self.regained_at_s = None
                log.info("redis_unreachable", why=str(error)[:300])
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), LOOK_EVERY_S if self.open else LOOK_CLOSED_S)
            except TimeoutError:
                continue

    async def look(self) -> None:
        """One look; opens admission when its conditions are met. Raises RedisUnavailable, UnsafeRedis."""
        await self._ledger.connect()
        run_id = self._ledger.run_id
        state, clean, rebuilding = await self._state()
        now_s = self._clock.monotonic_s()
        if run_id != self._run_id or self.regained_at_s is None:
            self._run_id = run_id
            self.regained_at_s = now_s
            self._lost_at_s = None
        if state == run_id:
            self.open = True
            self._lost_at_s = None
            return
        self.open = False
        if state in ("deleting", "replaying"):
            if not rebuilding:
                await self._take_over(state)
            return
        if self._lost_at_s is None:
            self._lost(now_s)
        if self._ends is None and await self._examine(clean):
            return
        assert self._lost_at_s is not None
        if self._first_start:
            if await self._policy_caught_up():
                await self._open("first start")
        elif now_s - self._lost_at_s >= self._interval_s and await self._caught_up():
            await self._open("restored")

    async def _state(self) -> tuple[str, str, bool]:
        fields, rebuilding = await self._ledger.commands(
            [
                ("HMGET", redis_names.POLICY, redis_names.ADMISSION_OPEN, redis_names.CLEAN_STOP),
                ("EXISTS", redis_names.REBUILD),
            ]
        )
        state, clean = ((field or b"").decode() for field in fields)
        return state, clean, bool(rebuilding)

    def _lost(self, now_s: float) -> None:
        """The loss is noticed."""
        self._policy.forget_all()
        self._ends = None
        self._first_start = False
        self._lost_at_s = now_s
        self.regained_at_s = now_s

    async def _examine(self, clean: str) -> bool:
        """Once per loss, as soon as the log can be asked: where its topics end, and whether anything can be missing.
        True: admission is open already."""
        try:
            if clean and await self._clean_start(clean):
                log.info("ledger_open", why="clean stop")
                self.open = True
                self._lost_at_s = None
                return True
            await self._note_ends()
        except LogUnavailable as error:
            log.info("log_unreachable", why=str(error)[:200])
            return False
        assert self._ends is not None
        self._first_start = not any(self._ends[USAGE_TOPIC].values()) and await self._holds_nothing()
        if not self._first_start:
            log.warning("ledger_closed", why="Redis lost its continuity", opens_after_s=self._interval_s)
        return False

    async def _holds_nothing(self) -> bool:
        """No hold and no usage position: together with an empty usage topic, nothing was ever spent."""
        holds, position = await self._ledger.commands(
            [("ZCARD", redis_names.OPEN_HOLDS), ("HGET", redis_names.POSITIONS, redis_names.usage_field(0))]
        )
        return holds == 0 and position is None

    async def _note_ends(self) -> None:
        self._ends = {topic: await ends_of(self._log, topic) for topic in (GOVERNANCE_TOPIC, USAGE_TOPIC)}

    async def _policy_caught_up(self) -> bool:
        assert self._ends is not None
        ends = self._ends[GOVERNANCE_TOPIC]
        return await reached(self._ledger, self._log, GOVERNANCE_TOPIC, ends, lambda _: redis_names.GOVERNANCE)

    async def _caught_up(self) -> bool:
        try:
            if self._ends is None:
                await self._note_ends()
            assert self._ends is not None
            return await self._policy_caught_up() and await reached(
                self._ledger, self._log, USAGE_TOPIC, self._ends[USAGE_TOPIC], redis_names.usage_field
            )
        except LogUnavailable as error:
            known = (await self._ledger.commands([("HEXISTS", redis_names.POSITIONS, redis_names.GOVERNANCE)]))[0]
            if known:
                log.warning("opening_without_the_log", why=str(error)[:200])
            return bool(known)

    async def _open(self, why: str) -> None:
        reply: Any = (await self._ledger.run([state_call("open", self._ledger.run_id)]))[0]
        if isinstance(reply, list) and reply[0] == b"done":
            log.info("ledger_open", why=why)
            self.open = True
            self._lost_at_s = None

    async def _take_over(self, state: str) -> None:
        """A rebuild died. Finish its deletion, then treat it as any loss."""
        log.warning("rebuild_abandoned", state=state)
        if state == "deleting":
            from bursar_enforcer.deletion import delete_projection  # what that costs to import only a rebuild pays

            await delete_projection(self._ledger.address, self._ledger.ca_file)
            await self._ledger.run([state_call("replay")])
        await self._ledger.run([state_call("lost")])

    # ---- clean stops

    async def clean_stop(self) -> bool:
        """Leave a token in the log and in Redis, if no hold is open. Raises RedisUnavailable, LogUnavailable."""
        if not self.open:
            return False
        holds = (await self._ledger.commands([("ZCARD", redis_names.OPEN_HOLDS)]))[0]
        if holds:
            return False
        token = 1 + secrets.randbelow(1 << 40)
        await self._log.commit(CLEAN_STOP_GROUP, USAGE_TOPIC, 0, token)
        reply = (await self._ledger.run([state_call("mark", str(token))]))[0]
        return isinstance(reply, list) and reply[0] == b"done"

    async def _clean_start(self, token: str) -> bool:
        """Take the token away, in the log first: from then on an older Redis that still has it is not believed.

        Raises LogUnavailable, RedisUnavailable."""
        if str(await self._log.committed(CLEAN_STOP_GROUP, USAGE_TOPIC, 0)) != token:
            return False
        await self._log.commit(CLEAN_STOP_GROUP, USAGE_TOPIC, 0, 0)
        reply: Any = (await self._ledger.run([state_call("unmark", token, self._ledger.run_id)]))[0]
        return isinstance(reply, list) and reply[0] == b"done"
