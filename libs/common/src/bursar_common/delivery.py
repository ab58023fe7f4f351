"""Sending telemetry away from requests: a thread for each signal, attempts within bounds, and an end within bounds.

Exporters block, so they never run on an event loop. Whatever happens to the receiver, requests do not notice.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from bursar_common.otlp import Destination

log = structlog.get_logger()

BATCH_TRIES = 5
"""Attempts to send one batch, 1, 2, 4 and 8 s apart; then it is dropped, so that newer ones get their turn."""
RETRY_MAX_S = 30.0
"""Longest pause a receiver may ask for."""
STOP_S = 5.0
"""For what waits at the end of the process."""
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while another waits for it. Encoding a batch takes some 40 ms: with
Python's own 0.005 s every step of a request meanwhile would wait that long, and a request has half a dozen."""
COMPLAINT_S = 60.0
"""Between two log lines about the same trouble."""


class NotSent(Exception):
    """An attempt failed. The text names a status or a kind of error, never what a server or a variable said."""

    def __init__(self, why: str, *, retryable: bool, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retryable = retryable
        self.after_s = after_s
        """How long the receiver asked to be left alone."""


class Exporter(Protocol):
    """Sends one signal's batches, one at a time. Both calls may block for as long as one attempt may take."""

    def send(self, batch: object) -> int:
        """One attempt; how many of the batch the receiver says it did not take. Raises NotSent."""
        ...

    def close(self) -> None: ...


class Delivery:
    """Sends what it is given, tries again within bounds, and says in the log when it fails and when it works again."""

    def __init__(self, exporter: Exporter, to: Destination) -> None:
        self._exporter = exporter
        self._to = to
        self._failing = False
        self._told_s = -COMPLAINT_S
        self.stopping = threading.Event()
        """Set at the end of the process: nothing waits any more, what is in hand has one attempt left."""
        self.failures = 0
        """Attempts that failed."""

    def deliver(self, batch: object, *, tries: int = BATCH_TRIES) -> int | None:
        """How many of the batch the receiver did not take; None: given up. Blocks."""
        for attempt in range(tries):
            try:
                rejected = self._exporter.send(batch)
            except NotSent as problem:
                self.failures += 1
                self._complain(str(problem))
                if not problem.retryable or attempt + 1 == tries or self.stopping.is_set():
                    return None
                self.stopping.wait(min(max(2.0**attempt, problem.after_s), RETRY_MAX_S))
            else:
                if self._failing:
                    self._failing = False
                    log.info("telemetry_delivered_again", signal=self._to.signal)
                return rejected
        return None

    def _complain(self, why: str) -> None:
        now_s = time.monotonic()
        if not self._failing or now_s - self._told_s >= COMPLAINT_S:
            self._told_s = now_s
            log.warning(
                "telemetry_not_delivered", signal=self._to.signal, to=self._to.where, why=why, failures=self.failures
            )
        self._failing = True

    def close(self) -> None:
        self._exporter.close()


class Courier:
    """The thread a signal is sent from. It does not keep the process alive."""

    def __init__(self, delivery: Delivery, run: Callable[[], None], name: str) -> None:
        """``run`` returns soon after ``delivery.stopping`` is set and ``wake`` after it."""
        self._delivery = delivery
        self.wake = threading.Event()
        """Set when there is something to do before its time."""
        self._thread = threading.Thread(target=run, name=name, daemon=True)

    def start(self) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        self._thread.start()

    async def stop(self) -> None:
        """Let it send what waits, within STOP_S; then close."""
        self._delivery.stopping.set()
        self.wake.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, STOP_S)
        self._delivery.close()
