"""``bursar topics apply``: create the event log's topics on Kafka, and put right what can be put right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from bursar_common.eventlog.port import LogUnavailable
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.topics import apply_topics, check_topics


def apply(environ: Mapping[str, str], tell: Callable[[str], None]) -> int:
    """Exit code: 0 all topics are as they must be, 1 something is left (named). Repeatable."""
    try:
        settings = load_settings(environ)
    except SettingsError as error:
        tell(f"Error: {error}")
        return 2
    if not settings.kafka_bootstrap:
        tell("Nothing to do: BURSAR_KAFKA_BOOTSTRAP is not set, and the log of one machine needs no topics made.")
        return 0
    try:
        return asyncio.run(_apply(settings, tell))
    except LogUnavailable as error:
        tell(f"Error: {error}")
        return 1


async def _apply(settings: Settings, tell: Callable[[str], None]) -> int:
    done = await apply_topics(settings)
    for line in done:
        tell(line)
    left = await check_topics(settings)
    for problem in left:
        tell(f"Error: {problem}")
    if not left:
        tell("All topics are as they must be." if done else "All topics were as they must be; nothing was changed.")
    return 1 if left else 0
