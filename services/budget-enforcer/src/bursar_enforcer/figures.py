"""What the enforcer tells on ``/metrics``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from bursar_common.clock import Clock
from bursar_common.eventlog.port import EventLog
from bursar_common.events import GOVERNANCE_TOPIC, USAGE_TOPIC
from bursar_common.metrics import Family, Labels, one
from bursar_common.metrics_endpoint import READY, Metrics
from bursar_enforcer import metrics, redis_names
from bursar_enforcer.continuity import Continuity
from bursar_enforcer.following import ends_of
from bursar_enforcer.ledger import Ledger
from bursar_enforcer.meter import Meter
from bursar_enforcer.redis_checks import UnsafeRedis
from bursar_enforcer.redis_connection import RedisUnavailable
from bursar_enforcer.shown_limits import ShownLimits

log = structlog.get_logger()

SERVICE = "budget-enforcer"
ANSWER_S = 3.0
"""Longest wait for Redis or the log; what does not answer is left out."""


class Figures:
    """The parts' figures of now."""

    def __init__(
        self, ledger: Ledger, event_log: EventLog, continuity: Continuity, meter: Meter, clock: Clock, *, most: int
    ) -> None:
        self._ledger = ledger
        self._log = event_log
        self._continuity = continuity
        self._limits = ShownLimits(ledger, clock, most=most)
        self.metrics = Metrics(SERVICE, version_of="bursar-enforcer")
        self.metrics.add(meter.families)
        self.metrics.add_late(self._of_redis)
        self.metrics.add_late(self._of_log)

    async def _of_redis(self) -> Iterable[Family]:
        found = [one(metrics.OPEN, int(self._continuity.open))]
        try:
            async with asyncio.timeout(ANSWER_S):
                known, holds, stalest, time = await self._ledger.commands(
                    [
                        ("EXISTS", redis_names.POSITIONS, redis_names.POLICY),
                        ("ZCARD", redis_names.OPEN_HOLDS),
                        ("ZRANGE", redis_names.OPEN_HOLDS, 0, 0, "WITHSCORES"),
                        ("TIME",),
                    ]
                )
                limits = await self._limits.families()
        except (RedisUnavailable, UnsafeRedis, TimeoutError):
            return [*found, one(READY, 0)]
        now_s = int(time[0]) + int(time[1]) / 1e6
        age_s = max(0.0, now_s - float(stalest[1]) / 1000) if stalest else 0.0
        ready = one(READY, 1 if known else 0)
        return [*found, ready, one(metrics.HOLDS, int(holds)), one(metrics.OLDEST, round(age_s, 3)), *limits]

    async def _of_log(self) -> Iterable[Family]:
        samples = []
        for topic in (GOVERNANCE_TOPIC, USAGE_TOPIC):
            try:
                async with asyncio.timeout(ANSWER_S):
                    samples.append((Labels([("topic", topic)]), await self._lag(topic)))
            except Exception as error:  # the log is away, not started, or Redis is: there is nothing to tell
                log.info("log_lag_unknown", topic=topic, why=str(error)[:200])
        return [Family(metrics.LAG, samples)]

    async def _lag(self, topic: str) -> int:
        ends = await ends_of(self._log, topic)
        fields = [redis_names.usage_field(p) if topic == USAGE_TOPIC else redis_names.GOVERNANCE for p in ends]
        (positions,) = await self._ledger.commands([("HMGET", redis_names.POSITIONS, *fields)])
        lag = 0
        for (partition, end), position in zip(ends.items(), positions, strict=True):
            start = int(position) if position is not None else await self._log.begin_offset(topic, partition)
            lag += max(0, end - start)
        return lag
