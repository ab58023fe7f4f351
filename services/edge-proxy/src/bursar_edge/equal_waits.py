"""Many waits of one length, watched by one timer: beginning and ending one costs a dictionary entry, not a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class EqualWaits(Generic[T]):
    """Calls ``over`` with whatever has waited ``wait_s`` seconds. Of one event loop."""

    __slots__ = ("_handle", "_over", "_since_s", "_time", "wait_s")

    def __init__(self, wait_s: float, over: Callable[[T], None]) -> None:
        self.wait_s = wait_s
        self._over = over
        self._since_s: dict[T, float] = {}
        """In the order in which they end."""
        self._handle: asyncio.TimerHandle | None = None
        self._time: Callable[[], float] | None = None

    def begin(self, what: T) -> None:
        """``what`` waits from now on; it must not wait already."""
        if self._time is None:
            self._time = asyncio.get_running_loop().time
        self._since_s[what] = self._time()
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(self.wait_s, self._look)

    def end(self, what: T) -> None:
        """It waits no more. Idempotent."""
        self._since_s.pop(what, None)

    def _look(self) -> None:
        self._handle = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        while self._since_s:
            what, since_s = next(iter(self._since_s.items()))
            left_s = since_s + self.wait_s - now_s
            if left_s > 0:
                if self._handle is None:  # what is over may have begun another wait
                    self._handle = loop.call_later(left_s, self._look)
                return
            del self._since_s[what]
            self._over(what)
