"""Feeds what requests really used to the learner, once each: from settlements at once, from the topic for the rest."""

from __future__ import annotations

from collections import OrderedDict

from bursar_common.clock import Clock
from bursar_common.wire import UsageCounts
from bursar_enforcer.expectation import Learner
from bursar_enforcer.operations import Settle
from bursar_enforcer.usage_facts import AnyUsage

MAX_RECENT = 20_000
"""Request ids whose answer was learned from already; a settlement's event follows within seconds."""


class Learning:
    def __init__(self, learner: Learner, clock: Clock) -> None:
        self.learner = learner
        self._clock = clock
        self._recent: OrderedDict[str, None] = OrderedDict()

    def from_settlement(self, settle: Settle, requested_model: str) -> None:
        """``requested_model``: the name the next request will come with, where it is known, else the settlement's."""
        if settle.usage is not None and settle.virtual_key_id and self._first(settle.request_id):
            self.learner.observe(
                key=settle.virtual_key_id,
                model=requested_model or settle.model,
                session=settle.session,
                agent=settle.agent,
                text_bytes=settle.text_bytes,
                counts=settle.usage,
                now_s=self._clock.monotonic_s(),
            )

    def from_event(self, usage: AnyUsage) -> None:
        """Events that other enforcers' edges wrote. Old ones (a replay) teach nothing about caches of now."""
        if usage.outcome != "completed" or usage.estimated or usage.output_tokens is None:
            return
        if self._first(usage.request_id):  # else its settlement taught the same, as nearly always
            ended_at_ms = usage.ended_at_ms or usage.started_at_ms
            age_s = (self._clock.now_ms() - ended_at_ms) / 1000
            self.learner.observe(
                key=usage.virtual_key_id,
                model=usage.requested_model or usage.model,
                session=usage.session_id,
                agent=usage.agent_id,
                text_bytes=usage.text_bytes,
                counts=counts_of(usage),
                now_s=self._clock.monotonic_s() - max(0.0, age_s),
            )

    def knows(self, request_id: str) -> bool:
        """Whether this request's answer was learned from lately."""
        return request_id in self._recent

    def _first(self, request_id: str) -> bool:
        if request_id in self._recent:
            return False
        self._recent[request_id] = None
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return True


def counts_of(usage: AnyUsage) -> UsageCounts:
    """The event's tokens by kind; unknown ones as 0."""
    return UsageCounts(
        input_tokens=usage.input_tokens or 0,
        cache_read_tokens=usage.cache_read_tokens or 0,
        cache_write_5m_tokens=usage.cache_write_5m_tokens or 0,
        cache_write_1h_tokens=usage.cache_write_1h_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        thinking_tokens=usage.thinking_tokens or 0,
        web_searches=usage.web_searches or 0,
    )
