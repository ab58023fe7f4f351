"""How far the budget-enforcer has consumed the usage topic: it keeps that in Redis, which only it opens."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

import aiohttp

from bursar_common.service import connect
from bursar_common.settings import Settings
from bursar_common.wire import INTERNAL_TOKEN_HEADER, STATE_PATH

ANSWER_S: Final = 5.0
"""Longest wait for an answer; it takes milliseconds, and what is not known is asked again in minutes."""
MAX_ANSWER_BYTES: Final = 1_000_000
"""Of an answer: some 40 bytes a partition."""


class EnforcerPosition:
    """Asks the enforcer. Every failure to reach it is an absent answer, never an exception."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.enforcer_url
        self._token = settings.internal_token.get_secret_value()

    async def usage(self, partition: int) -> int | None:
        """Offset of the first record of the usage topic that is not applied; None: nobody knows."""
        if not self._url:
            return None
        session, base_url = connect(self._url, limit=1, timeout=aiohttp.ClientTimeout(total=ANSWER_S))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(session.close)
            try:
                answer = await stack.enter_async_context(
                    session.get(f"{base_url}{STATE_PATH}", headers={INTERNAL_TOKEN_HEADER: self._token})
                )
                if answer.status != 200 or (answer.content_length or 0) > MAX_ANSWER_BYTES:
                    return None
                said = await answer.json()
                position = said["positions"].get(f"usage:{partition}")
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
                return None
        return position if isinstance(position, int) and not isinstance(position, bool) else None
