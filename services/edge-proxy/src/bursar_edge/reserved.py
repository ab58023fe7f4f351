"""Waiting one's turn: requests that would fit if those in flight were not there.

First come, first served per counter: only the head of a line asks again, when its time is up or a hold on the counter
was closed here; the others wait behind it. A request of a key that has a line joins it without asking.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from bursar_common.wire import Admitted, KeyHash, Refused, Reserved

MAX_WAITING = 10_000
"""Requests waiting in all lines; more are refused at once. Bounded by body memory long before."""
LONGEST_PAUSE_S = 1.0
"""The head of a line asks again at least this often: holds close on other edges too."""
SHORTEST_PAUSE_S = 0.005
"""And never more often than this, whatever the enforcer suggests."""

Keys = tuple[KeyHash, ...]
Decision = Admitted | Refused | Reserved


class _Line:
    __slots__ = ("keys", "waiters", "wake")

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.keys: dict[Keys, int] = {}
        self.wake = asyncio.Event()


class Lines:
    """All lines of this edge."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._lines: dict[str, _Line] = {}
        self._of_key: dict[Keys, str] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Requests in all lines."""
        return self._waiting

    def of(self, key: Keys) -> str | None:
        """The counter whose line requests of this key join, if there is one."""
        return self._of_key.get(key)

    def wake(self, counters: Sequence[str]) -> None:
        """Let the heads of these counters' lines ask again."""
        if self._lines:
            for counter in counters:
                line = self._lines.get(counter)
                if line is not None:
                    line.wake.set()

    async def wait(
        self,
        counter: str,
        key: Keys,
        decide: Callable[[], Awaitable[Decision]],
        reply: Reserved | None = None,
    ) -> Admitted | Refused:
        """Wait in the line of ``counter`` until admitted, refused, or the admission wait is over: then the refusal that
        the last reservation carried. ``reply`` is the reservation that led here; None: the key had a line."""
        deadline_s = time.monotonic() + self._wait_s
        if self._waiting >= MAX_WAITING or self._wait_s <= 0:
            return await self._last_word(decide, reply)
        line = self._lines.setdefault(counter, _Line())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiters.append(turn)
        line.keys[key] = line.keys.get(key, 0) + 1
        self._of_key[key] = counter
        self._waiting += 1
        if line.waiters[0] is turn:
            turn.set_result(None)
        try:
            if not turn.done():
                try:
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline_s - time.monotonic()):
                        await turn
                except TimeoutError:
                    return await self._last_word(decide, reply)
            while True:
                if reply is not None:
                    await self._pause(line, reply, deadline_s)
                decision = await decide()
                if not isinstance(decision, Reserved):
                    return decision
                reply = decision
                if time.monotonic() >= deadline_s:
                    return reply.refusal
        finally:
            self._waiting -= 1
            self._leave(counter, line, turn, key)

    async def _pause(self, line: _Line, reply: Reserved, deadline_s: float) -> None:
        pause_s = min(max(reply.retry_in_ms / 1000, SHORTEST_PAUSE_S), LONGEST_PAUSE_S, deadline_s - time.monotonic())
        line.wake.clear()
        if pause_s > 0:
            try:
                async with asyncio.timeout(pause_s):
                    await line.wake.wait()
            except TimeoutError:
                pass

    async def _last_word(self, decide: Callable[[], Awaitable[Decision]], reply: Reserved | None) -> Admitted | Refused:
        """One more try, for whoever never had a turn; then the refusal."""
        decision = await decide()
        return decision.refusal if isinstance(decision, Reserved) else decision

    def _leave(self, counter: str, line: _Line, turn: asyncio.Future[None], key: Keys) -> None:
        was_head = line.waiters[0] is turn
        line.waiters.remove(turn)
        line.keys[key] -= 1
        if not line.keys[key]:
            del line.keys[key]
            if self._of_key.get(key) == counter:
                del self._of_key[key]
        if not line.waiters:
            self._lines.pop(counter, None)
        elif was_head and not line.waiters[0].done():
            line.waiters[0].set_result(None)
