"""What the next request will probably use, learned from the last ones. A pure state machine: time is passed in.

Holds are made of these figures (:mod:`bursar_enforcer.bound` turns them into money), so they must be neither so small
that many requests spend the same dollar, nor so large that a budget refuses while most of it is unspent. What is
learned lives in memory only: after a restart the defaults hold until a few answers have been seen.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict, deque

import msgspec

from bursar_common.wire import UsageCounts

OUTPUTS_REMEMBERED = 200
"""Answers per key and model that the percentile is taken of: some hours of one developer's work."""
OUTPUT_PERCENT = 95
OUTPUT_DEFAULT_TOKENS = 4_000
"""Output expected of a key and model without history: more than nine in ten answers of Claude Code."""
BYTES_PER_TOKEN = 4
"""Bytes of a request's text per token, on average, for English and code."""
IMAGE_TOKENS = 1_600
"""Usual size of one image, see :data:`bursar_enforcer.bound.IMAGE_TOKENS_STANDARD`."""
DOCUMENT_TOKENS = 25_000
"""A document of ten pages; published measurements find some 2,400 tokens a page."""
CACHE_TTL_S = 300
CACHE_TTL_1H_S = 3600
"""Life of a prompt cache entry since its last use (the provider's prompt caching documentation)."""
SHRUNK_PERCENT = 90
"""A prompt below this share of the last one was rewritten (compaction, a cleared conversation), so what is cached of
it is unknown."""
MAX_HISTORIES = 4_096
"""Keys x models remembered, the least recently used forgotten first: some 2 kB each."""
MAX_CONVERSATIONS = 20_000
"""Sessions x agents x models remembered: some 0.5 kB each; they matter for an hour at most."""


class Expectation(msgspec.Struct, gc=False, frozen=True):
    """Tokens by kind that a request is expected to use; ``ttl_1h``: cache writes are for an hour."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    ttl_1h: bool

    def counts(self) -> UsageCounts:
        """The same as usage."""
        return UsageCounts(
            input_tokens=self.input_tokens,
            cache_read_tokens=self.cache_read_tokens,
            cache_write_5m_tokens=0 if self.ttl_1h else self.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_tokens if self.ttl_1h else 0,
            output_tokens=self.output_tokens,
        )


class Outputs:
    """The last answers' output tokens, in order of arrival and in order of size."""

    __slots__ = ("_arrived", "_sorted")

    def __init__(self) -> None:
        self._arrived: deque[int] = deque()
        self._sorted = array("q")

    def add(self, tokens: int) -> None:
        if len(self._arrived) == OUTPUTS_REMEMBERED:
            self._sorted.pop(bisect_left(self._sorted, self._arrived.popleft()))
        self._arrived.append(tokens)
        insort(self._sorted, tokens)

    def percentile(self) -> int:
        """The smallest remembered figure that at least 95 % of them do not exceed (nearest rank)."""
        rank = -(-len(self._sorted) * OUTPUT_PERCENT // 100)
        return self._sorted[rank - 1]


class Conversation(msgspec.Struct, gc=False, frozen=True):
    """The last answer of one agent of a session on one model."""

    cached_tokens: int
    uncached_tokens: int
    text_bytes: int
    ttl_1h: bool
    answered_at_s: float


class Learner:
    """Remembers answers and expects the next. One per process; not safe for several threads."""

    def __init__(self) -> None:
        self._outputs: OrderedDict[tuple[str, str], Outputs] = OrderedDict()
        self._conversations: OrderedDict[tuple[str, str, str, str], Conversation] = OrderedDict()

    def observe(
        self,
        *,
        key: str,
        model: str,
        session: str,
        agent: str,
        text_bytes: int,
        counts: UsageCounts,
        now_s: float,
    ) -> None:
        """Learn from an answer's usage as the provider reported it (never from an estimate). ``key`` is the virtual
        key's id: sessions are named by clients, so they are kept apart per key."""
        outputs = self._outputs.get((key, model))
        if outputs is None:
            outputs = self._outputs[key, model] = Outputs()
            if len(self._outputs) > MAX_HISTORIES:
                self._outputs.popitem(last=False)
        else:
            self._outputs.move_to_end((key, model))
        outputs.add(counts.output_tokens)
        if not session:
            return
        place = (key, session, agent, model)
        last = self._conversations.pop(place, None)
        if last is not None and last.answered_at_s > now_s:
            # Told late, of an answer before the one that is known.
            self._conversations[place] = last
            return
        written = counts.cache_write_5m_tokens or counts.cache_write_1h_tokens
        self._conversations[place] = Conversation(
            cached_tokens=counts.prompt_tokens - counts.input_tokens,
            uncached_tokens=counts.input_tokens,
            text_bytes=text_bytes,
            # An answer that only read the cache keeps what was written alive for its own time-to-live.
            ttl_1h=counts.cache_write_1h_tokens > 0 if written else last is not None and last.ttl_1h,
            answered_at_s=now_s,
        )
        if len(self._conversations) > MAX_CONVERSATIONS:
            self._conversations.popitem(last=False)

    def expect(
        self,
        *,
        key: str,
        model: str,
        session: str,
        agent: str,
        text_bytes: int,
        max_tokens: int,
        now_s: float,
        ttl_1h: bool = False,
        images: int = 0,
        documents: int = 0,
    ) -> Expectation:
        """What a request will use. A first request writes its whole prompt to the cache; one whose agent's cache can
        be alive reads the last prompt from it and writes its growth. Output is never above ``max_tokens``."""
        outputs = self._outputs.get((key, model))
        output_tokens = min(outputs.percentile() if outputs else OUTPUT_DEFAULT_TOKENS, max(0, max_tokens))
        last = self._conversations.get((key, session, agent, model)) if session else None
        if last is None or not self._alive(last, text_bytes, now_s):
            prompt_tokens = -(-text_bytes // BYTES_PER_TOKEN) + images * IMAGE_TOKENS + documents * DOCUMENT_TOKENS
            return Expectation(0, 0, prompt_tokens, output_tokens, ttl_1h)
        growth_tokens = -(-max(0, text_bytes - last.text_bytes) // BYTES_PER_TOKEN)
        if last.cached_tokens == 0:
            # This client does not use the cache: its prompt is plain input again.
            return Expectation(last.uncached_tokens + growth_tokens, 0, 0, output_tokens, ttl_1h)
        return Expectation(last.uncached_tokens, last.cached_tokens, growth_tokens, output_tokens, ttl_1h)

    def _alive(self, last: Conversation, text_bytes: int, now_s: float) -> bool:
        ttl_s = CACHE_TTL_1H_S if last.ttl_1h else CACHE_TTL_S
        return now_s - last.answered_at_s < ttl_s and text_bytes * 100 >= last.text_bytes * SHRUNK_PERCENT
