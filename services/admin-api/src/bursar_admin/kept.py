"""Answers kept for as long as what they were read from; and questions that several ask at the same moment, asked once.

A statement that reads named buildings of sums, and named requests (``Plan.named``), has one answer: rows of a building
never change, and requests that changed are named otherwise. A late event, or a correction, makes the building one that
is not named any more. So what was kept is not asked for again, and never old.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from bursar_admin.analytics import Analytics, literal

KEPT_CELLS: Final = 400_000
"""Values (rows times columns) of all answers that are kept: some 40 MB. The longest unused goes first."""
KEPT_ANSWER_CELLS: Final = 120_000
"""Values of one answer that is kept."""

Row = dict[str, Any]
Rows = list[Row]


class Kept:
    """Rows are shared by all who asked: nobody changes them."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics
        self._answers: OrderedDict[bytes, tuple[object, int, Rows]] = OrderedDict()
        self._cells = 0
        self._asking: dict[bytes, asyncio.Task[Rows]] = {}

    async def named(self, sql: str, parameters: Mapping[str, Any], name: object) -> Rows:
        """The answer to a statement over rows that ``name`` names. Of one statement the latest answer is kept: what it
        was by another name is not asked for again. Raises Refusal (503)."""
        return await self.made(digest(sql, parameters), name, lambda: self._analytics.rows(sql, parameters))

    async def made(self, key: bytes, name: object, make: Callable[[], Awaitable[Rows]]) -> Rows:
        """Likewise of whatever takes rows that ``name`` names to get; ``key`` says what it is."""
        found = self._answers.get(key)
        if found is not None and found[0] == name:
            self._answers.move_to_end(key)
            return found[2]

        async def ask() -> Rows:
            rows = await make()
            self._keep(key, name, rows)
            return rows

        return await self._once(key + repr(name).encode(), ask)

    async def shared(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        """The answer as of now; who asks the same while it is on its way gets it as well. Raises Refusal (503)."""
        return await self._once(digest(sql, parameters), lambda: self._analytics.rows(sql, parameters))

    async def _once(self, key: bytes, ask: Callable[[], Awaitable[Rows]]) -> Rows:
        asking = self._asking.get(key)
        if asking is None:

            async def work() -> Rows:
                try:
                    return await ask()
                finally:
                    del self._asking[key]

            asking = self._asking[key] = asyncio.create_task(work(), name="usage-question")
        # Whoever leaves does not take the answer from the others.
        return await asyncio.shield(asking)

    def _keep(self, key: bytes, name: object, rows: Rows) -> None:
        former = self._answers.pop(key, None)
        if former is not None:
            self._cells -= former[1]
        cells = 8 + len(rows) * (len(rows[0]) if rows else 0)
        if cells > KEPT_ANSWER_CELLS:
            return
        self._answers[key] = (name, cells, rows)
        self._cells += cells
        while self._cells > KEPT_CELLS:
            _, (_, gone, _) = self._answers.popitem(last=False)
            self._cells -= gone


def digest(sql: str, parameters: Mapping[str, Any]) -> bytes:
    """What tells questions apart."""
    whole = hashlib.blake2b(sql.encode(), digest_size=16)
    for name, value in sorted(parameters.items()):
        whole.update(f"\x00{name}\x00{literal(value)}".encode("utf-8", "surrogateescape"))
    return whole.digest()
