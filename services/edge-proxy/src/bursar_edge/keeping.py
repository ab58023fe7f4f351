"""An answer's chunks held on to while they pass, for what is done with them once it is over.

The one thing of storing content that runs while an answer is relayed: a list grows by a reference to each chunk, within
bounds of memory that all answers share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bursar_edge.decoding import Feeds
from bursar_edge.direct import Quick

MAX_ANSWER_BYTES = 4 << 20
"""Bytes of one answer as it came: an event takes some 130 bytes for a few words, so about 100,000 tokens."""
STEP_BYTES = 256 << 10
"""Memory taken for an answer at a time."""
CHUNK_OVERHEAD = 64
"""Bytes Python takes for a chunk besides its own."""


class Memory(Protocol):
    def take(self, size: int) -> bool:
        """Take bytes, without waiting; False: there are none."""
        ...

    def give_back(self, size: int) -> None: ...


class Keeping:
    """Stands before a usage reader and keeps what it is fed with."""

    __slots__ = ("_chunks", "_feed", "_memory", "_room", "_taken", "cut", "reader", "size")

    def __init__(self, reader: Feeds, memory: Memory) -> None:
        self.reader = reader
        self._feed = reader.feed
        self._memory = memory
        self._chunks: list[bytes] = []
        self._room = 0
        """Bytes of the memory taken that are not used yet."""
        self._taken = 0
        self.size = 0
        """Bytes that passed, those of a chunk's framing included where it came in one piece."""
        self.cut = False
        """Not all of it was kept: there was no room, or it is longer than MAX_ANSWER_BYTES."""

    def feed(self, chunk: bytes) -> None:
        self._keep(chunk)
        self._feed(chunk)

    def _keep(self, chunk: bytes) -> None:
        size = len(chunk)
        self.size += size
        self._room -= size + CHUNK_OVERHEAD
        if self._room >= 0 or self._more():
            self._chunks.append(chunk)

    def _more(self) -> bool:
        if not self.cut:
            wanted = max(STEP_BYTES, -self._room)
            if self.size <= MAX_ANSWER_BYTES and self._memory.take(wanted):
                self._taken += wanted
                self._room += wanted
                return True
            self.cut = True
        return False

    def over(self, quick: Quick) -> Quick:
        """``quick``, keeping what it takes, framing and all."""
        keep: Callable[[bytes], None] = self._keep

        def quick_and_kept(frame: bytes) -> bool:
            if quick(frame):
                keep(frame)
                return True
            return False

        return quick_and_kept

    def end(self) -> None:
        self.reader.end()

    @property
    def stopped(self) -> bool:
        """Whether the reader has seen the end of the message; True where it cannot tell."""
        return bool(getattr(self.reader, "stopped", True))

    def kept(self) -> bytes:
        """What was kept, in one piece."""
        return b"".join(self._chunks)

    def drop(self) -> None:
        """Forget it and give the memory back. Idempotent."""
        self._chunks = []
        taken, self._taken = self._taken, 0
        self._memory.give_back(taken)
