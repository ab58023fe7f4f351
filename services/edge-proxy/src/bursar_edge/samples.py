"""Requests that belong to nobody: counted, and a few of them logged, by the beginning of a hash and never by value."""

from __future__ import annotations

import time
from collections import Counter

import structlog

from bursar_common.wire import KeyHash

log = structlog.get_logger()

SAMPLES_A_MINUTE = 10
"""Log lines a minute; an attack must not fill the disk."""
HASH_CHARS = 12
"""Characters of the SHA-256 that are told: enough to recognise a key one has, useless to find one."""


class DeniedSample:
    """Counts by reason since start."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._minute = 0
        self._logged = 0

    def refused(self, reason: str, key_hashes: tuple[KeyHash, ...], request_id: str = "") -> None:
        """Count one."""
        self.counts[reason] += 1
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._logged = minute, 0
        if self._logged < SAMPLES_A_MINUTE:
            self._logged += 1
            log.info(
                "refused_unowned",
                reason=reason,
                keys=[f"{each.header}:{each.sha256[:HASH_CHARS]}" for each in key_hashes],
                so_far=self.counts[reason],
                request_id=request_id,
            )
