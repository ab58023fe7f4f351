"""Waiting for something to become true."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], timeout_s: float = 60.0, every_s: float = 0.05
) -> Any:
    """The first truthy result of ``condition`` (plain or async). One that raises counts as not yet.

    Raises AssertionError after ``timeout_s`` with the last result or error."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            result = condition()
            last = await result if inspect.isawaitable(result) else result
            if last:
                return last
        except Exception as error:
            last = error
        if time.monotonic() > deadline:
            if isinstance(last, Exception):
                raise AssertionError(f"not true after {timeout_s:g} s, last: {last!r}") from last
            raise AssertionError(f"not true after {timeout_s:g} s, last: {last!r}")
        await asyncio.sleep(every_s)


async def clear_of_midnight(within_s: float = 120.0) -> None:
    """For tests whose figures are those of a UTC day or month: does not return in the last ``within_s`` of one, so
    that none ends between two of their lines."""
    left_s = 86_400 - time.time() % 86_400
    if left_s < within_s:
        await asyncio.sleep(left_s + 1)
