"""Whether the edge, and on one machine every part, does its work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from bursar_common.wire import INTERNAL_TOKEN_HEADER
from bursar_edge.link import NoAnswer, NotConnected, exchange, service_at

ANSWER_S = 3.0
"""A part that takes longer does not serve."""
MAX_ANSWER_BYTES = 64 * 1024


class Neighbour:
    """Another service of this machine, asked over HTTP."""

    path = "/readyz"

    def __init__(self, url: str, token: str = "") -> None:
        self.connector, self.origin = service_at(url, limit=256)
        self._token = token

    async def problem(self) -> str:
        """Why it does not serve, empty if it does."""
        head = f"GET {self.origin.base_path}{self.path} HTTP/1.1\r\nhost: {self.origin.host.decode()}\r\n"
        if self._token:
            head += f"{INTERNAL_TOKEN_HEADER}: {self._token}\r\n"
        try:
            reply = await exchange(self.connector, self.origin, f"{head}\r\n".encode(), b"", answer_s=ANSWER_S)
            body = await reply.read(MAX_ANSWER_BYTES)
        except NotConnected:
            return "not reachable"
        except NoAnswer:
            return "no answer"
        return self._judged(reply.status, body)

    def _judged(self, status: int, body: bytes) -> str:
        if status == 200:
            return ""
        try:
            why = msgspec.json.decode(body).get("why")
        except (msgspec.DecodeError, AttributeError):
            why = None
        return why if isinstance(why, str) and why else f"status {status}"

    async def close(self) -> None:
        await self.connector.close()


class SimulatorPart(Neighbour):
    """The simulator where it is the upstream. It speaks the provider's API, which has no readiness: if it answers at
    all, it is there. What it is asked below ``/sim/`` it does not count."""

    path = "/sim/defaults"

    def _judged(self, status: int, body: bytes) -> str:
        return ""


async def sum_of(neighbours: Mapping[str, Neighbour], own_problem: str, upstream: str) -> tuple[int, bytes]:
    """``/healthz`` of one machine: status and body."""
    problems = await asyncio.gather(*(neighbour.problem() for neighbour in neighbours.values()))
    parts = {"edge-proxy": own_problem or "ok"}
    parts.update({name: problem or "ok" for name, problem in zip(neighbours, problems, strict=True)})
    bad = [name for name, state in parts.items() if state != "ok"]
    answer: dict[str, object] = {"status": "unready" if bad else "ok", "parts": parts, "upstream": upstream}
    if bad:
        answer["why"] = f"not serving: {', '.join(bad)}"
    return (503 if bad else 200), msgspec.json.encode(answer)


def own(problem: str) -> tuple[int, bytes]:
    """``/readyz``: the edge's own work."""
    if problem:
        return 503, msgspec.json.encode({"status": "unready", "why": problem})
    return 200, b'{"status":"ok"}'
