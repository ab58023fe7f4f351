"""Decisions per second of the enforcer alone: whole batches of admits over its own interface, nothing else running.

The bodies are made beforehand, so that the client costs next to nothing. Two connections keep one batch waiting while
another is worked on, as several edges would.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from bench.payloads import MODEL
from bench.processes import Failed
from bench.stack import UnixConnection
from bursar_common.ids import uuid7
from bursar_common.keys import sha256_hex
from bursar_common.wire import (
    BATCH_PATH,
    INTERNAL_TOKEN_HEADER,
    MAX_BATCH_OPERATIONS,
    Admit,
    Admitted,
    Features,
    HoldEntry,
    KeyHash,
    Release,
    decode_replies,
    encode,
)

CONNECTIONS = 2


class Decisions:
    """A client of one enforcer."""

    def __init__(self, path: Path, internal_token: str, key_value: str) -> None:
        self.path = path
        self.headers = {"Content-Type": "application/json", INTERNAL_TOKEN_HEADER: internal_token}
        self.key = (KeyHash("authorization", sha256_hex(key_value)),)
        self.open: list[tuple[str, tuple[HoldEntry, ...]]] = []

    def _bodies(self, batches: int) -> list[bytes]:
        now_ms = time.time_ns() // 1_000_000
        features = Features(text_bytes=90)
        sessions = [os.urandom(8).hex() for _ in range(20)]
        return [
            encode(
                [
                    Admit(
                        request_id=uuid7(),
                        key_hashes=self.key,
                        model=MODEL,
                        max_tokens=4096,
                        features=features,
                        started_at_ms=now_ms,
                        stream=True,
                        session=sessions[number % len(sessions)],
                    )
                    for number in range(MAX_BATCH_OPERATIONS)
                ]
            )
            for _ in range(batches)
        ]

    def _send(self, bodies: list[bytes]) -> tuple[float, list[bytes]]:
        """Send all, over :data:`CONNECTIONS` connections at once: seconds taken, and the answers in order."""
        answers: list[bytes] = [b""] * len(bodies)
        failures: list[BaseException] = []
        start = threading.Barrier(CONNECTIONS + 1)

        def work(first: int) -> None:
            with contextlib.closing(UnixConnection(self.path)) as connection:
                connection.connect()
                start.wait()
                try:
                    for number in range(first, len(bodies), CONNECTIONS):
                        connection.request("POST", BATCH_PATH, bodies[number], self.headers)
                        answer = connection.getresponse()
                        answers[number] = answer.read()
                        if answer.status != 200:
                            raise Failed(f"the enforcer answered {answer.status} {answers[number][:300]!r}")
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        took_s = time.perf_counter() - began
        if failures:
            raise Failed(f"decisions: {failures[0]!r}")
        return took_s, answers

    def admit(self, batches: int) -> tuple[int, float]:
        """Have that many batches decided: decisions and seconds. Raises Failed unless all were admitted."""
        bodies = self._bodies(batches)
        took_s, answers = self._send(bodies)
        for body, answer in zip(bodies, answers, strict=True):
            replies = decode_replies(answer)
            ids = [part.split(b'"', 1)[0].decode() for part in body.split(b'"request_id":"')[1:]]
            for request_id, reply in zip(ids, replies, strict=True):
                if not isinstance(reply, Admitted) or not reply.hold:
                    raise Failed(f"an admit was answered {reply!r}")
                self.open.append((request_id, reply.hold))
        return batches * MAX_BATCH_OPERATIONS, took_s

    def release_all(self) -> tuple[int, float]:
        """Give every open hold back: how many, and seconds."""
        operations = [Release(request_id=request_id, hold=hold) for request_id, hold in self.open]
        self.open.clear()
        bodies = [
            encode(operations[at : at + MAX_BATCH_OPERATIONS]) for at in range(0, len(operations), MAX_BATCH_OPERATIONS)
        ]
        took_s, _ = self._send(bodies)
        return len(operations), took_s
