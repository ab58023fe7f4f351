"""Bursar's simulator as a process of its own: the provider of a test, and the independent witness of what it served."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from tests.harness.processes import READY_WAIT_S, Process, eventually, free_port


class SimulatedProvider(Process):
    """``bursar simulate``. ``x-sim-*`` headers steer single requests, :meth:`set_defaults` everything else."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            [sys.executable, "-m", "bursar", "simulate", "--port", str(self.port)],
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            cwd=folder,
            log_path=folder / "simulator.log",
        )

    async def start_ready(self) -> None:
        self.start()
        await eventually(self.totals, READY_WAIT_S)

    async def set_defaults(self, **plan: Any) -> None:
        async with ClientSession() as session:
            async with session.post(f"{self.url}/sim/defaults", json=plan) as answer:
                assert answer.status == 200, await answer.text()

    async def reset(self) -> None:
        async with ClientSession() as session:
            async with session.post(f"{self.url}/sim/reset", json={}) as answer:
                assert answer.status == 200, await answer.text()

    async def totals(self) -> dict[str, Any]:
        return await self._get("/sim/totals")  # type: ignore[no-any-return]

    async def served(self) -> list[dict[str, Any]]:
        """Every ``POST /v1/messages`` since the last reset, oldest first."""
        records: list[dict[str, Any]] = await self._get("/sim/served?path=/v1/messages")
        return [r for r in records if not r["path"].partition("?")[0].endswith("/count_tokens")]

    async def _get(self, path: str) -> Any:
        async with ClientSession() as session:
            async with session.get(self.url + path) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()
